//! `vmferry watch`

use std::{cell::Cell, time::Duration};

use tokio::time::{Instant, sleep};
use vmferry_core::{
    flow::Watch as _,
    migration::{Order, Record},
};

use super::Session;
use crate::{
    cli,
    client::Seen,
    exit::{Exit, Failed},
    history::Migration,
    render::{
        Output,
        live::Live,
        migration::past,
        watch::{ended_line, sample_line},
    },
};

/// How long the destination may take to end its half once the source has ended its own, and how often it is asked.
const BOTH_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// Shows a migration as it goes on, and how it ends. Whoever looks on changes nothing, nor does leaving.
pub(crate) async fn run(session: &Session, args: &cli::Watch) -> Result<Exit, Failed> {
    let (migration, _) = session.migration_of(&args.migration).await?;
    let order = &migration.order;
    let source = session.fleet.agent_at(&order.source);
    let live = Live::resume(session.terminal, order);
    let (phase, percent) = (Cell::new(None), Cell::new(0));
    let seen = |Seen { record, progress, token }: Seen| {
        let Record { outcome, .. } = record;
        if outcome.is_none() && phase.replace(Some(record.phase())) != Some(record.phase()) {
            live.phase(record.phase());
        }
        let Some(progress) = progress else { return Ok(()) };
        if session.terminal.output == Output::Text {
            live.progress(progress);
            return Ok(());
        }
        let (line, now) = sample_line(order, record.phase(), token, percent.get(), &progress);
        percent.set(now);
        session.terminal.print(&line)
    };
    let watched = source.watch(order.id, args.after, seen).await;
    live.leave();
    watched?;

    let migration = ended(session, order).await?;
    let exit = Exit::of_migration(&migration);
    let message = match migration.outcome() {
        Some(_) => format!("migration {} ended {}", order.id, past(&migration)),
        None => {
            format!("migration {0} has not ended on both hosts; end it with vmferry migrations resolve {0}", order.id)
        }
    };
    match session.terminal.output {
        Output::Text => session.terminal.print(&format!("{message}\n"))?,
        Output::Json => session.terminal.print(&ended_line(&migration, exit, &message))?,
    }
    Ok(exit)
}

/// The migration once both hosts have ended it, or have not in time.
async fn ended(session: &Session, order: &Order) -> Result<Migration, Failed> {
    let begun = Instant::now();
    loop {
        let (migration, _) = session.migration(&order.id.to_string()).await?;
        if !migration.is_open() || begun.elapsed() > BOTH_LIMIT {
            return Ok(migration);
        }
        sleep(LOOK).await;
    }
}
