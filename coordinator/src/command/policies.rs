//! `vmferry policies`

use super::Session;
use crate::{
    cli,
    exit::{Exit, Failed},
    render::policies::{policies, policies_document},
};

/// Lists the policies by which live migrations come to their end. Calls nobody, unless it is about a host.
pub(crate) async fn run(session: &Session, args: &cli::Policies) -> Result<Exit, Failed> {
    let all = session.fleet.policies(args.host.as_ref()).await?;
    session.terminal.show(|| policies(&all), &policies_document(&all))?;
    Ok(Exit::Done)
}
