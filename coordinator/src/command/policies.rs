//! `vmferry policies`

use super::Session;
use crate::{
    exit::{Exit, Failed},
    render::policies::{policies, policies_document},
};

/// Lists the policies by which live migrations come to their end. Calls nobody.
pub(crate) fn run(session: &Session) -> Result<Exit, Failed> {
    let all = session.fleet.policies();
    session.terminal.show(|| policies(all), &policies_document(all))?;
    Ok(Exit::Done)
}
