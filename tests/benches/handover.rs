//! What the strict hand-over adds to the time in which a guest runs nowhere, beside libvirt's own hand-over and `virsh migrate`, by turns in
//! one run. Run by `make bench`; prints what it measured.

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed, alone,
    guest::{BootSectorGuest, Guest, LinuxGuest},
    process,
};

/// Moves of each guest by each mover, there and back by turns.
const ROUNDS: usize = 20;

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// A guest that answers pings: the network's view of it is measured, too.
    Linux,
    Busy,
    Large,
}

/// Who moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    Libvirt,
    Fast,
    Strict,
}

const MOVERS: [Mover; 3] = [Mover::Libvirt, Mover::Fast, Mover::Strict];

struct Measured {
    downtime: Duration,
    /// The longest time between two replies to pings.
    silence: Option<Duration>,
}

fn main() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    alone::open(&testbed)?;
    println!("{ROUNDS} moves of each guest by each, by turns; medians (least to most) in ms");
    println!("{:>28}  {:>20}  {:>20}  {:>26}", "", "downtime", "no answer to pings", "downtime beside fast's");
    for load in [Load::Linux, Load::Busy, Load::Large] {
        measure(&testbed, load)?;
    }
    println!(
        "guests under TCG; downtime: by libvirt's account, of the strict hand-over by the source's agent until the guest is let run;"
    );
    println!(
        "beside fast's: the differences of moves that followed each other; libvirt: `virsh migrate --live --p2p`, whose limit is 300 ms, where VMFerry's"
    );
    println!("policy begins with 50 ms");
    testbed.down()
}

fn measure(testbed: &Testbed, load: Load) -> Result<()> {
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    let guests = MOVERS
        .map(|mover| load.start(testbed, &format!("{load:?}-{mover:?}").to_lowercase(), first))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // So that what is to be sent has been written.
    sleep(Duration::from_secs(if load == Load::Large { 30 } else { 3 }));
    let mut rows: [Vec<Measured>; 3] = Default::default();
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (first, second) } else { (second, first) };
        for ((mover, guest), row) in MOVERS.into_iter().zip(&guests).zip(&mut rows) {
            row.push(mover.moves(testbed, guest, from, to)?);
        }
    }
    for ((mover, guest), row) in MOVERS.into_iter().zip(&guests).zip(&rows) {
        let downtimes = Spread::of(row.iter().map(|measured| millis(measured.downtime)));
        let silences = Spread::of(row.iter().filter_map(|measured| measured.silence).map(millis));
        let beside = match mover {
            Mover::Strict => Spread::of(
                row.iter().zip(&rows[1]).map(|(strict, fast)| millis(strict.downtime) - millis(fast.downtime)),
            ),
            Mover::Libvirt | Mover::Fast => Spread::of([]),
        };
        let name = format!("{}, {}", load.word(), mover.word());
        println!("{name:>28}  {downtimes:>20}  {silences:>20}  {beside:>26}");
        for host in testbed.hosts() {
            let _ = host.virsh(["destroy", guest.name()]);
            let _ = host.virsh(["undefine", guest.name()]);
        }
    }
    Ok(())
}

impl Load {
    fn word(self) -> &'static str {
        match self {
            Self::Linux => "idle Linux",
            Self::Busy => "busy 256 MiB",
            Self::Large => "1 GiB with data",
        }
    }

    fn start(self, testbed: &Testbed, name: &str, host: &Host) -> Result<Guest> {
        match self {
            Self::Linux => testbed.start(LinuxGuest::new(name), host.name()),
            Self::Busy => testbed.start(BootSectorGuest::new(name).with_region(192).dirtying(25), host.name()),
            Self::Large => testbed.start(BootSectorGuest::new(name).with_region(960).dirtying(10), host.name()),
        }
    }
}

impl Mover {
    fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "virsh",
            Self::Fast => "fast",
            Self::Strict => "strict",
        }
    }

    fn moves(self, testbed: &Testbed, guest: &Guest, from: &Host, to: &Host) -> Result<Measured> {
        let pinger = guest.address().ok().map(|address| testbed.ping(address)).transpose()?;
        let downtime = match self {
            Self::Libvirt => alone::migrate(guest.name(), from, to, &["--unsafe"])?.downtime,
            Self::Fast | Self::Strict => {
                let said = json(testbed, &["migrate", guest.name(), "--to", to.name(), "--handover", self.word()])?;
                said["downtime_ms"]
                    .as_u64()
                    .map(Duration::from_millis)
                    .with_context(|| format!("measured: {said:#}"))?
            }
        };
        // The last reply may still be on its way.
        sleep(Duration::from_millis(500));
        let silence = pinger.map(|pinger| pinger.stop()).transpose()?.map(|report| report.longest_gap);
        Ok(Measured { downtime, silence })
    }
}

fn json(testbed: &Testbed, arguments: &[&str]) -> Result<Value> {
    let mut command = testbed.vmferry([arguments, &["--output", "json"]].concat())?;
    serde_json::from_str(&process::run(&mut command)?).context("vmferry speaks JSON")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Median, least, most; nothing of nothing.
struct Spread(Option<[i64; 3]>);

impl Spread {
    fn of(values: impl IntoIterator<Item = i64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable();
        let median = values.get(values.len() / 2).copied();
        Self(
            median
                .zip(values.first().copied().zip(values.last().copied()))
                .map(|(median, (least, most))| [median, least, most]),
        )
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some([median, least, most]) => f.pad(&format!("{median} ({least} to {most})")),
            None => f.pad(""),
        }
    }
}
