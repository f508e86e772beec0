//! `vmferry instance limits`

use vmferry_core::{
    convergence::{Excess, GuestLimits},
    domain_xml::metadata::limits::judged,
};

use super::Session;
use crate::{
    cli::{SetOwnLimits, Which},
    exit::{Exit, Failed},
    render::{
        instances::{show as show_instance, show_document},
        limits,
    },
};

/// What an instance's live migrations may cost it.
pub(crate) async fn show(session: &Session, Which { instance, from }: &Which) -> Result<Exit, Failed> {
    let (guest, _, silent) = session.instance(instance, from.as_ref()).await?;
    session.terminal.show(|| limits::show(&guest), &limits::document(&guest))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Says what they may cost it.
pub(crate) async fn set(session: &Session, args: &SetOwnLimits) -> Result<Exit, Failed> {
    let limits = judged(args.said.limits()).map_err(|error| Failed::usage(error.to_string()))?;
    change(session, &args.instance, limits).await
}

/// Forgets it.
pub(crate) async fn unset(session: &Session, which: &Which) -> Result<Exit, Failed> {
    change(session, which, GuestLimits::default()).await
}

async fn change(session: &Session, Which { instance, from }: &Which, limits: GuestLimits) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (guest, zones, _) = session.instance(instance, from.as_ref()).await?;
    if let Some(name) = &limits.policy {
        let policy = session.fleet.policy(name, &guest.host).await?;
        let restrained = limits.restrain(&policy).map_err(|error| Failed::usage(error.to_string()))?;
        if limits.judge(&restrained).iter().any(|excess| matches!(excess, Excess::Suspend { .. })) {
            return Err(Failed::usage(format!(
                "policy {name} stops {}, which these limits never allow; add --suspend allowed, or name another policy",
                guest.name
            )));
        }
    }
    let changed = session.fleet.agent(&guest.host)?.set_guest_limits(guest.id, limits).await?;
    session.terminal.show(|| show_instance(&changed, &zones), &show_document(&changed, &zones))?;
    Ok(Exit::Done)
}
