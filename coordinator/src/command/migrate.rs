//! `vmferry migrate` and `vmferry plan`

use tokio::select;
use vmferry_core::{
    agent::{Agent, CallError, Pair},
    convergence::{Forecast, Job, load},
    disk::{Resolved, copied_by_the_job},
    flow::{self, Completed, Failure, Planned, Watch as _},
    id::HostName,
    migration::{Kind, Limits, Order, Statistics},
    reason::Reason,
};

use super::{
    Session, cannot_watch_signals, choose, drive, limits, planned,
    search::{Next, Search, refusal_of_destination},
    strategy,
    trip::Trip,
};
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    interrupt::Interrupts,
    render::{
        checks::{self, Foreseen, plan_document},
        live::Live,
        migration::{Report, sentence},
        survey::{Verdict, chosen, turned_away},
        unnamed,
    },
};

/// Moves an instance, or says what would be done.
pub(crate) async fn run(session: &Session, args: &cli::Migrate) -> Result<Exit, Failed> {
    if args.dry_run {
        return Box::pin(plan(session, args)).await;
    }
    if args.save.is_some() {
        return Err(Failed::usage("--save writes a plan down, and none is made: use `vmferry plan`, or add --dry-run"));
    }
    let planned = args.plan.as_deref().map(planned::read).transpose()?;
    let mut search = search(session, args, planned.as_ref()).await?;
    let mut attempt = Box::pin(next(session, args, &mut search)).await?;
    // Until the last try is over: who wants it to end while the next host is looked for is heard as well.
    let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
    while let Some(Try { order, hosts, is_chosen }) = attempt {
        let live =
            Live::begin(session.terminal, &order).insisting(planned.clone()).with_patience(args.queue.patience());
        let flow = Box::pin(flow::run(&hosts, &order, &live));
        let result = drive::abortable(flow, &hosts, &order, &live, &mut interrupts).await?;
        live.finish(&result);
        let refused = result.as_ref().err().filter(|_| is_chosen && !live.is_cancelled());
        let Some(verdict) = refused.and_then(|failure| refusal_of_destination(&order, failure)) else {
            return report(session, &hosts, &order, &result, &live, &search).await;
        };
        turn_away(session, &mut search, order.destination.host.clone(), verdict);
        attempt = select! {
            next = Box::pin(next(session, args, &mut search)) => next?,
            () = interrupts.next() => {
                let result = Err(Failure::NotStarted(aborted(&order)));
                return report(session, &hosts, &order, &result, &live, &search).await;
            }
        };
    }
    search.nowhere(session)
}

/// The user has ended it while no host had anything of it.
fn aborted(order: &Order) -> CallError {
    CallError {
        host: order.source.host.clone(),
        reason: Reason::MigrationAborted,
        message: format!("aborted by the user while another host was looked for than {}", order.destination.host),
    }
}

