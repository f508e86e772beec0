//! What speaks against many hosts, in few words.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::Refused;
use crate::{compatibility::Refusal, id::HostName, reason::Reason};

/// How many hosts are named where there are many.
const NAMED: usize = 3;

/// One reason, and all hosts that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Objection {
    /// The stable code.
    pub reason: Reason,
    /// Who refuses by it, by name; at least one.
    pub hosts: Vec<HostName>,
    /// What the first of them says.
    pub example: Refusal,
}

/// Each reason once, that of the most hosts first. That the guest's own host is none for it goes without saying, unless there is no other.
pub fn condensed(refused: &[Refused]) -> Vec<Objection> {
    let mut by_reason = BTreeMap::<Reason, Objection>::new();
    for Refused { host, refusals } in refused {
        for refusal in refusals {
            let objection = by_reason.entry(refusal.reason).or_insert_with(|| Objection {
                reason: refusal.reason,
                hosts: Vec::new(),
                example: refusal.clone(),
            });
            if objection.hosts.last() != Some(host) {
                objection.hosts.push(host.clone());
            }
        }
    }
    if by_reason.len() > 1 {
        by_reason.remove(&Reason::SameHost);
    }
    let mut objections: Vec<_> = by_reason.into_values().collect();
    objections.sort_by_key(|objection| std::cmp::Reverse(objection.hosts.len()));
    objections
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, hosts, example } = self;
        let named: Vec<_> = hosts.iter().take(NAMED).map(HostName::as_str).collect();
        write!(f, "{reason} on {}", named.join(", "))?;
        if let more @ 1.. = hosts.len().saturating_sub(NAMED) {
            write!(f, " and {more} more")?;
        }
        write!(f, ": {}", example.message)
    }
}
