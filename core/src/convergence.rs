//! How a live migration comes to its end: a policy is a ladder of moments and of what is done when they come.
//!
//! ```text
//!   precopy ──▶ stalled for 2 rounds: may stand still for 100 ms ──▶ … ──▶ after 5 min + 150 s/GiB: abort
//! ```
//!
//! Nothing here asks the time or libvirt: a [`Ladder`] is shown the job's samples and says what is to be done.

mod forecast;
mod foreseen;
mod guest;
mod ladder;
mod named;
mod outlook;
mod strategy;
mod text;

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::{
    forecast::{Course, End, Forecast, Job, Measured, Needed, usual},
    foreseen::{Foreseen, Foreseer, RateFrom},
    guest::{Excess, GuestLimits, May},
    ladder::Ladder,
    named::{DEFAULT, named, overlaid},
    outlook::{Foresight, Known, Outlook},
    strategy::{AUTO, Strategy, candidates, choose},
    text::{PolicyText, StepText},
};

/// The shortest and the longest time for which QEMU can be allowed to let a guest stand still, by its own limits.
pub const DOWNTIME: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(2_000));
/// The longest time that a moment may be away.
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// After how many rounds without progress the usual policies go on to the next rung.
const IN_VAIN: u32 = 2;
/// How many steps a policy may have.
pub const MOST_STEPS: usize = 64;
/// What a guest's memory counts as at least, and each disk that is copied, where time is given per GiB (Nova's custom).
pub const SMALLEST: ByteSize = ByteSize::gib(2);

/// What may be done to the guest for the sake of its migration, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    name: String,
    downtime: Duration,
    throttle: Option<Throttle>,
    #[serde(default)]
    postcopy: bool,
    steps: Vec<Step>,
}

/// QEMU slows the guest's CPUs down while it writes faster than can be sent (auto-converge).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// How much at first, in percent of their time.
    pub initial: u8,
    /// How much more each time that was not enough, in percent of their time.
    pub increment: u8,
}

/// One rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Step {
    /// When it is taken.
    pub when: When,
    /// What is done.
    pub action: Action,
}

/// A moment of a migration. Each comes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// That long after libvirt's job has begun.
    After(Span),
    /// This round over the guest's memory begins; the first is 1.
    Round(u32),
    /// That many rounds in a row have begun with no less left to send than before. Counted anew after each step that was taken for it.
    Stalled(u32),
}

/// A time that grows with what is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Span {
    /// In any case.
    pub base: Duration,
    /// And for each GiB of memory and of disks that are copied; see [`load`].
    pub per_gib: Duration,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// From now on QEMU may let the guest stand still for that long. What was allowed before is never taken back.
    Downtime(Duration),
    /// The guest goes on where it arrives at once; what is left is sent after it, what it needs first. From then on there is no way
    /// back. Where that cannot be done now it is tried again until it can, or a later step is taken.
    Postcopy,
    /// The guest is stopped where it is; what is left is sent, and it goes on where it arrives.
    Suspend,
    /// The migration ends; the guest stays where it is.
    Abort,
}

impl Action {
    /// Whether nothing comes after it.
    pub fn ends(self) -> bool {
        matches!(self, Self::Suspend | Self::Abort)
    }
}

/// Why a policy is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// It has no name that could be typed.
    #[error(
        "`{0}` is no name of a policy: write lower-case letters, digits and `-`, and not `{AUTO}`, which leaves the choice open"
    )]
    Name(String),
    /// QEMU cannot be told that.
    #[error(
        "{place}: {} is no time for which a guest may stand still: write {} to {}",
        humantime::format_duration(*downtime), humantime::format_duration(DOWNTIME.0), humantime::format_duration(DOWNTIME.1)
    )]
    Downtime {
        /// Which part of the policy.
        place: String,
        /// What it says.
        downtime: Duration,
    },
    /// It has too many.
    #[error("it has more than {MOST_STEPS} steps")]
    Steps,
    /// The step would never be taken, or at once.
    #[error("step {step}: {what}")]
    Step {
        /// Which, from 1.
        step: usize,
        /// What is wrong.
        what: String,
    },
    /// QEMU cannot be told that.
    #[error("throttle: {0} % is not between 1 and 99 %")]
    Throttle(u8),
    /// It might go on for ever.
    #[error("it has no end: its last step must have an `after` and suspend or abort")]
    Endless,
}

