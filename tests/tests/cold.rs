//! Guests that are shut down, moved and started again, or moved while they are off: with their disks, whatever those are, and
//! up again on their source whatever fails.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use vmferry_tests::{
    Testbed,
    guest::{BootSectorGuest, Guest, LinuxGuest},
    storage::Backend::{Ceph, Iscsi},
    wait::until,
};

use crate::{
    block_rig::{
        LOCAL, allocated, assert_files, assert_no_write_lost, describe, disk, files, make, medium, other, power_off,
        random, start_writer, sum, up,
    },
    rig::{
        Answer, Before, DESTINATION, SOON, SOURCE, active_migrations, assert_only_on, migrate, vmferry,
        volumes::{self, Volume, let_in, secrets},
    },
};

/// How long a guest may take to go down, move and come up again.
const REBOOT: Duration = Duration::from_secs(60);
const DISK: &str = "small/web-1-a.raw";

fn migrate_cold(testbed: &Testbed, to: &str, more: &[&str]) -> Result<Answer> {
    vmferry(testbed, &[&["migrate", "web-1", "--to", to, "--cold"], more].concat())
}

/// How often a guest of either kind has begun.
fn boots(guest: &Guest) -> Result<usize> {
    let (heartbeats, ticks) = (guest.console().heartbeats()?, guest.console().ticks()?);
    let again = ticks.windows(2).filter(|pair| pair[1].tick < pair[0].tick).count();
    Ok(heartbeats.iter().filter(|heartbeat| heartbeat.number == 1).count() + usize::from(!ticks.is_empty()) + again)
}

fn wait_for_boots(guest: &Guest, count: usize) -> Result<()> {
    until(&format!("boot {count}"), REBOOT, || Ok((boots(guest)? >= count).then_some(())))
        .with_context(|| guest.console().tail())
}

/// Fails unless the guest is defined here, off, and nowhere else.
fn assert_off_only_on(testbed: &Testbed, name: &str, host: &str) -> Result<()> {
    for other in testbed.hosts() {
        let state = other.domain_state(name)?;
        let expected = (other.name() == host).then_some("shut off");
        ensure!(state.as_deref() == expected, "{name} is {state:?} on {}", other.name());
    }
    Ok(())
}

fn starts_with_host(testbed: &Testbed, host: &str) -> Result<bool> {
    Ok(testbed.host(host)?.virsh(["dominfo", "web-1"])?.lines().any(|line| line == "Autostart:      enable"))
}

#[test]
fn a_guest_goes_down_moves_with_its_disks_and_comes_up_again_there_and_back() -> Result<()> {
    let testbed = up()?;
    let [base, overlay, raw] = ["web-1-base.raw", "web-1-a.qcow2", "web-1-b.raw"].map(|file| format!("{LOCAL}/{file}"));
    let script = format!(
        "truncate -s 64M {base} {raw}
         {}qemu-img create -q -f qcow2 -b web-1-base.raw -F raw {overlay} 256M",
        random(&base, 4)
    );
    make(&testbed, SOURCE, &script)?;
    // What is cached matters only to those who move while they run.
    let overlay_disk = disk("vdb", &overlay, "qcow2").replace("none", "writeback");
    let guest = start_writer(&testbed, &[overlay_disk, disk("vdc", &raw, "raw")])?;
    testbed.host(SOURCE)?.virsh(["autostart", "web-1"])?;
    let contents = sum(&testbed, SOURCE, "web-1-base.raw")?;
    let before = Before::of(&testbed)?;

    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--cold", "--dry-run"])?;
    plan.assert_ended(0, &[])?;
    ensure!(plan.document.to_string().contains("while the guest is off"), "{:#}", plan.document);
    ensure!(boots(&guest)? == 1, "a dry run reboots nobody");

    for (moved, destination) in [DESTINATION, SOURCE].into_iter().enumerate() {
        let answer = migrate_cold(&testbed, destination, &[])?;
        answer.assert_ended(0, &[])?;
        answer.assert_outcome("completed", destination)?;
        ensure!(answer.document["kind"] == "cold", "{answer:#?}");
        let warned = answer.stderr.find("its guest sees a reboot").context("it is not said")?;
        ensure!(answer.stderr.find("check ").is_some_and(|check| warned < check), "not said first: {}", answer.stderr);

        wait_for_boots(&guest, moved + 2)?;
        guest.console().wait_for_writes(3, SOON)?;
        assert_only_on(&testbed, &guest, destination)?;
        assert_files(&testbed, destination, &["web-1-a.qcow2", "web-1-b.raw", "web-1-base.raw"])?;
        // The base stays: others may build on it.
        assert_files(&testbed, other(destination), &["web-1-base.raw"])?;
        ensure!(sum(&testbed, destination, "web-1-base.raw")? == contents, "the base is another");
        let image = describe(&testbed, destination, "web-1-a.qcow2")?;
        ensure!(image["backing-filename"] == "web-1-base.raw", "the file was to come as it is: {image:#}");
        ensure!(allocated(&testbed, destination, "web-1-a.qcow2")? < 8 << 20, "its holes are filled");
        ensure!(starts_with_host(&testbed, destination)?, "it does not start with its host any more");
    }
    let downs = guest.console().text()?.matches("OFF").count();
    ensure!(downs == 2, "it went down by itself {downs} times");
    before.assert_nothing_leaked(&testbed, &["web-1-base.raw"])?;
    power_off(&testbed, &guest, SOURCE)?;
    assert_no_write_lost(&testbed, &guest, SOURCE, "web-1-a.qcow2")?;
    assert_no_write_lost(&testbed, &guest, SOURCE, "web-1-b.raw")
}

