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
    ping, process,
    testbed::{Options, Testbed},
};

const GUEST: &str = "web-1";

/// Quiet before and after the move, so that the longest gap is the migration's.
const QUIET: Duration = Duration::from_secs(1);

/// Brings two hosts up, moves a guest that is being pinged, prints what that cost, and takes all down again.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    println!("Two hosts in two availability zones, each with systemd, libvirt and an agent …");
    let testbed = Testbed::up(Options::default())?;
    let [source, destination] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    println!("A guest on {} …", source.name());
    let guest = testbed.start(LinuxGuest::new(GUEST), source.name())?;
    println!("{GUEST} answers at {}; up after {:.1?} in all\n", guest.address()?, started.elapsed());

    show(&testbed, &["hypervisors"])?;
    show(&testbed, &["instances"])?;
    let pinger = testbed.ping(guest.address()?)?;
    thread::sleep(QUIET);
    let begun = Instant::now();
    show(&testbed, &["migrate", GUEST, "--to", destination.name()])?;
    let wall = begun.elapsed();
    thread::sleep(QUIET);
    let pings = pinger.stop()?;
    show(&testbed, &["instances"])?;

    let runners = testbed.runners(GUEST)?;
    ensure!(runners == [destination.name()], "{GUEST} runs on {runners:?}");
    guest.console().wait_for_more(3, vmferry_tests::wait::SOON)?;
    guest.console().assert_steady()?;
    let heartbeats = guest.console().heartbeats()?.len();
    println!("{GUEST} runs on {}, in zone {}", destination.name(), destination.zone());
    println!("heartbeats on its console: {heartbeats}, none lost, none doubled");
    report(&record(&testbed)?, wall, &pings)?;
    testbed.down()?;
    println!("\nAll of it is gone again. `target/release/testbed up --guest` makes one that stays.");
    Ok(ExitCode::SUCCESS)
}

/// Runs `vmferry` as the operator would: its progress and results go to the terminal.
fn show(testbed: &Testbed, arguments: &[&str]) -> Result<()> {
    println!("$ vmferry {}", arguments.join(" "));
    let status = testbed.vmferry(arguments)?.status()?;
    ensure!(status.success(), "vmferry {}: {status}", arguments.join(" "));
    println!();
    Ok(())
}

/// The record of the only migration there was, as `vmferry` has it.
fn record(testbed: &Testbed) -> Result<Value> {
    let json = |arguments: &[&str]| -> Result<Value> {
        Ok(serde_json::from_str(&process::run(&mut testbed.vmferry(arguments)?)?)?)
    };
    let list = json(&["migrations", "--output", "json"])?;
    let id = list["migrations"][0]["id"].as_str().context("there is no migration")?;
    json(&["migrations", "show", id, "--output", "json"])
}

fn report(record: &Value, wall: Duration, pings: &ping::Report) -> Result<()> {
    let ms = |value: &Value| value.as_u64().map(Duration::from_millis).with_context(|| format!("a time in {record:#}"));
    let job = ms(&record["total_time_ms"])?;
    let migrate = record["source"]["phases"].as_array().into_iter().flatten().find(|span| span["phase"] == "migrate");
    let call = ms(&migrate.context("the source did not migrate")?["duration_ms"])?;
    let bytes = record["transferred_bytes"].as_u64().context("bytes moved")?;

    let mib = format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let answered = format!("{} pings sent, {} answered", pings.sent, pings.received);
    let milliseconds = |time: Duration| format!("{} ms", time.as_millis());
    for (name, value, what) in [
        ("bytes moved", mib, ""),
        ("longest ping gap", milliseconds(pings.longest_gap), answered.as_str()),
        ("downtime by QEMU", milliseconds(ms(&record["downtime_ms"])?), ""),
        ("wall time", milliseconds(wall), ""),
        ("  libvirt's job", milliseconds(job), "starting QEMU on the destination, moving memory, handing over"),
        (
            "  libvirt, after it",
            milliseconds(call.saturating_sub(job)),
            "it looks every 200 ms whether the source's QEMU is gone",
        ),
        ("  VMFerry", milliseconds(wall.saturating_sub(call)), "starting the program, connecting, check, pre, post"),
    ] {
        println!("{}", format!("{name:<20} {value:>9}   {what}").trim_end());
    }
    Ok(())
}
