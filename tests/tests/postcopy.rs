//! Guests that go on where they arrive before their memory is there; and what breaks meanwhile.

use std::{fs, path::Path, process::Stdio, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    network::Link,
    wait::until,
};

use crate::{
    block_rig::{LOCAL, assert_no_write_lost, disk, make, power_off, start_writer},
    rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, vmferry},
};

/// So slow that the first round is not over before the guest is switched; what it needs itself comes as fast as it asks for it.
const SLOW: &str = "4MiB/s";
/// For how long a cable is out, so that nobody gives up his peer.
const MOMENT: Duration = Duration::from_secs(3);
/// Heartbeats, ten a second, after which the guest has written to most of its 64 MiB.
const WRITTEN: usize = 60;
/// How long a way may be broken before libvirt gives up its peer, and more.
const BROKEN: Duration = Duration::from_secs(60);

/// Two hosts that can, and a guest that writes so many MiB/s.
fn up_with(rate: u32) -> Result<(Testbed, Guest)> {
    // As packaging/sysctl has it; it is the machine's, there being one kernel for all hosts.
    fs::write("/proc/sys/vm/unprivileged_userfaultfd", "1")?;
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(rate), SOURCE)?;
    Ok((testbed, guest))
}

/// A guest that goes on for seconds before it has asked for all of its memory.
fn up() -> Result<(Testbed, Guest)> {
    let (testbed, guest) = up_with(8)?;
    guest.console().wait_for_more(WRITTEN, SOON)?;
    Ok((testbed, guest))
}

/// A move that was switched to postcopy by hand, and has a while to go.
fn switched(testbed: &Testbed, guest: &Guest) -> Result<Move> {
    let moving = Move::begin_with(testbed, guest, &["--bandwidth", SLOW, "--postcopy"])?;
    vmferry(testbed, &["force-complete", "web-1", "--how", "postcopy"])?.assert_ended(0, &[])?;
    until_switched(testbed)?;
    ensure!(why(testbed, SOURCE)?.contains("paused (post-copy"), "{}", why(testbed, SOURCE)?);
    Ok(moving)
}

fn until_switched(testbed: &Testbed) -> Result<()> {
    until("the guest to run on its destination", SOON, || {
        Ok(why(testbed, DESTINATION)?.contains("running (post-copy").then_some(()))
    })
}

/// The guest's state on this host by libvirt, and why.
fn why(testbed: &Testbed, host: &str) -> Result<String> {
    Ok(testbed.host(host)?.virsh(["domstate", "--reason", "web-1"]).unwrap_or_default())
}