impl Policy {
    /// A policy, if it is one.
    pub fn new(
        name: &str,
        downtime: Duration,
        throttle: Option<Throttle>,
        steps: Vec<Step>,
    ) -> Result<Self, InvalidPolicy> {
        judge_name(name)?;
        judge_downtime("downtime", downtime)?;
        if let Some(percent) = throttle.iter().flat_map(|t| [t.initial, t.increment]).find(|p| !(1..=99).contains(p)) {
            return Err(InvalidPolicy::Throttle(percent));
        }
        if steps.len() > MOST_STEPS {
            return Err(InvalidPolicy::Steps);
        }
        for (index, step) in steps.iter().enumerate() {
            judge_step(index + 1, *step)?;
        }
        let ends = matches!(steps.last(), Some(Step { when: When::After(_), action: Action::Suspend | Action::Abort }));
        let policy = Self { name: name.to_owned(), downtime, throttle, postcopy: false, steps };
        if ends { Ok(policy) } else { Err(InvalidPolicy::Endless) }
    }

    /// As it is asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For how long QEMU may let the guest stand still, to begin with.
    pub fn downtime(&self) -> Duration {
        self.downtime
    }

    /// Whether the guest is slowed down, and how.
    pub fn throttle(&self) -> Option<Throttle> {
        self.throttle
    }

    /// The rungs; the last one ends it in any case.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same for a migration that may be switched to postcopy by hand.
    #[must_use]
    pub fn with_postcopy(self) -> Self {
        // What a step may do need not be allowed.
        if self.may_postcopy() { self } else { Self { postcopy: true, ..self } }
    }

    /// Whether it may be switched to postcopy, by a step or by hand.
    pub fn may_postcopy(&self) -> bool {
        self.postcopy || self.steps.iter().any(|step| step.action == Action::Postcopy)
    }

    /// The same for a migration that is not switched to postcopy, neither by a step nor by hand.
    #[must_use]
    pub fn without_postcopy(mut self) -> Self {
        // The last step stays: it suspends or aborts.
        self.steps.retain(|step| step.action != Action::Postcopy);
        Self { postcopy: false, ..self }
    }

    /// Whether the guest may be stopped before all is sent.
    pub fn may_suspend(&self) -> bool {
        self.steps.iter().any(|step| step.action == Action::Suspend)
    }

    /// The longest time for which QEMU may let the guest stand still in the end.
    pub fn longest_downtime(&self) -> Duration {
        let allowed = self.steps.iter().filter_map(|step| match step.action {
            Action::Downtime(downtime) => Some(downtime),
            Action::Postcopy | Action::Suspend | Action::Abort => None,
        });
        allowed.chain([self.downtime]).max().unwrap_or(self.downtime)
    }

    /// The same for a guest that may stand still for that long in the end, and no longer, unless it is suspended.
    pub fn with_longest_downtime(&self, longest: Duration) -> Result<Self, InvalidPolicy> {
        let capped = self.steps.iter().map(|step| match step.action {
            Action::Downtime(downtime) => Step { action: Action::Downtime(downtime.min(longest)), ..*step },
            Action::Postcopy | Action::Suspend | Action::Abort => *step,
        });
        let mut steps: Vec<_> = capped.collect();
        if longest > self.longest_downtime() {
            match steps.iter_mut().rfind(|step| matches!(step.action, Action::Downtime(_))) {
                Some(last) => last.action = Action::Downtime(longest),
                None => steps.insert(0, Step { when: When::Stalled(IN_VAIN), action: Action::Downtime(longest) }),
            }
        }
        Ok(Self { postcopy: self.postcopy, ..Self::new(&self.name, self.downtime.min(longest), self.throttle, steps)? })
    }

