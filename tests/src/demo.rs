//! `testbed demo`: one live migration from zone to zone, as a newcomer would run it.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
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

    say("");
    line("runs on", &format!("{}, zone {}", destination.name(), destination.zone()));
    line("total time", &format!("{moved:.2?}"));
    line(
        "QEMU downtime",
        &record
            .as_ref()
            .and_then(|r| number(r, &["downtime_ms", "downtime"]))
            .map_or_else(unknown, |ms| format!("{ms} ms")),
    );
    line(
        "longest ping gap",
        &format!("{:.0?} ({} pings sent, {} answered)", pings.longest_gap, pings.sent, pings.received),
    );
    line(
        "memory moved",
        &record
            .as_ref()
            .and_then(|r| number(r, &["bytes_moved", "data_processed", "bytes"]))
            .map_or_else(unknown, |bytes| format!("{:.1} MiB", bytes / 1_048_576.0)),
    );
    line("heartbeats", &format!("{}, none lost, none doubled", guest.console().heartbeats()?.len()));
    testbed.down()?;
    say("\nAll of it is gone again. `testbed up --guest` makes one that stays.");
    Ok(ExitCode::SUCCESS)
}

/// The record of the only migration there was, as the CLI has it.
fn record(testbed: &Testbed) -> Result<Option<Value>> {
    let list = process::run(&mut testbed.vmferry(["migrations", "list", "--output", "json"])?)?;
    let list: Value = serde_json::from_str(&list).context("`vmferry migrations list` printed no JSON")?;
    let Some(id) = find(&list, "id").and_then(Value::as_str) else { return Ok(None) };
    let shown = process::run(&mut testbed.vmferry(["migrations", "show", id, "--output", "json"])?)?;
    Ok(Some(serde_json::from_str(&shown).context("`vmferry migrations show` printed no JSON")?))
}

fn number(record: &Value, names: &[&str]) -> Option<f64> {
    names.iter().find_map(|name| find(record, name)?.as_f64())
}

/// The first field of this name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

fn unknown() -> String {
    "not recorded".to_owned()
}

fn say(text: &str) {
    println!("{text}");
}

fn line(name: &str, value: &str) {
    println!("{name:<18} {value}");
}
