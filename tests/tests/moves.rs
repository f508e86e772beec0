//! Guests move between real hosts, and whoever watches them from outside loses nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, LinuxGuest},
    leaks::Snapshot,
    process,
    wait::SOON,
};

/// Moves a guest and returns what `vmferry` says of it.
fn migrate(testbed: &Testbed, guest: &str, to: &str) -> Result<Value> {
    let printed = process::run(&mut testbed.vmferry(["migrate", guest, "--to", to, "--output", "json"])?)?;
    let moved: Value = serde_json::from_str(&printed)?;
    ensure!(moved["outcome"] == "completed", "{moved:#}");
    ensure!(testbed.runners(guest)? == [to], "{guest} runs on {:?}", testbed.runners(guest)?);
    Ok(moved)
}

fn milliseconds(moved: &Value, field: &str) -> Result<u64> {
    moved[field].as_u64().with_context(|| format!("{field} in {moved:#}"))
}

/// Each host as it was, but for the guest that is where it was at the start.
fn assert_nothing_leaked(testbed: &Testbed, before: &[Snapshot]) -> Result<()> {
    for (host, before) in testbed.hosts().iter().zip(before) {
        host.snapshot()?.assert_nothing_new(before, |_| false).with_context(|| host.name().to_owned())?;
    }
    Ok(())
}

#[test]
fn a_guest_moves_there_and_back_while_it_is_pinged_and_loses_no_heartbeat() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(LinuxGuest::new("web-1"), "node-28")?;
    let before = testbed.hosts().iter().map(|host| host.snapshot()).collect::<Result<Vec<_>>>()?;
    for destination in ["node-31", "node-28"] {
        let pinger = testbed.ping(guest.address()?)?;
        guest.console().wait_for_more(5, SOON)?;
        let moved = migrate(&testbed, "web-1", destination)?;
        guest.console().wait_for_more(5, SOON)?;
        let pings = pinger.stop()?;
        let (wall, total) = (milliseconds(&moved, "wall_ms")?, milliseconds(&moved, "total_time_ms")?);
        println!(
            "to {destination}: wall {wall} ms, of which not QEMU's {} ms; downtime {} ms by QEMU, longest ping gap {} ms",
            wall - total,
            milliseconds(&moved, "downtime_ms")?,
            pings.longest_gap.as_millis(),
        );
        ensure!(pings.received > 0 && pings.longest_gap < Duration::from_secs(5), "{pings:?}");
        guest.console().assert_steady()?;
    }
    assert_nothing_leaked(&testbed, &before)
}

#[test]
fn a_guest_that_keeps_writing_to_its_memory_arrives_with_every_page() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("busy").dirtying(10), "node-28")?;
    let before = testbed.hosts().iter().map(|host| host.snapshot()).collect::<Result<Vec<_>>>()?;
    for destination in ["node-31", "node-28"] {
        migrate(&testbed, "busy", destination)?;
        // The guest checks every page in each of its passes.
        let passes = || Ok::<_, anyhow::Error>(guest.console().ticks()?.last().map_or(0, |tick| tick.pass));
        let arrived = passes()?;
        vmferry_tests::wait::until("two passes over the memory", Duration::from_secs(90), || {
            Ok((passes()? >= arrived + 2).then_some(()))
        })?;
        guest.console().assert_memory_intact()?;
    }
    assert_nothing_leaked(&testbed, &before)
}

#[test]
fn the_definition_moves_with_the_guest() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    testbed.start(BootSectorGuest::new("kept"), "node-28")?;
    migrate(&testbed, "kept", "node-31")?;
    let (source, destination) = (testbed.host("node-28")?, testbed.host("node-31")?);
    ensure!(source.domain_state("kept")?.is_none(), "the source still defines it");
    ensure!(
        destination.virsh(["dominfo", "kept"])?.contains("Persistent:     yes"),
        "the destination does not keep it"
    );
    // It outlives a stop there, and can be started again.
    destination.virsh(["destroy", "kept"])?;
    destination.virsh(["start", "kept"])?;
    Ok(())
}
