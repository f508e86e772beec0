//! `vmferry migrate`

use uuid::Uuid;
use vmferry_core::{
    agent::{Agent, Pair},
    flow,
    flow::Failure,
    id::MigrationId,
    migration::{Order, Statistics},
};

use super::{Session, drive};
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    render::{
        checks::{plan, plan_document},
        live::Live,
        migration::{Report, sentence},
    },
};

/// Moves an instance, or says what would be done.
pub(crate) async fn run(session: &Session, args: &cli::Migrate) -> Result<Exit, Failed> {
    let order = order(session, args).await?;
    let hosts = session.pair(&order)?;
    if args.dry_run {
        return dry_run(session, &hosts, &order).await;
    }

    let live = Live::begin(session.terminal, &order);
    let flow = Box::pin(flow::run(&hosts, &order, &live));
    let result = drive::abortable(flow, &hosts, &order, &live).await?;
    live.finish(&result);
    let report = Report {
        order: &order,
        result: &result,
        exit: Exit::of_flow(&result),
        wall: live.elapsed(),
        phases: live.phases(),
        statistics: statistics(&hosts, &order, &result).await,
    };
    report.messages(session.terminal);
    // Where the guest is decides how this ends, not whether stdout could take it.
    if let Err(failed) = session.terminal.show(|| report.text(), &report.document()) {
        session.terminal.error(&failed.message);
    }
    Ok(report.exit)
}

/// Finds the instance and both hosts.
async fn order(session: &Session, args: &cli::Migrate) -> Result<Order, Failed> {
    // An unknown host is told before anybody is asked.
    let destination = session.fleet.agent(&args.to)?.endpoint().clone();
    let (guest, _, silent) = session.instance(&args.instance, args.from.as_ref()).await?;
    // Of the destination the checks will tell.
    for error in silent.iter().filter(|error| error.host != args.to) {
        session.terminal.warn(&format!("could not ask whether there is another {}: {error}", args.instance));
    }
    Ok(Order {
        id: MigrationId(Uuid::now_v7()),
        instance: guest.id,
        instance_name: guest.name,
        source: session.fleet.agent(&guest.host)?.endpoint().clone(),
        destination,
        kind: args.cold.kind(guest.state),
    })
}

async fn dry_run(session: &Session, hosts: &Pair<RemoteAgent, RemoteAgent>, order: &Order) -> Result<Exit, Failed> {
    let live = Live::quiet(session.terminal);
    let checked = flow::check(hosts, order, &live).await;
    live.leave();
    let checked = checked.map_err(|error| Failed {
        message: sentence(order, &Err(Failure::NotStarted(error.clone()))),
        ..error.into()
    })?;
    let exit = if checked.is_refused() { Exit::Refused } else { Exit::Done };
    session.terminal.show(|| plan(order, &checked), &plan_document(order, &checked, exit))?;
    Ok(exit)
}

/// The flow has them unless the job's answer was lost; then the source's record has.
async fn statistics(
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    result: &Result<flow::Completed, Failure>,
) -> Option<Statistics> {
    match result {
        Ok(completed) if completed.statistics.is_none() => hosts.source.record(order).await.ok()??.statistics,
        Ok(completed) => completed.statistics,
        Err(_) => None,
    }
}
