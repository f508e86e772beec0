//! What the ways cost on which a guest's memory may go: one guest, moved there and back by each in turn, in one run. Run by `make
//! bench`; prints what it measured.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed, alone, direct,
    guest::BootSectorGuest,
    network::host_address,
    process,
    testbed::HostSpec,
    wait::{SOON, until},
};

/// Times that each way is taken there and back.
const ROUNDS: usize = 4;
const GUEST: &str = "large";
/// As libvirt has it: the rounds of all are alike.
const POLICY: &str = "\n[policy.plain]\ndowntime = \"300ms\"\nsteps = [{ after = \"10m\", do = \"abort\" }]\n";

/// Who moves the guest, and how.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// libvirt alone, by TCP as it is.
    Plain,
    VmFerry(&'static [&'static str]),
}

const WAYS: [(&str, Way); 5] = [
    ("libvirt, TCP without TLS", Way::Plain),
    ("tunnel, 1 stream", Way::VmFerry(&[])),
    ("tunnel, 4 streams", Way::VmFerry(&["--streams", "4"])),
    ("direct, 1 stream", Way::VmFerry(&["--path", "direct"])),
    ("direct, 4 streams", Way::VmFerry(&["--path", "direct", "--streams", "4"])),
];

/// One move.
struct Measured {
    wall: Duration,
    total: Duration,
    downtime: Duration,
    bytes: u64,
    /// Of both agents, and of what carries their tunnels.
    cpu: Duration,
}

fn main() -> Result<()> {
    let mut hosts = HostSpec::defaults(2);
    for (host, index) in hosts.iter_mut().zip(0..) {
        host.configuration = direct::table(host_address(index));
    }
    let testbed = Testbed::up(Options { hosts, ..Options::default() })?;
    alone::open(&testbed)?;
    testbed.hosts().iter().try_for_each(direct::install_certificates)?;
    let inventory = testbed.layout().inventory();
    fs::write(&inventory, fs::read_to_string(&inventory)? + POLICY)?;
    let [first, second] = testbed.hosts() else { bail!("two hosts were asked for") };

    let guest = testbed.start(BootSectorGuest::new(GUEST).with_region(960).dirtying(40), first.name())?;
    until("all of its memory to be written", Duration::from_secs(120), || {
        Ok(guest.console().ticks()?.last().is_some_and(|tick| tick.pass >= 1).then_some(()))
    })?;
    let mut measured: Vec<Vec<Measured>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, way), measured) in WAYS.iter().zip(&mut measured) {
            for (from, to) in [(first, second), (second, first)] {
                measured.push(way.moves(&testbed, from, to)?);
                sleep(Duration::from_millis(500));
            }
        }
    }
    guest.console().assert_memory_intact()?;

    println!(
        "1 GiB guest that writes 40 MiB/s, under TCG; {} moves each, by turns; medians (least to most)",
        ROUNDS * 2
    );
    println!(
        "{:>26}  {:>22}  {:>22}  {:>18}  {:>20}  {:>18}",
        "", "wall time, ms", "libvirt's job, ms", "downtime, ms", "throughput, MiB/s", "CPU of agents, ms"
    );
    for ((name, _), measured) in WAYS.iter().zip(&measured) {
        let spread = |figure: fn(&Measured) -> u64| spread(measured.iter().map(figure).collect());
        println!(
            "{name:>26}  {:>22}  {:>22}  {:>18}  {:>20}  {:>18}",
            spread(|m| millis(m.wall)),
            spread(|m| millis(m.total)),
            spread(|m| millis(m.downtime)),
            spread(|m| (m.bytes as f64 / m.total.as_secs_f64() / f64::from(1 << 20)) as u64),
            spread(|m| millis(m.cpu)),
        );
    }
    println!("throughput: what was sent, by the time of libvirt's job, which starts QEMU on the destination first");
    testbed.down()
}

impl Way {
    fn moves(self, testbed: &Testbed, from: &Host, to: &Host) -> Result<Measured> {
        let before = agents_cpu(testbed)?;
        let begun = Instant::now();
        let (wall, total, downtime, bytes) = match self {
            Self::Plain => {
                let moved = alone::migrate_by(GUEST, from, to, &format!("tcp://{}", to.address()), &["--unsafe"])?;
                (begun.elapsed(), moved.total, moved.downtime, moved.bytes)
            }
            Self::VmFerry(arguments) => {
                let always = ["migrate", GUEST, "--to", to.name(), "--policy", "plain", "--output", "json"];
                let said = process::run(&mut testbed.vmferry([&always[..], arguments].concat())?)?;
                let wall = begun.elapsed();
                let said: Value = serde_json::from_str(&said).context("vmferry speaks JSON")?;
                ensure!(said["outcome"] == "completed", "{said:#}");
                let figure = |key: &str| said[key].as_u64().with_context(|| format!("{key} in {said:#}"));
                let time = |key: &str| figure(key).map(Duration::from_millis);
                (wall, time("total_time_ms")?, time("downtime_ms")?, figure("transferred_bytes")?)
            }
        };
        // libvirt's last word comes before the agent's end with it.
        until("it to arrive", SOON, || Ok((testbed.runners(GUEST)? == [to.name()]).then_some(())))?;
        Ok(Measured { wall, total, downtime, bytes, cpu: agents_cpu(testbed)?.saturating_sub(before) })
    }
}

/// What the agents of all hosts, and what carries their tunnels, have used.
fn agents_cpu(testbed: &Testbed) -> Result<Duration> {
    let mut ticks = 0;
    for host in testbed.hosts() {
        let agent = host.agent().main_pid()?;
        let stats =
            host.sh(&format!("for pid in {agent} $(pgrep -x vmferry-carrier); do cat /proc/$pid/stat; done"))?;
        for stat in stats.lines() {
            // After the name in brackets the third field comes: utime and stime are the 14th and the 15th.
            let (_, rest) = stat.rsplit_once(") ").context("a process's state")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            for field in [11, 12] {
                ticks += fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok()).context("ticks")?;
            }
        }
    }
    // A hundredth of a second, on every Linux.
    Ok(Duration::from_millis(ticks * 10))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    format!("{} ({} to {})", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}
