//! `vmferry abort`

use vmferry_core::{
    flow::{self, Failure},
    reason::Reason,
};

use super::{Session, drive};
use crate::{
    cli,
    exit::{Exit, Failed},
    render::{live::Live, migration::Report},
};

/// Ends a migration on its source, whether its coordinator lives or not.
pub(crate) async fn run(session: &Session, args: &cli::Abort) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let migration = session.migration(&args.id).await?;
    let order = &migration.order;
    let too_late = || {
        let (name, destination) = (&order.instance_name, &order.destination.host);
        format!("too late to abort: {name} runs on {destination}; to bring it back, migrate it back")
    };
    match migration.outcome().map(Exit::of_outcome) {
        Some(Exit::Done) => return Err(Failed::because(Reason::TooLateToAbort, too_late())),
        Some(_) => {
            let outcome = migration.outcome().map(|outcome| outcome.to_string()).unwrap_or_default();
            session.terminal.note(&format!("migration {} has ended already: {outcome}", order.id));
        }
        None => {}
    }

    let hosts = session.pair(order)?;
    let live = Live::begin(session.terminal, order);
    live.cancel();
    let insisting = async {
        if let Err(error) = drive::insist(&hosts.source, order.id).await {
            live.say(&format!("cannot abort: {error}"));
        }
        std::future::pending().await
    };
    // Both may run side by side with the coordinator that began it: every call is idempotent.
    let flow = Box::pin(async {
        tokio::select! {
            result = flow::resolve(&hosts, order, &live) => result,
            never = insisting => never,
        }
    });
    let result = drive::leavable(flow, order, &live).await?;
    live.finish(&result);
    let exit = match &result {
        Ok(_) => Exit::Failed,
        Err(Failure::RolledBack { .. }) => Exit::Done,
        failed => Exit::of_flow(failed),
    };
    let statistics = result.as_ref().ok().and_then(|completed| completed.statistics);
    let report = Report { order, result: &result, exit, statistics, wall: live.elapsed(), phases: live.phases() };
    if result.is_ok() {
        session.terminal.error(&too_late());
    }
    report.messages(session.terminal);
    session.terminal.show(|| report.text(), &report.document())?;
    Ok(exit)
}
