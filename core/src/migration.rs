//! One migration: its order, its phases, its progress, its outcome, its record.

mod driver;
mod handover;
mod kind;
mod path;
mod priority;
mod steering;
mod story;
mod streams;

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    driver::Driver,
    handover::Handover,
    kind::{Fallback, Kind, Shutdown},
    path::Path,
    priority::Priority,
    steering::{FLOOR, InvalidSteering, Steering},
    story::{Author, Deed, Event, MOST_EVENTS, Point, Story, Timeline, thinned},
    streams::{InvalidStreams, Streams},
};
use crate::{
    agent::Sighting,
    convergence::{Outlook, Policy},
    id::{HostName, InstanceId, MigrationId},
    reason::Reason,
};

/// What was asked for, with every name resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Chosen by the caller before the first call; makes every repeat the same migration.
    pub id: MigrationId,
    /// The instance to move.
    pub instance: InstanceId,
    /// Its name, for people.
    pub instance_name: String,
    /// The host it runs on.
    pub source: Endpoint,
    /// The host it shall run on.
    pub destination: Endpoint,
    /// Whether it runs meanwhile.
    #[serde(default)]
    pub kind: Kind,
    /// What a live migration may cost the guest and the network.
    #[serde(default)]
    pub limits: Limits,
    /// Before whom it comes while it waits for its turn.
    #[serde(default)]
    pub priority: Priority,
}

/// What a live migration may cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// How it comes to its end.
    pub policy: Policy,
    /// How much may be sent per second, memory and disks each; `None`: as much as goes. QEMU is told whole MiB.
    #[serde(serialize_with = "crate::bytes::exact_if_known")]
    pub bandwidth: Option<ByteSize>,
    /// Over how many streams memory is sent at once. What may be sent per second is for all of them together.
    #[serde(default)]
    pub streams: Streams,
    /// Which way it takes.
    #[serde(default)]
    pub path: Path,
    /// Who lets it run on its destination, and when.
    #[serde(default)]
    pub handover: Handover,
}

impl Order {
    /// Whether a guest of which this is seen on its host does there what it did before it was to move: it runs, or was off.
    pub fn is_at_rest(&self, guest: Sighting) -> bool {
        guest == Sighting::Running || self.kind.stays_off() && guest == Sighting::Shutoff
    }

    /// Whether the guest arrives paused, and goes on there only after its source has released it. One that may be switched to postcopy
    /// never does: with it libvirt would not let the guest run before all of its memory is there.
    pub fn is_strict(&self) -> bool {
        self.kind == Kind::Live && self.limits.handover == Handover::Strict && !self.limits.policy.may_postcopy()
    }
}

/// A host and where its agent listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host's name, which its certificate must carry.
    pub host: HostName,
    /// `address:port` of its agent, as other hosts reach it.
    pub address: String,
}

/// Which half of a migration a host plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// The five phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// May it leave, can it be taken? Changes nothing.
    Check,
    /// Both hosts get ready.
    Pre,
    /// The guest moves.
    Migrate,
    /// The guest runs on the destination; the source is tidied.
    Post,
    /// The guest runs on the source; what pre did is taken back.
    Cleanup,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Check => "check",
            Self::Pre => "pre",
            Self::Migrate => "migrate",
            Self::Post => "post",
            Self::Cleanup => "cleanup",
        })
    }
}

/// How a migration ended. Decided in one place (`flow`), shown everywhere the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest has moved to the destination; nothing is left behind.
    Completed,
    /// The guest has moved to the destination; something needs a look.
    CompletedWithWarnings,
    /// The guest stayed on the source.
    FailedRolledBack,
    /// Aborted by the user; the guest stayed on the source.
    AbortedRolledBack,
    /// The guest is not running, or the hosts' facts do not yet tell where it is.
    Held,
}

impl Outcome {
    /// The word in records, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CompletedWithWarnings => "completed_with_warnings",
            Self::FailedRolledBack => "failed_rolled_back",
            Self::AbortedRolledBack => "aborted_rolled_back",
            Self::Held => "held",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a migration did not go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The stable code.
    pub reason: Reason,
    /// The host where it happened.
    pub host: HostName,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} on {})", self.message, self.reason, self.host)
    }
}

/// A sample of the running job, from libvirt's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Since the job began.
    pub elapsed: Duration,
    /// Guest memory and disks to move at least once.
    pub total: ByteSize,
    /// Still to be sent, as known now; grows when the guest dirties memory.
    pub remaining: ByteSize,
    /// Sent so far, re-sent pages counted each time.
    pub transferred: ByteSize,
    /// Per second, now.
    pub rate: ByteSize,
    /// Dirtied by the guest per second, in the last round.
    pub dirty_rate: ByteSize,
    /// Rounds over the guest's memory, the first is 1.
    pub round: u32,
    /// How much of their time the guest's CPUs are held back, in percent (auto-converge).
    #[serde(default)]
    pub throttle: u8,
    /// How much is done of memory and disks, in percent, as far as it was told before: never falls, and never says 100.
    #[serde(default)]
    pub percent: u8,
    /// Whether the guest was stopped: for its hand-over, or so that the rest can be sent.
    #[serde(default)]
    pub stopped: bool,
    /// Where the guest runs while it is sent.
    #[serde(default)]
    pub mode: Mode,
    /// While the guest is shutting down; nothing moves meanwhile.
    pub shutting_down: Option<ShuttingDown>,
    /// How it will go on; `None` while too little is known.
    #[serde(default)]
    pub forecast: Option<Outlook>,
}

