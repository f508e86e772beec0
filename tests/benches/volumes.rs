//! How long hosts take to get ready for a guest with one volume and with eight, in the same run: all volumes are connected at
//! once, so eight should take no more than twice as long as one. Run by `make bench`; prints what it measured.

use anyhow::{Context, Result};
use serde_json::Value;
use vmferry_tests::{
    guest::BootSectorGuest,
    process,
    storage::Backend,
    testbed::{Options, Testbed},
};

const GUESTS: [(&str, usize); 2] = [("one-volume", 1), ("eight-volumes", 8)];
/// There and back, so that both hosts take both parts.
const ROUNDS: usize = 10;

fn main() -> Result<()> {
    let testbed = Testbed::up(Options { storage: vec![Backend::Ceph], ..Options::default() })?;
    let ceph = testbed.storage()?.ceph()?;
    let secret = ceph.secret()?;
    let [first, second] = testbed.hosts() else { anyhow::bail!("two hosts were asked for") };
    first.give_secret(&secret)?;
    second.give_secret(&secret)?;
    first.define_secret(&secret)?;
    for (name, volumes) in GUESTS {
        let mut definition = BootSectorGuest::new(name);
        for number in 0..volumes {
            let image = ceph.create_image(&format!("volumes/{name}-{number}"), "8M")?;
            let target = format!("vd{}", char::from(b'b' + u8::try_from(number)?));
            definition.domain.extra_devices += &image.disk(&target, &secret);
        }
        testbed.start(definition, first.name())?;
    }

    let mut measured: [Vec<(u64, u64)>; 2] = Default::default();
    for round in 0..ROUNDS {
        let to = if round % 2 == 0 { second } else { first };
        for ((name, _), measured) in GUESTS.iter().zip(&mut measured) {
            let mut command = testbed.vmferry(["migrate", name, "--to", to.name(), "--output", "json"])?;
            let said: Value = serde_json::from_str(&process::run(&mut command)?).context("vmferry speaks JSON")?;
            measured.push((phase(&said, "check")?, phase(&said, "pre")?));
        }
    }

    println!("volumes on Ceph, {ROUNDS} moves each, one guest after the other; medians (least to most) in ms");
    println!("{:>8}  {:>20}  {:>20}", "volumes", "check", "pre");
    let mut medians = Vec::new();
    for ((_, volumes), measured) in GUESTS.iter().zip(measured) {
        let (check, pre): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
        let (check, pre) = (Spread::of(check), Spread::of(pre));
        println!("{volumes:>8}  {:>20}  {:>20}", check.to_string(), pre.to_string());
        medians.push(pre.median);
    }
    if let [one, eight] = medians[..] {
        println!("pre with eight volumes takes {:.2} times as long as with one", eight as f64 / one.max(1) as f64);
    }
    testbed.down()
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
