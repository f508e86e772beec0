//! `vmferry hypervisors`

use jiff::Timestamp;

use super::Session;
use crate::{
    exit::{Exit, Failed},
    fleet::heard,
    render::hosts::{expiring, hypervisors, hypervisors_document},
};

/// Lists the hosts. A host that is down is a row; only if all are down the command fails.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failed> {
    let answers = session.hosts().await;
    session.terminal.show(|| hypervisors(&answers), &hypervisors_document(&answers))?;
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
    let certificates = hosts.iter().map(|host| (host.name.as_str(), host.certificate_expires));
    for sentence in expiring(certificates, Timestamp::now()) {
        session.terminal.warn(&sentence);
    }
    Ok(Exit::Done)
}
