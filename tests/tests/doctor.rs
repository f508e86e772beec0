//! What failures leave once no journal knows of it any more, and what an administrator has beside it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Host, Testbed,
    carrier::{self, By},
    guest::{BootSectorGuest, Guest, LinuxGuest},
    leaks::Snapshot,
    storage::Backend::Ceph,
    wait::until,
};

use crate::{
    network_rig::{made, succeed},
    rig::{
        Answer, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, busy_guest, memory_flows,
        slow_down, speed_up, vmferry,
        volumes::{Volume, has_secret, up},
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const MIGRATIONS: &str = "/run/vmferry/migrations";

/// An administrator's own, as like VMFerry's as can be: names, places and programs of the same kinds, without its marks.
const OWN: &str = "
    ip link add vmfb0a0a0a0a0a type bridge
    ip link set vmfb0a0a0a0a0a group 7761254 alias 'of the administrator'
    ip link add own-br type bridge
    nft add table bridge own
    nft add chain bridge own forward
    echo '<filter name=\"own-mac\"><rule action=\"accept\" direction=\"out\"><mac/></rule></filter>' >/run/own.xml
    virsh -q -c qemu:///system nwfilter-define /run/own.xml >/dev/null
    echo '<secret private=\"yes\"><description>VMFerry needs it not</description>
          <usage type=\"iscsi\"><target>own</target></usage></secret>' >/run/own.xml
    virsh -q -c qemu:///system secret-define /run/own.xml >/dev/null
    mkdir -p /run/vmferry/migrations/own && touch /run/vmferry/migrations/own/notes
    truncate -s 1M /run/own.img
    systemd-run -q --unit own-nbd qemu-nbd --persistent -f raw --socket /run/own.sock /run/own.img
    touch /srv/local/.vmferry-probe-own";

/// The coordinator and both agents die in the middle of the move, and the disks with their journals are lost. Nobody knows of it any more.
fn lose(testbed: &Testbed, guest: &Guest, moving: Move) -> Result<()> {
    let journal = format!("/var/lib/vmferry/journal/{}.jsonl", moving.id());
    drop(moving);
    for host in testbed.hosts() {
        host.agent().kill_for_good()?;
        host.sh(&format!("rm {journal}"))?;
    }
    // libvirt ends a job that nobody carries; it may have done so.
    testbed.host(SOURCE)?.sh(&format!("virsh -c qemu:///system domjobabort {} || true", guest.name()))?;
    let destination = testbed.host(DESTINATION)?;
    until("the guest's end where it was to arrive", SOON, || {
        Ok(destination.domain_state(guest.name())?.is_none().then_some(()))
    })?;
    for host in testbed.hosts() {
        host.agent().start()?;
        host.agent().wait_ready(SOON)?;
    }
    assert_only_on(testbed, guest, SOURCE)
}

/// Kind and subject of what `doctor` calls a problem on the destination.
fn problems(answer: &Answer) -> Result<BTreeSet<(String, String)>> {
    let hosts = answer.document["hosts"].as_array().context("a document")?;
    let of_destination = hosts.iter().find(|host| host["host"] == DESTINATION).context("it was looked at")?;
    let found = of_destination["leftovers"].as_array().context("a list")?.iter();
    let problems = found.filter(|leftover| leftover["level"] == "problem");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    problems
        .map(|problem| {
            ensure!(problem["removable"] == true, "nothing removes {problem:#}");
            Ok((text(&problem["kind"]), text(&problem["subject"])))
        })
        .collect()
}

/// Has all of it removed; whatever was shown is, and a second time there is nothing.
fn fix(testbed: &Testbed) -> Result<()> {
    let shown = problems(&vmferry(testbed, &["doctor"])?)?;
    let fixed = succeed(testbed, &["doctor", "--fix", "--yes"])?;
    ensure!(problems(&fixed)?.is_empty(), "{fixed:#?}");
    let hosts = fixed.document["hosts"].as_array().context("a document")?;
    let removals: Vec<_> = hosts.iter().flat_map(|host| host["removals"].as_array().into_iter().flatten()).collect();
    let removed = removals.iter().filter(|removal| removal["outcome"] == "removed").count();
    ensure!(removed == shown.len() && removals.len() == removed, "of {shown:?}: {removals:#?}");
    let left: Vec<_> = hosts
        .iter()
        .flat_map(|host| host["leftovers"].as_array().into_iter().flatten())
        .map(|one| &one["kind"])
        .collect();
    ensure!(left.iter().all(|kind| **kind == "directory"), "only the administrator's directory is left: {fixed:#?}");
    let again = succeed(testbed, &["doctor", "--fix", "--yes"])?;
    ensure!(!again.document.to_string().contains("outcome"), "{again:#?}");
    Ok(())
}

/// Fails unless the host has what it had, no more and no less.
fn assert_as_before(host: &Host, before: &Snapshot) -> Result<()> {
    let mut differences = Vec::new();
    let same = until("everything as it was", SOON, || {
        differences = host.snapshot()?.since(before);
        // Connections come and go with every call; the tables that libvirt makes for the first filter of a host stay, empty.
        differences.retain(|difference| match difference.kind {
            "TCP connection" => false,
            "firewall rule" => ["vnet", "vmf", "libvirt-", "own"].iter().any(|name| difference.item.contains(name)),
            _ => true,
        });
        Ok(differences.is_empty().then_some(()))
    });
    same.with_context(|| format!("{differences:#?}"))
}

#[test]
fn what_a_lost_migration_left_is_removed_and_an_administrators_own_is_not() -> Result<()> {
    let testbed = carrier::up([By::Bridge("br0"), By::Vxlan])?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let guest = carrier::start(&testbed, SOURCE, By::Bridge("br0"), LinuxGuest::new("web-1"))?;
    source.write(
        "/run/filter.xml",
        "<filter name='tenant-mac' chain='mac'>
           <rule action='return' direction='out' priority='350'><mac srcmacaddr='$MAC'/></rule>
           <rule action='drop' direction='out' priority='500'/>
         </filter>",
    )?;
    source.virsh(["nwfilter-define", "/run/filter.xml"])?;
    let xml = source.virsh(["dumpxml", "web-1"])?;
    let vif = xml.find("<interface").zip(xml.find("</interface>")).map(|(from, to)| &xml[from..to]);
    let filtered = format!("{}<filterref filter='tenant-mac'/></interface>", vif.context("it has a vif")?);
    source.write("/run/vif.xml", filtered)?;
    source.virsh(["update-device", "web-1", "/run/vif.xml", "--live", "--config"])?;
    destination.sh(OWN)?;
    until("the administrator's socket", SOON, || Ok(destination.path("/run/own.sock")?.exists().then_some(())))?;
    // Another guest moves beside it, and must not notice.
    let beside = busy_guest(&testbed, "web-2")?;
    let before = destination.snapshot()?;
    slow_down(&testbed, &guest)?;

    let moving = Move::begin_until(&testbed, &guest, "memory to flow", || memory_flows(&testbed, &guest))?;
    ensure!(made(destination)?.contains("vmfb"), "nothing was made: {}", made(destination)?);
    // A receiver that outlived its agent, and a link whose maker was cut off before it could say whose it is.
    let directory = format!("{MIGRATIONS}/{}", moving.id());
    destination.sh(&format!(
        "truncate -s 1M /run/lost.img
         systemd-run -q --unit lost-nbd qemu-nbd --persistent -f raw --socket {directory}/image-0.sock /run/lost.img
         ip link add vmfu0b0b0b0b0b type bridge
         ip link set vmfu0b0b0b0b0b group 7761254"
    ))?;
    lose(&testbed, &guest, moving)?;
    // What no guest could come to need goes without anybody's asking.
    until("the agent's own tidying", SOON, || {
        let left =
            format!("test -e {directory} || pgrep -a ^qemu-nbd | grep {directory} || ip link show vmfu0b0b0b0b0b");
        Ok(destination.sh(&left).is_err().then_some(()))
    })?;
    ensure!(!source.path(&directory)?.exists(), "{directory} is left on the source");

    let moving = Move::begin(&testbed, &beside)?;
    let found = vmferry(&testbed, &["doctor", DESTINATION])?;
    found.assert_ended(1, &[])?;
    let problems = problems(&found)?;
    let kinds: BTreeSet<_> = problems.iter().map(|(kind, _)| kind.as_str()).collect();
    ensure!(kinds == ["filter", "link"].into(), "{found:#?}");
    ensure!(problems.contains(&("filter".into(), "tenant-mac".into())), "{problems:?}");
    ensure!(found.document.to_string().contains(&format!("{MIGRATIONS}/own")), "a note was expected: {found:#?}");
    // Nothing is removed that nobody has agreed to.
    vmferry(&testbed, &["doctor", "--fix"])?.assert_ended(2, &[])?;
    vmferry(&testbed, &["doctor", "--fix", "--dry-run", DESTINATION])?.assert_ended(1, &[])?;
    fix(&testbed)?;

    speed_up(&testbed, &beside)?;
    let answer = moving.end(PATIENCE)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &beside, DESTINATION)?;
    destination.virsh(["destroy", "web-2"])?;
    destination.virsh(["undefine", "web-2"])?;
    assert_as_before(destination, &before)?;
    // What was lost can be done again.
    speed_up(&testbed, &guest)?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION])?;
    answer.assert_ended(0, &[])?;
    assert_only_on(&testbed, &guest, DESTINATION)
}

