//! An agent that is restarted, or killed, in the middle of a move: the move goes on, and so does what its user sees of it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    agent::Agent,
    guest::{BootSectorGuest, Guest},
    wait::until,
};

use crate::{
    block_rig::{self, LOCAL, assert_files, assert_no_write_lost, disk, make, power_off, start_writer},
    rig::{
        Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, busy_guest, disks_flow,
        memory_flows, slow_down, speed_up, vmferry,
    },
};

/// How an agent ends.
type End = fn(&Agent<'_>) -> Result<()>;

/// As an upgrade does it: SIGTERM, and the program is started anew.
const RESTARTED: End = |agent| agent.restart();
/// `kill -9`; systemd starts it again.
const KILLED: End = |agent| {
    agent.kill()?;
    agent.wait_ready(SOON)
};

/// What carries a host's tunnels: its processes, as the host counts.
fn carriers(host: &Host) -> Result<Vec<i32>> {
    let listed = host.sh("pgrep -x vmferry-carrier || true")?;
    listed.lines().map(|line| line.trim().parse().context("a number")).collect()
}

/// Ends the agents of these hosts, at once; they come back, and the way between the hosts has not been touched.
fn end(testbed: &Testbed, hosts: &[&str], end: End) -> Result<()> {
    let hosts: Vec<_> = hosts.iter().map(|host| testbed.host(host)).collect::<Result<_>>()?;
    let before: Vec<_> =
        hosts.iter().map(|host| Ok((host.agent().main_pid()?, carriers(host)?))).collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        let ends: Vec<_> = hosts.iter().map(|host| scope.spawn(move || end(&host.agent()))).collect();
        ends.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow::anyhow!("it panicked"))?)
    })?;
    for (host, (agent, carried)) in hosts.iter().zip(before) {
        ensure!(host.agent().main_pid()? != agent, "the agent of {} is the same", host.name());
        ensure!(carried.len() == 1 && carriers(host)? == carried, "{} has other carriers: {carried:?}", host.name());
    }
    Ok(())
}

/// Waits until the user has been told more of how the job goes.
fn assert_progress(moving: &mut Move) -> Result<()> {
    let told =
        |moving: &Move| Ok::<_, anyhow::Error>(moving.stderr()?.lines().filter(|line| line.contains("MiB/s")).count());
    let before = told(moving)?;
    until("samples of the job", SOON, || {
        ensure!(moving.goes_on()?, "the move is over");
        Ok((told(moving)? >= before + 2).then_some(()))
    })
}

fn assert_completed(answer: &Answer) -> Result<()> {
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    Ok(())
}

/// A move of a busy guest, in whose middle agents end.
fn goes_on(hosts: &[&str], how: End, arguments: &[&str]) -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin_with(&testbed, &guest, arguments)?;
    end(&testbed, hosts, how)?;

    assert_progress(&mut moving)?;
    ensure!(memory_flows(&testbed, &guest)?, "its memory does not flow");
    finish(&testbed, &guest, moving)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

fn finish(testbed: &Testbed, guest: &Guest, moving: Move) -> Result<()> {
    speed_up(testbed, guest)?;
    assert_completed(&moving.end(Duration::from_secs(60))?)?;
    assert_unharmed_on(testbed, guest, DESTINATION)
}

#[test]
fn a_move_goes_on_while_the_agent_of_its_source_is_restarted() -> Result<()> {
    goes_on(&[SOURCE], RESTARTED, &[])
}

#[test]
fn a_move_goes_on_while_the_agent_of_its_destination_is_restarted() -> Result<()> {
    goes_on(&[DESTINATION], RESTARTED, &[])
}

#[test]
fn a_move_goes_on_when_both_agents_are_killed() -> Result<()> {
    goes_on(&[SOURCE, DESTINATION], KILLED, &[])
}

#[test]
fn a_move_over_several_streams_goes_on_when_both_agents_are_killed() -> Result<()> {
    goes_on(&[SOURCE, DESTINATION], KILLED, &["--streams", "4"])
}

#[test]
fn a_move_that_libvirt_hands_over_goes_on_when_both_agents_are_restarted() -> Result<()> {
    goes_on(&[SOURCE, DESTINATION], RESTARTED, &["--handover", "fast"])
}

