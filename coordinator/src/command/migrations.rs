//! `vmferry migrations` and `vmferry migrations show`

use jiff::Timestamp;
use tokio::try_join;

use super::{
    Session,
    queue::{Known, known},
};
use crate::{
    cli,
    client::{RemoteAgent, Which},
    exit::{Exit, Failed},
    fleet::heard,
    history::{self, Migration},
    render::{
        migrations::{list, list_document, show, show_document},
        queue,
    },
};

/// Lists migrations, the newest first; above them those that wait.
pub(crate) async fn run(session: &Session, args: &cli::Migrations) -> Result<Exit, Failed> {
    // A migration is open if either half is; the other half may have ended: so all are asked for.
    let answers =
        session.fleet.ask(async |agent: &RemoteAgent| try_join!(agent.migrations(Which::All), agent.waiters())).await;
    let (given, silent) = heard(answers)?;
    let (halves, waiters): (Vec<_>, Vec<_>) = given.into_iter().unzip();
    let mut migrations = history::merge(halves.into_iter().flatten());
    let waiters: Vec<_> = waiters.into_iter().flatten().collect();
    if args.active {
        migrations.retain(Migration::is_open);
    }
    let all = migrations.len();
    if args.limit > 0 {
        migrations.truncate(args.limit);
    }
    let now = Timestamp::now();
    let text = || {
        let waiting = if waiters.is_empty() { String::new() } else { queue::list(&waiters) + "\n" };
        waiting + &list(&migrations, now)
    };
    session.terminal.show(text, &list_document(&migrations, &waiters, &silent, now))?;
    if migrations.len() < all {
        session.terminal.note(&format!("the newest {} of {all}; all: --limit 0", migrations.len()));
    }
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Shows one migration, both halves; of one that waits, why.
pub(crate) async fn show_one(session: &Session, wanted: &str) -> Result<Exit, Failed> {
    if let Known::Queued(waiter) = known(session, wanted).await? {
        let text = || queue::list(std::slice::from_ref(&*waiter));
        session.terminal.show(text, &queue::show_document(&waiter))?;
        return Ok(Exit::Done);
    }
    let (migration, silent) = session.whole_migration(wanted).await?;
    let now = Timestamp::now();
    session.terminal.show(|| show(&migration, now), &show_document(&migration, now))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}
