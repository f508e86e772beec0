//! `vmferry instance show`

use super::Session;
use crate::{
    cli::Which,
    exit::{Exit, Failed},
    render::instances::{show, show_document},
};

/// Shows one instance.
pub(crate) async fn run(session: &Session, Which { instance, from }: &Which) -> Result<Exit, Failed> {
    let (guest, zones, silent) = session.instance(instance, from.as_ref()).await?;
    session.terminal.show(|| show(&guest, &zones), &show_document(&guest, &zones))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}
