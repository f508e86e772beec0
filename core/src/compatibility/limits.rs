//! Whether a live migration does to the guest what its own limits forbid.

use std::time::Duration;

use humantime::format_duration;

use super::{Checks, Refusal, SourceFacts};
use crate::{
    convergence::{Excess, Policy},
    domain_xml::{Definition, metadata::limits::LimitsError},
    id::HostName,
    migration::Steering,
    reason::Reason,
};

/// Every refusal of a migration of this guest by that policy.
pub(super) fn leaving(checks: &mut Checks<'_>, facts: &SourceFacts) {
    // A guest that is off is spared everything that limits are about.
    let Some(policy) = &facts.policy else { return };
    let definition = &facts.definition;
    if definition.limits.as_ref().is_ok_and(|limits| limits.is_empty()) {
        return;
    }
    let refusals = within(&facts.host, definition, policy);
    if refusals.is_empty() {
        checks.pass("guest's limits", &format!("policy `{}` keeps them", policy.name()));
    }
    for refusal in refusals {
        checks.refuse("guest's limits", refusal);
    }
}

/// What the policy would do to the guest and may not, if anything.
pub fn within(host: &HostName, definition: &Definition, policy: &Policy) -> Vec<Refusal> {
    let name = &definition.name;
    match &definition.limits {
        Ok(limits) => {
            let by = format!("policy `{}`", policy.name());
            limits.judge(policy).into_iter().map(|excess| refusal(host, name, excess, &by)).collect()
        }
        Err(error) => vec![unreadable(host, name, error)],
    }
}

/// Whether the job may be told this by hand.
pub fn may_be_told(host: &HostName, definition: &Definition, steering: &Steering) -> Result<(), Refusal> {
    let name = &definition.name;
    // What makes it gentler is never refused.
    let limits = match (&definition.limits, steering) {
        (Ok(limits), _) => limits,
        (Err(error), Steering::Downtime(_) | Steering::Postcopy | Steering::Suspend) => {
            return Err(unreadable(host, name, error));
        }
        (Err(_), _) => return Ok(()),
    };
    let excess = limits.judge_steering(steering);
    excess.map_or(Ok(()), |excess| Err(refusal(host, name, excess, "what it is told by hand")))
}

fn refusal(host: &HostName, name: &str, excess: Excess, by: &str) -> Refusal {
    let (message, instead) = match excess {
        Excess::Downtime { asked, most } => {
            let [asked, most] = [asked, most].map(format_duration);
            (
                format!("{name} on {host} may stand still for {most} at most, and {by} allows {asked}"),
                format!("ask for {most} or less (--max-downtime {})", compact(&most.to_string())),
            )
        }
        Excess::Postcopy => (
            format!("{name} on {host} is never switched to postcopy, and {by} allows it"),
            "leave out --postcopy, or choose a policy without it".to_owned(),
        ),
        Excess::Suspend { most } => {
            let why = |most: Duration| format!(", since it may stand still for {} at most", format_duration(most));
            let why = most.map(why).unwrap_or_default();
            (
                format!("{name} on {host} is never stopped before all is sent{why}, and {by} stops it"),
                "choose one that gives up instead (`vmferry policies`)".to_owned(),
            )
        }
    };
    let remedy = format!("{instead}; or change what the guest may: vmferry instance limits set {name} …");
    Refusal { reason: Reason::GuestLimits, message, remedy }
}

/// As one argument of a command line.
fn compact(time: &str) -> String {
    time.replace(' ', "")
}

fn unreadable(host: &HostName, name: &str, error: &LimitsError) -> Refusal {
    Refusal {
        reason: Reason::LimitsLabelInvalid,
        message: format!("what the definition of {name} on {host} says of its live migrations cannot be read: {error}"),
        remedy: format!(
            "remove it (vmferry instance limits unset {name}) and say it again (vmferry instance limits set)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compatibility::{
            leaving,
            tests::{refused, source},
        },
        convergence::{GuestLimits, May, named},
        domain_xml::metadata::limits,
        migration::Kind,
    };

    fn facts(limits: GuestLimits, policy: &str) -> SourceFacts {
        let mut facts = source();
        facts.definition.limits = Ok(limits);
        facts.policy = named(policy);
        facts
    }

    fn reasons(facts: &SourceFacts) -> Vec<Reason> {
        refused(&leaving(facts, &"node-31".parse().expect("valid")))
    }

    #[test]
    fn a_policy_that_goes_beyond_what_the_guest_may_is_refused_for_each_thing() {
        let millis = |millis| Some(Duration::from_millis(millis));
        let strict = GuestLimits { max_downtime: millis(200), postcopy: Some(May::Never), ..GuestLimits::default() };
        for (policy, expected) in [("gentle", 0), ("default", 1), ("postcopy", 1), ("must-finish", 2)] {
            assert_eq!(reasons(&facts(strict.clone(), policy)), vec![Reason::GuestLimits; expected], "{policy}");
        }
        let cold = SourceFacts { policy: None, kind: Kind::Cold { shutdown: None }, ..facts(strict.clone(), "nova") };
        assert!(!reasons(&cold).contains(&Reason::GuestLimits), "nothing of it is live");
        let message = |policy: &str| {
            within(
                &"node-28".parse().expect("valid"),
                &facts(strict.clone(), policy).definition,
                &named(policy).expect("one of them"),
            )
        };
        let default = &message("default")[0];
        assert_eq!(
            default.message,
            "web on node-28 may stand still for 200ms at most, and policy `default` allows 500ms"
        );
        assert!(default.remedy.contains("--max-downtime 200ms"), "{default:?}");
        let stopped = &message("must-finish")[1].message;
        assert!(
            stopped.contains("never stopped before all is sent, since it may stand still for 200ms at most"),
            "{stopped}"
        );
    }

    #[test]
    fn limits_that_cannot_be_read_let_nothing_begin() {
        let mut facts = facts(GuestLimits::default(), "default");
        assert_eq!(reasons(&facts), []);
        facts.definition.limits = Err(limits::LimitsError::Twice);
        assert_eq!(reasons(&facts), [Reason::LimitsLabelInvalid]);
        let told = |steering| may_be_told(&facts.host, &facts.definition, &steering).map_err(|refusal| refusal.reason);
        assert_eq!(told(Steering::Postcopy), Err(Reason::LimitsLabelInvalid));
        assert_eq!(told(Steering::Pause), Ok(()));
    }

    #[test]
    fn what_it_is_told_by_hand_is_held_to_them() {
        let never = GuestLimits { postcopy: Some(May::Never), suspend: Some(May::Never), ..GuestLimits::default() };
        let facts = facts(never, "default");
        let told = |steering| may_be_told(&facts.host, &facts.definition, &steering);
        let refusal = told(Steering::Postcopy).expect_err("never");
        assert_eq!(refusal.reason, Reason::GuestLimits);
        assert!(refusal.message.contains("web on node-28 is never switched to postcopy"), "{refusal:?}");
        assert!(told(Steering::Suspend).is_err_and(|refusal| refusal.message.contains("by hand")));
        assert_eq!(told(Steering::Downtime(Duration::from_secs(9))), Ok(()));
    }
}
