//! Which hosts could take an instance: a row a host, and all their reasons.

use std::collections::HashMap;

use serde::Serialize;
use vmferry_core::{
    agent::CallError,
    compatibility::{Check, Refusal},
    host::Host,
    id::HostName,
    instance::Instance,
    schedule::{Candidate, Part, Ranking},
};

use super::{
    checks::{CheckDocument, refusal_lines},
    table::table,
    units::{bytes, count},
};
use crate::{exit::Exit, fleet::Answer};

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

/// A host that did not take an instance that was to move.
#[derive(Debug, Clone)]
pub(crate) struct Turned {
    /// Which.
    pub(crate) host: HostName,
    /// What it said.
    pub(crate) verdict: Verdict,
}

impl Verdict {
    fn takes_it(&self) -> bool {
        matches!(self, Self::Asked(checks) if checks.iter().all(|check| check.refusal().is_none()))
    }

    /// What was asked, and why not: the reason, the sentence, the remedy.
    fn refusals(&self) -> Vec<(Option<&str>, Refusal)> {
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

/// All hosts and what they say to an instance.
#[derive(Debug)]
pub(crate) struct Survey<'a> {
    guest: &'a Instance,
    source: &'a [Check],
    rows: Vec<Row<'a>>,
}

#[derive(Debug)]
struct Row<'a> {
    host: HostName,
    zone: Option<&'a str>,
    candidate: Option<&'a Candidate>,
    verdict: Verdict,
}

impl<'a> Survey<'a> {
    /// Puts together what the source says, what the hosts have, and what was answered by those that were asked.
    pub(crate) fn new(
        guest: &'a Instance,
        source: &'a [Check],
        hosts: &'a [Answer<Host>],
        ranking: &'a Ranking,
        answers: Vec<(HostName, Verdict)>,
    ) -> Self {
        let mut answers: HashMap<_, _> = answers.into_iter().collect();
        let mut answered = |host: &HostName| answers.remove(host);
        let zones = hosts.iter().filter_map(|answer| Some((&answer.endpoint.host, answer.result.as_ref().ok()?)));
        let zones: HashMap<_, _> = zones.map(|(name, host)| (name, host.zone.as_str())).collect();
        let zone = |name: &HostName| zones.get(name).copied();
        let mut rows = Vec::new();
        for candidate in &ranking.candidates {
            let Some(verdict) = answered(&candidate.host) else { continue };
            let host = candidate.host.clone();
            rows.push(Row { zone: zone(&host), host, candidate: Some(candidate), verdict });
        }
        for refused in &ranking.refused {
            // The source is no destination: it is not told why.
            if refused.host == guest.host {
                continue;
            }
            let verdict = match answered(&refused.host) {
                // What it has, is refused by it as well; what was asked for, only by us.
                Some(Verdict::Asked(checks)) => Verdict::Asked(united(&refused.host, &refused.refusals, checks)),
                Some(silent) => silent,
                None => Verdict::Unfit(refused.refusals.clone()),
            };
            rows.push(Row { zone: zone(&refused.host), host: refused.host.clone(), candidate: None, verdict });
        }
        rows.sort_by_key(|row| !row.verdict.takes_it());
        Self { guest, source, rows }
    }

    /// How many hosts could take it.
    pub(crate) fn takers(&self) -> usize {
        if self.source_refuses() { 0 } else { self.rows.iter().filter(|row| row.verdict.takes_it()).count() }
    }

    fn source_refuses(&self) -> bool {
        self.source.iter().any(|check| check.refusal().is_some())
    }

    /// How a command ends that has found no host: by refusals, or because nobody could be asked.
    pub(crate) fn exit(&self) -> Exit {
        let is_silent = |row: &Row<'_>| row.verdict.refusals().iter().all(|(_, refusal)| refusal.reason.is_silence());
        let nobody_answers = !self.rows.is_empty() && self.rows.iter().all(is_silent) && !self.source_refuses();
        if nobody_answers { Exit::Unreachable } else { Exit::Refused }
    }

    /// That no host takes it.
    pub(crate) fn sentence(&self) -> String {
        let Instance { name, host, .. } = self.guest;
        let why = match (self.source_refuses(), self.rows.len()) {
            (true, _) => format!("{host} refuses"),
            (false, 0) => "no other host comes into question".to_owned(),
            (false, 1) => "the one host that comes into question does not take it".to_owned(),
            (false, hosts) => format!("none of {hosts} hosts takes it"),
        };
        format!("{name} cannot move: {why}; nothing was changed, {name} stays on {host} as it was")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let guest = self.guest;
        let verdict = match (self.source_refuses(), self.takers()) {
            (true, _) => format!("cannot leave {}", guest.host),
            (false, 0) => format!("cannot go to any of {} hosts", self.rows.len()),
            (false, takers) => format!("can go to {takers} of {} hosts", self.rows.len()),
        };
        let mut text = format!(
            "{} ({}, {}, {} of memory) {verdict}\n",
            guest.name,
            guest.host,
            count(guest.vcpus, "vCPU"),
            bytes(guest.memory)
        );
        text += &table(["HOST", "ZONE", "TAKES IT", "SCORE", "REASONS"], self.rows.iter().map(Row::cells));
        text + &self.reasons()
    }