/// The samples of a migration that has ended.
fn seen(testbed: &Testbed, id: &str) -> Result<Vec<Value>> {
    let output = testbed.vmferry(["watch", id, "-o", "json"])?.output()?;
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn arrives(testbed: &Testbed, guest: &Guest, before: &Before, moving: Move) -> Result<()> {
    let answer = moving.end(BROKEN)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(testbed, guest, DESTINATION)?;
    before.assert_nothing_leaked(testbed, &["web-1"])
}

#[test]
fn a_guest_that_writes_too_fast_goes_on_where_it_arrives_and_its_memory_follows() -> Result<()> {
    let (testbed, guest) = up_with(100)?;
    let before = Before::of(&testbed)?;
    let answer = vmferry(
        &testbed,
        &["migrate", "web-1", "--to", DESTINATION, "--bandwidth", "40MiB/s", "--policy", "postcopy"],
    )?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    let seen = seen(&testbed, answer.document["migration_id"].as_str().context("an id")?)?;
    ensure!(seen.iter().any(|sample| sample["mode"] == "postcopy"), "{seen:#?}");
    ensure!(seen.iter().all(|sample| sample["mode"] != "broken"), "{seen:#?}");
    let downtime = answer.document["downtime_ms"].as_u64().context("measured")?;
    ensure!(downtime < 1_000, "all of its memory takes longer: {downtime} ms");
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn from_the_switch_on_nothing_takes_it_back() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    for late in [&["pause", "web-1"][..], &["force-complete", "web-1"], &["set", "web-1", "max-downtime=1s"]] {
        vmferry(&testbed, late)?.assert_ended(1, &["NOTHING_TO_STEER"])?;
    }
    let mut aborting = testbed.vmferry(["abort", moving.id()])?;
    let aborting = aborting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    vmferry(&testbed, &["set", "web-1", "bandwidth=unlimited"])?.assert_ended(0, &[])?;
    let aborted = aborting.wait_with_output()?;
    ensure!(aborted.status.code() == Some(1), "{aborted:?}");
    ensure!(String::from_utf8(aborted.stderr)?.contains("too late to abort: web-1 runs on node-31"));
    arrives(&testbed, &guest, &before, moving)
}

#[test]
fn a_move_that_was_not_begun_for_it_is_not_switched() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW])?;
    let refused = vmferry(&testbed, &["force-complete", "web-1", "--how", "postcopy"])?;
    refused.assert_ended(1, &["NOTHING_TO_STEER"])?;
    refused.assert_error_says(&["--postcopy", "--how suspend"])?;
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_that_cannot_take_page_faults_refuses_postcopy() -> Result<()> {
    let (testbed, _guest) = up_with(1)?;
    let setting = Path::new("/proc/sys/vm/unprivileged_userfaultfd");
    testbed.host(DESTINATION)?.sh(&format!("echo 0 > /run/no && mount --bind /run/no {}", setting.display()))?;
    testbed.host(DESTINATION)?.agent().restart()?;
    let before = Before::of(&testbed)?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--policy", "postcopy"])?;
    answer.assert_ended(3, &["POSTCOPY_UNAVAILABLE"])?;
    answer.assert_error_says(&["node-31", "sysctl -w vm.unprivileged_userfaultfd=1"])?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_way_that_breaks_is_made_again_when_an_agent_dies() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    let id = moving.id().to_owned();
    testbed.host(DESTINATION)?.agent().kill_all()?;
    arrives(&testbed, &guest, &before, moving)?;
    let seen = seen(&testbed, &id)?;
    ensure!(seen.iter().any(|sample| sample["mode"] == "broken"), "{seen:#?}");
    Ok(())
}

#[test]
fn a_source_whose_agent_dies_sends_the_rest_when_it_is_back() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    testbed.host(SOURCE)?.agent().kill()?;
    arrives(&testbed, &guest, &before, moving)
}

#[test]
fn a_cable_that_is_out_for_long_costs_time_and_neither_half() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    let destination = testbed.host(DESTINATION)?;
    destination.cut(Link::Underlay)?;
    until("libvirt to give up its peer", BROKEN, || {
        Ok(why(&testbed, SOURCE)?.contains("post-copy failed").then_some(()))
    })?;
    ensure!(why(&testbed, DESTINATION)?.contains("running"), "{}", why(&testbed, DESTINATION)?);
    destination.mend(Link::Underlay)?;
    arrives(&testbed, &guest, &before, moving)
}

#[test]
fn a_guest_whose_destination_dies_with_half_of_it_is_told_to_be_lost() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    let id = moving.id().to_owned();
    testbed.host(DESTINATION)?.sh("kill -9 $(pidof qemu-system-x86_64)")?;

    let answer = moving.end(BROKEN)?;
    answer.assert_ended(6, &["POSTCOPY_LOST"])?;
    answer.assert_error_says(&["what was in its memory is lost", "virsh start web-1"])?;
    // What is left of it on the source must not go on: it is old.
    ensure!(why(&testbed, SOURCE)?.contains("paused (post-copy"), "{}", why(&testbed, SOURCE)?);
    let unresolved = vmferry(&testbed, &["migrations", "resolve", &id])?;
    ensure!(unresolved.exit == Some(6), "{unresolved:#?}");
    ensure!(unresolved.document["migrations"][0]["cause"]["reason"] == "POSTCOPY_LOST", "{unresolved:#?}");

    testbed.host(SOURCE)?.virsh(["destroy", "web-1"])?;
    testbed.host(DESTINATION)?.virsh(["start", "web-1"])?;
    let resolved = vmferry(&testbed, &["migrations", "resolve", &id])?;
    ensure!(resolved.exit == Some(0), "{resolved:#?}");
    resolved.assert_outcome_of_only("completed", DESTINATION)?;
    ensure!(testbed.runners("web-1")? == [DESTINATION]);
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_libvirt_that_is_restarted_on_either_side_costs_neither_half() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = switched(&testbed, &guest)?;
    testbed.host(SOURCE)?.restart_libvirtd()?;
    testbed.host(DESTINATION)?.restart_libvirtd()?;
    arrives(&testbed, &guest, &before, moving)
}

