//! Guests that write faster than their memory can be sent, and how each policy ends it; and what is said by hand meanwhile.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    wait::until,
};

use crate::rig::{Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_unharmed_on, memory_flows, vmferry};

/// What is sent of the guest at most: of its 64 MiB, all of which it writes within a second, none ever gets less.
const SLOW: &str = "40MiB/s";
/// Policies of the tests: each gets to its point in seconds.
const POLICIES: &str = r#"
[policy.squeeze]
downtime = "100ms"
throttle = { initial = 90, increment = 9 }
steps = [{ after = "3m", do = "abort" }]

[policy.patient]
downtime = "20ms"
steps = [{ stalled = 2, downtime = "30s" }, { after = "3m", do = "abort" }]

[policy.stop]
downtime = "20ms"
steps = [{ after = "6s", do = "suspend" }]
"#;

/// Two hosts, and a guest that writes 100 MiB/s.
fn up() -> Result<(Testbed, Guest)> {
    let testbed = Testbed::up(Options::default())?;
    let inventory = testbed.layout().inventory();
    let text = fs::read_to_string(&inventory)? + POLICIES;
    fs::write(&inventory, text)?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(100), SOURCE)?;
    Ok((testbed, guest))
}

fn migrate(testbed: &Testbed, arguments: &[&str]) -> Result<Answer> {
    vmferry(testbed, &[&["migrate", "web-1", "--to", DESTINATION, "--bandwidth", SLOW], arguments].concat())
}

/// What libvirt keeps for the guest's migrations by others.
fn usual(testbed: &Testbed) -> Result<[String; 2]> {
    let source = testbed.host(SOURCE)?;
    Ok([source.virsh(["migrate-getmaxdowntime", "web-1"])?, source.virsh(["migrate-getspeed", "web-1"])?])
}

/// Moves it with this policy, and fails unless it arrives unharmed. Returns what was seen of it while it moved.
fn arrives(policy: &str) -> Result<Vec<Value>> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let answer = migrate(&testbed, &["--policy", policy])?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    let mut command = testbed.vmferry(["watch", "web-1", "-o", "json"])?;
    let mut seen = watched(command.stdin(Stdio::null()).output()?)?;
    ensure!(seen.pop().is_some_and(|end| end["outcome"] == "completed"), "{seen:#?}");
    Ok(seen)
}

#[test]
fn a_guest_that_writes_too_fast_stays_where_it_is_when_its_policy_gives_up() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let usual_before = usual(&testbed)?;
    let answer = migrate(&testbed, &["--deadline", "6s", "--max-downtime", "100ms"])?;
    answer.assert_ended(5, &["NOT_CONVERGING"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&[
        "when the policy `default` gives up",
        "--policy must-finish",
        "web-1 runs on node-28 as before",
    ])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;
    let usual_after = usual(&testbed)?;
    ensure!(usual_after == usual_before, "left behind: {usual_after:?}, not {usual_before:?}");
    Ok(())
}

#[test]
fn a_dry_run_measures_what_the_guest_writes_and_foresees_how_it_ends() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let foreseen = |arguments: &[&str]| {
        let answer = migrate(&testbed, &[&["--dry-run"], arguments].concat())?;
        answer.assert_ended(0, &[])?;
        let forecast = answer.document["forecast"].clone();
        ensure!(forecast.is_object(), "{answer:#?}");
        Ok::<_, anyhow::Error>(forecast)
    };
    let slow = foreseen(&[])?;
    // It writes to all of its 64 MiB within a second, and to nothing else.
    let mib = slow["dirty_rate_bytes_per_second"].as_u64().unwrap_or_default() >> 20;
    ensure!((8..=110).contains(&mib), "{slow:#}");
    ensure!(slow["converges"] == false && slow["likely"]["end"] == "abort", "{slow:#}");
    let needed = slow["needed_bandwidth_bytes_per_second"].as_u64().unwrap_or_default() >> 20;
    ensure!((40..=400).contains(&needed), "{slow:#}");
    let stopped = foreseen(&["--policy", "stop"])?;
    ensure!(stopped["likely"]["end"] == "suspend", "{stopped:#}");
    ensure!(slow["path_bytes_per_second"].as_u64() > Some(50 << 20), "{slow:#}");
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_guest_that_may_be_stopped_arrives() -> Result<()> {
    let seen = arrives("stop")?;
    // It was stopped when its time had come, with most of its memory still to be sent, and not before.
    let stopped = seen.iter().find(|sample| sample["stopped"] == true).context("it was stopped")?;
    ensure!(stopped["elapsed_ms"].as_u64() > Some(6_000), "{stopped:#}");
    Ok(())
}

#[test]
fn a_guest_that_may_stand_still_for_long_enough_arrives() -> Result<()> {
    let seen = arrives("patient")?;
    // Two rounds in vain come first.
    ensure!(seen.iter().any(|sample| sample["round"].as_u64() > Some(3)), "{seen:#?}");
    ensure!(seen.iter().all(|sample| sample["throttle_percent"] == 0), "{seen:#?}");
    Ok(())
}

