//! How long a guest is silent on its network when VMFerry moves it, beyond the time that QEMU itself keeps it still: over each
//! kind of network with filters on, and beside it the same guest moved by libvirt alone. Run by `make bench`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use vmferry_tests::{
    Host, Testbed,
    carrier::{By, start, up},
    guest::{Guest, LinuxGuest},
    process,
    wait::until,
};

/// Moves of each kind, there and back by turns.
const ROUNDS: usize = 10;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `virsh migrate --p2p`, on the administrator's bridge.
    Libvirt,
    /// VMFerry on the same bridge, without a policy.
    Plain,
    /// The same with one.
    Bridge,
    /// The guest on a VXLAN, filtered.
    Vxlan,
    /// The guest on Open vSwitch in user space, filtered.
    Ovs,
}

fn main() -> Result<()> {
    println!("longest silence of a ping every 5 ms less QEMU's downtime, in ms; {ROUNDS} moves each, by turns");
    println!("{:>20}  {:>7}  {:>6}  {:>6}  {:>7}  {:>8}", "", "median", "least", "most", "silence", "downtime");
    // Kinds that share a bridge take turns in one testbed: what else the machine does befalls them alike.
    for kinds in [&[Kind::Libvirt, Kind::Plain, Kind::Bridge][..], &[Kind::Vxlan], &[Kind::Ovs]] {
        measure(kinds)?;
    }
    println!("VMFerry against `virsh migrate --live --p2p` without any of it, of idle guests of 128 MiB under TCG");
    Ok(())
}

fn measure(kinds: &[Kind]) -> Result<()> {
    let by = kinds.first().context("there is one")?.by();
    let testbed = up([by, by])?;
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    for host in testbed.hosts() {
        host.sh(&format!(
            "systemd-run --quiet --unit=proxy --socket-property=ListenStream={} \
             /lib/systemd/systemd-socket-proxyd /run/libvirt/libvirt-sock",
            host.shared(&proxy(host))
        ))?;
    }
    let mut measured = Vec::new();
    for kind in kinds {
        measured.push((*kind, kind.start(&testbed, first.name())?, Vec::new()));
    }
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (first, second) } else { (second, first) };
        for (kind, guest, measured) in &mut measured {
            let pinger = testbed.ping(guest.address()?)?;
            until("answers to pings", Duration::from_secs(10), || {
                Ok(pinger.so_far().ok().filter(|pings| pings.received > 100))
            })?;
            let downtime = kind.migrate(&testbed, guest.name(), from, to)?;
            guest.console().wait_for_more(5, Duration::from_secs(10))?;
            measured.push((u64::try_from(pinger.stop()?.longest_gap.as_millis())?, downtime));
        }
    }
    for (kind, _, measured) in &measured {
        let [median, least, most] =
            spread(measured.iter().map(|(silence, downtime)| silence.saturating_sub(*downtime)));
        let ([silence, ..], [downtime, ..]) =
            (spread(measured.iter().map(|pair| pair.0)), spread(measured.iter().map(|pair| pair.1)));
        println!("{:>20}  {median:>7}  {least:>6}  {most:>6}  {silence:>7}  {downtime:>8}", kind.word());
    }
    testbed.down()
}

impl Kind {
    fn by(self) -> By {
        match self {
            Self::Libvirt | Self::Plain | Self::Bridge => By::Bridge("br0"),
            Self::Vxlan => By::Vxlan,
            Self::Ovs => By::Ovs,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt, bridge",
            Self::Plain => "VMFerry, bridge",
            Self::Bridge => "the same, filtered",
            Self::Vxlan => "VXLAN, filtered",
            Self::Ovs => "OVS, filtered",
        }
    }

    fn start(self, testbed: &Testbed, host: &str) -> Result<Guest> {
        let name = format!("guest-{self:?}").to_lowercase();
        let guest = start(testbed, host, self.by(), LinuxGuest::new(&name))?;
        if !matches!(self, Self::Libvirt | Self::Plain) {
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
        let uri = format!("qemu+unix:///system?socket={}", to.shared(&proxy(to)));
        let memory = format!("unix://{}", to.shared(&format!("{guest}-{}.sock", to.name())));
        from.virsh(["migrate", "--live", "--p2p", "--persistent", "--undefinesource", guest, &uri, &memory])?;
        let job = to.virsh(["domjobinfo", "--completed", guest])?;
        let downtime = job.lines().find_map(|line| line.strip_prefix("Total downtime:"));
        let downtime = downtime.and_then(|downtime| downtime.split_whitespace().next()?.parse().ok());
        downtime.with_context(|| format!("a downtime in {job}"))
    }
}

/// Where libvirt of a host is to be found by the other's, in the directory that they share.
fn proxy(host: &Host) -> String {
    format!("{}-libvirt.sock", host.name())
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = u64>) -> [u64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    [values.len() / 2, 0, values.len().saturating_sub(1)].map(|index| values.get(index).copied().unwrap_or_default())
}
