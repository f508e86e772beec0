//! `vmferry migrate` and `vmferry plan`

use tokio::select;
use vmferry_core::{
    agent::{CallError, Pair},
    flow::{self, Completed, Failure, Planned, Watch as _},
    migration::{Kind, Order},
    reason::Reason,
};

use super::{Session, cannot_watch_signals, drive, planned, strategy};
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::Found,
    interrupt::Interrupts,
    journey::{self, Next, Policies, Search, Target, Trip, Turned, forecast, judge_limits, judge_target, statistics},
    lease,
    render::{
        checks::{self, Foreseen, plan_document},
        live::Live,
        migration::{Report, sentence},
        survey::{chosen, turned_away},
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
    let policies = Policies::of(&session.fleet);
    let mut search = search(session, args, planned.as_ref(), &policies).await?;
    let mut attempt = Box::pin(next(session, args, &policies, &mut search)).await?;
    // Until the last try is over: who wants it to end while the next host is looked for is heard as well.
    let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
    while let Some(Try { order, hosts, is_chosen }) = attempt {
        let live =
            Live::begin(session.terminal, &order).insisting(planned.clone()).with_patience(args.queue.patience());
        let flow = Box::pin(lease::run(&hosts, &order, &live));
        let result = drive::abortable(flow, &hosts, &order, &live, &mut interrupts).await?;
        live.finish(&result);
        let refused = result.as_ref().err().filter(|_| is_chosen && !live.is_cancelled());
        let Some(turned) = refused.and_then(|failure| journey::turned_away(&order, failure)) else {
            return report(session, &hosts, &order, &result, &live, &search).await;
        };
        turn_away(session, &mut search, turned);
        attempt = select! {
            next = Box::pin(next(session, args, &policies, &mut search)) => next?,
            () = interrupts.next() => {
                let result = Err(Failure::NotStarted(aborted(&order)));
                return report(session, &hosts, &order, &result, &live, &search).await;
            }
        };
    }
    nowhere(session, &search)
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
    let policies = Policies::of(&session.fleet);
    let mut search = search(session, args, planned.as_ref(), &policies).await?;
    while let Some(Try { order, hosts, is_chosen }) = Box::pin(next(session, args, &policies, &mut search)).await? {
        let live = Live::quiet(session.terminal).insisting(planned.clone());
        let checked = Box::pin(flow::check(&hosts, &order, &live)).await;
        live.leave();
        if let Some(turned) = journey::turned_away_by(&order, &checked).filter(|_| is_chosen) {
            turn_away(session, &mut search, turned);
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
    nowhere(session, &search)
}

/// Finds the instance, and where it may go. What is unknown or makes no sense is told before anybody is asked.
async fn search(
    session: &Session,
    args: &cli::Migrate,
    planned: Option<&Planned>,
    policies: &Policies,
) -> Result<Search, Failed> {
    let (fleet, asked, target) = (&session.fleet, args.limits.asked(), args.target.target());
    judge_limits(&asked)?;
    judge_target(fleet, &target)?;
    if let Some(planned) = planned {
        let (guest, ..) = session.instance(&planned.order.instance.to_string(), None).await?;
        let trip = Trip::planned(fleet, guest, &planned.order)?;
        let only = Target::host(planned.order.destination.host.clone());
        return Ok(Search::new(fleet, trip, &only, Some(0), Vec::new()));
    }
    let wanted = args.instance.as_deref().unwrap_or_default();
    let Found { guest, hosts, silent } = fleet.found(wanted, args.from.as_ref()).await?;
    // Of the destination the checks will tell.
    for error in silent.iter().filter(|error| !target.to.contains(&error.host)) {
        session.terminal.warn(&format!("could not ask whether there is another {wanted}: {error}"));
    }
    let kind = args.cold.kind(guest.state);
    let trip = Trip::new(policies, guest, &asked, kind).await?.with_priority(args.queue.priority.into());
    Ok(Search::new(fleet, trip, &target, args.retries, hosts))
}

/// A host that is tried.
struct Try {
    order: Order,
    hosts: Pair<RemoteAgent, RemoteAgent>,
    /// Whether the user has left it open: then others may be tried as well.
    is_chosen: bool,
}

/// The next host to try; `None`: there is none left.
async fn next(
    session: &Session,
    args: &cli::Migrate,
    policies: &Policies,
    search: &mut Search,
) -> Result<Option<Try>, Failed> {
    let Some(Next { endpoint, candidate, others }) = search.next().await? else { return Ok(None) };
    let guest = &search.trip.guest;
    if let Some(candidate) = &candidate {
        session.terminal.note(&chosen(&guest.name, &endpoint.host, candidate, others));
    }
    let order = search.trip.order(&endpoint);
    let hosts = session.pair(&order)?;
    let order = strategy::settle(session, policies, &hosts, &args.limits.asked(), order, guest).await?;
    Ok(Some(Try { order, hosts, is_chosen: candidate.is_some() }))
}

fn turn_away(session: &Session, search: &mut Search, turned: Turned) {
    session.terminal.note(&turned_away(&turned));
    search.turned_away(turned);
}

/// That no host takes it, with the reasons of all.
fn nowhere(session: &Session, search: &Search) -> Result<Exit, Failed> {
    let survey = search.nowhere();
    let exit = survey.exit();
    session.terminal.error(&survey.sentence());
    session.terminal.note(survey.reasons().trim_end());
    session.terminal.show(String::new, &survey.document(exit))?;
    Ok(exit)
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
