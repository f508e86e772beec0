//! The strict hand-over on real hosts: whatever is lost at its worst moment, the guest runs once.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed,
    finish::{Answer as Finishing, CONFIGURATION, Finish},
    guest::{BootSectorGuest, Guest},
    process::Process,
    wait::until,
};

use crate::{
    block_rig::{LOCAL, assert_no_write_lost, disk, make, power_off, start_writer},
    rig::{
        Answer, Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_only_on, assert_unharmed_on, vmferry,
    },
};

/// Two hosts; the destination's agent takes a way to its libvirt that is looked at.
fn up() -> Result<Testbed> {
    let mut options = Options::default();
    options.hosts[1].configuration = CONFIGURATION.to_owned();
    Testbed::up(options)
}

/// What `vmferry migrations show` says of the only one.
fn shown(testbed: &Testbed) -> Result<Value> {
    let list = vmferry(testbed, &["migrations"])?;
    let id = list.document["migrations"][0]["id"].as_str().context("there is one")?.to_owned();
    Ok(vmferry(testbed, &["migrations", "show", &id])?.document)
}

/// The guest's QEMU on this host, as this machine counts.
fn qemu(host: &Host, guest: &Guest) -> Result<Process> {
    host.process(host.sh(&format!("cat /run/libvirt/qemu/{}.pid", guest.name()))?.trim().parse()?)
}

/// A move whose guest has arrived; the source has not heard it yet, and its QEMU is frozen: it will hear that it is to go, and not go.
fn at_its_hand_over(testbed: &Testbed, finish: &Finish) -> Result<(Guest, Move, Process)> {
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(10), SOURCE)?;
    let moving = Move::begin_with(testbed, &guest, &["--bandwidth", "10MiB/s", "--handover", "strict"])?;
    crate::rig::speed_up(testbed, &guest)?;
    finish.wait(Duration::from_secs(60))?;
    let qemu = qemu(testbed.host(SOURCE)?, &guest)?;
    qemu.signal(Signal::SIGSTOP)?;
    finish.let_through();
    until("it waits on its destination", SOON, || Ok(is_paused(testbed, DESTINATION)?.then_some(())))?;
    Ok((guest, moving, qemu))
}

fn is_paused(testbed: &Testbed, host: &str) -> Result<bool> {
    Ok(testbed.host(host)?.domain_state("web-1")?.as_deref() == Some("paused"))
}

fn moved(answer: &Answer) -> Result<()> {
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)
}

#[test]
fn a_guest_is_handed_over_strictly_unless_one_wants_otherwise_and_no_write_is_lost() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    make(&testbed, SOURCE, "truncate -s 64M data.raw")?;
    let guest = start_writer(&testbed, &[disk("vdb", &format!("{LOCAL}/data.raw"), "raw")])?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION])?;
    moved(&answer)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    guest.console().assert_steady()?;
    let shown = shown(&testbed)?;
    ensure!(shown["handover"] == "strict", "{shown:#}");
    ensure!(shown["downtime_ms"].as_u64().is_some_and(|downtime| downtime > 0), "{shown:#}");
    guest.console().wait_for_writes(3, SOON)?;
    power_off(&testbed, &guest, DESTINATION)?;
    assert_no_write_lost(&testbed, &guest, DESTINATION, "data.raw")
}

#[test]
fn a_lost_answer_of_the_destinations_libvirt_leaves_the_guest_on_its_source_alone() -> Result<()> {
    let testbed = up()?;
    let finish = Finish::on(testbed.host(DESTINATION)?, Finishing::Lost)?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(10), SOURCE)?;
    let before = Before::of(&testbed)?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--handover", "strict"])?;
    finish.wait(SOON)?;
    answer.assert_ended(1, &["HANDOVER_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn the_same_answer_lost_by_libvirts_own_hand_over_is_a_guest_that_runs_twice_and_is_told() -> Result<()> {
    let testbed = up()?;
    let finish = Finish::on(testbed.host(DESTINATION)?, Finishing::Lost)?;
    testbed.start(BootSectorGuest::new("web-1").dirtying(10), SOURCE)?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--handover", "fast"])?;
    finish.wait(SOON)?;
    ensure!(answer.exit == Some(6), "{answer:#?}");
    ensure!(answer.stderr.contains("web-1 runs on node-28 and on node-31"), "{}", answer.stderr);
    ensure!(testbed.runners("web-1")? == [SOURCE, DESTINATION], "{:?}", testbed.runners("web-1")?);
    Ok(())
}

#[test]
fn a_source_agent_that_is_killed_before_it_could_release_the_guest_does_so_when_it_is_back() -> Result<()> {
    let testbed = up()?;
    let finish = Finish::on(testbed.host(DESTINATION)?, Finishing::Held)?;
    let before = Before::of(&testbed)?;
    let (guest, moving, qemu) = at_its_hand_over(&testbed, &finish)?;
    let source = testbed.host(SOURCE)?;
    source.agent().kill_for_good()?;
    qemu.signal(Signal::SIGCONT)?;
    until("the source's copy to go", SOON, || Ok(source.domain_state("web-1")?.is_none().then_some(())))?;
    sleep(Duration::from_secs(1));
    ensure!(is_paused(&testbed, DESTINATION)?, "nobody has released it");

    source.agent().start()?;
    until("the guest to run on its destination", Duration::from_secs(5), || {
        Ok((testbed.runners("web-1")? == [DESTINATION]).then_some(()))
    })?;
    let answer = moving.end(Duration::from_secs(60))?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    ensure!(active_migrations(&testbed)?.is_empty());
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_destination_whose_libvirt_and_agent_were_restarted_at_the_hand_over_lets_the_guest_run() -> Result<()> {
    let testbed = up()?;
    let finish = Finish::on(testbed.host(DESTINATION)?, Finishing::Held)?;
    let before = Before::of(&testbed)?;
    let (guest, moving, qemu) = at_its_hand_over(&testbed, &finish)?;
    let destination = testbed.host(DESTINATION)?;
    destination.restart_libvirtd()?;
    destination.agent().kill()?;
    ensure!(is_paused(&testbed, DESTINATION)?, "a copy that waits stays");
    qemu.signal(Signal::SIGCONT)?;

    let answer = moving.end(Duration::from_secs(60))?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}
