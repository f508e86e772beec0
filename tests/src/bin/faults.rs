//! `faults`: moves of real guests while things break, judged by independent eyes. `make test-faults`.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use clap::Parser;
use vmferry_tests::campaign::{Bounds, Campaign, KINDS, Kind, Plan, Run, Summary};

/// Moves guests while things break, and judges what came of it. Exits with 1 if a bound was broken
#[derive(Parser)]
#[command(name = "faults", version)]
struct Arguments {
    /// What the runs are drawn from [default: one that nobody knows]
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs
    #[arg(long, default_value_t = 300)]
    runs: u64,
    /// The number of the first
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This run only
    #[arg(long, conflicts_with_all = ["runs", "from"])]
    run: Option<u64>,
    /// Runs with this kind of guest only
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Runs with faults of this kind only, as they are printed: `kill source agent`, or the beginning
    #[arg(long)]
    fault: Option<String>,
    /// Hand over as libvirt does by itself, which is not safe: to see that the judges see it
    #[arg(long)]
    fast: bool,
    /// Begin no further run after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// How many seconds the agents are left alone before `vmferry migrations resolve`
    #[arg(long, default_value_t = Bounds::default().patience.as_secs())]
    patience: u64,
    /// After how many seconds a run that is not over will never be
    #[arg(long, default_value_t = Bounds::default().give_up.as_secs())]
    give_up: u64,
    /// Where to write what came of all runs, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where to keep what is needed to understand a run that broke a bound
    #[arg(long, default_value = "target/faults")]
    keep: PathBuf,
}

#[derive(serde::Serialize)]
struct Document<'a> {
    summary: &'a Summary,
    runs: &'a [Run],
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(seed);
    let bounds = Bounds {
        patience: Duration::from_secs(arguments.patience),
        give_up: Duration::from_secs(arguments.give_up),
        ..Bounds::default()
    };
    let numbers = match arguments.run {
        Some(number) => number..number + 1,
        None => arguments.from..arguments.from + arguments.runs,
    };
    let plans: Vec<_> = numbers.map(|number| Plan::draw(seed, number)).filter(|plan| arguments.wants(plan)).collect();
    println!(
        "faults --seed {seed}: {} runs; what is kept of those that break a bound: {}",
        plans.len(),
        arguments.keep.display()
    );
    let (mut campaign, begun, mut runs) = (Campaign::new(bounds, &arguments.keep), Instant::now(), Vec::new());
    // Hosts of one kind after the other: they take seconds to come up.
    let plans = KINDS.into_iter().flat_map(|kind| plans.iter().filter(move |plan| plan.kind == kind));
    for plan in plans {
        let plan = Plan { is_fast: arguments.fast, ..*plan };
        if arguments.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
            println!("{} s are over", arguments.seconds.unwrap_or_default());
            break;
        }
        let run = campaign.run(plan)?;
        println!("{run}");
        runs.push(run);
    }
    campaign.down()?;
    let summary = Summary::of(seed, &runs, &bounds);
    println!("\n{summary}");
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string_pretty(&Document { summary: &summary, runs: &runs })?)?;
    }
    if summary.is_whole() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("one again: faults --seed {seed} --run NUMBER; what was kept: {}", arguments.keep.display());
    Ok(ExitCode::FAILURE)
}

impl Arguments {
    fn wants(&self, plan: &Plan) -> bool {
        self.kind.is_none_or(|kind| kind == plan.kind)
            && self.fault.as_ref().is_none_or(|fault| plan.fault.label().starts_with(fault))
    }
}

/// Of the clock: short, to be typed again.
fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() % 1_000_000)
}
