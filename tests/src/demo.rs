//! `testbed demo`: one live migration from zone to zone, as a newcomer would run it.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use vmferry_tests::{
    guest::LinuxGuest,
    process,
    testbed::{Options, Testbed},
};

const GUEST: &str = "web-1";

/// Brings two hosts up, moves a guest that is being pinged, prints what that cost, and takes all down again.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    say("Two hosts in two availability zones, each with systemd, libvirt and an agent …");
    let testbed = Testbed::up(Options::default())?;
    let [source, destination] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    for host in testbed.hosts() {
        say(&format!("  {} in zone {}", host.name(), host.zone()));
    }
    say(&format!("A guest on {} …", source.name()));
    let guest = testbed.start(LinuxGuest::new(GUEST), source.name())?;
    say(&format!("  {GUEST} answers at {}; up after {:.1?} in all", guest.address()?, started.elapsed()));

    let pinger = testbed.ping(guest.address()?)?;
    // A second of quiet before and after: the gap is to be the migration's.
    thread::sleep(Duration::from_secs(1));
    say(&format!("\n$ vmferry migrate {GUEST} --to {}", destination.name()));
    let moved = Instant::now();
    let status = testbed.vmferry(["migrate", GUEST, "--to", destination.name()])?.status()?;
    let moved = moved.elapsed();
    ensure!(status.success(), "vmferry migrate: {status}");
    thread::sleep(Duration::from_secs(1));
    let pings = pinger.stop()?;

    let runners = testbed.runners(GUEST)?;
    ensure!(runners == [destination.name()], "{GUEST} runs on {runners:?}");
    guest.console().wait_for_more(3, Duration::from_secs(10))?;
    guest.console().assert_steady()?;
    let record = record(&testbed)?;

    say("\nAs seen from outside, and by QEMU:");
    line("runs on", &format!("{}, zone {}", destination.name(), destination.zone()));
    line("the whole command", &format!("{moved:.2?}"));
    line("QEMU downtime", &format!("{} ms", record.downtime_ms));
    line(
        "longest ping gap",
        &format!("{:.0?} ({} pings sent, {} answered)", pings.longest_gap, pings.sent, pings.received),
    );
    line("memory moved", &format!("{:.1} MiB in {} rounds", record.transferred_bytes / 1_048_576.0, record.rounds));
    line("heartbeats", &format!("{}, none lost, none doubled", guest.console().heartbeats()?.len()));
    testbed.down()?;
    say("\nAll of it is gone again. `testbed up --guest` makes one that stays.");
    Ok(ExitCode::SUCCESS)
}

/// What is printed of `vmferry migrations show`.
#[derive(Deserialize)]
struct Record {
    downtime_ms: u64,
    transferred_bytes: f64,
    rounds: u64,
}

/// The record of the only migration there was, as the CLI has it.
fn record(testbed: &Testbed) -> Result<Record> {
    let json =
        |arguments: &[&str]| -> Result<String> { process::run(testbed.vmferry(arguments)?.args(["--output", "json"])) };
    let listed: Value = serde_json::from_str(&json(&["migrations"])?)?;
    let id = listed["migrations"][0]["id"].as_str().context("`vmferry migrations` lists none")?;
    serde_json::from_str(&json(&["migrations", "show", id])?).context("`vmferry migrations show` printed other fields")
}

fn say(text: &str) {
    println!("{text}");
}

fn line(name: &str, value: &str) {
    println!("{name:<18} {value}");
}
