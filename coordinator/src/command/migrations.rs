//! `vmferry migrations` and `vmferry migrations show`

use jiff::Timestamp;

use super::Session;
use crate::{
    cli,
    client::Which,
    exit::{Exit, Failed},
    history::Migration,
    render::migrations::{list, list_document, show, show_document},
};

/// Lists migrations, the newest first.
pub(crate) async fn run(session: &Session, args: &cli::Migrations) -> Result<Exit, Failed> {
    // A migration is open if either half is; the other half may have ended: so all are asked for.
    let (mut migrations, silent) = session.migrations(Which::All).await?;
    if args.active {
        migrations.retain(Migration::is_open);
    }
    let all = migrations.len();
    if args.limit > 0 {
        migrations.truncate(args.limit);
    }
    let now = Timestamp::now();
    session.terminal.show(|| list(&migrations, now), &list_document(&migrations, &silent, now))?;
    if migrations.len() < all {
        session.terminal.note(&format!("the newest {} of {all}; all: --limit 0", migrations.len()));
    }
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Shows one migration, both halves.
pub(crate) async fn show_one(session: &Session, wanted: &str) -> Result<Exit, Failed> {
    let (migration, silent) = session.whole_migration(wanted).await?;
    let now = Timestamp::now();
    session.terminal.show(|| show(&migration, now), &show_document(&migration, now))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}
