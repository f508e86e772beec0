//! `vmferry drain` and `vmferry undrain`

use std::collections::BTreeMap;

use jiff::Timestamp;
use vmferry_core::{
    host::{Cordon, Host},
    id::{HostName, InstanceId},
    instance::{Instance, InstanceState},
    migration::{Kind, Outcome, Record, Side},
    reason::Reason,
    schedule::Wish,
};

use super::{
    Session, choose,
    convoy::{Convoy, Stray},
};
use crate::{
    cli,
    client::Which,
    exit::{Exit, Failed},
    find::guests,
    render::{self, board::Board, convoy},
};

/// Moves all guests away from a host, or says what would be done.
pub(crate) async fn drain(session: &Session, args: &cli::Drain) -> Result<Exit, Failed> {
    super::limits::judge(&args.pace.each())?;
    choose::judge(session, &args.target)?;
    let wish = choose::wish(&args.target, Kind::Live);
    let agent = session.fleet.agent(&args.host)?;
    if !args.dry_run {
        session.may_coordinate()?;
        // Before anybody is asked: who comes meanwhile would have to go again.
        let Host { cordon, .. } = agent.facts().await?;
        // Since when it is, tells who has left it: what was said first stays.
        let cordon = match cordon {
            Some(cordon) => cordon,
            None => agent.cordon(&args.reason).await?,
        };
        session.terminal.note(&format!("{} is cordoned ({}): nobody comes to it any more", args.host, cordon.reason));
    }
    // Before the guests are: whoever has begun to leave may be gone when these are listed.
    let leaving = agent.migrations(Which::Active).await?;
    let leaving = leaving.into_iter().filter(|_| !args.dry_run);
    let leaving: Vec<_> = leaving.map(|half| Stray::of(&half.order, &args.host, wish.clone())).collect();
    let here = agent.instances().await?;
    let (off, here): (Vec<_>, Vec<_>) = here.into_iter().partition(|guest| guest.state == InstanceState::Shutoff);
    let mut off = off;
    off.retain(|guest| guest.migration.is_none());
    let here = here.into_iter().filter(|guest| leaving.iter().all(|stray| !stray.is(guest)));
    let here = here.map(|guest| (guest, wish.clone())).collect();
    let mut convoy = Convoy::new(session, args.pace.limits(), args.pace.each());
    convoy.follow(leaving);
    convoy.load(here).await;
    run(session, convoy, &args.host, &format!("drain of {}", args.host), args.dry_run, &off).await
}

/// Lets guests come to a host again, and brings those home that have left it.
pub(crate) async fn undrain(session: &Session, args: &cli::Undrain) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    super::limits::judge(&args.pace.each())?;
    let agent = session.fleet.agent(&args.host)?;
    let Host { cordon, .. } = agent.facts().await?;
    let away = match &cordon {
        Some(cordon) if args.bring_back => away(session, &args.host, cordon).await?,
        _ => Vec::new(),
    };
    agent.uncordon().await?;
    match &cordon {
        Some(cordon) => session.terminal.note(&format!(
            "{} is no longer cordoned (it was since {}, by {}: {})",
            args.host, cordon.since, cordon.by, cordon.reason
        )),
        None => session.terminal.note(&format!("{} was not cordoned: nothing tells who has left it", args.host)),
    }
    let home = Wish { hosts: Some(vec![args.host.clone()]), kind: Kind::Live, ..Wish::default() };
    let away = away.into_iter().map(|guest| (guest, home.clone())).collect();
    let mut convoy = Convoy::new(session, args.pace.limits(), args.pace.each());
    convoy.load(away).await;
    run(session, convoy, &args.host, &format!("return to {}", args.host), false, &[]).await
}

async fn run(
    session: &Session,
    mut convoy: Convoy<'_>,
    host: &HostName,
    what: &str,
    dry_run: bool,
    off: &[Instance],
) -> Result<Exit, Failed> {
    if dry_run {
        convoy.foresee().await;
    }
    let hosts = session.hosts().await;
    let plan = convoy.plan(&hosts);
    if dry_run {
        let exit = exit(plan.moves.len(), plan.blocked.len());
        session.terminal.show(|| convoy::plan(&plan, off), &convoy::document(host, &plan, &[], off, exit))?;
        return Ok(exit);
    }
    let board = Board::begin(session.terminal, what.to_owned(), convoy.guests(), plan.total);
    let ended = Box::pin(convoy.go(&board)).await?;
    let exits: Vec<_> = ended.iter().map(convoy::Ended::exit).collect();
    let exit = Exit::of_several(&exits);
    convoy::complaints(session.terminal, &ended);
    session.terminal.show(|| convoy::summary(&ended, off), &convoy::document(host, &plan, &ended, off, exit))?;
    Ok(exit)
}

fn exit(moves: usize, blocked: usize) -> Exit {
    match (moves, blocked) {
        (_, 0) => Exit::Done,
        (0, _) => Exit::Refused,
        _ => Exit::Partly,
    }
}

/// The guests that have left a host since it was cordoned, and that run elsewhere now.
async fn away(session: &Session, host: &HostName, cordon: &Cordon) -> Result<Vec<Instance>, Failed> {
    let records = session.fleet.agent(host)?.migrations(Which::All).await?;
    let left = gone(&records, cordon.since);
    let (instances, _, silent) = session.instances().await?;
    if !silent.is_empty() {
        let message = format!(
            "guests that have left {host} may be on hosts that do not answer, so it stays cordoned:{}\nwithout --return it is opened, and \
             nobody brought home",
            render::list(&silent)
        );
        return Err(Failed::because(Reason::AgentUnreachable, message));
    }
    let runs = |guest: &Instance| guest.host != *host && guest.state != InstanceState::Shutoff;
    Ok(guests(instances).into_iter().filter(|guest| left.contains_key(&guest.id) && runs(guest)).collect())
}

/// Who has left by a host's own records, both times by its own clock.
fn gone(records: &[Record], since: Timestamp) -> BTreeMap<InstanceId, &str> {
    let has_left = |record: &&Record| {
        let moved = matches!(record.outcome, Some(Outcome::Completed | Outcome::CompletedWithWarnings));
        record.side == Side::Source && moved && record.ended.is_some_and(|ended| ended >= since)
    };
    records.iter().filter(has_left).map(|record| (record.order.instance, record.order.instance_name.as_str())).collect()
}