#[test]
fn a_guest_that_is_off_moves_as_it_is_and_stays_off() -> Result<()> {
    let testbed = up()?;
    let script = format!(
        "truncate -s 64M base.raw
         {}qemu-img create -q -f qcow2 -b {LOCAL}/base.raw -F raw web-1.qcow2 64M
         qemu-io -c 'write -P 0x4d 8M 1M' web-1.qcow2 >/dev/null
         truncate -s 1M seed.iso",
        random("base.raw", 2)
    );
    make(&testbed, SOURCE, &script)?;
    let mut guest = BootSectorGuest::new("web-1").dirtying(1);
    guest.domain.extra_devices = disk("vdb", &format!("{LOCAL}/web-1.qcow2"), "qcow2")
        + &medium("cdrom", "sata", "sda", &format!("{LOCAL}/seed.iso"));
    let guest = testbed.define(guest, SOURCE)?;
    let contents = sum(&testbed, SOURCE, "web-1.qcow2")?;
    let before = Before::of(&testbed)?;

    let live = migrate(&testbed, "web-1", DESTINATION)?;
    live.assert_ended(3, &["INSTANCE_SHUTOFF"])?;
    ensure!(live.stderr.contains("vmferry migrate web-1 --cold"), "{}", live.stderr);

    let answer = migrate_cold(&testbed, DESTINATION, &[])?;
    answer.assert_ended(0, &[])?;
    ensure!(answer.document["outcome"] == "completed" && answer.document["runs_on"].is_null(), "{answer:#?}");
    ensure!(answer.stderr.contains("stays off on node-31"), "{}", answer.stderr);
    assert_off_only_on(&testbed, "web-1", DESTINATION)?;
    ensure!(sum(&testbed, DESTINATION, "web-1.qcow2")? == contents, "the image is another");
    assert_files(&testbed, DESTINATION, &["base.raw", "seed.iso", "web-1.qcow2"])?;
    assert_files(&testbed, SOURCE, &["base.raw", "seed.iso"])?;
    before.assert_nothing_leaked(&testbed, &["web-1", "base.raw", "seed.iso"])?;
    testbed.host(DESTINATION)?.virsh(["start", "web-1"])?;
    guest.wait_until_up(SOON)?;
    assert_only_on(&testbed, &guest, DESTINATION)
}

