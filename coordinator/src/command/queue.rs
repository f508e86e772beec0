//! Migrations that wait for their turn.

use vmferry_core::{agent::CallError, flow::Failure, migration::Order, reason::Reason};

use super::Session;
use crate::{
    exit::{Exit, Failed},
    render::{live::Live, migration::Report},
};

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
