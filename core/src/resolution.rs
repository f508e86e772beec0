//! Forward, back, or held: what becomes of a migration, from what its two hosts know.
//!
//! [`resolve`] is run again after each step with the facts of then (agents by themselves, and `vmferry migrations resolve`), by as many at a time as like: it
//! never needs to know what was tried before. That is safe because what a step relies on *there* stays so:
//!
//! ```text
//!   the source's journal           the destination's journal
//!   ────────────────────           ─────────────────────────
//!   Back: never releases           Back: never runs
//!   Released: does not go on,      Resuming: runs, and is
//!     unless Back is there           never taken back
//! ```
//!
//! and what it relies on *here* its host looks at once more before it acts. `docs/decisions/0007-the-source-releases-the-destination-resumes.md` is the protocol, `model/` explores it.

mod decided;
mod earlier;
mod facts;
mod hold;
mod ownership;
mod undecided;

pub use facts::{
    DestinationFacts, DestinationMark, Domain, End, GuestCopy, Job, RunState, Seen, SourceFacts, SourceMark, Way, Word,
};
pub use hold::Hold;
pub use ownership::permits;

use crate::migration::{Order, Side};

/// Who lets the destination's guest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handover {
    /// Its agent, once the source has released it (`VIR_MIGRATE_PAUSED`).
    Strict,
    /// libvirt, while it handles Finish.
    Fast,
}

impl Handover {
    /// As this live migration ends: one that may be switched to postcopy is libvirt's, whatever was asked for.
    pub fn of(order: &Order) -> Self {
        if order.is_strict() { Self::Strict } else { Self::Fast }
    }
}

/// Where it goes, and the one thing to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// libvirt has not decided yet, and will: look again.
    Wait,
    /// The guest is, or shall be, on the destination.
    Forward(Step),
    /// The guest is, or shall be, on the source.
    Back(Step),
    /// The facts allow neither.
    Held(Hold),
    /// Both halves are over.
    Settled(End),
}

/// A call to one of the agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Source: see to it that its copy cannot run, and journal that. Refused if it runs.
    Release,
    /// Destination: journal that it goes on here, and let it. Refused once it was given up.
    Resume,
    /// Destination: let nothing more in. Refused in a fast hand-over if anything is arriving.
    Cut,
    /// Make it final: the destination keeps its copy, the source destroys what is left of its own.
    Post(Side),
    /// Take it back: the destination destroys its copy, the source lets its own go on. One that was released, or in a fast hand-over one
    /// that was stopped for it, goes on only if the destination has gone back.
    Cleanup(Side),
}

impl Step {
    /// Who takes it.
    pub fn side(self) -> Side {
        match self {
            Self::Release => Side::Source,
            Self::Resume | Self::Cut => Side::Destination,
            Self::Post(side) | Self::Cleanup(side) => side,
        }
    }
}

/// What to do next.
pub fn resolve(handover: Handover, source: Word<SourceFacts>, destination: Word<DestinationFacts>) -> Resolution {
    let runs =
        |seen: Option<Seen>| seen.is_some_and(|seen| matches!(seen.copy(), GuestCopy::Runs | GuestCopy::Incomplete));
    if runs(source.told().map(|here| here.seen)) && runs(destination.told().map(|there| there.seen)) {
        return Resolution::Held(Hold::RunsTwice);
    }
    match (decided::is(End::Forward, source, destination), decided::is(End::Back, source, destination)) {
        (true, true) => Resolution::Held(Hold::Contradicted),
        (true, false) => decided::forward(source, destination),
        (false, true) => decided::back(source, destination),
        (false, false) => undecided::resolve(handover, source, destination),
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