/// On shared storage and on volumes nothing is copied and nothing deleted.
#[test]
fn a_guest_with_volumes_of_both_kinds_reboots_on_the_destination() -> Result<()> {
    let testbed = volumes::up(&[Ceph, Iscsi])?;
    let (boot, data) = (Volume::boot(&testbed, Iscsi)?, Volume::data(&testbed, Ceph)?);
    let both = [&boot, &data];
    let_in(&testbed, &both)?;
    let definition = LinuxGuest::new("web-1").rooted_on(&boot.disk("vda")).with_disk(&data.disk("vdb"));
    let guest = testbed.start(definition, SOURCE)?;
    guest.console().wait_for_writes(3, SOON)?;
    let before = Before::of(&testbed)?;

    let answer = volumes::watching_arguments(&secrets(&both), || migrate_cold(&testbed, DESTINATION, &[]))?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    wait_for_boots(&guest, 2)?;
    guest.console().wait_for_writes(3, SOON)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    volumes::assert_secrets_on(&testbed, &secrets(&both), &[SOURCE, DESTINATION])?;
    volumes::assert_secrets_not_written(&testbed, &secrets(&both))?;
    volumes::assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets(&both))?;
    volumes::assert_no_write_lost(&testbed, &guest, &data)
}

/// A guest that does not hear its power button, with a disk on the source: a boot sector knows of none.
struct Deaf {
    testbed: Testbed,
    guest: Guest,
    before: Before,
}

impl Deaf {
    fn up() -> Result<Self> {
        let testbed = up()?;
        let script =
            format!("mkdir small; truncate -s 16M {DISK}; dd if=/dev/urandom bs=1M count=16 status=none >>{DISK}");
        make(&testbed, SOURCE, &script)?;
        let mut guest = BootSectorGuest::new("web-1").dirtying(1);
        guest.domain.extra_devices = disk("vdb", &format!("{LOCAL}/{DISK}"), "raw");
        let guest = testbed.start(guest, SOURCE)?;
        Ok(Self { before: Before::of(&testbed)?, testbed, guest })
    }

    /// Begins to move it; returns while it is asked to shut down, which it will be for five seconds.
    fn begin(&self) -> Result<Going> {
        let Self { testbed, .. } = self;
        let command = ["migrate", "web-1", "--to", DESTINATION, "--cold", "--shutdown-timeout", "5s", "-o", "json"];
        let mut command = testbed.vmferry(command)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let going = Going(Some(command.spawn().context("cannot start vmferry")?));
        until("it to be asked to shut down", SOON, || {
            let active = active_migrations(testbed)?;
            Ok(active.iter().any(|migration| migration["phase"] == "migrate").then_some(()))
        })?;
        Ok(going)
    }

    /// Fails unless the guest runs on its source as at its `boots`-th boot, and the destination is as it was; then moves it
    /// after all.
    fn assert_up_again(&self, boots: usize) -> Result<()> {
        let Self { testbed, guest, before } = self;
        wait_for_boots(guest, boots)?;
        assert_only_on(testbed, guest, SOURCE)?;
        before.assert_nothing_leaked(testbed, &[])?;
        assert_files(testbed, SOURCE, &["small", DISK])?;
        migrate_cold(testbed, DESTINATION, &["--shutdown-timeout", "0s"])?.assert_ended(0, &[])?;
        wait_for_boots(guest, boots + 1)?;
        assert_only_on(testbed, guest, DESTINATION)
    }
}

/// A coordinator at work. Dies with the value.
struct Going(Option<Child>);

