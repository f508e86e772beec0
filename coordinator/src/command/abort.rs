//! `vmferry abort`

use vmferry_core::{flow::Failure, reason::Reason};

use super::{Session, drive, queue};
use crate::{
    cli,
    exit::{Exit, Failed},
    fleet::Ending,
    history::Migration,
    lease,
    render::{
        live::Live,
        migration::{Report, past, past_document, sentence},
        unnamed,
    },
};

/// Ends a migration on its source, whether its coordinator lives or not.
pub(crate) async fn run(session: &Session, args: &cli::Abort) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (migration, silent) = match session.fleet.end_wait(&args.id, |agent| agent).await? {
        Ending::Waited(order) => return queue::aborted(session, &order),
        Ending::Begun(migration, silent) => (migration, silent),
    };
    let order = &migration.order;
    if session.is_settled(&migration, &silent) {
        return ended(session, &migration);
    }

    let hosts = session.fleet.pair_of(order);
    let live = Live::resume(session.terminal, order);
    live.cancel();
    let insisting = async {
        if let Err(error) = drive::insist(&hosts.source, order.id).await {
            live.say(&format!("{} cannot abort: {}", order.source.host, unnamed(&error)));
        }
        std::future::pending().await
    };
    // Both may run side by side with the coordinator that began it: every call is idempotent.
    let flow = Box::pin(async {
        tokio::select! {
            result = lease::resolve(&hosts, order, &live) => result,
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
    let report =
        Report { order, result: &result, exit, statistics, wall: live.elapsed(), phases: live.phases(), tried: &[] };
    if result.is_ok() {
        let message = format!("too late to abort: {}; to bring it back, migrate it back", sentence(order, &result));
        session.terminal.error(&message);
    }
    report.messages(session.terminal);
    session.terminal.show(|| report.text(), &report.document())?;
    Ok(exit)
}

/// What has ended is not ended again: the guest may have gone elsewhere since.
fn ended(session: &Session, migration: &Migration) -> Result<Exit, Failed> {
    let message = format!("migration {} has ended already, {}", migration.order.id, past(migration));
    if migration.outcome().map(Exit::of_outcome) == Some(Exit::Done) {
        let message = format!("too late to abort: {message}; to bring it back, migrate it back");
        return Err(Failed::because(Reason::TooLateToAbort, message));
    }
    session.terminal.note(&message);
    session.terminal.show(String::new, &past_document(migration, Exit::Done, &message))?;
    Ok(Exit::Done)
}
