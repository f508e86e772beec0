//! Guests that somebody else moves, or has begun to move and left.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vmferry_core::{
    flow::{self, Failure},
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Phase},
    schedule::Wish,
};

use crate::{
    client::{PREPARED, Which},
    command::Session,
    exit::Failed,
    history::{self, Migration},
    render::{convoy::Ended, live::Live},
};

/// How long a migration may stay before its job, or its host silent, until it is taken for one that nobody drives.
const DRIVEN: Duration = PREPARED;
const LOOK: Duration = Duration::from_millis(500);

/// A guest that leaves its host with a migration that is not ours.
#[derive(Debug, Clone)]
pub(in crate::command) struct Stray {
    instance: InstanceId,
    name: String,
    /// The host that it shall leave, or shall have left.
    source: HostName,
    /// Where it may go if it does not get there.
    wish: Wish,
}

impl Stray {
    /// A guest that is being moved.
    pub(super) fn new(guest: &Instance, wish: Wish) -> Self {
        Self { instance: guest.id, name: guest.name.clone(), source: guest.host.clone(), wish }
    }

    /// Whether it is this guest.
    pub(in crate::command) fn is(&self, guest: &Instance) -> bool {
        self.instance == guest.id
    }

    /// What this order moves, away from this host or to it.
    pub(in crate::command) fn of(order: &Order, host: &HostName, wish: Wish) -> Self {
        let Order { instance, instance_name, .. } = order;
        Self { instance: *instance, name: instance_name.clone(), source: host.clone(), wish }
    }
}

/// What has become of it.
pub(super) enum Found {
    /// It has gone, or cannot be told.
    Ended(Box<Ended>),
    /// It is where it was, and nobody moves it.
    Here(Box<Instance>, Wish),
}

/// Waits until the migration of a guest has ended that somebody else has begun; ends it if nobody drives it any more.
pub(super) async fn await_end(session: &Session, stray: Stray) -> Found {
    let begun = Instant::now();
    // Which migration is seen, and since when.
    let mut seen = (None, Instant::now());
    loop {
        let halves = match session.fleet.agent(&stray.source) {
            Ok(agent) => agent.migrations(Which::Active).await,
            Err(failed) => return lost(&stray, failed),
        };
        let id = match halves {
            Ok(halves) => {
                let migrations =
                    history::merge(halves.into_iter().filter(|half| half.order.instance == stray.instance));
                let Some(migration) = migrations.first() else {
                    return found(session, stray, begun.elapsed()).await;
                };
                // Before the job runs, whoever joins would take it back: the one who drives it may just be about to begin it.
                let is_left = seen.0 == Some(migration.order.id) && seen.1.elapsed() > DRIVEN;
                if migration.phase() >= Phase::Migrate || is_left {
                    return Box::pin(resolve(session, stray, migration, begun)).await;
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
async fn resolve(session: &Session, stray: Stray, migration: &Migration, begun: Instant) -> Found {
    let order = &migration.order;
    let hosts = match session.pair(order) {
        Ok(hosts) => hosts,
        Err(failed) => return lost(&stray, failed),
    };
    let result = Box::pin(flow::resolve(&hosts, order, &Live::quiet(session.terminal))).await;
    match &result {
        // It is back where it was, or whoever drives it has got there first.
        Err(Failure::RolledBack { .. } | Failure::NotStarted(_)) => found(session, stray, begun.elapsed()).await,
        // It has come here.
        Ok(_) if order.source.host != stray.source => found(session, stray, begun.elapsed()).await,
        result => Found::Ended(Box::new(Ended::of(order, result, begun.elapsed()))),
    }
}

/// Where the guest is, now that nobody moves it.
async fn found(session: &Session, stray: Stray, took: Duration) -> Found {
    match session.instance(&stray.instance.to_string(), None).await {
        Ok((now, ..)) if now.host == stray.source => Found::Here(Box::new(now), stray.wish),
        Ok((now, ..)) => {
            let Stray { instance, name, source, .. } = stray;
            Found::Ended(Box::new(Ended::moved_by_others(instance, name, source, now.host, took)))
        }
        Err(failed) => lost(&stray, failed),
    }
}

fn lost(Stray { instance, name, source, .. }: &Stray, failed: Failed) -> Found {
    Found::Ended(Box::new(Ended::failed(*instance, name, source, failed.exit, failed.message)))
}
