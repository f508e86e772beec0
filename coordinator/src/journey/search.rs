//! A guest that looks for its destination: the best host by what all say of themselves, and the next best if that one refuses.

use std::sync::Arc;

use vmferry_core::{
    affinity::AffinityPolicy,
    host::Host,
    id::HostName,
    migration::Endpoint,
    schedule::{Candidate, Wish},
};

use super::{
    Survey, Target, Turned, choose,
    trip::{Told, Trip},
};
use crate::{
    exit::Failed,
    fleet::{Answer, Fleet},
};

/// How often a host may lose the place that it had for a guest, until it is not tried again.
const LOST_TURNS: usize = 3;

/// Where a guest may go, and where it could not.
#[derive(Debug)]
pub(crate) struct Search {
    fleet: Arc<Fleet>,
    /// What shall move.
    pub(crate) trip: Trip,
    wish: Wish,
    /// The host that the user named, which is asked whatever is known of it.
    named: Option<HostName>,
    told: Option<Told>,
    hosts: Vec<Answer<Host>>,
    /// The hosts' facts have only just been asked.
    is_fresh: bool,
    tried: Vec<Turned>,
    /// How many hosts more may be tried; `None`: all.
    left: Option<u32>,
}

/// A host to try.
#[derive(Debug)]
pub(crate) struct Next {
    /// It.
    pub(crate) endpoint: Endpoint,
    /// What speaks for it; `None`: the user named it.
    pub(crate) candidate: Option<Candidate>,
    /// How many others come into question.
    pub(crate) others: usize,
}

impl Search {
    /// After the first host `retries` more may be tried. `hosts` are their facts, if they have only just been asked.
    pub(crate) fn new(
        fleet: &Arc<Fleet>,
        trip: Trip,
        target: &Target,
        retries: Option<u32>,
        hosts: Vec<Answer<Host>>,
    ) -> Self {
        let wish = choose::wish(target, trip.kind);
        // Whom it must be with, no host knows by itself.
        let goes_by_others = trip.guest.affinity.iter().any(|said| said.policy == AffinityPolicy::Affinity);
        let named = target.only().filter(|_| !goes_by_others).cloned();
        let left = retries.map(|retries| retries.saturating_add(1));
        let is_fresh = !hosts.is_empty();
        Self { fleet: Arc::clone(fleet), trip, wish, named, told: None, hosts, is_fresh, tried: Vec::new(), left }
    }

    /// The best host of those that have not refused; `None`: there is none left.
    pub(crate) async fn next(&mut self) -> Result<Option<Next>, Failed> {
        if let Some(named) = &self.named {
            let endpoint = self.fleet.agent(named)?.endpoint().clone();
            return Ok(self.tried.is_empty().then_some(Next { endpoint, candidate: None, others: 0 }));
        }
        if self.told.is_none() {
            self.told = Some(Box::pin(self.trip.told(&self.fleet)).await?);
        }
        let Some(told) = self.told.as_ref().filter(|told| !told.is_refused() && self.left != Some(0)) else {
            return Ok(None);
        };
        self.left = self.left.map(|left| left - 1);
        // Afresh for each: what the last one took time for may have changed what others have.
        if !std::mem::take(&mut self.is_fresh) {
            self.hosts = self.fleet.hosts().await;
        }
        let mut wish = self.wish.clone();
        wish.exclude.extend(self.given_up());
        let ranking = choose::rank(&self.fleet, &wish, told, &self.hosts);
        let others = ranking.candidates.len().saturating_sub(1);
        let Some(candidate) = ranking.candidates.into_iter().next() else { return Ok(None) };
        let endpoint = self.fleet.agent(&candidate.host)?.endpoint().clone();
        Ok(Some(Next { endpoint, candidate: Some(candidate), others }))
    }

    /// The hosts that are not tried again.
    fn given_up(&self) -> Vec<HostName> {
        let lost = |host: &HostName| self.tried.iter().filter(|turned| turned.host == *host).count();
        let is_final = |turned: &&Turned| !turned.lost_its_turn || lost(&turned.host) >= LOST_TURNS;
        self.tried.iter().filter(is_final).map(|turned| turned.host.clone()).collect()
    }

    /// The host refused, or did not answer: it is not tried again, unless it had only lost its place.
    pub(crate) fn turned_away(&mut self, turned: Turned) {
        self.tried.push(turned);
    }

    /// Another coordinator has tried the host for the same wish.
    pub(crate) fn was_turned_away(&mut self, turned: Turned) {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.is_fresh = false;
        self.tried.push(turned);
    }

    /// The hosts that did not take it.
    pub(crate) fn tried(&self) -> &[Turned] {
        &self.tried
    }

    /// Why no host takes it: the reasons of all.
    pub(crate) fn nowhere(&self) -> Survey {
        let source = self.told.as_ref().map(|told| told.checks.as_slice()).unwrap_or_default();
        let ranked = self.told.as_ref().map(|told| choose::rank(&self.fleet, &self.wish, told, &self.hosts));
        let answers = self.tried.iter().map(|turned| (turned.host.clone(), turned.verdict.clone())).collect();
        Survey::new(&self.trip.guest, source, &self.hosts, ranked.unwrap_or_default(), answers)
    }
}
