//! `vmferry migrate`

use uuid::Uuid;
use vmferry_core::{
    agent::{Agent, CallError, Pair},
    convergence::{Forecast, Job, Policy, load},
    disk::copied_by_the_job,
    flow,
    flow::Failure,
    id::MigrationId,
    instance::Instance,
    migration::{Kind, Limits, Order, Statistics},
};

use super::{Session, drive, limits, strategy};
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    render::{
        checks::{self, Foreseen, plan_document},
        live::Live,
        migration::{Report, sentence},
        unnamed,
    },
};

/// Moves an instance, or says what would be done.
pub(crate) async fn run(session: &Session, args: &cli::Migrate) -> Result<Exit, Failed> {
    if args.dry_run {
        return plan(session, args).await;
    }
    let (order, guest) = order(session, args).await?;
    let hosts = session.pair(&order)?;
    let order = Box::pin(strategy::settle(session, &hosts, args, order, &guest)).await?;

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

/// Says what would be done.
pub(crate) async fn plan(session: &Session, args: &cli::Migrate) -> Result<Exit, Failed> {
    let (order, guest) = order(session, args).await?;
    let hosts = session.pair(&order)?;
    let order = Box::pin(strategy::settle(session, &hosts, args, order, &guest)).await?;
    Box::pin(dry_run(session, &hosts, &order)).await
}

/// Finds the instance and both hosts.
async fn order(session: &Session, args: &cli::Migrate) -> Result<(Order, Instance), Failed> {
    // What is unknown or makes no sense is told before anybody is asked.
    limits::judge(&args.limits)?;
    let destination = session.fleet.agent(&args.to)?.endpoint().clone();
    let (guest, _, silent) = session.instance(&args.instance, args.from.as_ref()).await?;
    // Of the destination the checks will tell.
    for error in silent.iter().filter(|error| error.host != args.to) {
        session.terminal.warn(&format!("could not ask whether there is another {}: {error}", args.instance));
    }
    let kind = args.cold.kind(guest.state);
    let policy = match kind {
        Kind::Live => limits::policy(&session.fleet, &args.limits, &guest).await?,
        Kind::Cold { .. } => Policy::default(),
    };
    let order = Order {
        id: MigrationId(Uuid::now_v7()),
        instance: guest.id,
        instance_name: guest.name.clone(),
        source: session.fleet.agent(&guest.host)?.endpoint().clone(),
        destination,
        kind,
        limits: Limits {
            policy,
            bandwidth: args.limits.bandwidth,
            streams: args.limits.streams,
            path: args.limits.path.into(),
        },
    };
    Ok((order, guest))
}

async fn dry_run(session: &Session, hosts: &Pair<RemoteAgent, RemoteAgent>, order: &Order) -> Result<Exit, Failed> {
    let live = Live::quiet(session.terminal);
    let checked = Box::pin(flow::check(hosts, order, &live)).await;
    live.leave();
    let checked = checked.map_err(|error| Failed {
        message: sentence(order, &Err(Failure::NotStarted(error.clone()))),
        ..error.into()
    })?;
    let exit = if checked.is_refused() { Exit::Refused } else { Exit::Done };
    let foreseen = match order.kind {
        Kind::Live if !checked.is_refused() => foresee(session, hosts, order, &checked).await,
        Kind::Live | Kind::Cold { .. } => None,
    };
    let document = plan_document(order, &checked, foreseen.as_ref(), exit);
    session.terminal.show(|| checks::plan(order, &checked, foreseen.as_ref()), &document)?;
    Ok(exit)
}

/// How it may go. What cannot be measured hinders no migration.
async fn foresee(
    session: &Session,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    plan: &flow::Plan,
) -> Option<Foreseen> {
    let foreseen = forecast(hosts, order, plan).await;
    foreseen.inspect_err(|error| session.terminal.warn(&format!("there is no forecast: {}", unnamed(error)))).ok()
}

/// What is measured now, and what follows from it.
pub(crate) async fn forecast(
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    plan: &flow::Plan,
) -> Result<Foreseen, CallError> {
    let measured = hosts.source.measure(order).await?;
    let Limits { policy, bandwidth, .. } = &order.limits;
    let (disks, sizes) = copied_by_the_job(&plan.resolved);
    let job = Job { disks, load: load(measured.memory, sizes) };
    Ok((measured, Forecast::of(&measured, job, policy, *bandwidth)))
}

/// The flow has them unless the job's answer was lost; then the source's record has.
pub(crate) async fn statistics(
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
