//! Memory that is sent over several streams at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    network::Link,
    wait::until,
};

use crate::rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_unharmed_on, migrate, vmferry};

/// Two hosts, and a guest that writes 100 MiB/s.
fn up() -> Result<(Testbed, Guest)> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(100), SOURCE)?;
    Ok((testbed, guest))
}

/// How many connections are open to the migration's socket for memory on a host: by the kernel, not by the agents.
fn memory_streams(testbed: &Testbed, host: &str) -> Result<usize> {
    let listed = testbed.host(host)?.sh("ss -Hxn state established | grep -c '/memory.sock' || true")?;
    listed.trim().parse().context("a number")
}

/// Fails unless QEMU has so many streams on both hosts.
fn assert_streams(testbed: &Testbed, wanted: usize) -> Result<()> {
    for host in [SOURCE, DESTINATION] {
        let mut found = 0;
        until("the streams", SOON, || {
            found = memory_streams(testbed, host)?;
            Ok((found == wanted).then_some(()))
        })
        .with_context(|| format!("{found} streams on {host} instead of {wanted}"))?;
    }
    Ok(())
}

#[test]
fn a_busy_guest_arrives_over_several_streams_with_every_page() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let arguments = ["--streams", "4", "--bandwidth", "40MiB/s", "--policy", "gentle"];
    let moving = Move::begin_with(&testbed, &guest, &arguments)?;
    // A main channel beside those for memory.
    assert_streams(&testbed, 5)?;

    // The bandwidth is that of all of them together.
    let sent = || -> Result<u64> {
        let job = testbed.host(SOURCE)?.virsh(["domjobinfo", "web-1", "--rawstats"]).unwrap_or_default();
        let figure = |line: &str| line.split_once(':').and_then(|(_, figure)| figure.trim().parse().ok());
        let line = job
            .lines()
            .find(|line| line.starts_with("memory_processed"))
            .or_else(|| job.lines().find(|line| line.starts_with("data_processed")));
        line.and_then(figure).with_context(|| job.clone())
    };
    let (begun, first) = (Instant::now(), sent()?);
    std::thread::sleep(Duration::from_secs(4));
    let rate = (sent()? - first) as f64 / begun.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("at most 40 MiB/s: {rate:.1} MiB/s over 4 streams");
    ensure!((20.0..=48.0).contains(&rate), "{rate} MiB/s");

    vmferry(&testbed, &["set", "web-1", "bandwidth=unlimited", "max-downtime=2s"])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    // Each page was checked by the guest once more where it is now.
    let passes = || Ok::<_, anyhow::Error>(guest.console().ticks()?.last().map_or(0, |tick| tick.pass));
    let arrived = passes()?;
    until("two passes over the memory", Duration::from_secs(60), || Ok((passes()? >= arrived + 2).then_some(())))?;
    guest.console().assert_memory_intact()?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_guest_that_is_slowed_down_arrives_over_several_streams() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let inventory = testbed.layout().inventory();
    let policy = "\n[policy.squeeze]\ndowntime = \"100ms\"\nthrottle = { initial = 90, increment = 9 }\n\
                  steps = [{ after = \"3m\", do = \"abort\" }]\n";
    std::fs::write(&inventory, std::fs::read_to_string(&inventory)? + policy)?;
    let limits = ["--streams", "2", "--bandwidth", "40MiB/s", "--policy", "squeeze"];
    let answer = vmferry(&testbed, &[&["migrate", "web-1", "--to", DESTINATION][..], &limits].concat())?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    // And back in one: what was said of this move is not kept for the next.
    migrate(&testbed, "web-1", SOURCE)?.assert_outcome("completed", SOURCE)
}

#[test]
fn a_link_that_is_cut_takes_a_move_over_several_streams_back() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let limits = ["--streams", "4", "--bandwidth", "10MiB/s", "--policy", "gentle"];
    let moving = Move::begin_with(&testbed, &guest, &limits)?;
    assert_streams(&testbed, 5)?;
    testbed.host(DESTINATION)?.cut(Link::Underlay)?;
    let answer = moving.end(Duration::from_secs(120))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    testbed.host(DESTINATION)?.mend(Link::Underlay)?;
    let address = testbed.host(DESTINATION)?.address().to_string();
    until("the mended cable", SOON, || {
        let pinged = testbed.command("ping").args(["-qnc1", "-W1", &address]).output()?;
        Ok(pinged.status.success().then_some(()))
    })?;
    vmferry(&testbed, &["migrations", "resolve"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_move_over_several_streams_is_aborted_at_once() -> Result<()> {
    let (testbed, guest) = up()?;
    let before = Before::of(&testbed)?;
    let limits = ["--streams", "4", "--bandwidth", "10MiB/s", "--policy", "gentle"];
    let moving = Move::begin_with(&testbed, &guest, &limits)?;
    assert_streams(&testbed, 5)?;
    let begun = Instant::now();
    let aborted = vmferry(&testbed, &["abort", moving.id()])?;
    let took = begun.elapsed();
    aborted.assert_outcome("aborted_rolled_back", SOURCE)?;
    ensure!(took < Duration::from_secs(5), "{took:?}");
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