    /// The same, with its last step at that time.
    pub fn with_deadline(&self, deadline: Duration) -> Result<Self, InvalidPolicy> {
        let mut steps = self.steps.clone();
        if let Some(last) = steps.last_mut() {
            last.when = When::After(Span { base: deadline, per_gib: Duration::ZERO });
        }
        Ok(Self { postcopy: self.postcopy, ..Self::new(&self.name, self.downtime, self.throttle, steps)? })
    }
}

impl Default for Policy {
    fn default() -> Self {
        named(DEFAULT).expect("the default is among them")
    }
}

/// Whether a policy can be called so.
pub fn judge_name(name: &str) -> Result<(), InvalidPolicy> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || name == AUTO || !name.chars().all(is_name) {
        return Err(InvalidPolicy::Name(name.escape_debug().to_string()));
    }
    Ok(())
}

fn judge_downtime(place: &str, downtime: Duration) -> Result<(), InvalidPolicy> {
    if (DOWNTIME.0..=DOWNTIME.1).contains(&downtime) {
        return Ok(());
    }
    Err(InvalidPolicy::Downtime { place: place.to_owned(), downtime })
}

fn judge_step(step: usize, Step { when, action }: Step) -> Result<(), InvalidPolicy> {
    let wrong = |what: &str| Err(InvalidPolicy::Step { step, what: what.to_owned() });
    if let Action::Downtime(downtime) = action {
        judge_downtime(&format!("step {step}"), downtime)?;
    }
    match when {
        When::After(Span { base, per_gib }) if base > LONGEST || per_gib > LONGEST => {
            wrong("that is more than a year away")
        }
        When::After(Span { base, per_gib }) if base.is_zero() && per_gib.is_zero() && action == Action::Abort => {
            wrong("it would abort before anything is sent")
        }
        When::Round(0 | 1) => wrong("the first round is not waited for: write 2 or more"),
        When::Stalled(0) => wrong("a guest is stalled after one round or more"),
        When::After(_) | When::Round(_) | When::Stalled(_) => Ok(()),
    }
}

impl Span {
    /// How long it is for that [`load`].
    pub fn of(self, load: ByteSize) -> Duration {
        let gib = u128::from(ByteSize::gib(1).as_u64());
        let millis = self.per_gib.as_millis().saturating_mul(load.as_u64().into()) / gib;
        let grown = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        self.base.saturating_add(grown)
    }
}

/// What is to be moved, as times per GiB count it: memory and each disk that is copied, [`SMALLEST`] each at least.
pub fn load(memory: ByteSize, disks: impl IntoIterator<Item = ByteSize>) -> ByteSize {
    let parts = [memory].into_iter().chain(disks).map(|part| part.max(SMALLEST).as_u64());
    ByteSize::b(parts.fold(0, u64::saturating_add))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.when, self.action)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(span) => write!(f, "after {span}"),
            Self::Round(round) => write!(f, "as round {round} begins"),
            Self::Stalled(1) => f.write_str("after a round without progress"),
            Self::Stalled(rounds) => write!(f, "after {rounds} rounds without progress"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_gib = |f: &mut fmt::Formatter<'_>| write!(f, "{} per GiB", humantime::format_duration(self.per_gib));
        match (self.base.is_zero(), self.per_gib.is_zero()) {
            (true, false) => per_gib(f),
            (_, true) => write!(f, "{}", humantime::format_duration(self.base)),
            (false, false) => {
                write!(f, "{} and ", humantime::format_duration(self.base))?;
                per_gib(f)
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Downtime(downtime) => write!(f, "may stand still for {}", humantime::format_duration(*downtime)),
            Self::Postcopy => f.write_str("postcopy"),
            Self::Suspend => f.write_str("suspend"),
            Self::Abort => f.write_str("abort"),
        }
    }
}

#[cfg(test)]
mod tests;
