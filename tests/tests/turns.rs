//! Hosts that send and take one migration at a time: who waits, for what, and who goes next.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    testbed::HostSpec,
    wait::until,
};

use crate::rig::{
    Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, busy_guest, speed_up, vmferry,
};

/// What follows when a coordinator is gone: the agent forgets it after 15 s.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// Hosts of which one has this in its configuration.
fn up(hosts: u8, limited: usize, capacity: &str) -> Result<Testbed> {
    let mut options = Options { hosts: HostSpec::defaults(hosts), ..Options::default() };
    options.hosts[limited].configuration = format!("[capacity]\n{capacity} = 1\n");
    Testbed::up(options)
}

fn quiet_guest(testbed: &Testbed, name: &str, host: &str) -> Result<Guest> {
    testbed.start(BootSectorGuest::new(name), host)
}

/// `vmferry migrate` of one that waits. Dies with the value.
struct Queued(Option<Child>);

impl Queued {
    /// Returns once it is seen to wait, with what is seen of it.
    fn begin(testbed: &Testbed, guest: &str, arguments: &[&str]) -> Result<(Self, Value)> {
        let mut command = testbed.vmferry(["migrate", guest, "--to", DESTINATION, "-o", "json"])?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let queued = Self(Some(command.spawn().context("cannot start vmferry")?));
        let seen =
            until("it to wait", SOON, || Ok(waiters(testbed)?.into_iter().find(|waiter| waiter["instance"] == guest)))?;
        Ok((queued, seen))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it has not ended")
    }

    /// As nothing can defend itself against.
    fn kill(mut self) -> Result<()> {
        self.child().kill()?;
        self.child().wait()?;
        Ok(())
    }

    fn end(mut self, timeout: Duration) -> Result<Answer> {
        until("the coordinator's end", timeout, || Ok(self.child().try_wait()?))?;
        Answer::ended(self.0.take().expect("it has not ended").wait_with_output()?)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Those that wait, as `vmferry migrations` has them.
fn waiters(testbed: &Testbed) -> Result<Vec<Value>> {
    let answer = vmferry(testbed, &["migrations"])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    answer.document["waiting"].as_array().cloned().context("a list")
}

/// When a half of the last migration of a guest began and ended, by that host's clock.
fn span(testbed: &Testbed, guest: &str, half: &str) -> Result<[jiff::Timestamp; 2]> {
    let shown = vmferry(testbed, &["migrations", "show", guest])?.document;
    let moment = |what: &str| -> Result<_> {
        let text = shown[half][what].as_str().with_context(|| format!("no {what} of {half} in {shown:#}"))?;
        Ok(text.parse()?)
    };
    Ok([moment("started")?, moment("ended")?])
}

#[test]
fn a_source_sends_one_at_a_time_and_the_others_wait_by_priority_and_can_be_aborted() -> Result<()> {
    let testbed = up(2, 0, "outgoing")?;
    let first = busy_guest(&testbed, "web-1")?;
    let others = ["web-2", "web-3", "web-4"].map(|name| quiet_guest(&testbed, name, SOURCE));
    let [second, third, fourth] = others;
    let (second, third, fourth) = (second?, third?, fourth?);
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &first)?;

    let (patient, seen) = Queued::begin(&testbed, "web-2", &[])?;
    let why = "node-28 sends at most 1 migration at a time, now web-1; it is the next";
    ensure!(seen["why"] == why && seen["priority"] == "normal" && seen["side"] == "source", "{seen:#}");
    let (urgent, seen) = Queued::begin(&testbed, "web-3", &["--priority", "high"])?;
    ensure!(seen["before"] == Value::Array(vec![]), "{seen:#}");
    let (unwanted, seen) = Queued::begin(&testbed, "web-4", &["--priority", "low"])?;
    ensure!(seen["before"] == serde_json::json!(["web-3", "web-2"]), "{seen:#}");

    let refused = vmferry(&testbed, &["migrate", "web-4", "--to", DESTINATION, "--no-wait"])?;
    refused.assert_ended(3, &["TOO_MANY_MIGRATIONS"])?;
    refused.assert_error_says(&[
        "node-28 sends at most 1",
        "now web-1",
        "nothing was changed, web-4 stays on node-28",
    ])?;
    vmferry(&testbed, &["abort", "web-4"])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    let aborted = unwanted.end(SOON)?;
    aborted.assert_ended(4, &["MIGRATION_ABORTED"])?;
    ensure!(aborted.document["outcome"].is_null(), "nothing was begun: {aborted:#?}");

    // A terminal is told why.
    let told = vmferry(&testbed, &["migrations", "--active"])?;
    ensure!(told.document["migrations"].as_array().map(Vec::len) == Some(1), "{told:#?}");
    speed_up(&testbed, &first)?;
    moving.end(SOON)?.assert_ended(0, &[])?;
    urgent.end(SOON)?.assert_ended(0, &[])?;
    let patient = patient.end(SOON)?;
    patient.assert_ended(0, &[])?;
    ensure!(patient.stderr.contains(&format!("waiting  {why}")), "{patient:#?}");

    let [begins, ends] = ["web-2", "web-3"].map(|guest| span(&testbed, guest, "source"));
    let ([second_begins, _], [third_begins, third_ends]) = (begins?, ends?);
    let [_, first_ends] = span(&testbed, "web-1", "source")?;
    ensure!(first_ends <= third_begins && third_ends <= second_begins, "one at a time, the urgent one first");
    assert_unharmed_on(&testbed, &first, DESTINATION)?;
    for guest in [&second, &third] {
        assert_only_on(&testbed, guest, DESTINATION)?;
    }
    assert_only_on(&testbed, &fourth, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &["web-1", "web-2", "web-3"])
}

#[test]
fn a_destination_takes_one_at_a_time_from_wherever_they_come() -> Result<()> {
    let testbed = up(3, 1, "incoming")?;
    let first = busy_guest(&testbed, "web-1")?;
    let second = quiet_guest(&testbed, "web-2", "node-27")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &first)?;

