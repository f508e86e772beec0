//! Whether a guest would be with those it must be apart from, as far as one host knows.

use std::collections::BTreeMap;

use super::{Checks, Refusal, SourceFacts};
use crate::{
    affinity::{AffinityPolicy, GroupName, Membership},
    domain_xml::Definition,
    id::HostName,
    migration::Kind,
    reason::Reason,
};

/// What cannot be read might forbid to go anywhere.
pub(super) fn leaving(checks: &mut Checks<'_>, facts: &SourceFacts) {
    let Err(error) = &facts.definition.affinity else { return };
    let name = &facts.definition.name;
    checks.refuse(
        "affinity groups",
        Refusal {
            reason: Reason::AffinityLabelInvalid,
            message: format!("what the definition of {name} says of its affinity groups cannot be read: {error}"),
            remedy: format!("remove it (vmferry instance affinity unset {name} --all) and say it again"),
        },
    );
}

/// Whether it would meet any: these are there or about to be.
pub(super) fn affinity_allows(
    checks: &mut Checks<'_>,
    definition: &Definition,
    kind: Kind,
    others: &BTreeMap<GroupName, Vec<String>>,
) {
    let said = definition.affinity.as_deref().unwrap_or_default();
    let hard: Vec<_> = said.iter().filter(|said| said.policy == AffinityPolicy::AntiAffinity).collect();
    // A guest that is off is with nobody.
    if hard.is_empty() || kind == (Kind::Cold { shutdown: None }) {
        return;
    }
    let refusals = apart(checks.host, &definition.name, said, |group| {
        let (names, unnamed): (Vec<_>, Vec<_>) = others.get(group)?.iter().partition(|name| !name.is_empty());
        let named = (!names.is_empty()).then(|| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        named.or_else(|| (!unnamed.is_empty()).then(|| format!("{} of them", unnamed.len())))
    });
    if refusals.is_empty() {
        let groups: Vec<_> = hard.iter().map(|said| said.group.as_str()).collect();
        checks.pass("affinity groups", &format!("no others of {}", groups.join(", ")));
    }
    refusals.into_iter().for_each(|refusal| checks.refuse("affinity groups", refusal));
}

/// Why the guest may not come to a host with others of its groups, one refusal a group; `others` tells of those, if there are any. What it
/// must be with, no host knows by itself.
pub fn apart(
    host: &HostName,
    guest: &str,
    said: &[Membership],
    others: impl Fn(&GroupName) -> Option<String>,
) -> Vec<Refusal> {
    let hard = said.iter().filter(|membership| membership.policy == AffinityPolicy::AntiAffinity);
    let met = hard.filter_map(|Membership { group, policy }| Some((group, policy, others(group)?)));
    let refusal = |(group, policy, others): (&GroupName, &AffinityPolicy, String)| Refusal {
        reason: Reason::AffinityViolated,
        message: format!(
            "{guest} must be apart from the others of group {group} ({policy}), and {host} has {others} or is about to"
        ),
        remedy: format!(
            "choose a host without them, or let it be rather apart: vmferry instance affinity set {guest} --group {group} \
             --policy {}",
            AffinityPolicy::SoftAntiAffinity
        ),
    };
    met.map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compatibility::{
            Check, DestinationFacts, arriving as can_arrive, leaving as may_leave,
            tests::{destination, leaving_guest, refused, source},
        },
        domain_xml::metadata::affinity::AffinityError,
    };

    #[test]
    fn a_guest_does_not_come_to_those_that_it_must_be_apart_from() {
        let group: GroupName = "db".parse().expect("valid");
        let mut guest = leaving_guest();
        let mut there = destination();
        there.space.groups.insert(group.clone(), vec!["db-1".into(), "db-2".into()]);
        for policy in AffinityPolicy::ALL {
            guest.definition.affinity = Ok(vec![Membership { group: group.clone(), policy }]);
            let expected: &[Reason] = match policy {
                AffinityPolicy::AntiAffinity => &[Reason::AffinityViolated],
                _ => &[],
            };
            assert_eq!(refused(&can_arrive(&there, &guest)), expected, "{policy}");
        }
        guest.definition.affinity = Ok(vec![Membership { group: group.clone(), policy: AffinityPolicy::AntiAffinity }]);
        let off = DestinationFacts { kind: Kind::Cold { shutdown: None }, ..there.clone() };
        assert_eq!(refused(&can_arrive(&off, &guest)), []);
        let checks = can_arrive(&there, &guest);
        let told = &checks.iter().find_map(Check::refusal).expect("refused").message;
        assert!(
            told.ends_with(
                "apart from the others of group db (anti-affinity), and node-31 has db-1, db-2 or is about to"
            ),
            "{told}"
        );
        for others in [BTreeMap::from([(group, vec![])]), BTreeMap::new()] {
            there.space.groups = others;
            assert_eq!(refused(&can_arrive(&there, &guest)), []);
        }
    }

    #[test]
    fn a_guest_whose_groups_cannot_be_read_goes_nowhere() {
        let mut from = source();
        from.definition.affinity = Err(AffinityError::Twice);
        assert_eq!(refused(&may_leave(&from, &destination().host)), [Reason::AffinityLabelInvalid]);
    }
}
