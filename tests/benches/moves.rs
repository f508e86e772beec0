//! What a move costs beside what libvirt alone takes for the same guest, by turns in one run; and how soon an abort is over. Run by
//! `make bench`; prints what it measured.

use std::{
    fmt,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed, alone,
    guest::BootSectorGuest,
    process,
    storage::Backend,
    wait::{SOON, until},
};

/// Moves of each guest by each mover, there and back by turns.
const ROUNDS: usize = 10;
/// What the copied disk has in it.
const DISK_MIB: u64 = 64;
const LOCAL: &str = "/srv/local";

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Idle,
    Busy,
    Large,
    Rbd,
    Copied,
}

/// Who moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    Libvirt,
    VmFerry,
}

/// One move.
struct Measured {
    wall: Duration,
    total: Duration,
    downtime: Duration,
    /// How many times as long as its record's forecast says libvirt's job took.
    factor: Option<f64>,
}

fn main() -> Result<()> {
    let testbed = Testbed::up(Options { storage: vec![Backend::Ceph], ..Options::default() })?;
    alone::open(&testbed)?;
    println!("{ROUNDS} moves of each guest by each, by turns; medians (least to most) in ms");
    println!(
        "{:>24}  {:>22}  {:>22}  {:>20}  {:>16}  {:>22}",
        "", "wall time", "libvirt's job", "downtime", "forecast of job", "job by its own forecast"
    );
    for load in [Load::Idle, Load::Busy, Load::Large, Load::Rbd, Load::Copied] {
        measure(&testbed, load)?;
    }
    println!(
        "guests under TCG; libvirt: `virsh migrate --live --p2p` over UNIX sockets, and its own downtime limit of 300 ms, where"
    );
    println!("VMFerry's policy begins with 50 ms; wall time: of the command, from its start to its end");
    aborts(&testbed)?;
    testbed.down()
}

fn measure(testbed: &Testbed, load: Load) -> Result<()> {
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    let mut rows = Vec::new();
    for mover in [Mover::Libvirt, Mover::VmFerry] {
        let name = format!("{load:?}-{mover:?}").to_lowercase();
        load.start(testbed, &name, first)?;
        rows.push((mover, name, Vec::new()));
    }
    // So that what is to be sent has been written.
    sleep(Duration::from_secs(if load == Load::Large { 30 } else { 3 }));
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (first, second) } else { (second, first) };
        for (mover, name, measured) in &mut rows {
            measured.push(mover.moves(testbed, load, name, from, to)?);
        }
    }
    let foreseen = forecast(testbed, &rows[1].1, second)?;
    for (mover, name, measured) in &rows {
        let spread = |part: fn(&Measured) -> Duration| Spread::of(measured.iter().map(part).collect()).to_string();
        let (wall, total, downtime) = (spread(|m| m.wall), spread(|m| m.total), spread(|m| m.downtime));
        let foreseen = if *mover == Mover::VmFerry { foreseen.as_millis().to_string() } else { String::new() };
        let row = format!("{}, {}", load.word(), mover.word());
        let factors = factors(measured);
        println!("{row:>24}  {wall:>22}  {total:>22}  {downtime:>20}  {foreseen:>16}  {factors:>22}");
        for host in testbed.hosts() {
            let _ = host.virsh(["destroy", name]);
            let _ = host.virsh(["undefine", name]);
        }
    }
    Ok(())
}

/// Of the moves whose records have a forecast, made while they went on.
fn factors(measured: &[Measured]) -> String {
    let mut factors: Vec<_> = measured.iter().filter_map(|measured| measured.factor).collect();
    factors.sort_by(f64::total_cmp);
    match (factors.first(), factors.get(factors.len() / 2), factors.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.2} ({least:.2} to {most:.2})"),
        _ => String::new(),
    }
}

/// How long libvirt's job is to take, by a dry run.
fn forecast(testbed: &Testbed, name: &str, to: &Host) -> Result<Duration> {
    let said = json(testbed, &["migrate", name, "--to", to.name(), "--dry-run"])?;
    let likely = said["forecast"]["likely"]["total_time_ms"].as_u64();
    likely.map(Duration::from_millis).with_context(|| format!("a forecast in {said:#}"))
}

