//! Who is told of a convoy as it goes on.

use std::fmt;

use vmferry_core::{
    drain,
    id::InstanceId,
    migration::{Order, Phase, Progress},
    schedule::Objection,
    turns,
};

use super::Ended;
use crate::journey::Turned;

/// Is told of a convoy. Decides nothing.
pub(crate) trait Listener: fmt::Debug + Send + Sync {
    /// A guest waits. Told again, also if it waits for the same as before.
    fn waits(&self, instance: InstanceId, name: &str, why: &Why);
    /// A move begins.
    fn begins(&self, order: &Order);
    /// A phase of it begins.
    fn phase(&self, order: &Order, phase: Phase);
    /// Its job goes on.
    fn progress(&self, order: &Order, progress: Progress);
    /// Its destination does not take it: it waits again.
    fn refused(&self, order: &Order, turned: &Turned);
    /// A guest moves no more.
    fn ended(&self, ended: &Ended);
    /// Nobody starts any more; so many go on to their end.
    fn stops(&self, running: usize);
    /// How many move and wait now, and who has ended.
    fn standing(&self, running: usize, waiting: usize, ended: &[Ended]);
}

/// Why a guest waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// As many move as may, or no host takes it as long as the others move.
    Others(drain::Waiting),
    /// Its hosts send or take as many as they may.
    Turn(turns::Waiting),
    /// No host takes it, and some may just not have answered, or have lost a place that they had for it: they are asked again for a while.
    Silence(Vec<Objection>),
    /// Somebody else moves it.
    MovedByOthers,
}

impl Why {
    /// What speaks against which hosts, where no host takes it.
    pub(crate) fn objections(&self) -> &[Objection] {
        match self {
            Self::Others(drain::Waiting::NoHost { objections }) | Self::Silence(objections) => objections,
            Self::Others(_) | Self::Turn(_) | Self::MovedByOthers => &[],
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Others(waiting) => waiting.fmt(f),
            Self::Turn(waiting) => waiting.fmt(f),
            Self::Silence(objections) => {
                f.write_str("no host takes it now, and all are asked again")?;
                objections.iter().try_for_each(|objection| write!(f, "; {objection}"))
            }
            Self::MovedByOthers => f.write_str("it is being moved by somebody else"),
        }
    }
}
