//! What goes wrong in a simulation, as its seed draws it.

use std::{fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use vmferry_core::migration::{Handover, Kind};

use crate::{SHUTDOWN, fake::Milestone};

/// Until when faults begin that wait for nothing, and how long the longest lasts.
const BEGIN: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(8);
/// How near to a milestone they begin.
const NEAR: Duration = Duration::from_millis(100);
/// From then on all of them are over.
pub(super) const OVER: Duration = BEGIN.saturating_add(LAST);

const HOSTS: [&str; 3] = ["source", "destination", "coordinator"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies, and is back later: an agent's, libvirt's, or a coordinator's, in whose place another resolves.
    Dies(&'static str),
    /// Nothing gets through between two hosts, and what is sent is lost.
    Cut(&'static str, &'static str),
    /// What is sent between two hosts arrives later.
    Delayed(&'static str, &'static str),
    /// Somebody else has it resolved, while the first one lives.
    Resolved,
    /// Somebody wants it to end.
    Aborted,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dies(who) => write!(f, "{who} dies"),
            Self::Cut(one, other) => write!(f, "{one} and {other} are cut"),
            Self::Delayed(one, other) => write!(f, "what {one} and {other} send is held"),
            Self::Resolved => write!(f, "somebody resolves it"),
            Self::Aborted => write!(f, "somebody aborts it"),
        }
    }
}

/// One fault, and when it shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// After which it begins; nothing: after the beginning.
    pub(super) after: Option<Milestone>,
    /// How long after that.
    pub(super) delay: Duration,
    pub(super) lasts: Duration,
}

/// A run.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) way: (Kind, Handover),
    /// Of so many steps at the edge one fails.
    pub(super) one_fails_of: Option<u32>,
    pub(super) faults: Vec<Planned>,
}

impl Script {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let way = match rng.random_range(0..10) {
            0 => (Kind::Cold { shutdown: Some(SHUTDOWN) }, Handover::Fast),
            1 => (Kind::Cold { shutdown: None }, Handover::Fast),
            2 => (Kind::Live, Handover::Fast),
            _ => (Kind::Live, Handover::Strict),
        };
        let one_fails_of = *[None, None, Some(100), Some(30)].choose(&mut rng).expect("four");
        let mut faults: Vec<Planned> = (0..rng.random_range(0..=4)).map(|_| planned(&mut rng)).collect();
        let mut known = Vec::new();
        faults.retain(|planned| {
            // Somebody who asks is asked once; what has died may die again.
            let is_first = !known.contains(&planned.fault);
            known.push(planned.fault);
            is_first || !matches!(planned.fault, Fault::Resolved | Fault::Aborted)
        });
        Self { way, one_fails_of, faults }
    }

    /// One without faults.
    pub(super) fn calm(way: (Kind, Handover)) -> Self {
        Self { way, one_fails_of: None, faults: Vec::new() }
    }
}

fn planned(rng: &mut SmallRng) -> Planned {
    let milestones = [Milestone::Arriving, Milestone::Stopped, Milestone::Arrived, Milestone::Gone];
    let after = if rng.random() { milestones.choose(rng).copied() } else { None };
    let delay = if after.is_some() { NEAR } else { BEGIN }.mul_f64(rng.random());
    let lasts = LAST.mul_f64(rng.random::<f64>().powi(2));
    let pair = |rng: &mut SmallRng| {
        let first = rng.random_range(0..HOSTS.len());
        (HOSTS[first], HOSTS[(first + 1) % HOSTS.len()])
    };
    let fault = match rng.random_range(0..12) {
        0 => Fault::Dies("coordinator"),
        1 | 2 => Fault::Dies("source"),
        3 | 4 => Fault::Dies("destination"),
        5 => Fault::Dies("libvirt of the source"),
        6 => Fault::Dies("libvirt of the destination"),
        7 | 8 => {
            let (one, other) = pair(rng);
            Fault::Cut(one, other)
        }
        9 => {
            let (one, other) = pair(rng);
            Fault::Delayed(one, other)
        }
        10 => Fault::Resolved,
        _ => Fault::Aborted,
    };
    Planned { fault, after, delay, lasts }
}
