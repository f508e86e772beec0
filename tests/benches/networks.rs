//! How long a guest is silent on its network when VMFerry moves it, beyond the time that QEMU itself keeps it still: over each
//! kind of network, with filters and without, and beside it a guest on the same kind of network that libvirt moves alone. Run by
//! `make bench`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use vmferry_tests::{
    Host, Testbed, alone,
    carrier::{By, start, start_without, up},
    guest::{Guest, LinuxGuest},
    process,
    wait::until,
};

/// Moves of each kind, there and back by turns.
const ROUNDS: usize = 20;

/// Who moves the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    /// `virsh migrate --p2p`; the guest is plugged in by libvirt alone.
    Libvirt,
    /// VMFerry.
    Plain,
    /// VMFerry, and the guest has a policy.
    Filtered,
}

fn main() -> Result<()> {
    println!("longest silence of a ping every 5 ms less QEMU's downtime, in ms; {ROUNDS} moves each, by turns");
    println!("{:>24}  {:>7}  {:>6}  {:>6}  {:>7}  {:>8}", "", "median", "least", "most", "silence", "downtime");
    for (by, name) in [(By::Bridge("br0"), "bridge"), (By::Vxlan, "VXLAN"), (By::Ovs, "Open vSwitch")] {
        measure(by, name)?;
    }
    println!("idle guests of 128 MiB under TCG; libvirt: `virsh migrate --live --p2p` over the same kind of network");
    Ok(())
}

/// All movers on one kind of network, in one testbed: what else the machine does befalls them alike.
fn measure(by: By, name: &str) -> Result<()> {
    let testbed = up([by, by])?;
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    alone::open(&testbed)?;
    if by == By::Vxlan {
        // For their sake its bridge is on both hosts all the time: nobody makes it for libvirt's guest.
        start(&testbed, first.name(), by, LinuxGuest::new("stays-1"))?;
        start(&testbed, second.name(), by, LinuxGuest::new("stays-2"))?;
    }
    let mut measured = Vec::new();
    for mover in [Mover::Libvirt, Mover::Plain, Mover::Filtered] {
        measured.push((mover, mover.start(&testbed, first.name(), by)?, Vec::new()));
    }
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (first, second) } else { (second, first) };
        for (mover, guest, measured) in &mut measured {
            let pinger = testbed.ping(guest.address()?)?;
            until("answers to pings", Duration::from_secs(10), || {
                Ok(pinger.so_far().ok().filter(|pings| pings.received > 100))
            })?;
            let downtime = mover.migrate(&testbed, guest.name(), from, to)?;
            guest.console().wait_for_more(5, Duration::from_secs(10))?;
            measured.push((u64::try_from(pinger.stop()?.longest_gap.as_millis())?, downtime));
        }
    }
    for (mover, _, measured) in &measured {
        let [median, least, most] =
            spread(measured.iter().map(|(silence, downtime)| silence.saturating_sub(*downtime)));
        let ([silence, ..], [downtime, ..]) =
            (spread(measured.iter().map(|pair| pair.0)), spread(measured.iter().map(|pair| pair.1)));
        let row = format!("{name}, {}", mover.word());
        println!("{row:>24}  {median:>7}  {least:>6}  {most:>6}  {silence:>7}  {downtime:>8}");
    }
    testbed.down()
}

impl Mover {
    fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::Plain => "VMFerry",
            Self::Filtered => "filtered",
        }
    }

    fn start(self, testbed: &Testbed, host: &str, by: By) -> Result<Guest> {
        let name = format!("guest-{self:?}").to_lowercase();
        if self == Self::Libvirt {
            return start_without(testbed, host, by, LinuxGuest::new(&name));
        }
        let guest = start(testbed, host, by, LinuxGuest::new(&name))?;
        if self == Self::Filtered {
            let address = guest.address()?.to_string();
            let policy = ["instance", "policy", "set", &name, "--address", &address, "--ingress", "icmp"];
            process::run(&mut testbed.vmferry(policy)?)?;
        }
        Ok(guest)
    }

    /// Moves the guest; how long QEMU says that it stood still, in ms.
    fn migrate(self, testbed: &Testbed, guest: &str, from: &Host, to: &Host) -> Result<u64> {
        if self != Self::Libvirt {
            let mut command = testbed.vmferry(["migrate", guest, "--to", to.name(), "-o", "json"])?;
            let said: Value = serde_json::from_str(&process::run(&mut command)?).context("vmferry speaks JSON")?;
            return said["downtime_ms"].as_u64().with_context(|| format!("downtime_ms in {said:#}"));
        }
        Ok(u64::try_from(alone::migrate(guest, from, to, &[])?.downtime.as_millis())?)
    }
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = u64>) -> [u64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    [values.len() / 2, 0, values.len().saturating_sub(1)].map(|index| values.get(index).copied().unwrap_or_default())
}
