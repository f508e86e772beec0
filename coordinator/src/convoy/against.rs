//! What speaks against hosts for a guest, as they said it when it was to come: some of it for good, some of it only for a while.

use std::time::{Duration, Instant};

use vmferry_core::{
    drain::Guest,
    id::HostName,
    reason::Reason,
    schedule::{Objection, Refused, Seen, Weights, Wish, condensed, rank},
};

use crate::journey::Turned;

/// How long a host is left alone that did not answer, or had lost the place that it had for the guest.
const AGAIN: Duration = Duration::from_secs(3);
/// How often it is tried all the same: one that says what it has and never lets anybody come may do so for ever.
const TRIES: u32 = 3;
/// How long it is waited for hosts that do not answer while no other takes the guest: an agent may be restarted.
const PATIENCE: Duration = Duration::from_secs(30);

/// What speaks against hosts for one guest.
#[derive(Debug, Default)]
pub(super) struct Against {
    turned: Vec<Tried>,
    /// Since when no host takes it.
    nowhere: Option<Instant>,
}

/// A host that was tried.
#[derive(Debug)]
struct Tried {
    turned: Turned,
    when: Instant,
    times: u32,
}

impl Tried {
    /// Whether what it said says nothing about what it has.
    fn may_pass(&self) -> bool {
        (self.turned.lost_its_turn || self.turned.is_silence()) && self.times < TRIES
    }
}

/// What becomes of a guest that no host takes.
#[derive(Debug, PartialEq)]
pub(super) enum Nowhere {
    /// That may pass.
    Wait(Vec<Objection>),
    /// It stays.
    Stay(Vec<Objection>),
}

impl Against {
    /// One more, of this moment.
    pub(super) fn add(&mut self, turned: Turned, now: Instant) {
        let before = self.turned.iter().position(|tried| tried.turned.host == turned.host);
        let times = before.map_or(0, |before| self.turned.swap_remove(before).times) + 1;
        self.turned.push(Tried { turned, when: now, times });
    }

    /// Some host takes it.
    pub(super) fn somewhere(&mut self) {
        self.nowhere = None;
    }

    /// The hosts that it does not go to now.
    pub(super) fn excluded(&self, now: Instant) -> impl Iterator<Item = HostName> {
        let counts = move |tried: &&Tried| !tried.may_pass() || now - tried.when < AGAIN;
        self.turned.iter().filter(counts).map(|tried| tried.turned.host.clone())
    }

    /// What speaks against all hosts: what they have, as `wish` goes, and what they said themselves.
    pub(super) fn objections(
        &self,
        wish: &Wish,
        guest: &Guest,
        hosts: &[Seen<'_>],
        weights: &Weights,
    ) -> Vec<Objection> {
        let ranking = rank(wish, &guest.leaving, hosts, weights);
        let mut refused = ranking.refused;
        for candidate in ranking.candidates {
            if let Some(tried) = self.turned.iter().find(|tried| tried.turned.host == candidate.host) {
                let refusals = tried.turned.verdict.refusals().into_iter().map(|(_, refusal)| refusal).collect();
                refused.push(Refused { host: candidate.host, refusals });
            }
        }
        refused.sort_by(|one, other| one.host.cmp(&other.host));
        condensed(&refused)
    }

    /// No host takes it, and nothing that goes on could change that.
    pub(super) fn nowhere(&mut self, objections: Vec<Objection>, now: Instant) -> Nowhere {
        let since = *self.nowhere.get_or_insert(now);
        let may_pass =
            |reason: Reason| reason.is_silence() || (reason == Reason::TooManyMigrations && self.has_lost_turns());
        let is_passing = objections.iter().any(|objection| may_pass(objection.reason));
        match is_passing && now - since < PATIENCE {
            true => Nowhere::Wait(objections),
            false => Nowhere::Stay(objections),
        }
    }

    fn has_lost_turns(&self) -> bool {
        self.turned.iter().any(|tried| tried.turned.lost_its_turn)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vmferry_core::{agent::CallError, compatibility::Refusal};

    use super::*;
    use crate::journey::Verdict;

    fn host(name: &str) -> HostName {
        name.parse().expect("valid")
    }

    fn turned(name: &str, reason: Reason, lost_its_turn: bool) -> Turned {
        let error = CallError { host: host(name), reason, message: "why".into() };
        Turned { host: host(name), verdict: Verdict::Failed(error), lost_its_turn }
    }

    fn objection(reason: Reason) -> Vec<Objection> {
        let example = Refusal { reason, message: "why".into(), remedy: "what to do".into() };
        vec![Objection { reason, hosts: vec![host("node-31")], example }]
    }

    #[test]
    fn what_a_host_has_excludes_it_for_good_and_what_may_pass_for_a_while() {
        let (mut against, begun) = (Against::default(), Instant::now());
        against.add(turned("node-27", Reason::MemoryShort, false), begun);
        against.add(turned("node-31", Reason::AgentUnreachable, false), begun);
        against.add(turned("node-33", Reason::TooManyMigrations, true), begun);
        let excluded = |against: &Against, seconds| {
            let now = begun + Duration::from_secs(seconds);
            against.excluded(now).map(|host| host.to_string()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(excluded(&against, 1), ["node-27", "node-31", "node-33"]);
        assert_eq!(excluded(&against, 4), ["node-27"]);
        // It is tried again, and fails again.
        against.add(turned("node-31", Reason::AgentUnreachable, false), begun + Duration::from_secs(4));
        assert_eq!(excluded(&against, 5), ["node-27", "node-31"]);
        assert_eq!(excluded(&against, 60), ["node-27"]);
        // But not for ever.
        against.add(turned("node-31", Reason::AgentUnreachable, false), begun + Duration::from_secs(60));
        assert_eq!(excluded(&against, 90), ["node-27", "node-31"]);
    }

    #[test]
    fn silence_is_waited_out_for_a_while_and_refusals_are_not() {
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let stay = |objections| Nowhere::Stay(objections);
        let wait = |objections| Nowhere::Wait(objections);
        let mut against = Against::default();
        let full = objection(Reason::HostFull);
        assert_eq!(against.nowhere(full.clone(), begun), stay(full.clone()));

        let mut against = Against::default();
        let silent = objection(Reason::AgentUnreachable);
        let both = [full, silent.clone()].concat();
        assert_eq!(against.nowhere(both.clone(), begun), wait(both.clone()));
        assert_eq!(against.nowhere(silent.clone(), later(29)), wait(silent.clone()));
        assert_eq!(against.nowhere(silent.clone(), later(30)), stay(silent.clone()));
        // A host that takes it, if only for a moment, begins it anew.
        against.somewhere();
        assert_eq!(against.nowhere(silent.clone(), later(31)), wait(silent));

        // A host that says of itself that it is full is full, unless it had a place for this guest.
        let turns = objection(Reason::TooManyMigrations);
        let mut against = Against::default();
        assert_eq!(against.nowhere(turns.clone(), begun), stay(turns.clone()));
        against.add(turned("node-31", Reason::TooManyMigrations, true), begun);
        assert_eq!(against.nowhere(turns.clone(), begun), wait(turns));
    }
}
