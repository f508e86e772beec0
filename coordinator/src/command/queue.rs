//! Migrations that wait for their turn.

use tokio::try_join;
use vmferry_core::{
    agent::{CallError, Pair},
    flow::Failure,
    id::MigrationId,
    migration::Order,
    reason::Reason,
    turns::Waiter,
};

use super::Session;
use crate::{
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::each,
    history::{Migration, SHORTEST_PREFIX},
    render::{live::Live, migration::Report, queue::why},
};

/// What a user means by a name or an id.
pub(super) enum Known {
    /// One that has not begun: it waits, or it is just its turn.
    Queued(Box<Waiter>),
    /// One of which the hosts have records.
    Begun(Box<Migration>),
}

impl Known {
    /// What was asked for.
    pub(super) fn order(&self) -> &Order {
        match self {
            Self::Queued(waiter) => &waiter.order,
            Self::Begun(migration) => &migration.order,
        }
    }
}

/// The migration that is meant: the one that goes on, or else waits, or else was the last.
pub(super) async fn known(session: &Session, wanted: &str) -> Result<Known, Failed> {
    let begun = session.migration_of(wanted).await;
    let may_wait = match &begun {
        // Who names an id means this one.
        Ok((migration, _)) => !migration.is_open() && migration.order.instance_name == wanted,
        Err(failed) => is_unknown(failed, wanted),
    };
    if may_wait && let Some(waiter) = session.fleet.queued(wanted).await? {
        return Ok(Known::Queued(Box::new(waiter)));
    }
    begun.map(|(migration, _)| Known::Begun(Box::new(migration)))
}

/// Whether no migration is known by that; several may be. What is too short for an id may be a name.
fn is_unknown(failed: &Failed, wanted: &str) -> bool {
    failed.reason == Some(Reason::MigrationNotFound) || wanted.len() < SHORTEST_PREFIX
}

/// What the hosts of a migration say of it while it has not begun. `None`: it has, or nobody asks for it any more.
pub(super) async fn of(hosts: &Pair<RemoteAgent, RemoteAgent>, id: MigrationId) -> Result<Option<Waiter>, CallError> {
    let (here, there) = try_join!(hosts.source.queued(), hosts.destination.queued())?;
    Ok(each(here.into_iter().chain(there)).into_iter().find(|waiter| waiter.order.id == id))
}

/// That nothing can be told to one that waits; `error`: there is none that goes on.
pub(super) async fn cannot_be_told(session: &Session, wanted: &str, error: Failed) -> Failed {
    if !is_unknown(&error, wanted) {
        return error;
    }
    match session.fleet.queued(wanted).await {
        Ok(Some(waiter)) => {
            let Order { id, instance_name: name, .. } = &waiter.order;
            let message = format!(
                "the migration of {name} has not begun, so nothing can be told to it: {}. Tell it once it moves (vmferry watch {id}), or end its \
                 wait (vmferry abort {id}) and migrate with other limits",
                why(&waiter)
            );
            Failed::because(Reason::NothingToSteer, message)
        }
        Ok(None) | Err(_) => error,
    }
}

/// Tells that a migration was aborted which waited: nothing was changed for it.
pub(crate) fn aborted(session: &Session, order: &Order) -> Result<Exit, Failed> {
    let live = Live::quiet(session.terminal);
    let result = Err(while_it_waited(order));
    let report = Report {
        order,
        result: &result,
        exit: Exit::Done,
        statistics: None,
        wall: live.elapsed(),
        phases: vec![],
        tried: &[],
    };
    report.messages(session.terminal);
    session.terminal.show(String::new, &report.document())?;
    Ok(Exit::Done)
}

/// What its driver is told, too.
pub(crate) fn while_it_waited(order: &Order) -> Failure {
    let message = format!("the migration of {} was aborted while it waited", order.instance_name);
    Failure::NotStarted(CallError { host: order.source.host.clone(), reason: Reason::MigrationAborted, message })
}
