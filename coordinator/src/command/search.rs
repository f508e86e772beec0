//! A guest that looks for its destination: the best host by what all say of themselves, and the next best if that one refuses.

use vmferry_core::{
    affinity::AffinityPolicy,
    agent::CallError,
    compatibility::Check,
    flow::{Failure, Planned},
    host::Host,
    id::HostName,
    migration::{Endpoint, Order},
    reason::Reason,
    schedule::{Candidate, Wish},
};

use super::{
    Session, choose,
    trip::{Told, Trip},
};
use crate::{
    cli::Target,
    exit::{Exit, Failed},
    fleet::Answer,
    render::survey::{Survey, Turned, Verdict},
};

/// Where a guest may go, and where it could not.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) trip: Trip,
    wish: Wish,
    /// The host that the user named, which is asked whatever is known of it.
    named: Option<HostName>,
    told: Option<Told>,
    hosts: Vec<Answer<Host>>,
    tried: Vec<Turned>,
    /// How many hosts more may be tried; `None`: all.
    left: Option<u32>,
}

/// A host to try.
#[derive(Debug)]
pub(super) struct Next {
    /// It.
    pub(super) endpoint: Endpoint,
    /// What speaks for it; `None`: the user named it.
    pub(super) candidate: Option<Candidate>,
    /// How many others come into question.
    pub(super) others: usize,
}

impl Search {
    /// Nothing is asked yet. After the first host `retries` more may be tried.
    pub(super) fn new(trip: Trip, target: &Target, retries: Option<u32>) -> Self {
        let wish = choose::wish(target, trip.kind);
        // Whom it must be with, no host knows by itself.
        let goes_by_others = trip.guest.affinity.iter().any(|said| said.policy == AffinityPolicy::Affinity);
        let named = target.only().filter(|_| !goes_by_others).cloned();
        let left = retries.map(|retries| retries.saturating_add(1));
        Self { trip, wish, named, told: None, hosts: Vec::new(), tried: Vec::new(), left }
    }

    /// Only to where a plan says.
    pub(super) fn planned(trip: Trip, planned: &Planned) -> Self {
        let named = planned.order.destination.host.clone();
        let target = Target { to: vec![named], zone: None, exclude: vec![] };
        Self::new(trip, &target, Some(0))
    }

    /// The best host of those that have not refused; `None`: there is none left.
    pub(super) async fn next(&mut self, session: &Session) -> Result<Option<Next>, Failed> {
        if let Some(named) = &self.named {
            let endpoint = session.fleet.agent(named)?.endpoint().clone();
            return Ok(self.tried.is_empty().then_some(Next { endpoint, candidate: None, others: 0 }));
        }
        if self.told.is_none() {
            let inquiry = self.trip.inquiry(session)?;
            let told = Box::pin(self.trip.ask_source(session, &inquiry)).await;
            session.end_inquiry(&inquiry).await;
            self.told = Some(told?);
        }
        let Some(told) = self.told.as_ref().filter(|told| !told.is_refused() && self.left != Some(0)) else {
            return Ok(None);
        };
        self.left = self.left.map(|left| left - 1);
        // Afresh for each: what the last one took time for may have changed what others have.
        self.hosts = session.hosts().await;
        let mut wish = self.wish.clone();
        wish.exclude.extend(self.tried.iter().map(|turned| turned.host.clone()));
        let ranking = choose::rank(session, &wish, told, &self.hosts);
        let others = ranking.candidates.len().saturating_sub(1);
        let Some(candidate) = ranking.candidates.into_iter().next() else { return Ok(None) };
        let endpoint = session.fleet.agent(&candidate.host)?.endpoint().clone();
        Ok(Some(Next { endpoint, candidate: Some(candidate), others }))
    }

    /// The host refused, or did not answer: it is not tried again.
    pub(super) fn turned_away(&mut self, host: HostName, verdict: Verdict) {
        self.tried.push(Turned { host, verdict });
    }

    /// The hosts that did not take it.
    pub(super) fn tried(&self) -> &[Turned] {
        &self.tried
    }

    /// That no host takes it, with the reasons of all.
    pub(super) fn nowhere(&self, session: &Session) -> Result<Exit, Failed> {
        let none = Vec::new();
        let source = self.told.as_ref().map_or(&none, |told| &told.checks);
        let ranking =
            self.told.as_ref().map(|told| choose::rank(session, &self.wish, told, &self.hosts)).unwrap_or_default();
        let answers = self.tried.iter().map(|turned| (turned.host.clone(), turned.verdict.clone())).collect();
        let survey = Survey::new(&self.trip.guest, source, &self.hosts, &ranking, answers);
        let exit = survey.exit();
        session.terminal.error(&survey.sentence());
        session.terminal.note(survey.reasons().trim_end());
        session.terminal.show(String::new, &survey.document(exit))?;
        Ok(exit)
    }
}

/// What the destination said, if another may take the guest, which is as it was: this one refused it before or as it got ready,
/// or did not answer. Whatever else went wrong would go wrong elsewhere as well, or needs a look.
pub(super) fn refusal_of_destination(order: &Order, failure: &Failure) -> Option<Verdict> {
    let there = |host: &HostName| *host == order.destination.host;
    match failure {
        Failure::Refused(plan) => {
            let (theirs, others): (Vec<_>, Vec<_>) = plan.checks.iter().cloned().partition(|check| there(&check.host));
            others.iter().all(|check: &Check| check.refusal().is_none()).then_some(Verdict::Asked(theirs))
        }
        // Whoever has ended it while it waited there, does not want it to go elsewhere.
        Failure::NotStarted(error) if there(&error.host) && error.reason != Reason::MigrationAborted => {
            Some(Verdict::Failed(error.clone()))
        }
        Failure::RolledBack { cause, leftovers }
            if there(&cause.host) && leftovers.is_empty() && Exit::of_reason(cause.reason) == Exit::Refused =>
        {
            let (host, reason, message) = (cause.host.clone(), cause.reason, cause.message.clone());
            Some(Verdict::Failed(CallError { host, reason, message }))
        }
        Failure::NotStarted(_) | Failure::RolledBack { .. } | Failure::Held { .. } => None,
    }
}
