//! What a simulation draws: how long a step takes, and whether it fails.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::sleep;
use vmferry_agent::hypervisor::Fault;
use vmferry_core::reason::Reason;

use super::{
    host::Fake,
    world::{Trouble, World},
};

/// Longest a step takes, of both its halves.
const STEP: Duration = Duration::from_millis(30);

/// An error that a simulation must find. Each is made here, below the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// libvirt on the source lets the guest go on whose destination's runs: what the strict hand-over is there for.
    LetsBothRun,
    /// Sockets are said to be removed and are not.
    ForgetsSockets,
    /// The source's definition cannot be forgotten, ever.
    KeepsDefinition,
    /// libvirt on the source kills a guest whose move has failed.
    KillsWhatHasNotMoved,
    /// The destination's directory is made when somebody asks whether it could be.
    ActsInTheCheck,
}

/// Where a move has got to. Faults strike near these more often than chance would have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Milestone {
    /// The destination's copy is being made.
    Arriving,
    /// The guest is stopped on the source.
    Stopped,
    /// All of it is on the destination, where it waits.
    Arrived,
    /// The source has no copy any more.
    Gone,
}

/// What a simulation draws from, by its seed.
#[derive(Debug)]
pub(crate) struct Chance {
    rng: SmallRng,
    /// Of so many steps one fails; none: no step does.
    one_fails_of: Option<u32>,
    bug: Option<Bug>,
    /// Whether all faults are over.
    is_calm: bool,
    /// Whether the coordinator is at it.
    is_driven: bool,
    reached: BTreeMap<Milestone, Duration>,
    /// Each step, and when.
    trace: Vec<String>,
}

impl Chance {
    pub(crate) fn new(seed: u64, one_fails_of: Option<u32>, bug: Option<Bug>) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { rng, one_fails_of, bug, is_calm: false, is_driven: true, reached: BTreeMap::new(), trace: Vec::new() }
    }

    fn time(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.random())
    }

    fn trouble(&mut self) -> Option<Trouble> {
        let of = self.one_fails_of?;
        (self.rng.random_range(0..of) == 0)
            .then(|| if self.rng.random() { Trouble::Fails } else { Trouble::LosesItsAnswer })
    }
}

impl World {
    /// From now on steps take time and fail as is drawn, and libvirt is a process of its own.
    pub(crate) fn simulate(&self, chance: Chance) {
        self.facts().chance = Some(chance);
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.facts().chance.is_some()
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        self.facts().chance.as_ref().is_some_and(|chance| chance.bug == Some(bug))
    }

    /// A time up to the longest.
    pub(crate) fn draw(&self, longest: Duration) -> Duration {
        self.facts().chance.as_mut().map_or(Duration::ZERO, |chance| chance.time(longest))
    }

    /// No step fails any more.
    pub(crate) fn settle_down(&self) {
        let mut facts = self.facts();
        let chance = facts.chance.as_mut().expect("it is simulated");
        (chance.one_fails_of, chance.is_calm) = (None, true);
    }

    /// Whether nothing fails any more.
    pub(crate) fn is_calm(&self) -> bool {
        self.facts().chance.as_ref().is_some_and(|chance| chance.is_calm)
    }

    /// The coordinator begins, or has said how it ended.
    pub(crate) fn drive(&self, is_driven: bool) {
        self.facts().chance.as_mut().expect("it is simulated").is_driven = is_driven;
    }

    /// Whether the coordinator is at it.
    pub(crate) fn is_driven(&self) -> bool {
        self.facts().chance.as_ref().is_some_and(|chance| chance.is_driven)
    }

    /// Notes what happens, and when.
    pub(crate) fn note(&self, what: &str) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// Notes what happened then.
    pub(crate) fn note_at(&self, at: Duration, what: &str) {
        if let Some(chance) = &mut self.facts().chance {
            chance.trace.push(format!("{:>8.3} {what}", at.as_secs_f64()));
        }
    }

    /// The move has got there.
    pub(super) fn reach(&self, milestone: Milestone) {
        self.note(&format!("libvirt: {milestone:?}"));
        let at = turmoil::sim_elapsed().unwrap_or_default();
        if let Some(chance) = &mut self.facts().chance {
            chance.reached.insert(milestone, at);
        }
    }

    /// When the move has got there.
    pub(crate) fn reached(&self, milestone: Milestone) -> Option<Duration> {
        self.facts().chance.as_ref()?.reached.get(&milestone).copied()
    }

    /// All that was noted.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.facts().chance.as_ref().map(|chance| chance.trace.clone()).unwrap_or_default()
    }
}

impl Fake {
    /// A step that takes its time, and may fail. Whoever is killed meanwhile has done it or not.
    pub(super) async fn chancy_step<T>(&self, what: &str, effect: impl FnOnce() -> T) -> Result<T, Fault> {
        let trouble = self.world.facts().chance.as_mut().and_then(Chance::trouble);
        let (before, after) = (self.world.draw(STEP / 2), self.world.draw(STEP / 2));
        let broken = || Fault::new(Reason::LibvirtFailed, format!("{what} failed on {}, as was drawn", self.name));
        sleep(before).await;
        let libvirt = self.world.libvirt(self.name);
        if libvirt.is_none() || trouble == Some(Trouble::Fails) {
            self.world.note(&format!("{}: {what} fails", self.name));
            return Err(broken());
        }
        self.world.note(&format!("{}: {what}", self.name));
        let done = effect();
        sleep(after).await;
        if libvirt != self.world.libvirt(self.name) || trouble.is_some() {
            self.world.note(&format!("{}: {what} is not answered", self.name));
            return Err(broken());
        }
        Ok(done)
    }
}
