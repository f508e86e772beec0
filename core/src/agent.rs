//! The calls that the flow makes on a host's agent.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, pending},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    compatibility::Check,
    disk::{Resolved, Shown},
    domain_xml::{Definition, FilterDefinition, rewrite::Relocation},
    id::HostName,
    instance::Instance,
    migration::{Cause, Order, Progress, Record, Side, Statistics},
    policy::Told,
    reason::Reason,
    resolution::{DestinationFacts, SourceFacts},
    turns::Admission,
};

/// One host's agent, as the flow sees it: by gRPC, or by a fake.
///
/// Every call but `check`, `end_check`, `admit`, `keep_turn`, `withdraw`, `locate`, `record` and those for facts is a phase: idempotent by the
/// order's id. A repeat returns what the first returned, or joins it.
pub trait Agent: Sync {
    /// The host's name.
    fn host(&self) -> &HostName;

    /// Asks this host's half of the checks. Changes nothing, but that the source puts probe files beside disks that are
    /// written to, until [`Agent::end_check`].
    ///
    /// The destination needs what the source answered.
    fn check(
        &self,
        order: &Order,
        side: Side,
        leaving: Option<&Leaving>,
    ) -> impl Future<Output = Result<CheckReport, CallError>> + Send;

    /// Source only: the probe files have been seen, or will not be. Removes them.
    fn end_check(&self, order: &Order) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Asks whether it is the migration's turn on this host, and lets it wait there if it is not. Changes nothing but who waits: whoever
    /// does not ask again soon ([`crate::turns::WAITS`], [`crate::turns::KEPT`]) is forgotten.
    ///
    /// An answer that it has to wait may be held back for as long as `hold`, unless it changes.
    fn admit(
        &self,
        order: &Order,
        side: Side,
        hold: Duration,
    ) -> impl Future<Output = Result<Admission, CallError>> + Send;

    /// The migration keeps its turn on this host for as long as this is polled, however long the rest takes. What cannot be kept is not
    /// told: whoever begins without a turn is.
    ///
    /// Pending forever if turns are not forgotten there.
    fn keep_turn(&self, _order: &Order, _side: Side) -> impl Future<Output = Infallible> + Send {
        pending()
    }

    /// The migration does not wait any more and does not want its turn, if it has not been opened here.
    fn withdraw(&self, order: &Order) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Gets this host ready. The source takes the instance's migration lock. The destination returns which disks the guest
    /// finds elsewhere there.
    fn pre(&self, order: &Order, half: &Half) -> impl Future<Output = Result<Vec<Relocation>, CallError>> + Send;

    /// Source only: moves the guest, whose disks are where `relocations` say. Returns when libvirt's job is over, well or
    /// not.
    fn migrate(
        &self,
        order: &Order,
        relocations: &[Relocation],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> impl Future<Output = Result<Statistics, CallError>> + Send;

    /// Destination of a cold migration or of a strict hand-over only: lets the guest run, all of which is there now and of which the source
    /// has no copy any more that could. Once asked, only this host can say whether it ever ran here. Returns how long it took.
    fn start(&self, order: &Order) -> impl Future<Output = Result<Duration, CallError>> + Send;

    /// The guest has moved to the destination: makes that final.
    fn post(&self, order: &Order, side: Side) -> impl Future<Output = Result<Finished, CallError>> + Send;

    /// The guest stays on the source: takes back what this host did.
    fn cleanup(&self, order: &Order, rollback: &Rollback) -> impl Future<Output = Result<Finished, CallError>> + Send;

    /// What this host knows of the instance now. Changes nothing.
    fn locate(&self, order: &Order) -> impl Future<Output = Result<Sighting, CallError>> + Send;

    /// Source of a live migration: what it knows of the guest and of its half. Changes nothing. The answer may be held back for as long as
    /// `hold`, unless its half goes on meanwhile.
    fn source_facts(
        &self,
        order: &Order,
        hold: Duration,
    ) -> impl Future<Output = Result<SourceFacts, CallError>> + Send;

    /// Destination of a live migration: the same.
    fn destination_facts(
        &self,
        order: &Order,
        hold: Duration,
    ) -> impl Future<Output = Result<DestinationFacts, CallError>> + Send;

    /// This host's half of the migration, if it has one.
    fn record(&self, order: &Order) -> impl Future<Output = Result<Option<Record>, CallError>> + Send;
}

/// The source's and the destination's agent.
#[derive(Debug, Clone, Copy)]
pub struct Pair<S, D> {
    /// Where the guest runs.
    pub source: S,
    /// Where it shall run.
    pub destination: D,
}

/// What a host answers to `check`.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckReport {
    /// Every rule with its outcome.
    pub checks: Vec<Check>,
    /// From the source: what the destination must know.
    pub leaving: Option<Leaving>,
    /// From the destination: how each disk gets there.
    pub resolved: Vec<Resolved>,
}

