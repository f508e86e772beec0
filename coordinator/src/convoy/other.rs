//! Guests that somebody else moves, or has begun to move and left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vmferry_core::{
    flow::Failure,
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Phase},
};

use super::{Ended, Goal};
use crate::{
    client::{PREPARED, Which},
    exit::Failed,
    fleet::Fleet,
    history::{self, Migration},
    journey::Unheard,
    lease,
};

/// How long a migration may stay before its job, or its host silent, until it is taken for one that nobody drives.
const DRIVEN: Duration = PREPARED;
const LOOK: Duration = Duration::from_millis(500);

/// A guest that is moved by a migration that is not ours.
#[derive(Debug, Clone)]
pub(super) struct Stray {
    pub(super) instance: InstanceId,
    pub(super) name: String,
    /// The host that knows the migration.
    source: HostName,
}

impl Stray {
    /// A guest that is being moved.
    pub(super) fn new(guest: &Instance) -> Self {
        Self { instance: guest.id, name: guest.name.clone(), source: guest.host.clone() }
    }

    /// Whether it is this guest.
    pub(super) fn is(&self, guest: &Instance) -> bool {
        self.instance == guest.id
    }

    /// What this order moves, away from this host or to it.
    pub(super) fn of(order: &Order, host: &HostName) -> Self {
        let Order { instance, instance_name, .. } = order;
        Self { instance: *instance, name: instance_name.clone(), source: host.clone() }
    }
}

/// What has become of it.
pub(super) enum Found {
    /// It has gone, or cannot be told.
    Ended(Box<Ended>),
    /// It is not where it should be, and nobody moves it.
    Here(Box<Instance>),
}

/// Waits until the migration of a guest has ended that somebody else has begun; ends it if nobody drives it any more.
pub(super) async fn await_end(fleet: Arc<Fleet>, goal: Goal, stray: Stray) -> Found {
    let begun = Instant::now();
    // Which migration is seen, and since when.
    let mut seen = (None, Instant::now());
    loop {
        let halves = match fleet.agent(&stray.source) {
            Ok(agent) => agent.migrations(Which::Active).await,
            Err(failed) => return lost(&stray, failed),
        };
        let id = match halves {
            Ok(halves) => {
                let migrations =
                    history::merge(halves.into_iter().filter(|half| half.order.instance == stray.instance));
                let Some(migration) = migrations.first() else {
                    return found(&fleet, &goal, stray, begun.elapsed()).await;
                };
                // Before the job runs, whoever joins would take it back: the one who drives it may just be about to begin it.
                let is_left = seen.0 == Some(migration.order.id) && seen.1.elapsed() > DRIVEN;
                if migration.phase() >= Phase::Migrate || is_left {
                    return Box::pin(resolve(&fleet, &goal, stray, migration, begun)).await;
                }
                Some(migration.order.id)
            }
            Err(error) if seen.0.is_none() && seen.1.elapsed() > DRIVEN => return lost(&stray, error.into()),
            Err(_) => None,
        };
        if seen.0 != id {
            seen = (id, Instant::now());
        }
        sleep(LOOK).await;
    }
}

/// The job runs, or nobody drives it: it is waited for, and the rest is done.
async fn resolve(fleet: &Fleet, goal: &Goal, stray: Stray, migration: &Migration, begun: Instant) -> Found {
    let order = &migration.order;
    let hosts = match fleet.pair(order) {
        Ok(hosts) => hosts,
        Err(failed) => return lost(&stray, failed),
    };
    let result = Box::pin(lease::join(&hosts, order, &Unheard)).await;
    match &result {
        // It is back where it was, or whoever drives it has got there first.
        Err(Failure::RolledBack { .. } | Failure::NotStarted(_)) => found(fleet, goal, stray, begun.elapsed()).await,
        // It has gone elsewhere.
        Ok(_) if !goal.is_served_by(order) => found(fleet, goal, stray, begun.elapsed()).await,
        result => Found::Ended(Box::new(Ended::of(order, result, begun.elapsed()))),
    }
}

/// Where the guest is, now that nobody moves it.
async fn found(fleet: &Fleet, goal: &Goal, stray: Stray, took: Duration) -> Found {
    match fleet.instance(&stray.instance.to_string(), None).await {
        Ok((now, ..)) if goal.is_met(&now) => {
            let Stray { instance, name, source, .. } = stray;
            Found::Ended(Box::new(Ended::moved_by_others(instance, name, source, now.host, took)))
        }
        Ok((now, ..)) => Found::Here(Box::new(now)),
        Err(failed) => lost(&stray, failed),
    }
}

fn lost(Stray { instance, name, source, .. }: &Stray, failed: Failed) -> Found {
    Found::Ended(Box::new(Ended::failed(*instance, name, source, failed.exit, failed.message)))
}
