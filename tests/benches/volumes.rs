//! How long hosts take to get ready for a guest with one volume and with eight, in the same run: all volumes are looked at and
//! connected at once, so eight should take no more than twice as long as one. Run by `make bench`; prints what it measured.

use anyhow::{Context, Result};
use serde_json::Value;
use vmferry_tests::{
    guest::BootSectorGuest,
    process,
    storage::{Backend, Secret},
    testbed::{Options, Testbed},
};

const BACKENDS: [Backend; 2] = [Backend::Ceph, Backend::Iscsi];
const VOLUMES: [usize; 2] = [1, 8];
/// There and back, so that both hosts take both parts.
const ROUNDS: usize = 10;

fn main() -> Result<()> {
    let testbed = Testbed::up(Options { storage: BACKENDS.to_vec(), ..Options::default() })?;
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    for backend in BACKENDS {
        for volumes in VOLUMES {
            let mut definition = BootSectorGuest::new(&name(backend, volumes));
            let (disks, secret) = disks(&testbed, backend, volumes)?;
            definition.domain.extra_devices += &disks;
            first.give_secret(&secret)?;
            second.give_secret(&secret)?;
            first.define_secret(&secret)?;
            testbed.start(definition, first.name())?;
        }
    }
    println!("{ROUNDS} moves of each guest, one guest after the other; medians (least to most) in ms");
    println!("{:>10}  {:>8}  {:>22}  {:>22}", "", "volumes", "check", "pre");
    for backend in BACKENDS {
        let mut measured: [Vec<(u64, u64)>; 2] = Default::default();
        for round in 0..ROUNDS {
            let to = if round % 2 == 0 { second } else { first };
            for (volumes, measured) in VOLUMES.iter().zip(&mut measured) {
                let name = name(backend, *volumes);
                let mut command = testbed.vmferry(["migrate", &name, "--to", to.name(), "--output", "json"])?;
                let said: Value = serde_json::from_str(&process::run(&mut command)?).context("vmferry speaks JSON")?;
                measured.push((phase(&said, "check")?, phase(&said, "pre")?));
            }
        }
        let [one, eight] = measured.map(|measured| {
            let (check, pre): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
            [Spread::of(check), Spread::of(pre)]
        });
        for (volumes, [check, pre]) in VOLUMES.iter().zip([&one, &eight]) {
            println!("{:>10}  {volumes:>8}  {:>22}  {:>22}", word(backend), check.to_string(), pre.to_string());
        }
        let [check, pre] = [0, 1].map(|phase| eight[phase].median as f64 / one[phase].median.max(1) as f64);
        println!("{:>10}  {:>8}  {check:>22.2}  {pre:>22.2}", "", "8 by 1");
    }
    testbed.down()
}

/// So many volumes of a backend, as a guest's disks, and what opens them.
fn disks(testbed: &Testbed, backend: Backend, volumes: usize) -> Result<(String, Secret)> {
    let storage = testbed.storage()?;
    let targets = (0..volumes).zip('b'..).map(|(_, letter)| format!("vd{letter}"));
    match backend {
        Backend::Ceph => {
            let ceph = storage.ceph()?;
            let secret = ceph.secret()?;
            let disk = |target: String| {
                let image = ceph.create_image(&format!("volumes/{}-{target}", name(backend, volumes)), "8M")?;
                Ok(image.disk(&target, &secret))
            };
            Ok((targets.map(disk).collect::<Result<_>>()?, secret.clone()))
        }
        Backend::Iscsi => {
            let iscsi = storage.iscsi()?;
            let shelf = iscsi.create_target(&name(backend, volumes))?;
            let disk = |target: String| Ok(iscsi.create_lun(&shelf, 8)?.disk(&target));
            Ok((targets.map(disk).collect::<Result<_>>()?, shelf.secret.clone()))
        }
    }
}

fn name(backend: Backend, volumes: usize) -> String {
    format!("{}-{volumes}", word(backend))
}

fn word(backend: Backend) -> &'static str {
    match backend {
        Backend::Ceph => "ceph",
        Backend::Iscsi => "iscsi",
    }
}

fn phase(said: &Value, name: &str) -> Result<u64> {
    let phases = said["phases"].as_array().context("the answer has phases")?;
    let found = phases.iter().find(|phase| phase["phase"] == name).and_then(|phase| phase["ms"].as_u64());
    found.with_context(|| format!("phase {name} is not in {said}"))
}

struct Spread {
    least: u64,
    median: u64,
    most: u64,
}

impl Spread {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { least: at(0), median: at(values.len() / 2), most: at(values.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} to {})", self.median, self.least, self.most)
    }
}
