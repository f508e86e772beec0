//! Volumes that the destination cannot open as the source does: refused before anything is changed, while the guest writes
//! on. Where it can be put right, the same guest moves afterwards.

use anyhow::{Context, Result, bail, ensure};
use vmferry_tests::{
    Testbed,
    guest::{Guest, LinuxGuest},
    storage::{
        Backend::{self, Ceph, Iscsi},
        Endpoint, Kind, Secret,
    },
};

use crate::rig::{
    Before, DESTINATION, SOON, SOURCE, assert_only_on, migrate,
    volumes::{
        MIB, Volume, assert_completed, assert_no_write_lost, assert_nothing_left, assert_refused, let_in, secrets, up,
    },
};

/// A guest on the source that writes to a volume of this kind.
fn start_writer(testbed: &Testbed, backend: Backend) -> Result<(Guest, Volume)> {
    let data = Volume::data(testbed, backend)?;
    let_in(testbed, &[&data])?;
    let guest = testbed.start(LinuxGuest::new("web-1").with_disk(&data.disk("vdb")), SOURCE)?;
    guest.console().wait_for_writes(2, SOON)?;
    Ok((guest, data))
}

/// A guest on the source that has its root in Ceph, and writes to a volume behind iSCSI.
fn start_on_both(testbed: &Testbed) -> Result<(Guest, [Volume; 2])> {
    let volumes = [Volume::boot(testbed, Ceph)?, Volume::data(testbed, Iscsi)?];
    let guest = LinuxGuest::new("web-1").rooted_on(&volumes[0].disk("vda")).with_disk(&volumes[1].disk("vdb"));
    for secret in secrets(&[&volumes[0], &volumes[1]]) {
        testbed.host(SOURCE)?.define_secret(&secret)?;
        testbed.host(SOURCE)?.give_secret(&secret)?;
    }
    Ok((testbed.start(guest, SOURCE)?, volumes))
}

#[test]
fn a_destination_without_the_right_secrets_takes_no_guest() -> Result<()> {
    let testbed = up(&[Ceph, Iscsi])?;
    let (guest, volumes) = start_on_both(&testbed)?;
    let secrets = secrets(&[&volumes[0], &volumes[1]]);
    let destination = testbed.host(DESTINATION)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words =
        ["node-31 does not have secret", &secrets[0].uuid, &secrets[1].uuid, "[[secret]]", "volumes/admin_vol01"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_SECRET_MISSING"; 2], &words)?;

    for secret in &secrets {
        let value = match secret.kind {
            // A key has a form.
            Kind::Ceph => "AQBzRGdnAAAAABAAw5bmBRBLGqKx6uNxbVsRzA==",
            Kind::Iscsi => "0123456789abcdef",
        };
        destination.give_secret(&Secret { value: value.to_owned(), ..secret.clone() })?;
    }
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = [
        "node-31: the storage does not let libvirt open",
        "user-admin-vol11",
        "see to the user and the secret that node-31",
    ];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_LOGIN_REFUSED"; 2], &words)?;
    for secret in &secrets {
        ensure!(!format!("{answer:?}").contains(&secret.value), "the answer has a secret");
        destination.give_secret(secret)?;
    }

    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets)?;
    assert_no_write_lost(&testbed, &guest, &volumes[1])
}

#[test]
fn a_destination_that_does_not_reach_the_storage_takes_no_guest() -> Result<()> {
    let testbed = up(&[Ceph, Iscsi])?;
    let (guest, volumes) = start_on_both(&testbed)?;
    let (storage, destination) = (testbed.storage()?, testbed.host(DESTINATION)?);
    let secrets = secrets(&[&volumes[0], &volumes[1]]);
    secrets.iter().try_for_each(|secret| destination.give_secret(secret))?;
    let before = Before::of(&testbed)?;
    let portal = Endpoint::Portal(*storage.iscsi()?.portals()[0].ip());
    for endpoint in [Endpoint::Monitor, portal] {
        storage.cut(destination, endpoint)?;
    }

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words =
        ["node-31 reaches 192.0.2.5:6789", "node-31 reaches 192.0.2.5:3260", "volumes/admin_vol01", "admin-vol11"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_UNREACHABLE"; 2], &words)?;

    for endpoint in [Endpoint::Monitor, portal] {
        storage.mend(destination, endpoint)?;
    }
    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets)?;
    assert_no_write_lost(&testbed, &guest, &volumes[1])
}

