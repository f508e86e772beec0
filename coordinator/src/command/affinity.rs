//! `vmferry instance affinity`

use vmferry_core::{affinity::Membership, domain_xml::metadata::AffinityChange};

use super::Session;
use crate::{
    cli::{SetAffinity, UnsetAffinity, Which},
    exit::{Exit, Failed},
    render::{
        affinity,
        instances::{show as show_instance, show_document},
    },
};

/// Which affinity groups an instance is in.
pub(crate) async fn show(session: &Session, Which { instance, from }: &Which) -> Result<Exit, Failed> {
    let (guest, _, silent) = session.instance(instance, from.as_ref()).await?;
    session.terminal.show(|| affinity::show(&guest), &affinity::document(&guest))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Puts it into one.
pub(crate) async fn set(session: &Session, args: &SetAffinity) -> Result<Exit, Failed> {
    let joined = Membership { group: args.group.clone(), policy: args.policy };
    change(session, &args.instance, AffinityChange::Join(joined)).await
}

/// Takes it out of one, or of all.
pub(crate) async fn unset(session: &Session, args: &UnsetAffinity) -> Result<Exit, Failed> {
    let left = args.group.clone().map_or(AffinityChange::LeaveAll, AffinityChange::Leave);
    change(session, &args.instance, left).await
}

async fn change(session: &Session, Which { instance, from }: &Which, what: AffinityChange) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (guest, zones, _) = session.instance(instance, from.as_ref()).await?;
    let changed = session.fleet.agent(&guest.host)?.set_affinity(guest.id, what).await?;
    session.terminal.show(|| show_instance(&changed, &zones), &show_document(&changed, &zones))?;
    Ok(Exit::Done)
}
