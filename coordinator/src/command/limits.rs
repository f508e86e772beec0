//! `vmferry instance limits`, and what they make of a migration's policy.

use vmferry_core::{
    convergence::{AUTO, DEFAULT, Excess, GuestLimits, InvalidPolicy, May, Policy, named},
    domain_xml::metadata::limits::judged,
    instance::Instance,
    migration::Path,
};

use super::Session;
use crate::{
    cli::{self, SetOwnLimits, Which},
    exit::{Exit, Failed},
    fleet::Fleet,
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

/// How a live migration of this guest comes to its end: as is asked for, or else as the guest's own limits say. What goes beyond them
/// because it was asked for is left for the source to refuse.
pub(crate) async fn policy(fleet: &Fleet, args: &cli::Limits, guest: &Instance) -> Result<Policy, Failed> {
    let own = guest.limits.policy.as_deref().filter(|_| args.policy.is_none());
    // What is left open is chosen when it is known how much the guest writes.
    let name = args.policy.as_deref().or(own).filter(|name| *name != AUTO).unwrap_or(DEFAULT);
    let named = fleet.policy(name, &guest.host).await.map_err(|failed| match own {
        // Nobody has typed it.
        Some(_) if failed.exit == Exit::Usage => {
            let message =
                format!("{}'s own limits name its policy: {}; name one with --policy", guest.name, failed.message);
            Failed { message, ..failed }
        }
        _ => failed,
    })?;
    fitted(guest, &named, args).map_err(no_sense)
}

/// A policy as it is for this guest, and as the command line changes it.
pub(super) fn fitted(guest: &Instance, named: &Policy, args: &cli::Limits) -> Result<Policy, InvalidPolicy> {
    let mut limits = guest.limits.clone();
    // That it may is no reason to have it where its way cannot.
    limits.postcopy = limits.postcopy.filter(|may| *may == May::Never || may_follow(guest, args));
    limits.restrain(named).and_then(|policy| asked(policy, args))
}

/// Whether the guest's memory may follow it: postcopy is asked for, or allowed and possible.
pub(super) fn may_follow(guest: &Instance, args: &cli::Limits) -> bool {
    let is_possible = !args.streams.are_several() && Path::from(args.path) == Path::Tunnel;
    args.postcopy || (is_possible && guest.limits.postcopy == Some(May::Allowed))
}

/// Refuses what makes no sense with any policy.
pub(crate) fn judge(args: &cli::Limits) -> Result<(), Failed> {
    // One that stops the guest may do so at once.
    let widest = named("must-finish").unwrap_or_default();
    asked(widest, args).map(drop).map_err(no_sense)
}

/// The policy as the command line changes it.
fn asked(mut policy: Policy, args: &cli::Limits) -> Result<Policy, InvalidPolicy> {
    if let Some(longest) = args.max_downtime {
        policy = policy.with_longest_downtime(longest)?;
    }
    if let Some(deadline) = args.deadline {
        policy = policy.with_deadline(deadline)?;
    }
    Ok(if args.postcopy { policy.with_postcopy() } else { policy })
}

fn no_sense(invalid: InvalidPolicy) -> Failed {
    Failed::usage(invalid.to_string())
}
