//! Which hosts can take a guest, and which of them best: facts of all hosts in, ranked candidates and every reason of every refused
//! host out.
//!
//! A filter never refuses a host whose own agent would take the guest: it judges by the same rule as the agents' checks or by a gentler
//! one, or by what the agents cannot know (see `docs/scheduling.md`). What needs a look at the host itself (its CPU, disks, volumes)
//! is left to its agent's check, which is asked of the chosen candidate.

mod claim;
mod filter;
mod objection;
mod weigh;

use std::collections::BTreeSet;

use serde::Serialize;

pub(crate) use self::claim::take;
use self::filter::Question;
pub use self::{
    objection::{Objection, condensed},
    weigh::{Part, Weigher, Weights},
};
use crate::{
    agent::{CallError, Leaving},
    compatibility::Refusal,
    host::Host,
    id::HostName,
    migration::Kind,
};

/// What is asked of a guest's destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The zone that it shall be in. None: any, rather the guest's own.
    pub zone: Option<String>,
    /// Only these. None: any. What somebody has named, its own agent judges: it may be too old to say what it has. Others are not looked at.
    pub hosts: Option<Vec<HostName>>,
    /// Not these: those that somebody has left out, and those that have refused the guest before.
    pub exclude: Vec<HostName>,
    /// Whether the guest shall run meanwhile.
    pub kind: Kind,
}

/// A host of the fleet, as it answered.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// As the inventory calls it.
    pub name: &'a HostName,
    /// Its facts, or why there are none.
    pub answer: Result<&'a Host, &'a CallError>,
}

/// All hosts that were looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ranking {
    /// Those that can take the guest, the best first; of equals, by name.
    pub candidates: Vec<Candidate>,
    /// Those that cannot, by name.
    pub refused: Vec<Refused>,
}

/// A host that can take the guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// It.
    pub host: HostName,
    /// The sum of its parts.
    pub score: f64,
    /// What each weigher finds, in the order of [`Weigher::ALL`].
    pub parts: Vec<Part>,
}

/// A host that cannot take the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// It.
    pub host: HostName,
    /// Why not: all there is, at least one.
    pub refusals: Vec<Refusal>,
}

impl Ranking {
    /// What speaks against the refused hosts, each reason once.
    pub fn condensed(&self) -> Vec<Objection> {
        condensed(&self.refused)
    }
}

impl Candidate {
    /// What this weigher gives it; nothing if it was not asked.
    pub fn weight(&self, weigher: Weigher) -> f64 {
        self.parts.iter().find(|part| part.weigher == weigher).map_or(0.0, |part| part.weight)
    }
}

/// Ranks `hosts`, each of which has a name of its own, in whatever order they are.
pub fn rank(wish: &Wish, leaving: &Leaving, hosts: &[Seen<'_>], weights: &Weights) -> Ranking {
    let question = Question::of(wish, leaving, hosts);
    let only: Option<BTreeSet<&HostName>> = wish.hosts.as_ref().map(|only| only.iter().collect());
    let considered = hosts.iter().filter(|seen| only.as_ref().is_none_or(|only| only.contains(seen.name)));

    let mut fit: Vec<(&HostName, &Host)> = Vec::new();
    let mut refused = Vec::new();
    for seen in considered {
        let refusals = question.refusals(seen);
        match seen.answer {
            Ok(host) if refusals.is_empty() => fit.push((seen.name, host)),
            _ => refused.push(Refused { host: seen.name.clone(), refusals }),
        }
    }
    if let Some(mut unknown) = only {
        hosts.iter().for_each(|seen| {
            unknown.remove(seen.name);
        });
        refused.extend(unknown.into_iter().map(|host| question.unknown(host)));
    }
    refused.sort_by(|one, other| one.host.cmp(&other.host));
    Ranking { candidates: weigh::ranked(&question, &fit, weights), refused }
}
