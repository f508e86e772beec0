//! `vmferry watch`

use std::{cell::Cell, time::Duration};

use tokio::time::{Instant, sleep};
use vmferry_core::{
    agent::Agent as _,
    flow::Watch as _,
    migration::{Order, Record},
    reason::Reason,
    turns::WAITS,
};

use super::{
    Session,
    queue::{self, Known, known},
};
use crate::{
    cli,
    client::Seen,
    exit::{Exit, Failed},
    heed::heeding,
    history::Migration,
    render::{
        Output,
        live::Live,
        migration::past,
        watch::{ended_line, sample_line, waiting_line},
    },
};

/// How long the destination may take to end its half once the source has ended its own, and how often it is asked.
const BOTH_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);
/// How often hosts are asked of one that waits.
const LOOK_AT_QUEUE: Duration = Duration::from_millis(500);
/// After how long it is taken for gone of which its hosts know nothing any more: an agent that was restarted hears of it again.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

/// Shows a migration as it goes on, and how it ends. Whoever looks on changes nothing, nor does leaving.
pub(crate) async fn run(session: &Session, args: &cli::Watch) -> Result<Exit, Failed> {
    let known = known(session, &args.migration).await?;
    let order = known.order();
    let source = session.fleet.agent_at(&order.source);
    let live = Live::resume(session.terminal, order);
    if let Known::Queued(_) = known {
        let begun = await_turn(session, order, &live).await;
        live.clear();
        begun?;
    }
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
    let watched = heeding(&source, &live, source.watch(order.id, args.after, seen)).await;
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

/// Returns once the migration has begun.
async fn await_turn(session: &Session, order: &Order, live: &Live) -> Result<(), Failed> {
    let hosts = session.pair(order)?;
    let mut told = None;
    let mut last = Instant::now();
    loop {
        match queue::of(&hosts, order.id).await {
            Ok(Some(waiter)) => {
                last = Instant::now();
                if !waiter.has_turn && told.as_ref() != Some(&waiter.waiting) {
                    match session.terminal.output {
                        Output::Text => _ = live.waiting(&waiter.waiting),
                        Output::Json => session.terminal.print(&waiting_line(&waiter))?,
                    }
                    told = Some(waiter.waiting);
                }
            }
            Ok(None) if hosts.source.record(order).await?.is_some() => return Ok(()),
            Ok(None) if last.elapsed() > ASKED_AGAIN => return Err(not_begun(order)),
            Err(error) if last.elapsed() > WAITS => return Err(error.into()),
            Ok(None) | Err(_) => {}
        }
        sleep(LOOK_AT_QUEUE).await;
    }
}

fn not_begun(order: &Order) -> Failed {
    let Order { id, instance_name: name, source, .. } = order;
    let message = format!(
        "migration {id} does not wait any more and was not begun: it was aborted, did not want to wait any longer, or was refused when it was \
         its turn; nothing was changed for it, {name} was left on {}",
        source.host
    );
    Failed { exit: Exit::Failed, ..Failed::because(Reason::MigrationNotFound, message) }
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
