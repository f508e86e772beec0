//! `vmferry hypervisors`

use jiff::Timestamp;

use vmferry_core::{agent::CallError, host::Host};

use super::Session;
use crate::{
    client::RemoteAgent,
    clock,
    exit::{Exit, Failed},
    fleet::heard,
    render::hosts::{expiring, hypervisors, hypervisors_document},
};

/// Lists the hosts. A host that is down is a row; only if all are down the command fails.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failed> {
    let answers = session.fleet.ask(timed).await;
    let skews: Vec<_> = answers.iter().filter_map(|answer| answer.result.as_ref().ok()?.1.clone()).collect();
    let mut answers: Vec<_> = answers.into_iter().map(|answer| answer.map(|(host, _)| host)).collect();
    session.fleet.explain(&mut answers);
    // Those that are not called have been told as warnings.
    let rows: Vec<_> = answers.iter().cloned().chain(session.fleet.left_out()).collect();
    session.terminal.show(|| hypervisors(&rows), &hypervisors_document(&rows))?;
    let (hosts, silent) = match heard(answers) {
        Ok(heard) => heard,
        Err(failed) => {
            session.terminal.error(&failed.message);
            return Ok(failed.exit);
        }
    };
    for error in silent {
        session.terminal.warn(&error.to_string());
    }
    for sentence in skews {
        session.terminal.warn(&sentence);
    }
    let certificates = hosts.iter().map(|host| (host.name.as_str(), host.certificate_expires));
    for sentence in expiring(certificates, Timestamp::now()) {
        session.terminal.warn(&sentence);
    }
    Ok(Exit::Done)
}

/// Facts of a host, and what is to be said of its clock.
async fn timed(agent: &RemoteAgent) -> Result<(Host, Option<String>), CallError> {
    let asked = Timestamp::now();
    let host = agent.facts().await?;
    let skew = host.answered.and_then(|answered| clock::skew(asked, answered, Timestamp::now()));
    let sentence = skew.map(|skew| clock::sentence(&host.name, skew));
    Ok((host, sentence))
}
