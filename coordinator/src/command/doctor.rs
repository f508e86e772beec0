//! `vmferry doctor`

use std::io::{self, IsTerminal as _, Write as _};

use tokio::task::spawn_blocking;
use vmferry_core::{
    agent::CallError,
    leftovers::{Leftover, LeftoverName, Level, Removal, elsewhere},
};

use super::Session;
use crate::{
    cli,
    client::{RemoteAgent, Which},
    exit::{Exit, Failed},
    fleet::Answer,
    render::doctor::{Examined, Removed, document, questions, text},
};

/// Looks at every host for what migrations have left there; has that removed if it is asked to.
pub(crate) async fn run(session: &Session, args: &cli::Doctor) -> Result<Exit, Failed> {
    if args.fix {
        session.may_coordinate()?;
    }
    let found = session.fleet.ask_these(&args.hosts, RemoteAgent::leftovers).await?;
    let removable = found.iter().filter_map(|answer| answer.result.as_ref().ok()).flatten().any(|one| one.removable);
    let is_wanted = args.fix && !args.dry_run;
    let examined = if is_wanted && removable && (args.yes || may_remove(session, &found).await?) {
        remove(session, &found).await
    } else {
        found.into_iter().map(|answer| Examined::only_looked_at(answer, is_wanted)).collect()
    };
    let examined = with_copies(session, examined).await;
    let exit = Exit::of_several(&examined.iter().map(exit).collect::<Vec<_>>());
    session.terminal.show(|| text(&examined), &document(&examined, exit))?;
    if removable && (!args.fix || args.dry_run) {
        session.terminal.note("`vmferry doctor --fix` removes what is marked with *");
    }
    for error in examined.iter().flat_map(Examined::errors) {
        session.terminal.error(&error.to_string());
    }
    Ok(exit)
}

/// Adds what no host can tell by itself: guests that are on several. Hosts that do not say what they have are told of elsewhere.
async fn with_copies(session: &Session, mut examined: Vec<Examined>) -> Vec<Examined> {
    // Before and after: one that begins or ends meanwhile may be seen on both its hosts.
    let Ok((before, _)) = session.migrations(Which::Active).await else { return examined };
    let Ok((instances, ..)) = session.instances().await else { return examined };
    let Ok((after, _)) = session.migrations(Which::Active).await else { return examined };
    let moving = before.iter().chain(&after).map(|migration| migration.order.instance).collect();
    for (host, leftover) in elsewhere(&instances, &moving) {
        let of_host = examined.iter_mut().find(|one| one.left.endpoint.host == host);
        if let Some(Ok(found)) = of_host.map(|one| &mut one.left.result) {
            found.push(leftover);
        }
    }
    examined
}

/// Shows what would be removed, and asks.
async fn may_remove(session: &Session, found: &[Answer<Vec<Leftover>>]) -> Result<bool, Failed> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failed::usage("--fix asks before it removes anything, and nobody can be asked here; add --yes"));
    }
    session.terminal.note(&questions(found));
    let answer = spawn_blocking(|| {
        let _ = write!(io::stderr().lock(), "Remove them? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.map_err(io::Error::from).and_then(|answer| answer);
    let answer = answer.map_err(|error| Failed::usage(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Has each host remove what it has shown, and looks again.
async fn remove(session: &Session, found: &[Answer<Vec<Leftover>>]) -> Vec<Examined> {
    let of_host = async |answer: &Answer<Vec<Leftover>>| {
        let Ok(leftovers) = &answer.result else { return Examined::only_looked_at(answer.clone(), true) };
        let names: Vec<_> = leftovers.iter().filter(|one| one.removable).map(Leftover::name).collect();
        let Ok(agent) = session.fleet.agent(&answer.endpoint.host) else {
            return Examined::only_looked_at(answer.clone(), true);
        };
        if names.is_empty() {
            return Examined::only_looked_at(answer.clone(), true);
        }
        let removed = agent.remove_leftovers(&names).await.map(|removals| matched(names, removals));
        let endpoint = answer.endpoint.clone();
        let left = Answer { endpoint, result: agent.leftovers().await };
        Examined { left, removed: Some(removed) }
    };
    futures::future::join_all(found.iter().map(of_host)).await
}

fn matched(names: Vec<LeftoverName>, removals: Vec<Removal>) -> Vec<Removed> {
    names.into_iter().zip(removals).map(|(name, removal)| Removed { name, removal }).collect()
}

/// Of one host. That nothing could be seen there does not mean that nothing is there.
fn exit(examined: &Examined) -> Exit {
    let of_error = |error: &CallError| Exit::of_reason(error.reason);
    match (&examined.left.result, &examined.removed) {
        (Err(error), _) | (Ok(_), Some(Err(error))) => of_error(error),
        (Ok(left), _) if left.iter().all(|leftover| leftover.level == Level::Note) => Exit::Done,
        (Ok(_), _) => Exit::Failed,
    }
}