    let (queued, seen) = Queued::begin(&testbed, "web-2", &[])?;
    let why = "node-31 takes at most 1 migration at a time, now web-1; it is the next";
    ensure!(seen["why"] == why && seen["host"] == DESTINATION && seen["side"] == "destination", "{seen:#}");
    ensure!(seen["source"] == "node-27", "{seen:#}");
    assert_only_on(&testbed, &second, "node-27")?;
    let shown = vmferry(&testbed, &["migrations", "show", "web-2"])?;
    ensure!(shown.exit == Some(0) && shown.document["waiting"]["why"] == why, "{shown:#?}");
    let told = vmferry(&testbed, &["set", "web-2", "bandwidth=1MiB/s"])?;
    ensure!(told.exit == Some(1) && told.stderr.contains(why), "{told:#?}");
    let mut watch = testbed.vmferry(["watch", "web-2", "-o", "json"])?;
    let watching = watch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_secs(2));

    speed_up(&testbed, &first)?;
    moving.end(SOON)?.assert_ended(0, &[])?;
    queued.end(SOON)?.assert_ended(0, &[])?;
    let watched = watching.wait_with_output()?;
    let lines: Vec<Value> =
        String::from_utf8(watched.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (first_line, last_line) = (lines.first().context("it waits")?, lines.last().context("it ends")?);
    ensure!(first_line["waiting"]["why"] == why && last_line["outcome"] == "completed", "{lines:#?}");
    ensure!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
    let [_, first_ends] = span(&testbed, "web-1", "destination")?;
    let [second_begins, _] = span(&testbed, "web-2", "destination")?;
    ensure!(first_ends <= second_begins, "one at a time");
    assert_unharmed_on(&testbed, &first, DESTINATION)?;
    assert_only_on(&testbed, &second, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1", "web-2"])
}

#[test]
fn whoever_waits_behind_a_killed_coordinator_goes_on() -> Result<()> {
    let testbed = up(2, 0, "outgoing")?;
    let first = busy_guest(&testbed, "web-1")?;
    let second = quiet_guest(&testbed, "web-2", SOURCE)?;
    let third = quiet_guest(&testbed, "web-3", SOURCE)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &first)?;
    let (killed, _) = Queued::begin(&testbed, "web-2", &["--priority", "high"])?;
    let (behind, seen) = Queued::begin(&testbed, "web-3", &[])?;
    ensure!(seen["before"] == serde_json::json!(["web-2"]), "{seen:#}");
    killed.kill()?;
    speed_up(&testbed, &first)?;
    moving.end(SOON)?.assert_ended(0, &[])?;
    behind.end(FORGOTTEN)?.assert_ended(0, &[])?;
    ensure!(waiters(&testbed)?.is_empty());
    assert_unharmed_on(&testbed, &first, DESTINATION)?;
    assert_only_on(&testbed, &second, SOURCE)?;
    assert_only_on(&testbed, &third, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1", "web-3"])
}

#[test]
fn one_that_waits_outlives_the_restart_of_an_agent() -> Result<()> {
    let testbed = up(2, 0, "outgoing")?;
    let first = busy_guest(&testbed, "web-1")?;
    let second = quiet_guest(&testbed, "web-2", SOURCE)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &first)?;
    let (queued, _) = Queued::begin(&testbed, "web-2", &[])?;
    testbed.host(SOURCE)?.agent().kill_all()?;
    // What moved through its tunnel stays, and so there is a place.
    moving.end(SOON)?.assert_cut_with_its_source()?;
    queued.end(SOON)?.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &first, SOURCE)?;
    assert_only_on(&testbed, &second, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-2"])
}
