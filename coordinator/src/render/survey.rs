//! Which hosts could take an instance: a row a host, and all their reasons.

use serde::Serialize;
use vmferry_core::{
    compatibility::Refusal,
    id::HostName,
    schedule::{Candidate, Part},
};

use super::{
    checks::{CheckDocument, refusal_lines},
    table::table,
    units::{bytes, count},
};
use crate::{
    exit::Exit,
    journey::{Row, Survey, Turned, Verdict},
};

impl Survey {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let guest = &self.guest;
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
        for check in &self.source {
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
pub(crate) fn turned_away(Turned { host, verdict, .. }: &Turned) -> String {
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
    fn from(Turned { host, verdict, .. }: &'a Turned) -> Self {
        let refusals = verdict.refusals().into_iter().map(|(_, refusal)| refusal).collect();
        Self { host: host.as_str(), refusals }
    }
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let refusals = self.verdict.refusals();
        let mut reasons: Vec<_> = refusals.iter().map(|(_, refusal)| refusal.reason.as_str()).collect();
        reasons.dedup();
        [
            self.host.to_string(),
            self.zone.clone().unwrap_or_else(|| "-".to_owned()),
            if self.verdict.takes_it() { "yes" } else { "no" }.to_owned(),
            self.candidate.as_ref().map_or("-".to_owned(), |candidate| format!("{:.2}", candidate.score)),
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
            zone: self.zone.as_deref(),
            takes_it: self.verdict.takes_it(),
            asked: !matches!(self.verdict, Verdict::Unfit(_)),
            score: self.candidate.as_ref().map(|candidate| candidate.score),
            score_parts: self.candidate.as_ref().map(|candidate| candidate.parts.as_slice()).unwrap_or_default(),
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