#[test]
fn an_image_that_has_another_name_now_is_missing() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let (guest, data) = start_writer(&testbed, Ceph)?;
    let ceph = testbed.storage()?.ceph()?;
    // The guest has it open and does not care.
    ceph.rbd(&["rename", "volumes/admin_vol11", "volumes/admin_vol12"])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["volumes/admin_vol11", "does not exist for this host", "node-28", "see that it is there"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_MISSING"], &words)?;

    ceph.rbd(&["rename", "volumes/admin_vol12", "volumes/admin_vol11"])?;
    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_destination_that_is_led_to_another_target_of_the_same_name_takes_no_guest() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_writer(&testbed, Iscsi)?;
    let Volume::Iscsi(lun) = &data else { bail!("it is a LUN") };
    let (storage, destination) = (testbed.storage()?, testbed.host(DESTINATION)?);
    let impostor = storage.impostor()?;
    // Without any, the daemon would let nobody in.
    impostor.create_target("other")?;
    storage.mislead(destination)?;
    let before = Before::of(&testbed)?;
    let refused = |reason: &str, words: &[&str]| -> Result<()> {
        let words = [words, &["admin-vol11", "node-31", "192.0.2.5:3260"]].concat();
        assert_refused(&testbed, &before, &guest, &migrate(&testbed, "web-1", DESTINATION)?, &[reason], &words)
    };

    refused("VOLUME_MISSING", &["does not exist for this host", "node-31 may see it"])?;
    let target = impostor.create_target_like(&lun.target)?;
    refused("VOLUME_MISSING", &["does not exist for this host", "node-31 may see it"])?;
    let other = impostor.create_lun(&target, MIB)?;
    ensure!(other.lun == lun.lun, "it has another number");
    refused("VOLUME_DIFFERS", &["two volumes", &lun.serial, &other.serial, "the same storage system"])?;
    impostor.remove_lun(&other)?;
    impostor.create_lun_like(lun, &target, MIB * 2)?;
    let sizes = [(MIB << 20).to_string(), (MIB << 21).to_string()];
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["admin-vol11", &format!("{} bytes on node-28 and {} on node-31", sizes[0], sizes[1]), "rescan it"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_DIFFERS"], &words)?;

    storage.lead_aright(destination)?;
    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_volume_of_another_domain_is_shared_only_if_both_say_so() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let data = Volume::data(&testbed, Ceph)?;
    let_in(&testbed, &[&data])?;
    let shareable = data.disk("vdb").replace("</disk>", "<shareable/></disk>");
    let guest = testbed.start(LinuxGuest::new("web-1").with_disk(&shareable), SOURCE)?;
    let rival = LinuxGuest::new("web-2");
    testbed.define(rival.clone().with_disk(&data.disk("vdb")), DESTINATION)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["volumes/admin_vol11", "is already disk vdb of web-2 on node-31", "detach it", "<shareable/>"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_IN_USE"], &words)?;

    testbed.define(rival.with_disk(&shareable), DESTINATION)?;
    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    ensure!(testbed.host(DESTINATION)?.domain_state("web-2")?.as_deref() == Some("shut off"), "web-2 was touched");
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_guest_moves_by_its_second_portal_if_the_destination_does_not_reach_the_first() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_writer(&testbed, Iscsi)?;
    let Volume::Iscsi(lun) = &data else { bail!("it is a LUN") };
    let (storage, source, destination) = (testbed.storage()?, testbed.host(SOURCE)?, testbed.host(DESTINATION)?);
    let portals = lun.portals.map(|portal| format!("<portal address='{portal}'/>")).concat();
    let label = format!(
        "<volumes><volume target='vdb' id='7bf75168-8370-45f8-b1c5-e65926605960' name='admin_vol11'>\
         <iscsi target='{}' lun='{}'>{portals}<auth username='{}' uuid='{}'/></iscsi></volume></volumes>",
        lun.target.iqn, lun.lun, lun.target.secret.user, lun.target.secret.uuid
    );
    let uri = "https://vmferry.org/xmlns/volumes/1";
    source.virsh(["metadata", "web-1", uri, "--key", "vmferry", "--set", &label, "--live", "--config"])?;
    let before = Before::of(&testbed)?;
    storage.cut(destination, Endpoint::Portal(*lun.portals[0].ip()))?;

    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets(&[&data]))?;
    for which in [&["dumpxml", "web-1"][..], &["dumpxml", "web-1", "--inactive"]] {
        let xml = destination.virsh(which)?;
        let (_, devices) = xml.split_once("<devices>").context("a domain has devices")?;
        let host = |address: &str| devices.contains(&format!("<host name='{address}' port='3260'/>"));
        ensure!(host("192.0.2.6") && !host("192.0.2.5"), "{xml}");
        ensure!(xml.contains("7bf75168-8370-45f8-b1c5-e65926605960"), "{xml}");
    }
    assert_no_write_lost(&testbed, &guest, &data)
}
