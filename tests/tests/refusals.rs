//! Moves that are refused because of what was asked for, or because of the guest. Nothing is changed by any of them.

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest, LinuxGuest},
};

use crate::rig::{
    Answer, Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_only_on, busy_guest, migrate, vmferry,
};

/// A guest that would run on the source, defined and not started.
fn writer(name: &str) -> BootSectorGuest {
    BootSectorGuest::new(name)
}

/// Fails unless the checks refused to move the guest for these reasons, told in these words, and all is as before.
fn assert_refused(
    testbed: &Testbed,
    before: &Before,
    guest: &Guest,
    refused: &Answer,
    reasons: &[&str],
    words: &[&str],
) -> Result<()> {
    refused.assert_ended(3, reasons)?;
    refused.assert_error_says(&["nothing was changed", "stays on node-28", guest.name()])?;
    refused.assert_error_says(words)?;
    before.assert_nothing_leaked(testbed, &[])
}

#[test]
fn an_unknown_instance_is_not_guessed() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(writer("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-2", DESTINATION)?;
    answer.assert_ended(2, &["INSTANCE_NOT_FOUND"])?;
    answer.assert_error_says(&["no instance web-2", "vmferry instances"])?;
    // The beginning of a name is enough only where it is the beginning of one.
    testbed.define(writer("web-3"), SOURCE)?;
    let answer = migrate(&testbed, "web", DESTINATION)?;
    answer.assert_ended(2, &["INSTANCE_NOT_FOUND"])?;
    answer.assert_error_says(&["did you mean web-1 or web-3?"])?;
    testbed.host(SOURCE)?.virsh(["undefine", "web-3"])?;

    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_name_that_two_hosts_have_must_be_told_apart() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    testbed.start(writer("web-1"), SOURCE)?;
    testbed.define(writer("web-1"), DESTINATION)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(2, &["INSTANCE_AMBIGUOUS"])?;
    answer.assert_error_says(&[
        "web-1 may mean any of 2",
        "by its UUID",
        "on node-28 (ACTIVE)",
        "on node-31 (SHUTOFF)",
    ])?;
    // Told apart, it still cannot go where another has its name.
    let answer = vmferry(&testbed, &["migrate", "web-1", "--from", SOURCE, "--to", DESTINATION])?;
    answer.assert_ended(3, &["DOMAIN_EXISTS"])?;
    answer.assert_error_says(&["node-31 already has another domain named web-1", "virsh domrename"])?;

    ensure!(testbed.runners("web-1")? == [SOURCE]);
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn an_unknown_destination_is_named_before_anybody_is_asked() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(writer("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", "node-99")?;
    answer.assert_ended(2, &["HOST_NOT_FOUND"])?;
    answer.assert_error_says(&["node-99", "inventory.toml", "it has node-28, node-31"])?;

    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_guest_does_not_move_to_where_it_is() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(writer("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", SOURCE)?;
    assert_refused(&testbed, &before, &guest, &answer, &["SAME_HOST"], &["already runs on node-28", "--to"])?;
    assert_only_on(&testbed, &guest, SOURCE)
}

#[test]
fn a_guest_that_does_not_run_is_not_moved() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let off = testbed.define(writer("off-1"), SOURCE)?;
    let paused = testbed.start(writer("paused-1"), SOURCE)?;
    testbed.host(SOURCE)?.virsh(["suspend", "paused-1"])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "off-1", DESTINATION)?;
    assert_refused(&testbed, &before, &off, &answer, &["INSTANCE_SHUTOFF"], &["is shut off", "virsh start off-1"])?;
    let answer = migrate(&testbed, "paused-1", DESTINATION)?;
    assert_refused(&testbed, &before, &paused, &answer, &["INSTANCE_PAUSED"], &["PAUSED", "virsh resume paused-1"])?;

    for (name, state) in [("off-1", "shut off"), ("paused-1", "paused")] {
        ensure!(testbed.host(SOURCE)?.domain_state(name)?.as_deref() == Some(state), "{name} is no longer {state}");
        ensure!(testbed.host(DESTINATION)?.domain_state(name)?.is_none(), "{name} has come to {DESTINATION}");
    }
    Ok(())
}