#[test]
fn a_disk_that_is_copied_is_all_there_before_the_switch() -> Result<()> {
    fs::write("/proc/sys/vm/unprivileged_userfaultfd", "1")?;
    let testbed = Testbed::up(Options::default())?;
    make(&testbed, SOURCE, "truncate -s 64M web-1-a.raw")?;
    let guest = start_writer(&testbed, &[disk("vdb", &format!("{LOCAL}/web-1-a.raw"), "raw")])?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", "10MiB/s", "--postcopy"])?;
    vmferry(&testbed, &["force-complete", "web-1", "--how", "postcopy"])?.assert_ended(0, &[])?;
    until_switched(&testbed)?;
    // A cable that is out for a moment delays what follows, and loses nothing: of the disk there is nothing to follow.
    testbed.host(DESTINATION)?.cut(Link::Underlay)?;
    sleep(MOMENT);
    testbed.host(DESTINATION)?.mend(Link::Underlay)?;
    moving.end(BROKEN)?.assert_ended(0, &[])?;
    guest.console().wait_for_writes(5, SOON)?;
    guest.console().assert_steady()?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    power_off(&testbed, &guest, DESTINATION)?;
    assert_no_write_lost(&testbed, &guest, DESTINATION, "web-1-a.raw")
}

#[test]
fn a_guest_is_not_switched_over_a_way_that_is_not_there() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--postcopy"])?;
    let destination = testbed.host(DESTINATION)?;
    destination.cut(Link::Underlay)?;
    let refused = vmferry(&testbed, &["force-complete", moving.id(), "--how", "postcopy"])?;
    destination.mend(Link::Underlay)?;
    refused.assert_ended(1, &["NOTHING_TO_STEER"])?;
    refused.assert_error_says(&["web-1 is not switched to postcopy while the way to node-31 is not good"])?;
    ensure!(testbed.runners("web-1")? == [SOURCE]);
    vmferry(&testbed, &["force-complete", moving.id(), "--how", "postcopy"])?.assert_ended(0, &[])?;
    arrives(&testbed, &guest, &before, moving)
}

#[test]
fn a_guest_that_was_slowed_down_is_taken_up_again_and_a_reboot_does_not_bring_it_up_twice() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let source = testbed.host(SOURCE)?;
    source.virsh(["autostart", "web-1"])?;
    // Its policy slows the guest's CPUs down, which is no part of what is resumed.
    let limits = ["--policy", "never-pause", "--bandwidth", SLOW, "--postcopy"];
    let moving = Move::begin_with(&testbed, &guest, &limits)?;
    vmferry(&testbed, &["force-complete", "web-1", "--how", "postcopy"])?.assert_ended(0, &[])?;
    until_switched(&testbed)?;
    let autostarts = |host: &str| -> Result<bool> {
        let told = testbed.host(host)?.virsh(["dominfo", "web-1"])?;
        Ok(told.lines().any(|line| line.starts_with("Autostart:") && line.ends_with("enable")))
    };
    ensure!(!autostarts(SOURCE)?, "a reboot of the source would bring it up there, too");
    source.agent().kill()?;
    arrives(&testbed, &guest, &before, moving)?;
    ensure!(autostarts(DESTINATION)?, "it started with its host before");
    Ok(())
}

#[test]
fn a_destination_that_loses_power_with_half_of_a_guest_says_so_when_it_is_back() -> Result<()> {
    let (testbed, guest) = up()?;
    let moving = switched(&testbed, &guest)?;
    let destination = testbed.host(DESTINATION)?;
    destination.power_off()?;
    destination.power_on()?;
    let answer = moving.end(2 * BROKEN)?;
    answer.assert_ended(6, &["POSTCOPY_LOST"])?;
    ensure!(why(&testbed, SOURCE)?.contains("paused (post-copy"), "{}", why(&testbed, SOURCE)?);
    Ok(())
}
