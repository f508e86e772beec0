//! `vmferry migrations resolve`

use serde::Serialize;
use vmferry_core::{
    agent::{Agent, CallError, Pair},
    flow::{Completed, Failure},
    migration::Order,
};

use super::{Session, drive};
use crate::{
    client::{RemoteAgent, Which},
    exit::{Exit, Failed},
    history::{self, Migration},
    lease,
    render::{
        Output, Unreachable,
        live::Live,
        migration::{Report, past, past_document},
        unnamed,
    },
};

#[derive(Serialize)]
struct Document<'a> {
    exit_code: u8,
    migrations: Vec<serde_json::Value>,
    /// Hosts that could not be asked what is open there.
    unreachable: Vec<Unreachable<'a>>,
}

/// Ends one migration, or all that are open.
pub(crate) async fn run(session: &Session, wanted: Option<&str>) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    match wanted {
        Some(wanted) => one(session, wanted).await,
        None => all(session).await,
    }
}

async fn one(session: &Session, wanted: &str) -> Result<Exit, Failed> {
    let (migration, silent) = session.migration(wanted).await?;
    let (exit, document) = match session.is_settled(&migration, &silent) {
        true => ended(session, &migration),
        false => Box::pin(resolve(session, &migration)).await?,
    };
    show(session, exit, vec![document], &[])
}

async fn all(session: &Session) -> Result<Exit, Failed> {
    let (mut migrations, silent) = session.migrations(Which::All).await?;
    migrations.retain(|migration| migration.is_open() || migration.has_leftovers());
    for error in &silent {
        session.terminal.warn(&format!("{} could not be asked for migrations: {}", error.host, unnamed(error)));
    }
    if migrations.is_empty() {
        session.terminal.note(&nothing(&silent));
    }
    let (mut exits, mut documents) = (Vec::new(), Vec::new());
    for migration in &migrations {
        match Box::pin(resolve(session, migration)).await {
            Ok((exit, document)) => {
                exits.push(exit);
                documents.push(document);
            }
            Err(failed) if failed.exit == Exit::Interrupted => return Err(failed),
            // Of others it is still to be told.
            Err(failed) => {
                session.terminal.error(&failed.message);
                exits.push(failed.exit);
            }
        }
    }
    // What is open there was meant too.
    if !silent.is_empty() {
        exits.push(Exit::Unreachable);
    }
    show(session, Exit::of_several(&exits), documents, &silent)
}

fn show(
    session: &Session,
    exit: Exit,
    migrations: Vec<serde_json::Value>,
    silent: &[CallError],
) -> Result<Exit, Failed> {
    let unreachable = silent.iter().map(Into::into).collect();
    session.terminal.show(String::new, &Document { exit_code: exit.code(), migrations, unreachable })?;
    Ok(exit)
}

/// That there is nothing to do, as far as that is known.
fn nothing(silent: &[CallError]) -> String {
    if silent.is_empty() {
        return "no migration is open: there is nothing to resolve".into();
    }
    let hosts: Vec<_> = silent.iter().map(|error| error.host.as_str()).collect();
    format!(
        "no migration is open on the hosts that answered; {} could not be asked: \
         run vmferry migrations resolve again when that is mended",
        hosts.join(", ")
    )
}

/// What has ended is not ended again: the guest may have gone elsewhere since.
fn ended(session: &Session, migration: &Migration) -> (Exit, serde_json::Value) {
    let message = format!("migration {} ended {}", migration.order.id, past(migration));
    session.terminal.note(&message);
    let document = past_document(migration, Exit::Done, &message);
    (Exit::Done, serde_json::to_value(document).unwrap_or_default())
}

async fn resolve(session: &Session, migration: &Migration) -> Result<(Exit, serde_json::Value), Failed> {
    let order = &migration.order;
    let hosts = session.fleet.pair_of(order);
    let live = Live::resume(session.terminal, order);
    let flow = Box::pin(lease::resolve(&hosts, order, &live));
    let result = drive::leavable(flow, order, &live).await?;
    live.finish(&result);
    let statistics = match &result {
        Ok(completed) if completed.statistics.is_none() => {
            hosts.source.record(order).await.ok().flatten().and_then(|record| record.statistics)
        }
        Ok(completed) => completed.statistics,
        Err(_) => None,
    };
    let exit = exit(&hosts, order, &result).await;
    let report =
        Report { order, result: &result, exit, statistics, wall: live.elapsed(), phases: live.phases(), tried: &[] };
    report.messages(session.terminal);
    if session.terminal.output == Output::Text {
        session.terminal.print(&report.text())?;
    }
    let document = serde_json::to_value(report.document()).unwrap_or_default();
    Ok((report.exit, document))
}

/// Its end was asked for, on whichever host the guest is then.
async fn exit(hosts: &Pair<RemoteAgent, RemoteAgent>, order: &Order, result: &Result<Completed, Failure>) -> Exit {
    let complaints = match result {
        Ok(completed) => &completed.warnings,
        Err(Failure::RolledBack { leftovers, .. }) => leftovers,
        Err(_) => return Exit::of_flow(result),
    };
    if complaints.is_empty() {
        return Exit::Done;
    }
    // Does one keep a host from its end? The hosts know.
    let mut halves = Vec::new();
    for agent in [&hosts.source, &hosts.destination] {
        match agent.migrations(Which::All).await {
            Ok(theirs) => halves.extend(theirs.into_iter().filter(|half| half.order.id == order.id)),
            Err(error) => return Exit::of_reason(error.reason),
        }
    }
    match history::merge(halves).first() {
        Some(migration) if !migration.is_settled(|_| true) => Exit::Failed,
        _ => Exit::Done,
    }
}
