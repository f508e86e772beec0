//! What hosts say to an instance, as messages.

use vmferry_core::schedule::{Candidate, Part};
use vmferry_proto::fleet;

use crate::journey::{Row, Survey, Turned, Verdict};

/// All hosts of a survey.
pub(super) fn candidates(survey: &Survey) -> Vec<fleet::Candidate> {
    survey.rows.iter().map(row).collect()
}

fn row(Row { host, zone, candidate, verdict }: &Row) -> fleet::Candidate {
    fleet::Candidate {
        zone: zone.clone().unwrap_or_default(),
        score: candidate.as_ref().map(|candidate| candidate.score),
        parts: candidate.as_ref().map(|candidate| parts(&candidate.parts)).unwrap_or_default(),
        ..said(host.as_str(), verdict)
    }
}

/// A host that did not take it when it was tried.
pub(super) fn turned(Turned { host, verdict, .. }: &Turned) -> fleet::Candidate {
    said(host.as_str(), verdict)
}

/// A host that is tried.
pub(super) fn chosen(Candidate { host, score, parts }: &Candidate, others: usize) -> fleet::Chosen {
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    fleet::Chosen { host: host.to_string(), score: *score, parts: self::parts(parts), others }
}

fn said(host: &str, verdict: &Verdict) -> fleet::Candidate {
    let checks = match verdict {
        Verdict::Asked(checks) => checks.iter().cloned().map(Into::into).collect(),
        Verdict::Failed(_) | Verdict::Unfit(_) => vec![],
    };
    fleet::Candidate {
        host: host.to_owned(),
        takes_it: verdict.takes_it(),
        asked: !matches!(verdict, Verdict::Unfit(_)),
        refusals: verdict.refusals().into_iter().map(|(_, refusal)| refusal.into()).collect(),
        checks,
        ..fleet::Candidate::default()
    }
}

fn parts(parts: &[Part]) -> Vec<fleet::ScorePart> {
    let part = |part: &Part| fleet::ScorePart {
        weigher: part.weigher.as_str().to_owned(),
        value: part.value,
        weight: part.weight,
    };
    parts.iter().map(part).collect()
}