/// Where the guest runs while its memory is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// On the source, until the rest can be sent at once.
    #[default]
    Precopy,
    /// On the destination; what it needs comes first. There is no way back.
    Postcopy,
    /// It waits on the destination for memory that does not come: the way is broken. Both halves are kept, and the way is tried
    /// again until it is there.
    Broken,
}

impl Mode {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Broken => "broken",
        }
    }
}

/// How long a guest takes to shut itself down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuttingDown {
    /// Since it was asked to.
    pub elapsed: Duration,
    /// How long it may take.
    pub deadline: Duration,
}

impl Progress {
    /// The same, with how much is done, where `before` was told already.
    pub fn after(self, before: u8) -> Self {
        let (remaining, total) = (self.remaining.as_u64(), self.total.as_u64());
        let done = match total {
            0 => 0,
            total => 100 - (u128::from(remaining.min(total)) * 100).div_ceil(u128::from(total)),
        };
        Self { percent: u8::try_from(done).unwrap_or(0).max(before).max(self.percent).min(99), ..self }
    }
}

/// What a finished job measured, by libvirt's and QEMU's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// From the start of libvirt's job to its end; it starts QEMU on the destination first. Of a cold migration: from the
    /// first image to the last.
    pub total_time: Duration,
    /// The guest ran nowhere, by QEMU's account. Of a cold migration: from its shutdown until it was started again, by the
    /// hosts' accounts; 0 if it was off.
    pub downtime: Duration,
    /// Sent over the wire by QEMU.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub transferred: ByteSize,
    /// Guest memory and disks.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub total: ByteSize,
    /// Rounds over the guest's memory.
    pub rounds: u32,
}

/// A phase as it went on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// When it began, by the host's clock.
    pub started: Timestamp,
    /// How long it took; `None` while it goes on.
    pub duration: Option<Duration>,
}

/// One host's half of a migration, as its journal has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    pub order: Order,
    /// The half that this host played.
    pub side: Side,
    /// Identity of who asked.
    pub requested_by: String,
    /// Who drives it, as far as this host has heard; `None`: nobody has said.
    #[serde(default)]
    pub driver: Option<Driver>,
    /// When pre began, by the host's clock.
    pub started: Timestamp,
    /// When post or cleanup ended it here.
    pub ended: Option<Timestamp>,
    /// The phases so far.
    pub phases: Vec<PhaseSpan>,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// Why it did not go through.
    pub cause: Option<Cause>,
    /// What the job measured; the source has it.
    pub statistics: Option<Statistics>,
    /// What was to be seen of the guest as this half ended, if it was here; the destination of a move has it, or the source if that did not
    /// go through. `None` also if it could not be seen, or of earlier versions.
    #[serde(default)]
    pub guest: Option<Sighting>,
    /// Steps that would have to be taken back, oldest first, a sentence each.
    pub pending: Vec<String>,
    /// What went wrong after the point of no return, or could not be taken back.
    pub warnings: Vec<String>,
    /// How its job went; the source has it. Empty in lists.
    pub story: Story,
}

impl Record {
    /// The phase it is in or ended in.
    pub fn phase(&self) -> Phase {
        self.phases.last().map_or(Phase::Pre, |span| span.phase)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(remaining: u64, total: u64) -> Progress {
        Progress { remaining: ByteSize::b(remaining), total: ByteSize::b(total), ..Progress::default() }
    }

    #[test]
    fn a_percentage_means_what_it_says() {
        let done = |before, remaining, total| sample(remaining, total).after(before).percent;
        assert_eq!([done(0, 100, 100), done(0, 50, 100), done(0, 0, 100), done(0, 0, 0)], [0, 50, 99, 0]);
        assert_eq!(done(70, 100, 100), 70);
        let told = Progress { percent: 80, ..sample(100, 100) };
        assert_eq!(told.after(70).percent, 80, "who told it knows what came before");
    }

    proptest! {
        #[test]
        fn a_percentage_never_falls_and_never_reaches_100(samples in prop::collection::vec(any::<(u64, u64)>(), 1..50)) {
            let mut before = 0;
            for (remaining, total) in samples {
                let now = sample(remaining, total).after(before).percent;
                prop_assert!((before..=99).contains(&now));
                before = now;
            }
        }
    }
}