#[test]
fn who_follows_a_move_is_told_that_its_agent_is_not_heard_and_when_it_is_again() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;
    let agent = testbed.host(SOURCE)?.agent();
    let is_told = |moving: &Move, words: &str| {
        until(words, Duration::from_secs(10), || Ok(moving.stderr()?.contains(words).then_some(())))
    };
    agent.kill_for_good()?;
    is_told(&moving, "node-28 is not heard, and asked again: ")?;
    agent.start()?;
    is_told(&moving, "node-28 is heard again")?;
    assert_progress(&mut moving)?;
    finish(&testbed, &guest, moving)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

/// A move of a minute, in which first the one host's agent gets another version, then the other's.
#[test]
fn a_move_of_a_minute_goes_on_while_both_agents_are_upgraded_to_another_version() -> Result<()> {
    const NEWER: &str = "0.9.9";
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let begun = Instant::now();
    let mut moving = Move::begin(&testbed, &guest)?;
    for (host, at) in [(SOURCE, 20), (DESTINATION, 40)] {
        sleep(Duration::from_secs(at).saturating_sub(begun.elapsed()));
        testbed.host(host)?.agent().upgrade(NEWER)?;
        assert_progress(&mut moving)?;
        ensure!(memory_flows(&testbed, &guest)?, "its memory does not flow");
    }
    sleep(Duration::from_secs(60).saturating_sub(begun.elapsed()));
    finish(&testbed, &guest, moving)?;
    ensure!(begun.elapsed() >= Duration::from_secs(60));

    let said = vmferry(&testbed, &["hypervisors"])?;
    let hosts = said.document["hypervisors"].as_array().context("a list of hosts")?;
    ensure!(hosts.len() == 2 && hosts.iter().all(|host| host["agent_version"] == NEWER), "{hosts:#?}");
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_disk_that_is_copied_arrives_whole_though_both_agents_were_killed() -> Result<()> {
    const DISK: &str = "web-1-a.raw";
    let testbed = block_rig::up()?;
    make(&testbed, SOURCE, &format!("dd if=/dev/urandom of={DISK} bs=1M count=64 status=none"))?;
    let guest = start_writer(&testbed, &[disk("vdb", &format!("{LOCAL}/{DISK}"), "raw")])?;
    slow_down(&testbed, &guest)?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin_until(&testbed, &guest, "its disk to flow", || disks_flow(&testbed, &guest))?;
    end(&testbed, &[SOURCE, DESTINATION], KILLED)?;

    assert_progress(&mut moving)?;
    speed_up(&testbed, &guest)?;
    assert_completed(&moving.end(Duration::from_secs(60))?)?;
    guest.console().wait_for_writes(3, SOON)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    guest.console().assert_steady()?;
    assert_files(&testbed, DESTINATION, &[DISK])?;
    assert_files(&testbed, SOURCE, &[])?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    power_off(&testbed, &guest, DESTINATION)?;
    assert_no_write_lost(&testbed, &guest, DESTINATION, DISK)
}

#[test]
fn what_is_told_by_hand_and_an_abort_reach_a_job_that_was_joined() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;
    end(&testbed, &[SOURCE], KILLED)?;
    assert_progress(&mut moving)?;
    vmferry(&testbed, &["set", "web-1", "bandwidth=20MiB/s"])?.assert_ended(0, &[])?;
    vmferry(&testbed, &["abort", "web-1"])?.assert_ended(0, &["MIGRATION_ABORTED"])?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_job_that_ends_while_there_is_no_agent_is_made_final_by_the_next() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(10), SOURCE)?;
    slow_down(&testbed, &guest)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--handover", "fast"])?;
    let source = testbed.host(SOURCE)?;
    source.agent().kill_for_good()?;
    speed_up(&testbed, &guest)?;
    until("the guest's departure", SOON, || Ok(source.domain_state("web-1")?.is_none().then_some(())))?;
    source.agent().start()?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_outcome("completed", DESTINATION)?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_carrier_that_dies_is_a_cut_tunnel_and_the_next_move_has_another() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let source = testbed.host(SOURCE)?;
    source.run("pkill", ["-KILL", "-x", "vmferry-carrier"])?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;

    let moving = Move::begin(&testbed, &guest)?;
    finish(&testbed, &guest, moving)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}
