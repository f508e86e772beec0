//! How a guest's live migrations come to their end: by what is asked for, and by what is said of the guest itself.

use vmferry_core::{
    convergence::{AUTO, DEFAULT, InvalidPolicy, May, Policy, named},
    instance::Instance,
    migration::Path,
};

use super::{Asked, Policies};
use crate::exit::{Exit, Failed};

/// How a live migration of this guest comes to its end: as is asked for, or else as the guest's own limits say. What goes beyond them
/// because it was asked for is left for the source to refuse.
pub(super) async fn policy(policies: &Policies, asked: &Asked, guest: &Instance) -> Result<Policy, Failed> {
    let own = guest.limits.policy.as_deref().filter(|_| asked.policy.is_none());
    // What is left open is chosen when it is known how much the guest writes.
    let name = asked.policy.as_deref().or(own).filter(|name| *name != AUTO).unwrap_or(DEFAULT);
    let named = policies.policy(name, &guest.host).await.map_err(|failed| match own {
        // Nobody has typed it.
        Some(_) if failed.exit == Exit::Usage => {
            let message =
                format!("{}'s own limits name its policy: {}; name one with --policy", guest.name, failed.message);
            Failed { message, ..failed }
        }
        _ => failed,
    })?;
    fitted(guest, &named, asked).map_err(no_sense)
}

/// A policy as it is for this guest, and as is asked for.
pub(super) fn fitted(guest: &Instance, named: &Policy, asked: &Asked) -> Result<Policy, InvalidPolicy> {
    let mut limits = guest.limits.clone();
    // That it may is no reason to have it where its way cannot.
    limits.postcopy = limits.postcopy.filter(|may| *may == May::Never || may_follow(guest, asked));
    limits.restrain(named).and_then(|policy| asked_for(policy, asked))
}

/// Whether the guest's memory may follow it: postcopy is asked for, or allowed and possible.
pub(super) fn may_follow(guest: &Instance, asked: &Asked) -> bool {
    let is_possible = !asked.streams.are_several() && asked.path == Path::Tunnel;
    asked.postcopy || (is_possible && guest.limits.postcopy == Some(May::Allowed))
}

/// Refuses what makes no sense with any policy.
pub(crate) fn judge(asked: &Asked) -> Result<(), Failed> {
    // One that stops the guest may do so at once.
    let widest = named("must-finish").unwrap_or_default();
    asked_for(widest, asked).map(drop).map_err(no_sense)
}

/// The policy as is asked for. One that is so already stays as it is.
pub(crate) fn asked_for(mut policy: Policy, asked: &Asked) -> Result<Policy, InvalidPolicy> {
    if let Some(longest) = asked.max_downtime {
        policy = policy.with_longest_downtime(longest)?;
    }
    if let Some(deadline) = asked.deadline {
        policy = policy.with_deadline(deadline)?;
    }
    Ok(if asked.postcopy { policy.with_postcopy() } else { policy })
}

fn no_sense(invalid: InvalidPolicy) -> Failed {
    Failed::usage(invalid.to_string())
}
