//! `vmferry report`

use std::{
    fs,
    io::{self, IsTerminal as _},
};

use jiff::Timestamp;
use serde_json::json;

use super::Session;
use crate::{
    cli,
    exit::{Exit, Failed},
    render::{
        Output,
        report::{page, picture},
    },
};

/// Draws how a migration went.
pub(crate) async fn run(session: &Session, args: &cli::Report) -> Result<Exit, Failed> {
    let format = if args.svg { "svg" } else { "html" };
    match (&args.file, session.terminal.output) {
        (None, _) if io::stdout().is_terminal() => {
            return Err(Failed::usage(format!(
                "a terminal shows no {format}: name a file (--file FILE), or redirect stdout"
            )));
        }
        (None, Output::Json) => {
            return Err(Failed::usage(format!(
                "{format} is no JSON: name a file (--file FILE); the figures as JSON has vmferry migrations show"
            )));
        }
        _ => {}
    }
    let (migration, silent) = session.whole_migration(&args.migration).await?;
    let now = Timestamp::now();
    let drawn = if args.svg { picture(&migration, now) } else { page(&migration, now) };
    session.warn_of(&silent);
    let Some(file) = &args.file else {
        session.terminal.print(&drawn)?;
        return Ok(Exit::Done);
    };
    fs::write(file, &drawn).map_err(|error| {
        let message = format!("cannot write {}: {error}", file.display());
        Failed { exit: Exit::Failed, ..Failed::usage(message) }
    })?;
    let document = json!({
        "migration_id": migration.id(), "format": format, "file": file.display().to_string(), "size_bytes": drawn.len(),
    });
    let written = || format!("{}\n", file.display());
    session.terminal.show(written, &document)?;
    Ok(Exit::Done)
}
