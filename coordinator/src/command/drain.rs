//! `vmferry drain` and `vmferry undrain`

use std::sync::Arc;

use vmferry_core::id::HostName;

use super::{Session, cannot_watch_signals};
use crate::{
    cli,
    convoy::{self, Begun, Ended, Ending, Listener, Pace},
    exit::{Exit, Failed},
    interrupt::Interrupts,
    render::{
        board::Board,
        convoy::{complaints, document, plan as shown, summary},
    },
};

/// Moves all guests away from a host, or says what would be done.
pub(crate) async fn drain(session: &Session, args: &cli::Drain) -> Result<Exit, Failed> {
    if !args.dry_run {
        session.may_coordinate()?;
    }
    let (host, target, pace) = (&args.host, args.target.target(), pace(&args.pace));
    let begun = convoy::drain(&session.fleet, host, &args.reason, &target, pace, args.dry_run).await?;
    if let Some(cordon) = &begun.cordon {
        session.terminal.note(&format!("{host} is cordoned ({}): nobody comes to it any more", cordon.reason));
    }
    if args.dry_run {
        return foresee(session, begun, host).await;
    }
    run(session, begun, host, format!("drain of {host}")).await
}

/// Lets guests come to a host again, and brings those home that have left it.
pub(crate) async fn undrain(session: &Session, args: &cli::Undrain) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let host = &args.host;
    let begun = convoy::undrain(&session.fleet, host, args.bring_back, pace(&args.pace)).await?;
    let was =
        begun.cordon.as_ref().map(|cordon| format!("since {}, by {}: {}", cordon.since, cordon.by, cordon.reason));
    session.terminal.note(&match (was, begun.open_since) {
        (Some(was), None) => format!("{host} is no longer cordoned (it was {was})"),
        (Some(was), Some(open)) => format!("{host} is open since {open} (before, it was cordoned {was})"),
        (None, _) => format!("{host} was not cordoned: nothing tells who has left it"),
    });
    run(session, begun, host, format!("return to {host}")).await
}

fn pace(pace: &cli::Pace) -> Pace {
    Pace { limits: pace.limits(), each: pace.each() }
}

async fn foresee(session: &Session, begun: Begun, host: &HostName) -> Result<Exit, Failed> {
    let Begun { mut convoy, off, .. } = begun;
    convoy.foresee().await;
    let plan = convoy.plan(&session.hosts().await);
    let exit = exit(plan.moves.len(), plan.blocked.len());
    session.terminal.show(|| shown(&plan, &off), &document(host, &plan, &[], &off, exit))?;
    Ok(exit)
}

async fn run(session: &Session, begun: Begun, host: &HostName, what: String) -> Result<Exit, Failed> {
    let Begun { convoy, off, .. } = begun;
    let plan = convoy.plan(&session.hosts().await);
    let board = Arc::new(Board::begin(session.terminal, what, convoy.guests(), plan.total));
    let ending = Ending::default();
    let listener: Arc<dyn Listener> = board.clone();
    let ended = interruptible(Box::pin(convoy.go(listener, &ending)), &ending).await;
    board.leave();
    let ended = ended?;
    let exits: Vec<_> = ended.iter().map(Ended::exit).collect();
    let exit = Exit::of_several(&exits);
    complaints(session.terminal, &ended);
    session.terminal.show(|| summary(&ended, &off), &document(host, &plan, &ended, &off, exit))?;
    Ok(exit)
}

/// The first interrupt lets nobody start any more, the second leaves.
async fn interruptible<T>(
    mut going: impl Future<Output = Result<T, Failed>> + Unpin,
    Ending { stop, leave }: &Ending,
) -> Result<T, Failed> {
    let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
    loop {
        tokio::select! {
            ended = &mut going => return ended,
            () = interrupts.next() => if stop.is_cancelled() { leave.cancel() } else { stop.cancel() },
        }
    }
}

fn exit(moves: usize, blocked: usize) -> Exit {
    match (moves, blocked) {
        (_, 0) => Exit::Done,
        (0, _) => Exit::Refused,
        _ => Exit::Partly,
    }
}