#[test]
fn a_guest_is_moved_by_one_migration_at_a_time() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut first = Move::begin(&testbed, &guest)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["INSTANCE_MIGRATING", "INSTANCE_MIGRATING"])?;
    answer.assert_error_says(&["already being moved by migration", first.id(), "vmferry abort"])?;
    // The first has not noticed.
    ensure!(first.goes_on()? && active_migrations(&testbed)?.len() == 1, "the first migration has ended");

    let id = first.id().to_owned();
    vmferry(&testbed, &["abort", &id])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    first.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_domain_of_the_same_uuid_on_the_destination_is_not_overwritten() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let definition = writer("web-1");
    let mut leftover = definition.clone();
    leftover.domain.name = "web-old".to_owned();
    let guest = testbed.start(definition, SOURCE)?;
    testbed.define(leftover, DESTINATION)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["node-31 already has a domain with the UUID of web-1", "web-old", "SHUTOFF", "virsh undefine web-old"];
    assert_refused(&testbed, &before, &guest, &answer, &["DOMAIN_EXISTS"], &words)?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    ensure!(testbed.host(DESTINATION)?.domain_state("web-old")?.as_deref() == Some("shut off"));
    Ok(())
}

#[test]
fn a_guest_with_snapshots_is_not_moved() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(writer("web-1"), SOURCE)?;
    // A real one, of the memory; the disk is read-only.
    let source = testbed.host(SOURCE)?;
    let memory = "file=/srv/local/web-1.memory,snapshot=external";
    source.virsh([
        "snapshot-create-as",
        "web-1",
        "s1",
        "--live",
        "--memspec",
        memory,
        "--diskspec",
        "vda,snapshot=no",
    ])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["web-1 has 1 snapshot", "virsh snapshot-delete web-1"];
    assert_refused(&testbed, &before, &guest, &answer, &["SNAPSHOTS_PRESENT"], &words)?;
    assert_only_on(&testbed, &guest, SOURCE)
}

/// PCI and USB devices cannot be passed to a guest here; those below can, and are refused in the same way.
#[test]
fn a_guest_that_holds_something_of_its_host_is_not_moved() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let mut directory = writer("share-1");
    directory.domain.extra_devices =
        "<filesystem type='mount'><source dir='/srv/local'/><target dir='data'/></filesystem>".to_owned();
    let mut memory = writer("shmem-1");
    memory.domain.extra_devices =
        "<shmem name='ring'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>".to_owned();
    let guests = [testbed.start(directory, SOURCE)?, testbed.start(memory, SOURCE)?];
    let before = Before::of(&testbed)?;

    for (guest, what) in guests.iter().zip(["host directory `data`", "shared memory `ring`"]) {
        let answer = migrate(&testbed, guest.name(), DESTINATION)?;
        assert_refused(&testbed, &before, guest, &answer, &["HOST_DEVICE"], &[what, "of node-28", "detach it first"])?;
        assert_only_on(&testbed, guest, SOURCE)?;
    }
    Ok(())
}

#[test]
fn every_refusal_of_both_hosts_is_told_at_once() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let mut definition = LinuxGuest::new("web-1");
    // No such device is here, and no such file as the first disk: enough to define it, not to start it.
    definition.domain.extra_devices = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
         <address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source></hostdev>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/srv/local/data.img'/>\
         <target dev='vdb' bus='virtio'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='/srv/local/other.img'/><target dev='vdc' bus='virtio'/></disk>"
        .to_owned();
    for host in testbed.hosts() {
        host.sh("truncate -s 1M /srv/local/other.img")?;
    }
    definition.domain.memory_mib = 16 << 20;
    let guest = testbed.define(definition, SOURCE)?;
    let source = testbed.host(SOURCE)?;
    let domain = source.virsh(["dumpxml", "web-1"])?;
    let snapshot = format!(
        "<domainsnapshot><name>s1</name><creationTime>1700000000</creationTime><state>shutoff</state>\
         <memory snapshot='no'/>{domain}</domainsnapshot>"
    );
    source.write("/run/s1.xml", snapshot)?;
    source.virsh(["snapshot-create", "web-1", "/run/s1.xml", "--redefine"])?;
    testbed.host(DESTINATION)?.sh("ip link delete br0")?;
    let before = Before::of(&testbed)?;

    let here = ["INSTANCE_SHUTOFF", "SNAPSHOTS_PRESENT", "HOST_DEVICE", "PROBE_FAILED"];
    let there = ["MEMORY_SHORT", "NETWORK_MISSING", "DISK_NOT_SHARED"];
    let all = [here.as_slice(), &there].concat();
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["node-28 and node-31", "7 of", "host device", "bridge br0"];
    assert_refused(&testbed, &before, &guest, &answer, &all, &words)?;
    // For people too, each with its code.
    for reason in &all {
        ensure!(answer.stderr.contains(&format!("[{reason}]")), "{reason} is not told: {}", answer.stderr);
    }

    // A dry run finds the same and says so beforehand.
    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--dry-run"])?;
    ensure!(plan.exit == Some(3) && plan.document["would_migrate"] == false, "{plan:#?}");
    let checks = plan.document["checks"].as_array().context("a plan has checks")?;
    let refused: Vec<_> = checks.iter().filter_map(|check| check["reason"].as_str()).collect();
    ensure!(refused == all, "{refused:?}");
    Ok(())
}