#[test]
fn a_guest_that_is_slowed_down_arrives() -> Result<()> {
    let seen = arrives("squeeze")?;
    ensure!(seen.iter().any(|sample| sample["throttle_percent"].as_u64() >= Some(90)), "{seen:#?}");
    Ok(())
}

#[test]
fn a_move_is_told_by_hand_to_pause_to_go_on_and_to_let_the_guest_stand_still() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "gentle"])?;
    vmferry(&testbed, &["pause", "web-1"])?.assert_ended(0, &[])?;
    let speed = || testbed.host(SOURCE)?.virsh(["migrate-getspeed", "web-1"]).map(|mib| mib.trim().to_owned());
    ensure!(speed()? == "1", "{}", speed()?);
    vmferry(&testbed, &["resume", moving.id()])?.assert_ended(0, &[])?;
    ensure!(speed()? == "40", "{}", speed()?);
    vmferry(&testbed, &["set", "web-1", "bandwidth=60MiB/s", "max-downtime=30s"])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

/// The lines of a watcher that has ended.
fn watched(output: std::process::Output) -> Result<Vec<Value>> {
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn a_move_is_watched_from_anywhere_and_watchers_that_die_do_it_no_harm() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "gentle"])?;
    let watch = |arguments: &[&str]| {
        let mut command = testbed.vmferry_as_viewer([&["watch", "web-1", "-o", "json"], arguments].concat())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("vmferry")
    };
    let (first, mut dies) = (watch(&[])?, watch(&[])?);
    let mut lines = BufReader::new(dies.stdout.take().context("piped")?).lines();
    let read = |line: std::io::Result<String>| Ok::<Value, anyhow::Error>(serde_json::from_str(&line?)?);
    let died: Vec<Value> = lines.by_ref().take(3).map(read).collect::<Result<_>>()?;
    dies.kill()?;
    dies.wait()?;
    let token = died.last().and_then(|line| line["token"].as_u64()).context("it saw something")?.to_string();
    let second = watch(&["--after", &token])?;
    vmferry(&testbed, &["force-complete", "web-1"])?.assert_ended(0, &[])?;
    moving.end(SOON)?.assert_ended(0, &[])?;

    let [first, second] = [first, second].map(|watcher| watched(watcher.wait_with_output()?));
    let (first, second) = (first?, second?);
    for lines in [&first, &second] {
        let (last, samples) = lines.split_last().context("an end")?;
        ensure!(last["outcome"] == "completed" && last["exit_code"] == 0, "{last:#}");
        let of = |key: &str| samples.iter().filter_map(|sample| sample[key].as_u64()).collect::<Vec<_>>();
        ensure!(of("percent").is_sorted() && of("percent").iter().all(|percent| *percent < 100), "{samples:#?}");
        ensure!(of("token").windows(2).all(|pair| pair[1] == pair[0] + 1), "{samples:#?}");
        ensure!(samples.last().is_some_and(|sample| sample["stopped"] == true), "{samples:#?}");
    }
    // What the one saw who died and what the other saw who went on for it are what the first saw.
    let joined: Vec<_> = died.iter().chain(&second).take(first.len() - 1).map(|line| &line["token"]).collect();
    ensure!(joined.iter().copied().eq(first[..first.len() - 1].iter().map(|line| &line["token"])), "{joined:?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_move_is_forced_to_its_end_by_hand_and_nothing_is_told_afterwards() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "gentle"])?;
    let id = moving.id().to_owned();
    vmferry(&testbed, &["force-complete", &id])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    let late = vmferry(&testbed, &["force-complete", &id])?;
    late.assert_ended(2, &["MIGRATION_NOT_FOUND"])
}

#[test]
fn a_deadline_that_is_set_by_hand_ends_a_move() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "gentle"])?;
    vmferry(&testbed, &["set", "web-1", "deadline=1s"])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(5, &["NOT_CONVERGING"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_bandwidth_that_drops_to_a_tenth_on_the_way_is_survived() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "stop"])?;
    vmferry(&testbed, &["set", "web-1", "bandwidth=4MiB/s"])?.assert_ended(0, &[])?;
    until("the guest to be stopped", SOON, || {
        let state = testbed.host(SOURCE)?.domain_state("web-1")?;
        Ok((state.as_deref() == Some("paused")).then_some(()))
    })?;
    ensure!(memory_flows(&testbed, &guest)?, "what is left is still sent");
    vmferry(&testbed, &["set", "web-1", "bandwidth=unlimited"])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_guest_that_was_stopped_for_its_move_goes_on_where_it_was_when_that_is_aborted() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", SLOW, "--policy", "gentle"])?;
    vmferry(&testbed, &["set", "web-1", "bandwidth=1MiB/s"])?.assert_ended(0, &[])?;
    vmferry(&testbed, &["force-complete", "web-1"])?.assert_ended(0, &[])?;
    until("the guest to be stopped", SOON, || {
        let state = testbed.host(SOURCE)?.domain_state("web-1")?;
        Ok((state.as_deref() == Some("paused")).then_some(()))
    })?;
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
