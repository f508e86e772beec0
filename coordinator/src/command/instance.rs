//! `vmferry instance show`

use vmferry_core::id::HostName;

use super::Session;
use crate::{
    exit::{Exit, Failed},
    render::instances::{show, show_document},
};

/// Shows one instance.
pub(crate) async fn run(session: &Session, wanted: &str, from: Option<&HostName>) -> Result<Exit, Failed> {
    let (guest, zones, silent) = session.instance(wanted, from).await?;
    session.terminal.show(|| show(&guest, &zones), &show_document(&guest, &zones))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}
