use std::time::Duration;

use bytesize::ByteSize;

use super::{Action, Policy, Step, When};
use crate::migration::Progress;

/// A policy as it is being carried out.
#[derive(Debug, Clone)]
pub struct Ladder {
    /// Those that were not taken yet, in the policy's order.
    steps: Vec<Step>,
    load: ByteSize,
    downtime: Duration,
    is_steered: bool,
    stall: Stall,
}

/// Whether rounds get anywhere.
#[derive(Debug, Clone, Copy, Default)]
struct Stall {
    round: u32,
    /// The least that a round has begun with.
    lowest: Option<u64>,
    /// Rounds in a row that did not begin with less.
    rounds: u32,
}

impl Ladder {
    /// At its foot. `load` is what is to be moved: [`super::load`].
    pub fn new(policy: &Policy, load: ByteSize) -> Self {
        Self {
            steps: policy.steps().to_vec(),
            load,
            downtime: policy.downtime(),
            is_steered: false,
            stall: Stall::default(),
        }
    }

    /// For how long QEMU may let the guest stand still now.
    pub fn downtime(&self) -> Duration {
        self.downtime
    }

    /// What is to be done now, if anything. Shown each sample, in their order, as soon as it is there: a round's first one tells
    /// what the round begins with.
    ///
    /// Of several steps whose moment has come the longest downtime counts, and postcopy before it; but if one of them ends it, the last
    /// of those.
    pub fn see(&mut self, sample: &Progress) -> Option<Action> {
        self.stall.see(sample);
        let (stalled, load) = (self.stall.rounds, self.load);
        let is_due = |step: &Step| match step.when {
            When::After(span) => sample.elapsed > span.of(load),
            When::Round(round) => sample.round >= round,
            When::Stalled(_) => false,
        };
        let mut due: Vec<_> = self.steps.extract_if(.., |step| is_due(step)).collect();
        // One at a time: the next one is for when this one has not helped.
        let waits = |step: &Step| matches!(step.when, When::Stalled(rounds) if stalled >= rounds);
        if let Some(index) = self.steps.iter().position(waits) {
            due.push(self.steps.remove(index));
            self.stall.rounds = 0;
        }
        if let Some(end) = due.iter().map(|step| step.action).rfind(|action| action.ends()) {
            return Some(end);
        }
        let downtimes = due.iter().filter_map(|step| match step.action {
            Action::Downtime(downtime) => Some(downtime),
            Action::Postcopy | Action::Suspend | Action::Abort => None,
        });
        let longer = downtimes.max().filter(|downtime| *downtime > self.downtime && !self.is_steered);
        self.downtime = longer.unwrap_or(self.downtime);
        if due.iter().any(|step| step.action == Action::Postcopy) {
            return Some(Action::Postcopy);
        }
        longer.map(Action::Downtime)
    }

    /// Somebody says by hand for how long the guest may stand still: the policy does not, any more.
    pub fn steer_downtime(&mut self, downtime: Duration) {
        self.downtime = downtime;
        self.is_steered = true;
    }

    /// Somebody says by hand when the last step is taken. `false` if it was: nothing is changed.
    pub fn steer_deadline(&mut self, deadline: Duration) -> bool {
        let last = self.steps.last_mut().filter(|step| step.action.ends());
        last.map(|last| last.when = When::After(super::Span { base: deadline, per_gib: Duration::ZERO })).is_some()
    }

    /// When the last step is taken, whatever happens; `None` once it was.
    pub fn deadline(&self) -> Option<Duration> {
        let last = self.steps.last().filter(|step| step.action.ends())?;
        match last.when {
            When::After(span) => Some(span.of(self.load)),
            When::Round(_) | When::Stalled(_) => None,
        }
    }
}

impl Stall {
    fn see(&mut self, sample: &Progress) {
        // A job that has not begun to send memory has not begun a round.
        if sample.round <= self.round {
            return;
        }
        self.round = sample.round;
        let remaining = sample.remaining.as_u64();
        match self.lowest {
            Some(lowest) if remaining >= lowest => self.rounds += 1,
            _ => {
                self.lowest = Some(remaining);
                self.rounds = 0;
            }
        }
    }
}
