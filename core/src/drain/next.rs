//! Which of those that wait may start now, and why each of the others waits.

use std::{collections::BTreeMap, fmt, num::NonZeroU32};

use serde::Serialize;

use super::{Blocked, Claims, Guest, Limits, in_order};
use crate::{
    id::{HostName, InstanceId},
    schedule::{Candidate, Objection, Ranking, Seen, Weigher, Weights, rank},
};

/// What has come of a drain so far. A guest whose move has failed waits again, with whoever refused it excluded, or is given up: then it is
/// in neither list.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Those that have not begun.
    pub waiting: &'a [Guest],
    /// Those that have begun and not ended.
    pub running: &'a [Running<'a>],
}

/// A move that has begun and not ended.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// Who.
    pub guest: &'a Guest,
    /// Where it goes.
    pub destination: &'a HostName,
    /// Whether both hosts' facts count it already.
    pub claimed: bool,
}

/// What is decided of a guest that waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Next {
    /// Who.
    pub instance: InstanceId,
    /// What.
    pub decision: Decision,
}

/// What comes next for a guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may start now.
    Start {
        /// Where it goes, and where it might if it is refused there: at least one.
        candidates: Vec<Candidate>,
    },
    /// It has to wait.
    Wait(Waiting),
    /// No host takes it, and nothing that runs could change that.
    Blocked(Blocked),
}

/// Why a guest waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "waits_for")]
pub enum Waiting {
    /// As many moves run as may.
    Parallel {
        /// How many run.
        running: u32,
        /// How many may.
        limit: NonZeroU32,
    },
    /// Its host sends as many as it may.
    Source {
        /// The host.
        host: HostName,
        /// How many leave.
        outgoing: u32,
        /// How many may.
        limit: u32,
    },
    /// The host that is best for it takes as many as it may.
    Destination {
        /// The host.
        host: HostName,
        /// How many come.
        incoming: u32,
        /// How many may.
        limit: u32,
    },
    /// No host takes it now. That is looked at again when a move has ended.
    NoHost {
        /// What speaks against all of them.
        objections: Vec<Objection>,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parallel { running, limit } => write!(f, "{} already (--parallel {limit})", moves_run(*running)),
            Self::Source { host, outgoing, limit } => {
                write!(f, "{host} sends {} already (of at most {limit})", migrations(*outgoing))
            }
            Self::Destination { host, incoming, limit } => {
                write!(f, "{host} takes {} already (of at most {limit})", migrations(*incoming))
            }
            Self::NoHost { objections } => {
                f.write_str("no host takes it now")?;
                objections.iter().try_for_each(|objection| write!(f, "; {objection}"))
            }
        }
    }
}

fn moves_run(count: u32) -> String {
    if count == 1 { "1 move runs".to_owned() } else { format!("{count} moves run") }
}

fn migrations(count: u32) -> String {
    if count == 1 { "1 migration".to_owned() } else { format!("{count} migrations") }
}

/// Decides for all that wait, in the order in which they go.
pub fn next(standing: &Standing<'_>, hosts: &[Seen<'_>], weights: &Weights, limits: &Limits) -> Vec<Next> {
    let mut turn = Turn::of(standing, hosts, weights, limits);
    let waiting = in_order(standing.waiting, limits);
    waiting.into_iter().map(|guest| Next { instance: guest.id(), decision: turn.decide(guest) }).collect()
}

struct Turn<'a> {
    claims: Claims<'a>,
    weights: &'a Weights,
    limits: &'a Limits,
    running: u32,
    /// Moves of this drain by their destination: what hosts that are too old to say so take.
    coming: BTreeMap<HostName, u32>,
}

impl<'a> Turn<'a> {
    fn of(standing: &Standing<'_>, hosts: &'a [Seen<'a>], weights: &'a Weights, limits: &'a Limits) -> Self {
        let mut turn = Self { claims: Claims::of(hosts), weights, limits, running: 0, coming: BTreeMap::new() };
        for Running { guest, destination, claimed } in standing.running {
            turn.count(destination);
            if !claimed {
                turn.claim(guest, destination);
            }
        }
        turn
    }

    fn count(&mut self, destination: &HostName) {
        self.running += 1;
        *self.coming.entry(destination.clone()).or_default() += 1;
    }

    fn claim(&mut self, guest: &Guest, destination: &HostName) {
        self.claims.give_room(guest, destination);
        self.claims.give_turn(guest.source(), destination);
    }

    fn decide(&mut self, guest: &Guest) -> Decision {
        let parallel = self.limits.parallel;
        if self.running >= parallel.get() {
            return Decision::Wait(Waiting::Parallel { running: self.running, limit: parallel });
        }
        if let Some(waiting) = self.source_is_busy(guest.source()) {
            return Decision::Wait(waiting);
        }
        let ranking = rank(&guest.wish, &guest.leaving, &self.claims.seen(), self.weights);
        if ranking.candidates.is_empty() {
            return self.nowhere(guest, &ranking);
        }
        match self.with_a_turn(ranking.candidates) {
            Ok(candidates) => {
                if let Some(first) = candidates.first() {
                    self.count(&first.host);
                    self.claim(guest, &first.host);
                }
                Decision::Start { candidates }
            }
            Err(waiting) => Decision::Wait(waiting),
        }
    }

    fn nowhere(&self, guest: &Guest, ranking: &Ranking) -> Decision {
        if self.running == 0 {
            return Decision::Blocked(guest.blocked(ranking));
        }
        // One that fails gives back what it has taken, one that arrives may leave its group behind.
        Decision::Wait(Waiting::NoHost { objections: ranking.condensed() })
    }

    fn source_is_busy(&self, source: &HostName) -> Option<Waiting> {
        let room = self.claims.host(source)?.room.as_ref()?;
        let (outgoing, limit) = (room.taken.outgoing, room.capacity.outgoing);
        (outgoing >= limit).then(|| Waiting::Source { host: source.clone(), outgoing, limit })
    }

    /// The best that may take one more comes first. Nobody goes to another zone only because it is quicker.
    fn with_a_turn(&self, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>, Waiting> {
        let zone = |candidate: &Candidate| candidate.weight(Weigher::SameZone);
        let here = candidates.first().map_or(0.0, zone);
        let as_near = candidates.iter().enumerate().filter(|(_, candidate)| zone(candidate) >= here);
        let mut busy = None;
        let mut free = None;
        for (index, candidate) in as_near {
            match self.destination_is_busy(&candidate.host) {
                Some(waiting) => busy = busy.or(Some(waiting)),
                None => {
                    free = Some(index);
                    break;
                }
            }
        }
        match (free, busy) {
            (None, Some(waiting)) => Err(waiting),
            (free, _) => {
                let first = free.unwrap_or_default();
                candidates[..=first].rotate_right(1);
                Ok(candidates)
            }
        }
    }

    fn destination_is_busy(&self, destination: &HostName) -> Option<Waiting> {
        let ours = self.coming.get(destination).copied().unwrap_or_default();
        let room = self.claims.host(destination).and_then(|host| host.room.as_ref());
        let incoming = room.map_or(ours, |room| room.taken.incoming.max(ours));
        let limit = self.limits.per_destination.get().min(room.map_or(u32::MAX, |room| room.capacity.incoming));
        (incoming >= limit).then(|| Waiting::Destination { host: destination.clone(), incoming, limit })
    }
}