/// What a host must know to get ready for its half.
#[derive(Debug, Clone, PartialEq)]
pub enum Half {
    /// The guest leaves.
    Source {
        /// How each disk gets to the destination.
        resolved: Vec<Resolved>,
    },
    /// The guest arrives.
    Destination {
        /// What the source said of it.
        leaving: Box<Leaving>,
        /// How each disk gets here.
        resolved: Vec<Resolved>,
    },
}

impl Half {
    /// Whose half it is.
    pub fn side(&self) -> Side {
        match self {
            Self::Source { .. } => Side::Source,
            Self::Destination { .. } => Side::Destination,
        }
    }
}

/// What a host must know to take its half back.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollback {
    /// Whose half it is.
    pub side: Side,
    /// Why the migration did not go through.
    pub cause: Cause,
    /// Source of a cold migration: the destination has given up its copy of the guest, which has never run and never will.
    /// Where that may have been started, the source must not start its own before.
    pub released: bool,
    /// Destination of a strict hand-over: the source has taken its half back, so that the guest runs there and will never be released.
    /// Without it a copy that has arrived is not destroyed: it may be the only one.
    pub kept: bool,
}

/// What a host answers that has ended its half.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finished {
    /// What needs a look, or could not be taken back, a sentence each.
    pub complaints: Vec<String>,
    /// What it sees of the guest, if that is here now: on the destination after post, on the source after cleanup. `None`: it is the other
    /// half, libvirt could not be asked, or the agent is of a version that does not say.
    pub guest: Option<Sighting>,
}

/// The instance as it leaves the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaving {
    /// As people see it.
    pub instance: Instance,
    /// libvirt's migratable definition of the running guest; without secrets.
    pub domain_xml: String,
    /// The same, read.
    pub definition: Definition,
    /// The source's QEMU version, libvirt's number.
    pub qemu_version: u64,
    /// What the source shows of the files that its disks lie in.
    pub shown: Shown,
    /// Whether its host starts it with itself.
    pub autostart: bool,
    /// Who is in the groups that rules of its policies name, as far as the source knows: its own guests, and those of other hosts.
    pub members: Told,
    /// libvirt's filters that its vifs name, and those that these name in turn, which come first.
    pub filters: Vec<FilterDefinition>,
}

/// What a host sees of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sighting {
    /// No such domain.
    Absent,
    /// Defined, not running.
    Shutoff,
    /// The guest's vCPUs run here.
    Running,
    /// The guest is arriving and has not run here.
    Arriving,
    /// The guest is here and does not run, for whatever reason.
    Paused,
    /// Source, after the switch to postcopy: the guest runs on the destination, and what is left of its memory is here. This copy must
    /// never go on, nor go before all is sent.
    Departing,
    /// Destination, after the switch to postcopy: the guest runs here, and a part of its memory is still on the source. While the way
    /// between them is broken its vCPUs wait for what they need of that.
    Incomplete,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "absent",
            Self::Shutoff => "shut off",
            Self::Running => "running",
            Self::Arriving => "arriving",
            Self::Paused => "paused",
            Self::Departing => "departing",
            Self::Incomplete => "incomplete",
        })
    }
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The host that was called.
    pub host: HostName,
    /// The stable code.
    pub reason: Reason,
    /// One sentence: what, which object, what to do.
    pub message: String,
}

impl CallError {
    /// Whether it says nothing about the host's state, because no answer came.
    pub fn is_silence(&self) -> bool {
        self.reason.is_silence()
    }
}

impl From<CallError> for Cause {
    fn from(error: CallError) -> Self {
        Self { reason: error.reason, host: error.host, message: error.message }
    }
}
