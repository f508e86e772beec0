//! `vmferry watch`

use std::cell::Cell;

use vmferry_core::{flow::Watch as _, migration::Record};

use super::Session;
use crate::{
    cli,
    client::Seen,
    exit::{Exit, Failed},
    history,
    render::{
        Output,
        live::Live,
        migration::past,
        watch::{ended_line, sample_line},
    },
};

/// Shows a migration as it goes on, and how it ends. Whoever looks on changes nothing, nor does leaving.
pub(crate) async fn run(session: &Session, args: &cli::Watch) -> Result<Exit, Failed> {
    let (migrations, silent) = session.migrations(crate::client::Which::All).await?;
    let migration = history::watched(migrations, &silent, &args.migration)?;
    let order = &migration.order;
    let source = session.fleet.agent(&order.source.host)?;
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

    // Of both hosts: the destination may have something to tell as well.
    let (migration, _) = session.migration(&order.id.to_string()).await?;
    let exit = Exit::of_migration(&migration);
    let message = format!("migration {} ended {}", order.id, past(&migration));
    match session.terminal.output {
        Output::Text => session.terminal.print(&format!("{message}\n"))?,
        Output::Json => session.terminal.print(&ended_line(&migration, exit, &message))?,
    }
    Ok(exit)
}
