//! Waiting for a place on both hosts. Nothing is changed meanwhile.

use std::{pin::pin, time::Duration};

use futures::future::{Either, join, select};

use super::{Watch, go_on};
use crate::{
    agent::{Agent, CallError, Pair},
    migration::{Order, Side},
    reason::Reason,
    turns::Admission,
};

/// How long a host may hold back the answer that all is as it was.
const HOLD: Duration = Duration::from_secs(10);

/// Both hosts have a place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// They had it at once.
    AtOnce,
    /// It took until now.
    AfterWaiting,
}

/// The source's turn first, always: no two migrations have what the other waits for. While it waits for the destination's, each round
/// keeps the source's.
pub(super) async fn admit<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    watch: &impl Watch,
) -> Result<Admitted, CallError> {
    let mut waits = None;
    loop {
        let asked = match go_on(order, watch) {
            Ok(()) => ask(hosts, order, waits).await,
            Err(error) => Err(error),
        };
        let waiting = match asked {
            Ok(Admission::Turn) => return Ok(if waits.is_some() { Admitted::AfterWaiting } else { Admitted::AtOnce }),
            Ok(Admission::Waiting(waiting)) => waiting,
            Err(error) => {
                withdraw(hosts, order).await;
                return Err(error);
            }
        };
        let rest = watch.waiting(&waiting);
        if rest.is_zero() {
            withdraw(hosts, order).await;
            let message = waiting.to_string();
            return Err(CallError { host: waiting.host, reason: Reason::TooManyMigrations, message });
        }
        waits = Some((waiting.side, rest.min(HOLD)));
    }
}

/// `waits`: for which host's turn it is known to wait, and for how much longer it may. What nobody knows yet is told at once.
async fn ask<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    waits: Option<(Side, Duration)>,
) -> Result<Admission, CallError> {
    let hold = |side| waits.filter(|(known, _)| *known == side).map_or(Duration::ZERO, |(_, rest)| rest);
    match hosts.source.admit(order, Side::Source, hold(Side::Source)).await? {
        Admission::Turn => hosts.destination.admit(order, Side::Destination, hold(Side::Destination)).await,
        waiting @ Admission::Waiting(_) => Ok(waiting),
    }
}

/// What both hosts have given it is not another's while this is at work.
pub(super) async fn keeping<S: Agent, D: Agent, T>(
    hosts: &Pair<S, D>,
    order: &Order,
    work: impl Future<Output = T>,
) -> T {
    let kept = join(hosts.source.keep_turn(order, Side::Source), hosts.destination.keep_turn(order, Side::Destination));
    match select(pin!(work), pin!(kept)).await {
        Either::Left((done, _)) => done,
        Either::Right(((never, _), _)) => match never {},
    }
}

/// Lets others have what it does not need any more. A host that does not hear it forgets by itself.
pub(super) async fn withdraw<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order) {
    _ = join(hosts.source.withdraw(order), hosts.destination.withdraw(order)).await;
}
