//! Migrations whose coordinator is not there any more: the agents bring them to their end, and nobody asks them to.

use std::{process::Stdio, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest, wait::until};

use crate::{
    block_rig::other,
    rig::{
        Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_unharmed_on, busy_guest, memory_flows,
        speed_up, vmferry,
    },
};

/// Far longer than it takes.
const END: Duration = Duration::from_secs(120);

/// Two hosts whose agents soon notice that nobody drives.
fn up() -> Result<Testbed> {
    let mut options = Options::default();
    options.hosts.iter_mut().for_each(|host| "lease = \"4s\"".clone_into(&mut host.configuration));
    Testbed::up(options)
}

/// Only looks.
fn wait_for_end(testbed: &Testbed) -> Result<()> {
    until("the migration to end by itself", END, || Ok(active_migrations(testbed)?.is_empty().then_some(())))
}

fn shown(testbed: &Testbed, id: &str) -> Result<Value> {
    Ok(vmferry(testbed, &["migrations", "show", id])?.document)
}

/// Who drives, as its source says.
fn driver(testbed: &Testbed, id: &str) -> Result<String> {
    let shown = shown(testbed, id)?;
    Ok(shown["source"]["driver"]["holder"].as_str().unwrap_or_default().to_owned())
}

fn await_agent(testbed: &Testbed, id: &str) -> Result<()> {
    until("the source's agent to take over", END, || {
        Ok(driver(testbed, id)?.ends_with(&format!("/agent/{SOURCE}")).then_some(()))
    })
}

#[test]
fn a_move_whose_coordinator_was_killed_goes_on_and_is_completed_by_the_agents() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    ensure!(driver(&testbed, &id)?.contains("/coordinator/"), "{}", driver(&testbed, &id)?);
    moving.signal(Signal::SIGKILL)?;
    ensure!(moving.end(SOON)?.exit.is_none());
    await_agent(&testbed, &id)?;
    ensure!(memory_flows(&testbed, &guest)?, "the job died with its coordinator");

    speed_up(&testbed, &guest)?;
    wait_for_end(&testbed)?;
    let shown = shown(&testbed, &id)?;
    ensure!(shown["outcome"] == "completed" && shown["source"]["driver"]["epoch"] == 2, "{shown:#}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_coordinator_that_slept_too_long_is_refused_and_tells_how_it_ended() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    moving.signal(Signal::SIGSTOP)?;
    await_agent(&testbed, &id)?;
    moving.signal(Signal::SIGCONT)?;
    speed_up(&testbed, &guest)?;
    let answer = moving.end(END)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    wait_for_end(&testbed)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn another_coordinator_takes_over_and_the_first_looks_on_to_the_same_end() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    let mut second = testbed.vmferry(["migrations", "resolve", &id, "-o", "json"])?;
    let second = second.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let epoch = || Ok::<_, anyhow::Error>(shown(&testbed, &id)?["source"]["driver"]["epoch"].as_u64());
    until("the second to take over", SOON, || Ok((epoch()? >= Some(2)).then_some(())))?;
    speed_up(&testbed, &guest)?;
    let answer = moving.end(END)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    let output = second.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

/// In its checks, in pre, while memory flows, at the hand-over, in post: whenever it dies, both halves end, on the same host.
#[test]
fn whenever_a_coordinator_is_killed_the_guest_ends_on_one_host_and_nothing_is_left_on_the_other() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(1), SOURCE)?;
    let before = Before::of(&testbed)?;
    let mut host = SOURCE;
    for millis in [200, 400, 600, 800, 1000, 1300, 1600] {
        let mut moving = testbed.vmferry(["migrate", "web-1", "--to", other(host), "-o", "json"])?;
        let mut moving = moving.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(millis));
        moving.kill()?;
        moving.wait()?;
        // A first phase may still be on its way.
        sleep(Duration::from_millis(500));
        wait_for_end(&testbed).with_context(|| format!("after {millis} ms"))?;
        let runners = testbed.runners("web-1")?;
        let [now] = runners.as_slice() else { anyhow::bail!("after {millis} ms it runs on {runners:?}") };
        host = if *now == SOURCE { SOURCE } else { DESTINATION };
        assert_unharmed_on(&testbed, &guest, host).with_context(|| format!("after {millis} ms"))?;
    }
    let came: &[&str] = if host == DESTINATION { &["web-1"] } else { &[] };
    before.assert_nothing_leaked(&testbed, came)
}