    /// Every refusal with its remedy.
    pub(crate) fn reasons(&self) -> String {
        let mut text = String::new();
        for check in self.source {
            if let Some(refusal) = check.refusal() {
                text += &refusal_lines(&format!("{} {}", check.host, check.subject), refusal);
            }
        }
        for row in &self.rows {
            for (subject, refusal) in row.verdict.refusals() {
                let subject = subject.map(|subject| format!(" {subject}")).unwrap_or_default();
                text += &refusal_lines(&format!("{}{subject}", row.host), &refusal);
            }
        }
        text
    }

    /// For programs.
    pub(crate) fn document(&self, exit: Exit) -> impl Serialize {
        Document {
            instance: &self.guest.name,
            instance_id: self.guest.id.to_string(),
            source: self.guest.host.as_str(),
            exit_code: exit.code(),
            source_checks: self.source.iter().map(Into::into).collect(),
            hosts: self.rows.iter().map(Row::document).collect(),
        }
    }
}

/// Which host was chosen, and by what.
pub(crate) fn chosen(name: &str, host: &HostName, candidate: &Candidate, others: usize) -> String {
    let mut parts: Vec<_> = candidate.parts.iter().filter(|part| part.weight != 0.0).collect();
    parts.sort_by(|a, b| b.weight.abs().total_cmp(&a.weight.abs()));
    let parts: Vec<_> =
        parts.iter().map(|part| format!("{} {:+.2}", part.weigher.as_str().replace('_', " "), part.weight)).collect();
    let why = match (others, parts.as_slice()) {
        (0, _) => "the only one that comes into question".to_owned(),
        (others, []) => format!("{others} others are as good"),
        (others, parts) => format!("the best of {}: {}", others + 1, parts.join(", ")),
    };
    format!("{name}: {host} is chosen ({why})")
}

/// That a host did not take it, and why, in a line.
pub(crate) fn turned_away(host: &HostName, verdict: &Verdict) -> String {
    let reasons: Vec<_> = verdict
        .refusals()
        .into_iter()
        .map(|(_, refusal)| format!("{} [{}]", refusal.message, refusal.reason))
        .collect();
    format!("{host} does not take it: {}; the next is looked for", reasons.join("; "))
}

/// A host that did not take it, for documents.
#[derive(Debug, Serialize)]
pub(crate) struct TurnedDocument<'a> {
    host: &'a str,
    refusals: Vec<Refusal>,
}

impl<'a> From<&'a Turned> for TurnedDocument<'a> {
    fn from(Turned { host, verdict }: &'a Turned) -> Self {
        let refusals = verdict.refusals().into_iter().map(|(_, refusal)| refusal).collect();
        Self { host: host.as_str(), refusals }
    }
}

/// The checks of a host, with those of our refusals that it does not have itself.
fn united(host: &HostName, ours: &[Refusal], mut checks: Vec<Check>) -> Vec<Check> {
    let reasons: Vec<_> = checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason).collect();
    let missing = ours.iter().filter(|refusal| !reasons.contains(&refusal.reason));
    checks.extend(missing.map(|refusal| Check::refused(host, "what it has", refusal.clone())));
    checks
}

impl Row<'_> {
    fn cells(&self) -> [String; 5] {
        let refusals = self.verdict.refusals();
        let mut reasons: Vec<_> = refusals.iter().map(|(_, refusal)| refusal.reason.as_str()).collect();
        reasons.dedup();
        [
            self.host.to_string(),
            self.zone.unwrap_or("-").to_owned(),
            if self.verdict.takes_it() { "yes" } else { "no" }.to_owned(),
            self.candidate.map_or("-".to_owned(), |candidate| format!("{:.2}", candidate.score)),
            reasons.join(" "),
        ]
    }

    fn document(&self) -> HostDocument<'_> {
        let checks = match &self.verdict {
            Verdict::Asked(checks) => checks.iter().map(Into::into).collect(),
            Verdict::Failed(_) | Verdict::Unfit(_) => vec![],
        };
        let refusals = self.verdict.refusals().into_iter().map(|(_, refusal)| refusal).collect();
        HostDocument {
            host: self.host.as_str(),
            zone: self.zone,
            takes_it: self.verdict.takes_it(),
            asked: !matches!(self.verdict, Verdict::Unfit(_)),
            score: self.candidate.map(|candidate| candidate.score),
            score_parts: self.candidate.map(|candidate| candidate.parts.as_slice()).unwrap_or_default(),
            refusals,
            checks,
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    exit_code: u8,
    /// What its own host says.
    source_checks: Vec<CheckDocument<'a>>,
    /// Those that take it first, the best of them first; without its own.
    hosts: Vec<HostDocument<'a>>,
}

#[derive(Serialize)]
struct HostDocument<'a> {
    host: &'a str,
    /// `null`: it does not answer.
    zone: Option<&'a str>,
    takes_it: bool,
    /// Whether its agent was asked; if not, it cannot take it by what it has.
    asked: bool,
    /// `null`: it does not come into question by what it has.
    score: Option<f64>,
    score_parts: &'a [Part],
    refusals: Vec<Refusal>,
    checks: Vec<CheckDocument<'a>>,
}
