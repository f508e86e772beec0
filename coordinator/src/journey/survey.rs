//! What each host says to a guest that looks for a place.

use std::collections::HashMap;

use vmferry_core::{
    agent::CallError,
    compatibility::{Check, Refusal},
    flow::{Failure, Plan},
    host::Host,
    id::HostName,
    instance::Instance,
    migration::Order,
    reason::Reason,
    schedule::{Candidate, Ranking},
};

use crate::{
    exit::{Exit, Failed},
    fleet::Answer,
};

/// What a host says to an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Its agent was asked: every rule with its outcome.
    Asked(Vec<Check>),
    /// Its agent did not answer, or refused when it was to get ready.
    Failed(CallError),
    /// Its agent was not asked: by what it has it cannot take it.
    Unfit(Vec<Refusal>),
}

impl Verdict {
    /// Whether the host could take it.
    pub(crate) fn takes_it(&self) -> bool {
        matches!(self, Self::Asked(checks) if checks.iter().all(|check| check.refusal().is_none()))
    }

    /// What was asked, and why not: the reason, the sentence, the remedy.
    pub(crate) fn refusals(&self) -> Vec<(Option<&str>, Refusal)> {
        match self {
            Self::Asked(checks) => {
                let refused = checks.iter().filter_map(|check| Some((check, check.refusal()?)));
                refused.map(|(check, refusal)| (Some(check.subject.as_str()), refusal.clone())).collect()
            }
            Self::Failed(error) => vec![(None, Refusal::from(error))],
            Self::Unfit(refusals) => refusals.iter().map(|refusal| (None, refusal.clone())).collect(),
        }
    }
}

/// A host that did not take an instance that was to move.
#[derive(Debug, Clone)]
pub(crate) struct Turned {
    /// Which.
    pub(crate) host: HostName,
    /// What it said.
    pub(crate) verdict: Verdict,
    /// It had a place, which was gone when it was to be used: it may have another soon.
    pub(crate) lost_its_turn: bool,
}

impl Turned {
    /// Its agent did not answer: that says nothing about what it has.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(&self.verdict, Verdict::Failed(error) if error.is_silence())
    }
}

/// What the destination said, if another may take the guest, which is as it was: this one refused it before or as it got ready,
/// or did not answer. Whatever else went wrong would go wrong elsewhere as well, or needs a look.
pub(crate) fn turned_away(order: &Order, failure: &Failure) -> Option<Turned> {
    let there = |host: &HostName| *host == order.destination.host;
    let turned = |verdict, lost_its_turn| Turned { host: order.destination.host.clone(), verdict, lost_its_turn };
    match failure {
        Failure::Refused(plan) => {
            let (theirs, others): (Vec<_>, Vec<_>) = plan.checks.iter().cloned().partition(|check| there(&check.host));
            let is_theirs = others.iter().all(|check: &Check| check.refusal().is_none());
            is_theirs.then(|| turned(Verdict::Asked(theirs), false))
        }
        // Whoever has ended it while it waited there, does not want it to go elsewhere.
        Failure::NotStarted(error) if there(&error.host) && error.reason != Reason::MigrationAborted => {
            Some(turned(Verdict::Failed(error.clone()), false))
        }
        Failure::RolledBack { cause, guest, leftovers }
            if there(&cause.host)
                && leftovers.is_empty()
                && guest.is_none_or(|guest| order.is_at_rest(guest))
                && Exit::of_reason(cause.reason) == Exit::Refused =>
        {
            let (host, reason, message) = (cause.host.clone(), cause.reason, cause.message.clone());
            let lost_its_turn = reason == Reason::TooManyMigrations;
            Some(turned(Verdict::Failed(CallError { host, reason, message }), lost_its_turn))
        }
        Failure::NotStarted(_) | Failure::RolledBack { .. } | Failure::Held { .. } => None,
    }
}

/// The same of what the checks of both hosts said, or why they could not be asked.
pub(crate) fn turned_away_by(order: &Order, checked: &Result<Plan, CallError>) -> Option<Turned> {
    let failure = match checked {
        Ok(plan) if !plan.is_refused() => return None,
        Ok(plan) => Failure::Refused(Box::new(plan.clone())),
        Err(error) => Failure::NotStarted(error.clone()),
    };
    turned_away(order, &failure)
}

/// All hosts and what they say to an instance.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// It.
    pub(crate) guest: Instance,
    /// What its own host says.
    pub(crate) source: Vec<Check>,
    /// Those that take it first, the best of them first; without its own.
    pub(crate) rows: Vec<Row>,
}

