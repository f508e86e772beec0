//! Whose secrets are where: a host has what its guests need, for as long as they need it; what somebody else gave it, it keeps.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmferry_tests::{
    Testbed,
    guest::{BootSectorGuest, Guest},
    storage::Backend::{Ceph, Iscsi},
};

use crate::rig::{
    Before, DESTINATION, Move, SOURCE, assert_unharmed_on, migrate, slow_down, speed_up, vmferry,
    volumes::{
        Volume, assert_completed, assert_nothing_left, assert_refused, assert_secrets_on, has_secret, secrets, up,
    },
};

/// A guest on the source, quick to start, that has an empty volume of either kind and leaves it alone.
fn start_with(testbed: &Testbed, name: &str, volumes: &[&Volume]) -> Result<Guest> {
    let mut definition = BootSectorGuest::new(name).dirtying(10);
    definition.domain.extra_devices = ["vdb", "vdc"].iter().zip(volumes).map(|(at, volume)| volume.disk(at)).collect();
    testbed.start(definition, SOURCE)
}

fn rbd(testbed: &Testbed, name: &str) -> Result<Volume> {
    let ceph = testbed.storage()?.ceph()?;
    Ok(Volume::Rbd(ceph.create_image(&format!("volumes/{name}"), "8M")?, ceph.secret()?))
}

fn lun(testbed: &Testbed, name: &str) -> Result<Volume> {
    let iscsi = testbed.storage()?.iscsi()?;
    Ok(Volume::Iscsi(iscsi.create_lun(&iscsi.create_target(name)?, 8)?))
}

/// Moves the guest to the source again, which it left.
fn migrate_back(testbed: &Testbed, guest: &Guest) -> Result<()> {
    let answer = migrate(testbed, guest.name(), SOURCE)?;
    answer.assert_ended(0, &[])?;
    assert_unharmed_on(testbed, guest, SOURCE)
}

#[test]
fn a_secret_goes_with_the_last_guest_that_needs_it() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let volumes = [rbd(&testbed, "one")?, rbd(&testbed, "two")?];
    let secrets = secrets(&[&volumes[0], &volumes[1]]);
    ensure!(secrets.len() == 1, "both are opened with the same");
    for host in testbed.hosts() {
        host.give_secret(&secrets[0])?;
    }
    testbed.host(SOURCE)?.define_secret(&secrets[0])?;
    let guests = [start_with(&testbed, "web-1", &[&volumes[0]])?, start_with(&testbed, "web-2", &[&volumes[1]])?];
    let before = Before::of(&testbed)?;
    for guest in &guests {
        assert_completed(&migrate(&testbed, guest.name(), DESTINATION)?)?;
        assert_secrets_on(&testbed, &secrets, &[SOURCE, DESTINATION])?;
    }

    migrate_back(&testbed, &guests[0])?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE, DESTINATION])?;
    // A guest that is shut off needs it when it is started again.
    let destination = testbed.host(DESTINATION)?;
    destination.virsh(["destroy", "web-2"])?;
    destination.virsh(["start", "web-2"])?;
    guests[1].console().wait_for_more(3, Duration::from_secs(20))?;
    migrate(&testbed, "web-2", SOURCE)?.assert_ended(0, &[])?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE])?;
    assert_nothing_left(&testbed, &before, &guests[1], SOURCE, &[])
}

#[test]
fn what_libvirt_shows_need_not_be_given_again_and_stays() -> Result<()> {
    let testbed = up(&[Ceph, Iscsi])?;
    let volumes = [rbd(&testbed, "one")?, lun(&testbed, "two")?];
    let secrets = secrets(&[&volumes[0], &volumes[1]]);
    for host in testbed.hosts() {
        for secret in &secrets {
            host.define_readable_secret(secret)?;
        }
    }
    let guest = start_with(&testbed, "web-1", &[&volumes[0], &volumes[1]])?;
    let before = Before::of(&testbed)?;

    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &[])?;
    migrate_back(&testbed, &guest)?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE, DESTINATION])?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])
}

#[test]
fn a_secret_that_libvirt_hides_must_be_given_to_the_agent() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let volume = lun(&testbed, "one")?;
    let secret = volume.secret();
    for host in testbed.hosts() {
        host.define_secret(secret)?;
    }
    let guest = start_with(&testbed, "web-1", &[&volume])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = [&secret.uuid, "libvirt on node-28 has secret", "is private", "give it to the agent of node-28, too"];
    assert_refused(&testbed, &before, &guest, &answer, &["VOLUME_SECRET_MISSING"], &words)?;
    for host in testbed.hosts() {
        host.give_secret(secret)?;
    }

    // The destination has it from somebody else, whatever becomes of the move.
    slow_down(&testbed, &guest)?;
    let moving = Move::begin(&testbed, &guest)?;
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(Duration::from_secs(30))?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    ensure!(has_secret(testbed.host(DESTINATION)?, secret)?, "another's secret was removed");
    speed_up(&testbed, &guest)?;
    assert_completed(&migrate(&testbed, "web-1", DESTINATION)?)?;
    migrate_back(&testbed, &guest)?;
    assert_secrets_on(&testbed, std::slice::from_ref(secret), &[SOURCE, DESTINATION])?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])
}
