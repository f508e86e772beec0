//! A coordinator that is killed, interrupted, or told by another one that its migration shall end.

use std::{process::Stdio, thread::sleep, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, LinuxGuest},
    wait::until,
};

use crate::{
    block_rig::other,
    rig::{
        Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_only_on, assert_unharmed_on, busy_guest,
        memory_flows, slow_down, speed_up, vmferry,
    },
};

/// Two hosts with agents that wait for whoever asks: what they do by themselves is another file's matter (takeover).
fn up() -> Result<Testbed> {
    let mut options = Options::default();
    options.hosts.iter_mut().for_each(|host| "lease = \"1h\"".clone_into(&mut host.configuration));
    Testbed::up(options)
}

/// Kills the coordinator of a move as nothing can defend itself against, and returns the migration's id.
fn kill_coordinator(moving: Move) -> Result<String> {
    let id = moving.id().to_owned();
    moving.signal(Signal::SIGKILL)?;
    let answer = moving.end(SOON)?;
    ensure!(answer.exit.is_none(), "it was not killed: {answer:#?}");
    Ok(id)
}

/// Fails unless exactly this migration is listed as going on.
fn assert_goes_on(testbed: &Testbed, id: &str) -> Result<()> {
    let active = active_migrations(testbed)?;
    ensure!(active.len() == 1 && active[0]["id"] == id && active[0]["outcome"].is_null(), "{active:#?}");
    Ok(())
}

#[test]
fn a_move_whose_coordinator_was_killed_is_completed_by_resolve() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let id = kill_coordinator(Move::begin(&testbed, &guest)?)?;

    // Nobody drives it any more; it goes on nevertheless.
    assert_goes_on(&testbed, &id)?;
    ensure!(memory_flows(&testbed, &guest)?, "the job died with its coordinator");
    speed_up(&testbed, &guest)?;
    let answer = vmferry(&testbed, &["migrations", "resolve", &id])?;
    answer.assert_outcome_of_only("completed", DESTINATION)?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_guest_that_arrived_without_a_coordinator_is_made_at_home_by_resolve() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    slow_down(&testbed, &guest)?;
    let before = Before::of(&testbed)?;
    let id = kill_coordinator(Move::begin(&testbed, &guest)?)?;
    speed_up(&testbed, &guest)?;
    until("the guest to arrive", SOON, || Ok((testbed.runners("web-1")? == [DESTINATION]).then_some(())))?;
    assert_goes_on(&testbed, &id)?;

    // Without an id: all that were left behind.
    let answer = vmferry(&testbed, &["migrations", "resolve"])?;
    answer.assert_outcome_of_only("completed", DESTINATION)?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_only_on(&testbed, &guest, DESTINATION)?;
    guest.console().assert_steady().with_context(|| guest.console().text().unwrap_or_default())?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn an_interrupt_takes_the_move_back() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    moving.signal(Signal::SIGINT)?;

    let answer = moving.end(SOON)?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    for words in ["aborting: web-1 stays on node-28", "aborted: web-1 runs on node-28 as before"] {
        ensure!(answer.stderr.contains(words), "no `{words}` in: {}", answer.stderr);
    }
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_second_interrupt_leaves_the_move_to_the_agents() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    // The source's agent hears nothing for a while, so that the first interrupt has no effect yet.
    let agent = testbed.host(SOURCE)?.agent().main_pid()?.to_string();
    testbed.host(SOURCE)?.run("kill", ["-STOP", &agent])?;
    moving.signal(Signal::SIGINT)?;
    until("the first interrupt", SOON, || Ok(moving.stderr()?.contains("press Ctrl-C again").then_some(())))?;
    moving.signal(Signal::SIGINT)?;
    let answer = moving.end(SOON);
    testbed.host(SOURCE)?.run("kill", ["-CONT", &agent])?;

    let answer = answer?;
    ensure!(answer.exit == Some(130), "{answer:#?}");
    let [show, abort, end] =
        ["migrations show", "abort", "migrations resolve"].map(|command| format!("vmferry {command} {id}"));
    answer.assert_error_says(&["goes on without a coordinator", &show, &abort, &end])?;

    // The abort was heard, or the move goes on: either way it ends, and the guest is where that says.
    speed_up(&testbed, &guest)?;
    let answer = vmferry(&testbed, &["migrations", "resolve", &id])?;
    let ended = &answer.document["migrations"][0];
    let host = ended["runs_on"].as_str().unwrap_or_default();
    let outcome = ended["outcome"].as_str().unwrap_or_default();
    ensure!([("completed", DESTINATION), ("aborted_rolled_back", SOURCE)].contains(&(outcome, host)), "{answer:#?}");
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, host)?;
    let came: &[&str] = if host == DESTINATION { &["web-1"] } else { &[] };
    before.assert_nothing_leaked(&testbed, came)
}

#[test]
fn another_process_can_abort_a_move() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;

    let aborted = vmferry(&testbed, &["abort", moving.id()])?;
    aborted.assert_ended(0, &["MIGRATION_ABORTED"])?;
    aborted.assert_outcome("aborted_rolled_back", SOURCE)?;
    // Its own coordinator learns of it.
    let answer = moving.end(SOON)?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_move_whose_coordinator_was_killed_can_be_aborted() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let id = kill_coordinator(Move::begin(&testbed, &guest)?)?;

    let aborted = vmferry(&testbed, &["abort", &id[..18]])?;
    aborted.assert_ended(0, &["MIGRATION_ABORTED"])?;
    aborted.assert_outcome("aborted_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;

    // What has ended stays ended.
    let again = vmferry(&testbed, &["abort", &id])?;
    ensure!(again.stderr.contains("has ended already"), "{again:#?}");
    assert_only_on(&testbed, &guest, SOURCE)
}

#[test]
fn a_move_that_is_done_cannot_be_aborted() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    speed_up(&testbed, &guest)?;
    moving.end(Duration::from_secs(60))?.assert_ended(0, &[])?;

    let answer = vmferry(&testbed, &["abort", &id])?;
    answer.assert_ended(1, &["TOO_LATE_TO_ABORT"])?;
    answer.assert_error_says(&["too late to abort", "moved web-1 from node-28 to node-31", "migrate it back"])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn an_abort_that_races_the_end_is_one_or_the_other() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(1), SOURCE)?;
    let before = Before::of(&testbed)?;
    let mut host = SOURCE;
    for millis in [50, 150, 300, 450, 600, 800] {
        let to = other(host);
        let mut moving = testbed.vmferry(["migrate", "web-1", "--to", to, "-o", "json"])?;
        let moving = moving.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(millis));
        let abort = || -> Result<_> {
            let mut abort = testbed.vmferry(["abort", "web-1"])?;
            Ok(abort.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
        };
        // Twice, side by side.
        for aborting in [abort()?, abort()?] {
            let aborted = aborting.wait_with_output()?;
            // Aborted; too late; or nothing of that name moves (any more).
            ensure!(matches!(aborted.status.code(), Some(0..=2)), "{aborted:?}");
        }
        let ended = moving.wait_with_output()?;
        let document: Value = serde_json::from_slice(&ended.stdout)?;
        host = match (ended.status.code(), document["outcome"].as_str()) {
            (Some(0), Some("completed")) => to,
            // Before anything was begun there is no outcome.
            (Some(4), Some("aborted_rolled_back") | None) => host,
            _ => bail!("after {millis} ms: {ended:?}"),
        };
        assert_unharmed_on(&testbed, &guest, host)?;
    }
    let came: &[&str] = if host == DESTINATION { &["web-1"] } else { &[] };
    before.assert_nothing_leaked(&testbed, came)
}
