//! `vmferry zones`

use super::Session;
use crate::{
    exit::{Exit, Failed},
    fleet::heard,
    render::hosts::{zones, zones_document},
};

/// Lists the availability zones and their hosts.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failed> {
    let answers = session.hosts().await;
    session.terminal.show(|| zones(&answers), &zones_document(&answers))?;
    match heard(answers) {
        Ok((_, silent)) => {
            for error in silent {
                session.terminal.warn(&error.to_string());
            }
            Ok(Exit::Done)
        }
        Err(failed) => {
            session.terminal.error(&failed.message);
            Ok(failed.exit)
        }
    }
}
