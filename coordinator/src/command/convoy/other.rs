//! Guests that somebody else moves, or has begun to move and left.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vmferry_core::{
    flow::{self, Failure},
    instance::Instance,
    migration::Phase,
};

use crate::{
    client::Which,
    command::Session,
    exit::Exit,
    history::Migration,
    render::{convoy::Ended, live::Live},
};

/// How long both hosts may take to get ready while somebody drives them: longer than a phase may take. Who takes longer is not driven any more.
const DRIVEN: Duration = Duration::from_secs(70);
const LOOK: Duration = Duration::from_millis(500);

/// Waits until the migration of a guest has ended that somebody else has begun; ends it if nobody drives it any more.
pub(in crate::command) async fn await_end(session: &Session, guest: &Instance) -> Ended {
    let begun = Instant::now();
    loop {
        let (migration, silent) = match session.migrations(Which::Active).await {
            Ok((migrations, silent)) => {
                (migrations.into_iter().find(|migration| migration.order.instance == guest.id), silent)
            }
            Err(failed) => return Ended::failed(guest, None, failed.exit, failed.message),
        };
        let Some(migration) = migration else {
            // Of a host that says nothing it is not known.
            if silent.iter().any(|error| error.host == guest.host) {
                sleep(LOOK).await;
                continue;
            }
            return found(session, guest, begun.elapsed()).await;
        };
        // Before the job runs, whoever joins would take it back: the one who drives it may just be about to begin it.
        if migration.phase() >= Phase::Migrate || begun.elapsed() > DRIVEN {
            return resolve(session, guest, &migration, begun).await;
        }
        sleep(LOOK).await;
    }
}

/// The job runs, or nobody drives it: it is waited for, and the rest is done.
async fn resolve(session: &Session, guest: &Instance, migration: &Migration, begun: Instant) -> Ended {
    let order = &migration.order;
    let hosts = match session.pair(order) {
        Ok(hosts) => hosts,
        Err(failed) => return Ended::failed(guest, None, failed.exit, failed.message),
    };
    let result = Box::pin(flow::resolve(&hosts, order, &Live::quiet(session.terminal))).await;
    match &result {
        // Whoever drives it has got there first.
        Err(Failure::NotStarted(_)) => found(session, guest, begun.elapsed()).await,
        result => Ended::of(order, result, begun.elapsed()),
    }
}

/// Where the guest is, now that nobody moves it.
async fn found(session: &Session, guest: &Instance, took: Duration) -> Ended {
    match session.instance(&guest.id.to_string(), None).await {
        Ok((now, ..)) if now.host != guest.host => Ended::moved_by_others(guest, now.host, took),
        Ok(_) => {
            let message = format!("somebody else's migration of {} has ended, and it is where it was", guest.name);
            Ended::failed(guest, None, Exit::Failed, message)
        }
        Err(failed) => Ended::failed(guest, None, failed.exit, failed.message),
    }
}
