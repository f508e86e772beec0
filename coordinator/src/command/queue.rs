//! Migrations that wait for their turn.

use vmferry_core::{
    agent::{Agent as _, CallError},
    flow::Failure,
    migration::Order,
    reason::Reason,
    turns::Waiter,
};

use super::Session;
use crate::{
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::heard,
    render::{live::Live, migration::Report},
};

/// Ends the wait of the migration that the user means, if it is one that waits: nothing was changed for it. `None`: it is none, or not
/// any more.
pub(super) async fn abort(session: &Session, wanted: &str) -> Result<Option<Exit>, Failed> {
    // Of hosts that do not answer those will tell who look for it among the others.
    let answers = session.fleet.ask(async |agent: &RemoteAgent| agent.waiters().await).await;
    let (given, _) = heard(answers)?;
    let Some(Waiter { order, waiting, .. }) = meant(given.into_iter().flatten(), wanted)? else { return Ok(None) };
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

/// The one of this instance, or of which this is the id or its beginning.
fn meant(waiters: impl Iterator<Item = Waiter>, wanted: &str) -> Result<Option<Waiter>, Failed> {
    let prefix = wanted.to_ascii_lowercase();
    let is_meant = |Waiter { order, .. }: &Waiter| {
        order.instance_name == wanted
            || (prefix.len() >= crate::history::SHORTEST_PREFIX && order.id.to_string().starts_with(&prefix))
    };
    let mut meant: Vec<_> = waiters.filter(is_meant).collect();
    meant.dedup_by_key(|waiter| waiter.order.id);
    match (meant.len(), meant.pop()) {
        (2.., _) => Err(Failed::usage(format!(
            "several migrations that wait may be meant by {wanted}; name one by its id (`vmferry migrations`)"
        ))),
        (_, waiter) => Ok(waiter),
    }
}
