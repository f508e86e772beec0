//! `vmferry migrations resolve`

use serde::Serialize;
use vmferry_core::{agent::Agent, flow};

use super::{Session, drive};
use crate::{
    client::Which,
    exit::{Exit, Failed},
    history::Migration,
    render::{Output, live::Live, migration::Report},
};

#[derive(Serialize)]
struct Document {
    exit_code: u8,
    migrations: Vec<serde_json::Value>,
}

/// Ends one migration, or all that are open. Those that have ended already are ended again, which changes nothing.
pub(crate) async fn run(session: &Session, wanted: Option<&str>) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (migrations, silent) = match wanted {
        Some(wanted) => (vec![session.migration(wanted).await?], vec![]),
        None => {
            let (mut migrations, silent) = session.migrations(Which::All).await?;
            migrations.retain(Migration::is_open);
            (migrations, silent)
        }
    };
    for error in &silent {
        session.terminal.warn(&format!("{} could not be asked for migrations: {error}", error.host));
    }
    if migrations.is_empty() {
        session.terminal.note("no migration is open: there is nothing to resolve");
    }
    let (mut exits, mut documents) = (Vec::new(), Vec::new());
    for migration in &migrations {
        match Box::pin(resolve(session, migration)).await {
            Ok((exit, document)) => {
                exits.push(exit);
                documents.push(document);
            }
            Err(failed) if failed.exit == Exit::Interrupted || wanted.is_some() => return Err(failed),
            // Of others it is still to be told.
            Err(failed) => {
                session.terminal.error(&failed.message);
                exits.push(failed.exit);
            }
        }
    }
    let exit = Exit::of_several(&exits);
    session.terminal.show(String::new, &Document { exit_code: exit.code(), migrations: documents })?;
    Ok(exit)
}

async fn resolve(session: &Session, migration: &Migration) -> Result<(Exit, serde_json::Value), Failed> {
    let order = &migration.order;
    let hosts = session.pair(order)?;
    let live = Live::begin(session.terminal, order);
    let flow = Box::pin(flow::resolve(&hosts, order, &live));
    let result = drive::leavable(flow, order, &live).await?;
    live.finish(&result);
    let statistics = match &result {
        Ok(completed) if completed.statistics.is_none() => {
            hosts.source.record(order).await.ok().flatten().and_then(|record| record.statistics)
        }
        Ok(completed) => completed.statistics,
        Err(_) => None,
    };
    let exit = Exit::of_flow(&result);
    let report = Report { order, result: &result, exit, statistics, wall: live.elapsed(), phases: live.phases() };
    report.messages(session.terminal);
    if session.terminal.output == Output::Text {
        session.terminal.print(&report.text())?;
    }
    let document = serde_json::to_value(report.document()).unwrap_or_default();
    Ok((report.exit, document))
}
