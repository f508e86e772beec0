//! Whether a guest would be with those it must be apart from.

use std::collections::BTreeMap;

use super::Refusal;
use crate::{
    affinity::{AffinityPolicy, GroupName, Membership},
    id::HostName,
    reason::Reason,
};

/// Why the guest may not come to a host with so many others of its groups, one refusal a group. What it must be with, no host knows
/// by itself.
pub fn apart(host: &HostName, guest: &str, said: &[Membership], others: &BTreeMap<GroupName, u32>) -> Vec<Refusal> {
    let hard = said.iter().filter(|membership| membership.policy == AffinityPolicy::AntiAffinity);
    let met =
        hard.filter_map(|Membership { group, .. }| others.get(group).filter(|count| **count > 0).zip(Some(group)));
    let refusal = |(count, group): (&u32, &GroupName)| Refusal {
        reason: Reason::AffinityViolated,
        message: format!(
            "{guest} must be apart from the others of group {group}, and {host} has {count} of them or is about to"
        ),
        remedy: format!(
            "choose a host without them, or let it be rather apart: vmferry instance affinity set {guest} --group {group} \
             --policy {}",
            AffinityPolicy::SoftAntiAffinity
        ),
    };
    met.map(refusal).collect()
}