#[test]
fn a_secret_that_a_lost_migration_left_is_removed_unless_a_guest_has_come_to_need_it() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let ceph = testbed.storage()?.ceph()?;
    let volume = Volume::Rbd(ceph.create_image("volumes/one", "8M")?, ceph.secret()?);
    let secret = volume.secret();
    for host in testbed.hosts() {
        host.give_secret(secret)?;
    }
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    source.define_secret(secret)?;
    destination.sh(OWN)?;
    let mut definition = BootSectorGuest::new("web-1").dirtying(100);
    definition.domain.extra_devices = volume.disk("vdb");
    let guest = testbed.start(definition, SOURCE)?;
    let before = destination.snapshot()?;
    slow_down(&testbed, &guest)?;
    let moving = Move::begin(&testbed, &guest)?;
    ensure!(has_secret(destination, secret)?, "it was not given");
    lose(&testbed, &guest, moving)?;

    let found = vmferry(&testbed, &["doctor"])?;
    found.assert_ended(9, &[])?;
    ensure!(problems(&found)? == [("secret".to_owned(), secret.uuid.to_string())].into(), "{found:#?}");
    // While it moves there again the secret is needed, and nothing is removed.
    let moving = Move::begin(&testbed, &guest)?;
    let fixed = succeed(&testbed, &["doctor", "--fix", "--yes"])?;
    ensure!(problems(&fixed)?.is_empty() && has_secret(destination, secret)?, "{fixed:#?}");
    lose(&testbed, &guest, moving)?;

    fix(&testbed)?;
    ensure!(!has_secret(destination, secret)? && has_secret(source, secret)?, "the wrong one was removed");
    assert_as_before(destination, &before)?;
    speed_up(&testbed, &guest)?;
    vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION])?.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)
}
