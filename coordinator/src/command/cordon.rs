//! `vmferry cordon`, `uncordon`

use vmferry_core::agent::CallError;

use super::Session;
use crate::{
    cli,
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::Answer,
    render::cordon::{closed, closed_document, opened, opened_document},
};

/// Has hosts take no guests from now on.
pub(crate) async fn close(session: &Session, cli::Cordon { hosts, reason }: &cli::Cordon) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let answers = session.fleet.ask_these(hosts, async |agent: &RemoteAgent| agent.cordon(reason).await).await?;
    let exit = exit(&answers);
    session.terminal.show(|| closed(&answers), &closed_document(&answers, exit))?;
    tell(session, &answers);
    Ok(exit)
}

/// Has hosts take guests again.
pub(crate) async fn open(session: &Session, cli::Uncordon { hosts }: &cli::Uncordon) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let open = async |agent: &RemoteAgent| Ok(agent.uncordon().await?.was);
    let answers = session.fleet.ask_these(hosts, open).await?;
    let exit = exit(&answers);
    session.terminal.show(|| opened(&answers), &opened_document(&answers, exit))?;
    tell(session, &answers);
    Ok(exit)
}

fn exit<T>(answers: &[Answer<T>]) -> Exit {
    let of_one = |answer: &Answer<T>| {
        answer.result.as_ref().map_or_else(|error: &CallError| Exit::of_reason(error.reason), |_| Exit::Done)
    };
    Exit::of_several(&answers.iter().map(of_one).collect::<Vec<_>>())
}

fn tell<T>(session: &Session, answers: &[Answer<T>]) {
    for error in answers.iter().filter_map(|answer| answer.result.as_ref().err()) {
        session.terminal.error(&error.to_string());
    }
}