/// A host and what it says.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Which.
    pub(crate) host: HostName,
    /// Its zone. None: it does not answer.
    pub(crate) zone: Option<String>,
    /// What speaks for it. None: by what it has it does not come into question.
    pub(crate) candidate: Option<Candidate>,
    /// What it says.
    pub(crate) verdict: Verdict,
}

impl Survey {
    /// Puts together what the source says, what the hosts have, and what was answered by those that were asked.
    pub(crate) fn new(
        guest: &Instance,
        source: &[Check],
        hosts: &[Answer<Host>],
        ranking: Ranking,
        answers: Vec<(HostName, Verdict)>,
    ) -> Self {
        let mut answers: HashMap<_, _> = answers.into_iter().collect();
        let mut answered = |host: &HostName| answers.remove(host);
        let zones = hosts.iter().filter_map(|answer| Some((&answer.endpoint.host, answer.result.as_ref().ok()?)));
        let zones: HashMap<_, _> = zones.map(|(name, host)| (name, &host.zone)).collect();
        let zone = |name: &HostName| zones.get(name).map(|zone| String::clone(zone));
        let mut rows = Vec::new();
        for candidate in ranking.candidates {
            let Some(verdict) = answered(&candidate.host) else { continue };
            let host = candidate.host.clone();
            rows.push(Row { zone: zone(&host), host, candidate: Some(candidate), verdict });
        }
        for refused in ranking.refused {
            // The source is no destination: it is not told why.
            if refused.host == guest.host {
                continue;
            }
            let verdict = match answered(&refused.host) {
                // What it has, is refused by it as well; what was asked for, only by us.
                Some(Verdict::Asked(checks)) => Verdict::Asked(united(&refused.host, &refused.refusals, checks)),
                Some(silent) => silent,
                None => Verdict::Unfit(refused.refusals),
            };
            rows.push(Row { zone: zone(&refused.host), host: refused.host, candidate: None, verdict });
        }
        rows.sort_by_key(|row| !row.verdict.takes_it());
        Self { guest: guest.clone(), source: source.to_vec(), rows }
    }

    /// How many hosts could take it.
    pub(crate) fn takers(&self) -> usize {
        if self.source_refuses() { 0 } else { self.rows.iter().filter(|row| row.verdict.takes_it()).count() }
    }

    /// Whether it may not leave at all.
    pub(crate) fn source_refuses(&self) -> bool {
        self.source.iter().any(|check| check.refusal().is_some())
    }

    /// How a search ends that has found no host: by refusals, or because nobody could be asked.
    pub(crate) fn exit(&self) -> Exit {
        let is_silent = |row: &Row| row.verdict.refusals().iter().all(|(_, refusal)| refusal.reason.is_silence());
        let nobody_answers = !self.rows.is_empty() && self.rows.iter().all(is_silent) && !self.source_refuses();
        if nobody_answers { Exit::Unreachable } else { Exit::Refused }
    }

    /// That no host takes it.
    pub(crate) fn sentence(&self) -> String {
        let Instance { name, host, .. } = &self.guest;
        let why = match (self.source_refuses(), self.rows.len()) {
            (true, _) => format!("{host} refuses"),
            (false, 0) => "no other host comes into question".to_owned(),
            (false, 1) => "the one host that comes into question does not take it".to_owned(),
            (false, hosts) => format!("none of {hosts} hosts takes it"),
        };
        format!("{name} cannot move: {why}; nothing was changed, {name} stays on {host} as it was")
    }

    /// The same as an error, with the first reason there is.
    pub(crate) fn nowhere(&self) -> Failed {
        let own = self.source.iter().find_map(|check| Some((&check.host, check.refusal()?.clone())));
        let first = own.or_else(|| {
            self.rows.iter().find_map(|row| Some((&row.host, row.verdict.refusals().into_iter().next()?.1)))
        });
        let (host, refusal) = first.unzip();
        let more = refusal.as_ref().map(|refusal| format!("; the first: {}; {}", refusal.message, refusal.remedy));
        let message = self.sentence() + &more.unwrap_or_default();
        let reason = refusal.map_or(Reason::HostNotFound, |refusal| refusal.reason);
        Failed { exit: self.exit(), host: host.cloned(), ..Failed::because(reason, message) }
    }
}

/// The checks of a host, with those of our refusals that it does not have itself.
fn united(host: &HostName, ours: &[Refusal], mut checks: Vec<Check>) -> Vec<Check> {
    let reasons: Vec<_> = checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason).collect();
    let missing = ours.iter().filter(|refusal| !reasons.contains(&refusal.reason));
    checks.extend(missing.map(|refusal| Check::refused(host, "what it has", refusal.clone())));
    checks
}
