//! How a host is emptied: which guest goes where, in which order, and which may start now.
//!
//! ```text
//!   guests, facts of all hosts ──▶ plan: moves in order, what each takes, who is blocked
//!   what waits and runs, facts as they are now ──▶ next: who may start, and why each of the others waits
//! ```
//!
//! A plan is what people are shown. What is done is decided anew, from fresh facts, each time a move may start, so that a destination
//! that has filled up meanwhile costs nothing but another choice.

mod claims;
mod next;
mod timetable;

use std::{num::NonZeroU32, time::Duration};

use bytesize::ByteSize;
use serde::Serialize;

pub use self::next::{Decision, Next, Running, Standing, Waiting, next};
use self::{claims::Claims, timetable::Assigned};
use crate::{
    agent::Leaving,
    id::{HostName, InstanceId},
    schedule::{Objection, Ranking, Seen, Weights, Wish, rank},
};

/// A guest that shall go, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Guest {
    /// As it leaves.
    pub leaving: Leaving,
    /// Where it may go, and how. Whoever has refused it is excluded.
    pub wish: Wish,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
    /// How long it takes by itself, if that was forecast.
    pub forecast: Option<Duration>,
    /// What it writes to per second, if that was measured.
    pub dirty_rate: Option<ByteSize>,
}

/// How much may be done at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Moves of this drain.
    pub parallel: NonZeroU32,
    /// Migrations that come to one host, whoever has ordered them.
    pub per_destination: NonZeroU32,
    /// What all moves of this drain may send per second, together. None: no limit.
    pub bandwidth: Option<ByteSize>,
}

impl Limits {
    /// What each move may send per second.
    pub fn share(&self) -> Option<ByteSize> {
        let share = |bandwidth: ByteSize| (bandwidth.as_u64() / u64::from(self.parallel.get())).max(1);
        self.bandwidth.map(share).map(ByteSize::b)
    }
}

/// A drain as it is foreseen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// In the order in which they start.
    pub moves: Vec<Move>,
    /// Who cannot go.
    pub blocked: Vec<Blocked>,
    /// How long all of it takes.
    pub total: Duration,
}

/// One guest's move as it is foreseen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// Who.
    pub instance: InstanceId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub source: HostName,
    /// Where it goes.
    pub destination: HostName,
    /// What it may have of memory.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub memory: ByteSize,
    /// When it starts: since the drain began.
    pub starts: Duration,
    /// How long it takes.
    pub takes: Duration,
    /// From what that is known.
    pub basis: Basis,
}

/// From what it is known how long a move takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// It was forecast.
    Forecast,
    /// From the guest's memory and what it was measured to write.
    DirtyRate,
    /// Only from the guest's memory.
    Memory,
}

/// A guest that no host takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// Who.
    pub instance: InstanceId,
    /// Its name.
    pub name: String,
    /// Where it stays.
    pub source: HostName,
    /// What speaks against all hosts.
    pub objections: Vec<Objection>,
}

impl Guest {
    fn id(&self) -> InstanceId {
        self.leaving.instance.id
    }

    fn source(&self) -> &HostName {
        &self.leaving.instance.host
    }

    fn blocked(&self, ranking: &Ranking) -> Blocked {
        Blocked {
            instance: self.id(),
            name: self.leaving.definition.name.clone(),
            source: self.source().clone(),
            objections: ranking.condensed(),
        }
    }
}

/// Foresees it. What a guest takes of its destination is taken from all that come after it.
pub fn plan(guests: &[Guest], hosts: &[Seen<'_>], weights: &Weights, limits: &Limits) -> Plan {
    let mut claims = Claims::of(hosts);
    let mut assigned = Vec::new();
    let mut blocked = Vec::new();
    for guest in in_order(guests, limits) {
        let ranking = rank(&guest.wish, &guest.leaving, &claims.seen(), weights);
        match ranking.candidates.first() {
            Some(best) => {
                claims.give_room(guest, &best.host);
                assigned.push(Assigned { guest, destination: best.host.clone() });
            }
            None => blocked.push(guest.blocked(&ranking)),
        }
    }
    let (moves, total) = timetable::of(assigned, limits);
    Plan { moves, blocked, total }
}

/// By priority; of one priority, the small and quiet first: they are soon away, whatever becomes of the others.
fn in_order<'a>(guests: &'a [Guest], limits: &Limits) -> Vec<&'a Guest> {
    let mut guests: Vec<_> = guests.iter().collect();
    guests.sort_by_cached_key(|guest| {
        let (takes, _) = timetable::takes(guest, limits);
        (std::cmp::Reverse(guest.priority), takes, guest.leaving.definition.name.clone(), guest.id())
    });
    guests
}
