//! Migrations that wait for their turn.

use std::collections::BTreeMap;

use tokio::try_join;
use vmferry_core::{
    agent::{Agent as _, CallError, Pair},
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
    fleet::heard,
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
    if may_wait && let Some(waiter) = queued(session, wanted).await? {
        return Ok(Known::Queued(Box::new(waiter)));
    }
    begun.map(|(migration, _)| Known::Begun(Box::new(migration)))
}

/// Whether no migration is known by that; several may be. What is too short for an id may be a name.
fn is_unknown(failed: &Failed, wanted: &str) -> bool {
    failed.reason == Some(Reason::MigrationNotFound) || wanted.len() < SHORTEST_PREFIX
}

/// The migration that is meant and has not begun; `None`: there is none.
pub(super) async fn queued(session: &Session, wanted: &str) -> Result<Option<Waiter>, Failed> {
    // Of hosts that do not answer those will tell who look for it among the others.
    let answers = session.fleet.ask(async |agent: &RemoteAgent| agent.queued().await).await;
    let (given, _) = heard(answers)?;
    meant(given.into_iter().flatten(), wanted)
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
    match queued(session, wanted).await {
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

/// Ends the wait of the migration that the user means, if it is one that waits: nothing was changed for it. `None`: it is none, or not
/// any more.
pub(super) async fn abort(session: &Session, wanted: &str) -> Result<Option<Exit>, Failed> {
    let Some(Waiter { order, waiting, .. }) = queued(session, wanted).await? else { return Ok(None) };
    session.fleet.agent(&waiting.host)?.abort(order.id).await?;
    // It may just have begun: then its job was told to end, and whoever drives it brings it there.
    let hosts = session.pair(&order)?;
    if hosts.source.record(&order).await?.is_some() {
        return Ok(None);
    }
    let live = Live::quiet(session.terminal);
    let result = Err(Failure::NotStarted(aborted(&order)));
    let report = Report {
        order: &order,
        result: &result,
        exit: Exit::Done,
        statistics: None,
        wall: live.elapsed(),
        phases: vec![],
        tried: &[],
    };
    report.messages(session.terminal);
    session.terminal.show(String::new, &report.document())?;
    Ok(Some(Exit::Done))
}

fn aborted(order: &Order) -> CallError {
    let message = format!("the migration of {} was aborted while it waited", order.instance_name);
    CallError { host: order.source.host.clone(), reason: Reason::MigrationAborted, message }
}

/// Each once: as the host tells of it for which it waits, if it has its turn on the other.
fn each(waiters: impl Iterator<Item = Waiter>) -> Vec<Waiter> {
    let mut each: BTreeMap<MigrationId, Waiter> = BTreeMap::new();
    for waiter in waiters {
        let known = each.entry(waiter.order.id).or_insert_with(|| waiter.clone());
        if known.has_turn {
            *known = waiter;
        }
    }
    each.into_values().collect()
}

/// The one of this instance, or of which this is the id or its beginning.
fn meant(waiters: impl Iterator<Item = Waiter>, wanted: &str) -> Result<Option<Waiter>, Failed> {
    let prefix = wanted.to_ascii_lowercase();
    let is_meant = |Waiter { order, .. }: &Waiter| {
        order.instance_name == wanted || (prefix.len() >= SHORTEST_PREFIX && order.id.to_string().starts_with(&prefix))
    };
    let mut meant = each(waiters.filter(is_meant));
    match (meant.len(), meant.pop()) {
        (2.., _) => Err(Failed::usage(format!(
            "several migrations that wait may be meant by {wanted}; name one by its id (`vmferry migrations`)"
        ))),
        (_, waiter) => Ok(waiter),
    }
}
