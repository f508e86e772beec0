//! What came of the runs.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{Bounds, draw::Plan};

/// What must hold in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The guest never ran on two hosts.
    Double,
    /// Every write that it was told to be stable is on its volume.
    LostWrite,
    /// Nothing is left on the hosts, or in the storage.
    Leak,
    /// All is over in time.
    Settle,
    /// The agents bring it to its end by themselves: nobody has to ask for `vmferry migrations resolve`.
    Alone,
    /// The guest runs, unless its own QEMU was killed.
    Guest,
    /// What was told is true.
    Truth,
    /// The run itself could not be made, or not be judged.
    Campaign,
}

/// A bound that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which.
    pub bound: Bound,
    /// What was found.
    pub what: String,
}

/// What came of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// What was drawn.
    #[serde(flatten)]
    pub plan: Plan,
    /// The fault's kind, for tables.
    #[serde(rename = "label")]
    pub fault: String,
    /// Whether it came about: the move may have been quicker.
    pub fired: bool,
    /// What the coordinator said of the end.
    pub outcome: String,
    /// Why, by its code.
    pub reason: Option<String>,
    /// The coordinator's exit code. None: it was killed.
    pub exit: Option<i32>,
    /// Where the guest is afterwards.
    pub stands: String,
    /// From the end of the fault until all was over and clean, in ms. None: it never was.
    pub settle_ms: Option<u64>,
    /// How often `vmferry migrations resolve` was asked for.
    pub resolves: u32,
    /// Two vCPUs ran at once for so long at most, in µs: the lesser of what both had within one look.
    pub together_us: u64,
    /// The guest's frames that were heard.
    pub frames: usize,
    /// The whole run, in ms.
    pub wall_ms: u64,
    /// What did not hold.
    pub broken: Vec<Broken>,
}

impl Run {
    /// Whether the next one may be made on the same hosts: words alone were wrong, if anything.
    pub(crate) fn leaves_hosts_whole(&self) -> bool {
        self.broken.iter().all(|broken| broken.bound == Bound::Truth)
    }

    /// One that could not be made, or not be judged.
    pub(crate) fn failed(plan: Plan, error: &anyhow::Error) -> Self {
        Self {
            plan,
            fault: plan.fault.label(),
            fired: false,
            outcome: "unknown".to_owned(),
            reason: None,
            exit: None,
            stands: "unknown".to_owned(),
            settle_ms: None,
            resolves: 0,
            together_us: 0,
            frames: 0,
            wall_ms: 0,
            broken: vec![Broken { bound: Bound::Campaign, what: format!("{error:#}") }],
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { number, kind, .. } = self.plan;
        let settled = self.settle_ms.map_or_else(|| "never".to_owned(), |settle| format!("{settle} ms"));
        write!(f, "{number:>4} {:<6} {:<42}", format!("{kind:?}"), self.fault)?;
        write!(f, " {}{:<20} {:<20}", if self.fired { "" } else { "(too late) " }, self.outcome, self.stands)?;
        write!(f, " settled {settled}")?;
        if self.resolves > 0 {
            write!(f, ", {} × resolve", self.resolves)?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ", {reason}")?;
        }
        for Broken { bound, what } in &self.broken {
            write!(f, "\n     BROKEN {bound:?}: {what}")?;
        }
        Ok(())
    }
}

/// All runs together.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// They were drawn from this.
    pub seed: u64,
    /// How many.
    pub runs: usize,
    /// In how many the fault came about.
    pub fired: usize,
    /// How they ended, by the fault's kind; with the guest's place.
    pub outcomes: BTreeMap<String, BTreeMap<String, usize>>,
    /// The same by the guest's kind.
    pub guests: BTreeMap<String, BTreeMap<String, usize>>,
    /// How many runs broke which bound.
    pub broken: BTreeMap<Bound, usize>,
    /// The longest that a run took to settle, in ms; the bound, if one never did.
    pub longest_settle_ms: u64,
    /// Two vCPUs ran at once for so long at most, in µs.
    pub together_us: u64,
    /// All runs took so long, in s.
    pub wall_s: u64,
}

impl Summary {
    /// Of these.
    pub fn of(seed: u64, runs: &[Run], bounds: &Bounds) -> Self {
        let mut summary = Self {
            seed,
            runs: runs.len(),
            fired: runs.iter().filter(|run| run.fired).count(),
            outcomes: BTreeMap::new(),
            guests: BTreeMap::new(),
            broken: BTreeMap::new(),
            longest_settle_ms: 0,
            together_us: runs.iter().map(|run| run.together_us).max().unwrap_or_default(),
            wall_s: Duration::from_millis(runs.iter().map(|run| run.wall_ms).sum()).as_secs(),
        };
        let never = u64::try_from(bounds.settle.as_millis()).unwrap_or(u64::MAX);
        for run in runs {
            let end = format!("{}, {}", run.outcome, run.stands);
            let label = if run.fired { run.fault.clone() } else { "nothing: too late".to_owned() };
            *summary.outcomes.entry(label).or_default().entry(end.clone()).or_default() += 1;
            *summary.guests.entry(format!("{:?}", run.plan.kind)).or_default().entry(end).or_default() += 1;
            let mut bounds: Vec<_> = run.broken.iter().map(|broken| broken.bound).collect();
            bounds.sort_unstable();
            bounds.dedup();
            for bound in bounds {
                *summary.broken.entry(bound).or_default() += 1;
            }
            summary.longest_settle_ms = summary.longest_settle_ms.max(run.settle_ms.unwrap_or(never));
        }
        summary
    }

    /// Whether all bounds held.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, table) in [("by fault", &self.outcomes), ("by guest", &self.guests)] {
            writeln!(f, "{title}")?;
            for (label, ends) in table {
                let ends: Vec<_> = ends.iter().map(|(end, count)| format!("{count} × {end}")).collect();
                writeln!(f, "  {label:<42} {}", ends.join("; "))?;
            }
        }
        let broken = |bound| self.broken.get(&bound).copied().unwrap_or_default();
        writeln!(f, "seed                       {}", self.seed)?;
        writeln!(
            f,
            "runs                       {} in {} s, {} with their fault in time",
            self.runs, self.wall_s, self.fired
        )?;
        writeln!(
            f,
            "ran twice                  {} (two vCPUs at once for {} µs at most)",
            broken(Bound::Double),
            self.together_us
        )?;
        writeln!(f, "lost acknowledged writes   {}", broken(Bound::LostWrite))?;
        writeln!(f, "leaks after settling       {}", broken(Bound::Leak))?;
        writeln!(
            f,
            "longest time to settle     {} ms; not in time: {}",
            self.longest_settle_ms,
            broken(Bound::Settle)
        )?;
        writeln!(f, "guests lost                {}", broken(Bound::Guest))?;
        writeln!(f, "untrue words               {}", broken(Bound::Truth))?;
        writeln!(f, "not ended by agents alone  {}", broken(Bound::Alone))?;
        write!(f, "not to be judged           {}", broken(Bound::Campaign))
    }
}
