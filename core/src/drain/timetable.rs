//! How long moves take, and when each starts if as many run as may.

use std::time::Duration;

use bytesize::ByteSize;

use super::{Basis, Guest, Limits, Move};
use crate::{id::HostName, migration::Kind};

/// What is sent per second where nobody knows: what a link of 1 Gbit/s carries.
const USUAL: ByteSize = ByteSize::mb(117);
/// What every move takes besides sending: checks, getting ready and clearing up.
const BESIDES: Duration = Duration::from_secs(1);
/// How many times its memory is sent at most before a guest that writes faster than that is slowed down or stopped.
const ROUNDS: f64 = 5.0;

/// A guest and where it goes.
pub(super) struct Assigned<'a> {
    pub(super) guest: &'a Guest,
    pub(super) destination: HostName,
}

/// How long a guest's move takes while as many run beside it as may.
pub(super) fn takes(guest: &Guest, limits: &Limits) -> (Duration, Basis) {
    let share = limits.share();
    let memory = match guest.wish.kind {
        Kind::Live => guest.leaving.definition.memory.as_u64() as f64,
        Kind::Cold { .. } => 0.0,
    };
    let rate = share.unwrap_or(USUAL).as_u64() as f64;
    let once = seconds(memory / rate);
    match (guest.forecast, guest.dirty_rate) {
        (Some(forecast), _) => (if share.is_some() { forecast.max(once) } else { forecast }, Basis::Forecast),
        (None, Some(dirty)) => {
            // Each round sends what was written during the one before.
            let rounds = (1.0 / (1.0 - dirty.as_u64() as f64 / rate).max(0.0)).min(ROUNDS);
            (BESIDES + seconds(memory / rate * rounds), Basis::DirtyRate)
        }
        (None, None) => (BESIDES + once, Basis::Memory),
    }
}

/// The moves in the order in which they start, and when the last one ends. Each starts as soon as it may; one that has to wait for its
/// destination lets those behind it pass.
pub(super) fn of(assigned: Vec<Assigned<'_>>, limits: &Limits) -> (Vec<Move>, Duration) {
    let (parallel, per_destination) = (limits.parallel.get() as usize, limits.per_destination.get() as usize);
    let mut waiting = assigned;
    let mut running = Vec::<(Duration, HostName)>::new();
    let mut moves = Vec::new();
    let mut now = Duration::ZERO;
    loop {
        waiting.retain(|Assigned { guest, destination }| {
            let there = running.iter().filter(|(_, other)| other == destination).count();
            if running.len() >= parallel || there >= per_destination {
                return true;
            }
            let (takes, basis) = takes(guest, limits);
            running.push((now.saturating_add(takes), destination.clone()));
            moves.push(Move {
                instance: guest.id(),
                name: guest.leaving.definition.name.clone(),
                source: guest.source().clone(),
                destination: destination.clone(),
                memory: guest.leaving.definition.memory,
                starts: now,
                takes,
                basis,
            });
            false
        });
        let Some(ends) = running.iter().map(|(ends, _)| *ends).min() else { return (moves, now) };
        now = ends;
        running.retain(|(ends, _)| *ends > now);
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2)
}