/// From the command to its end: both hosts have taken back what they did by then.
fn aborts(testbed: &Testbed) -> Result<()> {
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    testbed.start(BootSectorGuest::new("aborted").dirtying(100), first.name())?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let arguments = ["migrate", "aborted", "--to", second.name(), "--bandwidth", "10MiB/s"];
        let mut command = testbed.vmferry(arguments)?;
        let mut moving = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        until("memory to flow", SOON, || {
            let job = first.virsh(["domjobinfo", "aborted"]).unwrap_or_default();
            Ok(job.lines().any(|line| line.starts_with("Memory processed:") && line.ends_with("MiB")).then_some(()))
        })?;
        let said = json(testbed, &["migrations", "--active"])?;
        let id = said["migrations"][0]["id"].as_str().context("one goes on")?.to_owned();
        let begun = Instant::now();
        let said = json(testbed, &["abort", &id])?;
        took.push(begun.elapsed());
        ensure!(said["outcome"] == "aborted_rolled_back", "{said:#}");
        moving.wait()?;
    }
    println!("abort of a busy guest's move, until both hosts are clean: {} ms", Spread::of(took));
    Ok(())
}

impl Load {
    fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle 256 MiB",
            Self::Busy => "busy 256 MiB",
            Self::Large => "1 GiB with data",
            Self::Rbd => "RBD volume",
            Self::Copied => "copied disk",
        }
    }

    fn start(self, testbed: &Testbed, name: &str, host: &Host) -> Result<()> {
        let (region, rate) = match self {
            Self::Idle | Self::Rbd | Self::Copied => (192, 1),
            Self::Busy => (192, 25),
            Self::Large => (960, 40),
        };
        let mut definition = BootSectorGuest::new(name).with_region(region).dirtying(rate);
        match self {
            Self::Rbd => {
                let ceph = testbed.storage()?.ceph()?;
                let secret = ceph.secret()?;
                let image = ceph.create_image(&format!("volumes/{name}"), "8M")?;
                definition.domain.extra_devices += &image.disk("vdb", &secret);
                for host in testbed.hosts() {
                    host.give_secret(&secret)?;
                    host.define_secret(&secret)?;
                }
            }
            Self::Copied => {
                let image = image(name);
                host.sh(&format!(
                    "dd if=/dev/urandom of={image} bs=1M count={DISK_MIB} status=none && chmod 666 {image}"
                ))?;
                definition.domain.extra_devices += &format!(
                    "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
                     <source file='{image}'/><target dev='vdb' bus='virtio'/></disk>"
                );
            }
            Self::Idle | Self::Busy | Self::Large => {}
        }
        testbed.start(definition, host.name()).map(drop)
    }
}

impl Mover {
    fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::VmFerry => "VMFerry",
        }
    }

    fn moves(self, testbed: &Testbed, load: Load, name: &str, from: &Host, to: &Host) -> Result<Measured> {
        if self == Self::VmFerry {
            let begun = Instant::now();
            let said = json(testbed, &["migrate", name, "--to", to.name()])?;
            let wall = begun.elapsed();
            let time =
                |key: &str| said[key].as_u64().map(Duration::from_millis).with_context(|| format!("{key} in {said:#}"));
            let id = said["migration_id"].as_str().context("it has one")?;
            let factor =
                json(testbed, &["migrations", "show", id])?["forecast"]["actual_by_likely"]["total_time"].as_f64();
            return Ok(Measured { wall, total: time("total_time_ms")?, downtime: time("downtime_ms")?, factor });
        }
        let image = image(name);
        let disks = format!("unix://{}", to.shared(&format!("{name}-{}-disks.sock", to.name())));
        let mut options = vec!["--unsafe"];
        if load == Load::Copied {
            options.extend(["--copy-storage-inc", "--migrate-disks", "vdb", "--disks-uri", &disks]);
            // Its user must, before libvirt can.
            to.sh(&format!("truncate -s {DISK_MIB}M {image} && chmod 666 {image}"))?;
        }
        let begun = Instant::now();
        let moved = alone::migrate(name, from, to, &options)?;
        let wall = begun.elapsed();
        if load == Load::Copied {
            from.sh(&format!("rm {image}"))?;
        }
        Ok(Measured { wall, total: moved.total, downtime: moved.downtime, factor: None })
    }
}

fn image(name: &str) -> String {
    format!("{LOCAL}/{name}.raw")
}

fn json(testbed: &Testbed, arguments: &[&str]) -> Result<Value> {
    let mut command = testbed.vmferry([arguments, &["--output", "json"]].concat())?;
    serde_json::from_str(&process::run(&mut command)?).context("vmferry speaks JSON")
}

struct Spread([Duration; 3]);

impl Spread {
    fn of(mut values: Vec<Duration>) -> Self {
        values.sort_unstable();
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self([at(values.len() / 2), at(0), at(values.len().saturating_sub(1))])
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = self.0.map(|duration| duration.as_millis());
        write!(f, "{median} ({least} to {most})")
    }
}
