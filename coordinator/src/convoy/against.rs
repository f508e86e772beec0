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
/// How long it is waited for hosts that do not answer while no other takes the guest: an agent may be restarted.
const PATIENCE: Duration = Duration::from_secs(30);

/// What speaks against hosts for one guest.
#[derive(Debug, Default)]
pub(super) struct Against {
    turned: Vec<(Turned, Instant)>,
    /// Since when no host takes it.
    nowhere: Option<Instant>,
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
        self.turned.retain(|(before, _)| before.host != turned.host);
        self.turned.push((turned, now));
    }

    /// Some host takes it.
    pub(super) fn somewhere(&mut self) {
        self.nowhere = None;
    }

    /// The hosts that it does not go to now.
    pub(super) fn excluded(&self, now: Instant) -> impl Iterator<Item = HostName> {
        let counts = move |(turned, when): &&(Turned, Instant)| !passes(turned) || now - *when < AGAIN;
        self.turned.iter().filter(counts).map(|(turned, _)| turned.host.clone())
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
            if let Some((turned, _)) = self.turned.iter().find(|(turned, _)| turned.host == candidate.host) {
                let refusals = turned.verdict.refusals().into_iter().map(|(_, refusal)| refusal).collect();
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
        self.turned.iter().any(|(turned, _)| turned.lost_its_turn)
    }
}

/// Whether it says nothing about what the host has.
fn passes(turned: &Turned) -> bool {
    turned.lost_its_turn || turned.is_silence()
}
