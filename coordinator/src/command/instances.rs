//! `vmferry instances`

use super::Session;
use crate::{
    exit::{Exit, Failed},
    find::guests,
    render::instances::{list, list_document},
};

/// Lists the instances of all hosts, by name. A host that is down costs its own instances only.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failed> {
    let (instances, zones, silent) = session.instances().await?;
    let mut guests = guests(instances);
    guests.sort_by(|a, b| (&a.name, a.id, &a.host).cmp(&(&b.name, b.id, &b.host)));
    session.terminal.show(|| list(&guests, &zones), &list_document(&guests, &zones, &silent))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}