impl Going {
    fn end(mut self) -> Result<Answer> {
        let child = self.0.take().context("it runs")?;
        Answer::ended(child.wait_with_output()?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.0.as_ref().context("it runs")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_guest_that_ignores_its_shutdown_stays_or_has_its_power_cut_as_was_asked_for() -> Result<()> {
    let deaf = Deaf::up()?;
    let Deaf { testbed, guest, before } = &deaf;
    let patience = ["--shutdown-timeout", "2s", "--shutdown-fallback", "give-up"];
    let answer = migrate_cold(testbed, DESTINATION, &patience)?;
    answer.assert_ended(1, &["SHUTDOWN_IGNORED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&[
        "web-1 did not shut itself down on node-28 within 2s",
        "web-1 runs on node-28 as before",
    ])?;
    ensure!(answer.stderr.contains("the guest is shutting down"), "{}", answer.stderr);
    guest.console().assert_memory_intact()?;
    assert_only_on(testbed, guest, SOURCE)?;
    before.assert_nothing_leaked(testbed, &[])?;
    ensure!(boots(guest)? == 1, "nobody has rebooted it");

    let answer = migrate_cold(testbed, DESTINATION, &["--shutdown-timeout", "2s"])?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    wait_for_boots(guest, 2)?;
    assert_only_on(testbed, guest, DESTINATION)
}

#[test]
fn a_destination_whose_disk_is_full_when_the_guest_is_off_sends_it_back_up() -> Result<()> {
    let deaf = Deaf::up()?;
    let destination = deaf.testbed.host(DESTINATION)?;
    destination.sh(&format!("mkdir {LOCAL}/small; mount -t tmpfs -o size=40M small {LOCAL}/small"))?;
    let going = deaf.begin()?;
    destination.sh(&format!("! dd if=/dev/zero of={LOCAL}/small/ballast bs=1M 2>/dev/null"))?;
    let answer = going.end()?;
    answer.assert_ended(1, &["COPY_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&[DISK, "node-31", "No space left on device", "web-1 runs on node-28"])?;
    assert_files(&deaf.testbed, DESTINATION, &["small", "small/ballast"])?;
    destination.sh(&format!("umount {LOCAL}/small; rmdir {LOCAL}/small"))?;
    deaf.assert_up_again(2)
}

#[test]
fn a_destination_that_cannot_start_the_guest_gives_it_back() -> Result<()> {
    let deaf = Deaf::up()?;
    let going = deaf.begin()?;
    let qemu = "/usr/bin/qemu-system-x86_64";
    let destination = deaf.testbed.host(DESTINATION)?;
    // It answers libvirt's questions, and runs no such guest.
    let script = format!("#!/bin/sh\ncase \"$*\" in *guest=web-1*) exit 1 ;; esac\nexec {qemu}.away \"$@\"\n");
    destination.sh(&format!("mv {qemu} {qemu}.away"))?;
    destination.write(qemu, script)?;
    destination.sh(&format!("chmod 755 {qemu}"))?;
    let answer = going.end();
    destination.sh(&format!("mv -f {qemu}.away {qemu}"))?;
    let answer = answer?;
    answer.assert_ended(1, &["START_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 could not be started on node-31", "web-1 runs on node-28"])?;
    deaf.assert_up_again(2)
}

#[test]
fn an_agent_of_the_destination_that_dies_when_the_guest_is_off_sends_it_back_up() -> Result<()> {
    let deaf = Deaf::up()?;
    let going = deaf.begin()?;
    deaf.testbed.host(DESTINATION)?.agent().kill()?;
    let answer = going.end()?;
    answer.assert_ended(1, &["COPY_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    deaf.assert_up_again(2)
}

/// Nobody knows then whether the guest has heard that it should shut down.
#[test]
fn an_agent_of_the_source_that_dies_while_the_guest_goes_down_brings_it_up_again() -> Result<()> {
    let testbed = up()?;
    make(&testbed, SOURCE, "truncate -s 16M web-1.raw")?;
    let guest = start_writer(&testbed, &[disk("vdb", &format!("{LOCAL}/web-1.raw"), "raw")])?;
    let before = Before::of(&testbed)?;
    let mut command = testbed.vmferry(["migrate", "web-1", "--to", DESTINATION, "--cold", "-o", "json"])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let going = Going(Some(command.spawn()?));
    until("its power button", SOON, || Ok(guest.console().text()?.contains("OFF").then_some(())))?;
    testbed.host(SOURCE)?.agent().kill()?;
    let answer = going.end()?;
    answer.assert_ended(1, &["AGENT_RESTARTED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    wait_for_boots(&guest, 2)?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_coordinator_that_dies_leaves_the_rest_to_another() -> Result<()> {
    let deaf = Deaf::up()?;
    let going = deaf.begin()?;
    going.signal(Signal::SIGKILL)?;
    let answer = vmferry(&deaf.testbed, &["migrations", "resolve"])?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome_of_only("completed", DESTINATION)?;
    wait_for_boots(&deaf.guest, 2)?;
    assert_only_on(&deaf.testbed, &deaf.guest, DESTINATION)?;
    assert_files(&deaf.testbed, SOURCE, &["small"])
}

#[test]
fn a_coordinator_that_dies_leaves_a_guest_that_is_off_to_the_agents_who_start_it() -> Result<()> {
    let deaf = Deaf::up()?;
    let going = deaf.begin()?;
    going.signal(Signal::SIGKILL)?;
    until("its migration to end by itself", Duration::from_secs(180), || {
        Ok(active_migrations(&deaf.testbed)?.is_empty().then_some(()))
    })?;
    wait_for_boots(&deaf.guest, 2)?;
    assert_only_on(&deaf.testbed, &deaf.guest, DESTINATION)?;
    assert_files(&deaf.testbed, SOURCE, &["small"])
}

#[test]
fn an_abort_while_the_guest_is_asked_to_go_down_leaves_it_running() -> Result<()> {
    let deaf = Deaf::up()?;
    let going = deaf.begin()?;
    let shown = volumes::show(&deaf.testbed, "web-1")?;
    ensure!(shown["state"] == "MIGRATING" && shown["host"] == SOURCE && shown["name"] == "web-1", "{shown:#}");
    going.signal(Signal::SIGINT)?;
    let answer = going.end()?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    ensure!(boots(&deaf.guest)? == 1, "an abort cuts no power");
    deaf.assert_up_again(1)
}

#[test]
fn what_a_cold_move_would_lose_is_refused_and_the_guest_untouched() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(1), SOURCE)?;
    let source = testbed.host(SOURCE)?;
    source.virsh(["undefine", "web-1"])?;
    let answer = migrate_cold(&testbed, DESTINATION, &[])?;
    answer.assert_ended(3, &["INSTANCE_TRANSIENT"])?;
    source.sh("virsh dumpxml web-1 >/run/web-1.xml; virsh define /run/web-1.xml >/dev/null")?;
    guest.console().assert_memory_intact()?;

    source.virsh(["managedsave", "web-1"])?;
    let answer = migrate_cold(&testbed, DESTINATION, &[])?;
    answer.assert_ended(3, &["INSTANCE_SAVED"])?;
    ensure!(answer.stderr.contains("virsh managedsave-remove web-1"), "{}", answer.stderr);
    source.virsh(["start", "web-1"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    guest.console().assert_memory_intact()
}

#[test]
fn a_source_whose_file_system_is_read_only_lets_the_guest_go_and_is_tidied_when_it_can_be() -> Result<()> {
    let testbed = up()?;
    let source = testbed.host(SOURCE)?;
    source.sh(&format!("mkdir {LOCAL}/small; mount -t tmpfs -o size=40M small {LOCAL}/small"))?;
    make(&testbed, SOURCE, &format!("truncate -s 16M {DISK}\n{}", random(DISK, 4)))?;
    let mut guest = BootSectorGuest::new("web-1");
    guest.domain.extra_devices = disk("vdb", &format!("{LOCAL}/{DISK}"), "raw");
    testbed.define(guest, SOURCE)?;
    let contents = sum(&testbed, SOURCE, DISK)?;
    let before = Before::of(&testbed)?;
    source.sh(&format!("mount -o remount,ro {LOCAL}/small"))?;

    // Neither a probe file can be written there nor the image removed.
    let answer = migrate_cold(&testbed, DESTINATION, &[])?;
    answer.assert_ended(0, &[])?;
    ensure!(answer.document["outcome"] == "completed_with_warnings", "{answer:#?}");
    for words in ["could not remove image", DISK, "Read-only file system"] {
        ensure!(answer.stderr.contains(words), "no `{words}` in: {}", answer.stderr);
    }
    assert_off_only_on(&testbed, "web-1", DESTINATION)?;
    ensure!(sum(&testbed, DESTINATION, DISK)? == contents, "the image is another");
    let doctor = vmferry(&testbed, &["doctor", SOURCE])?;
    ensure!(doctor.exit == Some(1) && doctor.document.to_string().contains(DISK), "{doctor:#?}");

    source.sh(&format!("mount -o remount,rw {LOCAL}/small"))?;
    until("the image to go", SOON, || Ok((!files(&testbed, SOURCE)?.contains(DISK)).then_some(())))?;
    source.sh(&format!("umount {LOCAL}/small; rmdir {LOCAL}/small"))?;
    before.assert_nothing_leaked(&testbed, &["web-1", "local/small"])
}