async fn report(
    session: &Session,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    result: &Result<Completed, Failure>,
    live: &Live,
    search: &Search,
) -> Result<Exit, Failed> {
    let report = Report {
        order,
        result,
        exit: Exit::of_flow(result),
        wall: live.elapsed(),
        phases: live.phases(),
        statistics: statistics(hosts, order, result).await,
        tried: search.tried(),
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
    let planned = args.plan.as_deref().map(planned::read).transpose()?;
    let mut search = search(session, args, planned.as_ref()).await?;
    while let Some(Try { order, hosts, is_chosen }) = Box::pin(next(session, args, &mut search)).await? {
        let live = Live::quiet(session.terminal).insisting(planned.clone());
        let checked = Box::pin(flow::check(&hosts, &order, &live)).await;
        live.leave();
        let verdict = match &checked {
            Ok(plan) if !plan.is_refused() => None,
            Ok(plan) => refusal_of_destination(&order, &Failure::Refused(Box::new(plan.clone()))),
            Err(error) => refusal_of_destination(&order, &Failure::NotStarted(error.clone())),
        };
        if let Some(verdict) = verdict.filter(|_| is_chosen) {
            turn_away(session, &mut search, order.destination.host, verdict);
            continue;
        }
        let checked = checked.map_err(|error| Failed {
            message: sentence(&order, &Err(Failure::NotStarted(error.clone()))),
            ..error.into()
        })?;
        let exit = Box::pin(show(session, &hosts, &order, &checked)).await?;
        if let Some(file) = &args.save {
            planned::write(session.terminal, file, &order, &checked)?;
        }
        return Ok(exit);
    }
    search.nowhere(session)
}

/// Finds the instance, and where it may go. What is unknown or makes no sense is told before anybody is asked.
async fn search(session: &Session, args: &cli::Migrate, planned: Option<&Planned>) -> Result<Search, Failed> {
    limits::judge(&args.limits)?;
    choose::judge(session, &args.target)?;
    if let Some(planned) = planned {
        let (guest, ..) = session.instance(&planned.order.instance.to_string(), None).await?;
        let trip = Trip::planned(session, guest, &planned.order)?;
        return Ok(Search::planned(trip, planned));
    }
    let wanted = args.instance.as_deref().unwrap_or_default();
    let (guest, _, silent) = session.instance(wanted, args.from.as_ref()).await?;
    // Of the destination the checks will tell.
    for error in silent.iter().filter(|error| !args.target.to.contains(&error.host)) {
        session.terminal.warn(&format!("could not ask whether there is another {wanted}: {error}"));
    }
    let kind = args.cold.kind(guest.state);
    let trip = Trip::new(&session.fleet, guest, &args.limits, kind).await?.with_priority(args.queue.priority.into());
    Ok(Search::new(trip, &args.target, args.retries))
}

/// A host that is tried.
struct Try {
    order: Order,
    hosts: Pair<RemoteAgent, RemoteAgent>,
    /// Whether the user has left it open: then others may be tried as well.
    is_chosen: bool,
}

/// The next host to try; `None`: there is none left.
async fn next(session: &Session, args: &cli::Migrate, search: &mut Search) -> Result<Option<Try>, Failed> {
    let Some(Next { endpoint, candidate, others }) = search.next(session).await? else { return Ok(None) };
    let guest = &search.trip.guest;
    if let Some(candidate) = &candidate {
        session.terminal.note(&chosen(&guest.name, &endpoint.host, candidate, others));
    }
    let order = search.trip.order(&endpoint);
    let hosts = session.pair(&order)?;
    let order = strategy::settle(session, &hosts, &args.limits, order, guest).await?;
    Ok(Some(Try { order, hosts, is_chosen: candidate.is_some() }))
}

fn turn_away(session: &Session, search: &mut Search, host: HostName, verdict: Verdict) {
    session.terminal.note(&turned_away(&host, &verdict));
    search.turned_away(host, verdict);
}

async fn show(
    session: &Session,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    checked: &flow::Plan,
) -> Result<Exit, Failed> {
    let exit = if checked.is_refused() { Exit::Refused } else { Exit::Done };
    let foreseen = match order.kind {
        Kind::Live if !checked.is_refused() => foresee(session, hosts, order, checked).await,
        Kind::Live | Kind::Cold { .. } => None,
    };
    let document = plan_document(order, checked, foreseen.as_ref(), exit);
    session.terminal.show(|| checks::plan(order, checked, foreseen.as_ref()), &document)?;
    Ok(exit)
}

/// How it may go. What cannot be measured hinders no migration.
async fn foresee(
    session: &Session,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    plan: &flow::Plan,
) -> Option<Foreseen> {
    let foreseen = forecast(&hosts.source, order, &plan.resolved).await;
    foreseen.inspect_err(|error| session.terminal.warn(&format!("there is no forecast: {}", unnamed(error)))).ok()
}

/// What is measured now, and what follows from it for a guest whose disks get there so.
pub(crate) async fn forecast(
    source: &RemoteAgent,
    order: &Order,
    resolved: &[Resolved],
) -> Result<Foreseen, CallError> {
    let measured = source.measure(order).await?;
    let Limits { policy, bandwidth, .. } = &order.limits;
    let (disks, sizes) = copied_by_the_job(resolved);
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
