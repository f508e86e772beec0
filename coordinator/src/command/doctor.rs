//! `vmferry doctor`

use vmferry_core::leftovers::{Leftover, Level};

use super::Session;
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::Answer,
    render::doctor::{document, text},
};

/// Looks at every host for what migrations have left there. Changes nothing.
pub(crate) async fn run(session: &Session, args: &cli::Doctor) -> Result<Exit, Failed> {
    let answers = session.fleet.ask_these(&args.hosts, RemoteAgent::leftovers).await?;
    let exits: Vec<_> = answers.iter().map(exit).collect();
    let exit = Exit::of_several(&exits);
    session.terminal.show(|| text(&answers), &document(&answers, exit))?;
    for answer in &answers {
        if let Err(error) = &answer.result {
            session.terminal.error(&error.to_string());
        }
    }
    Ok(exit)
}

/// Of one host. That nothing could be seen there does not mean that nothing is there.
fn exit(answer: &Answer<Vec<Leftover>>) -> Exit {
    match &answer.result {
        Ok(leftovers) if leftovers.iter().all(|leftover| leftover.level == Level::Note) => Exit::Done,
        Ok(_) => Exit::Failed,
        Err(error) => Exit::of_reason(error.reason),
    }
}
