//! What a certificate says.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use vmferry_transport::{CertificateFacts, read_certificates};

use super::{Error, day, json};
use crate::Output;

/// Shows every certificate of a file.
pub(super) fn show(path: &Path, output: Output) -> Result<String, Error> {
    let facts: Result<Vec<_>, _> = read_certificates(path)?.iter().map(CertificateFacts::read).collect();
    let facts = facts.map_err(|source| Error::Certificate { path: path.to_owned(), source })?;
    let now = Timestamp::now();
    Ok(match output {
        Output::Json => {
            json(&json!({ "certificates": facts.iter().map(|facts| value(facts, now)).collect::<Vec<_>>() }))
        }
        Output::Text => facts.iter().map(|facts| text(facts, now)).collect::<Vec<_>>().join("\n"),
    })
}

fn value(facts: &CertificateFacts, now: Timestamp) -> serde_json::Value {
    json!({
        "identity": facts.identity().ok().map(|identity| identity.to_string()),
        "is_ca": facts.is_ca,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "uris": facts.uris,
        "names": facts.names,
        "not_before": facts.not_before.to_string(),
        "not_after": facts.not_after.to_string(),
        "valid_now": (facts.not_before..=facts.not_after).contains(&now),
    })
}

fn text(facts: &CertificateFacts, now: Timestamp) -> String {
    let whose = match (facts.identity(), facts.is_ca) {
        (Ok(identity), _) => identity.to_string(),
        (Err(_), true) => format!("none: this is a CA ({})", facts.uris.join(", ")),
        (Err(reason), false) => format!("none: {reason}"),
    };
    let names = match facts.names.as_slice() {
        [] => "-".to_owned(),
        names => names.join(", "),
    };
    format!(
        "identity  {whose}\nsubject   {}\nissuer    {}\nnames     {names}\nvalid     {} to {}, {}\n",
        facts.subject,
        facts.issuer,
        day(facts.not_before),
        day(facts.not_after),
        standing(facts, now),
    )
}

fn standing(facts: &CertificateFacts, now: Timestamp) -> String {
    if now < facts.not_before {
        return "not valid yet".into();
    }
    match facts.not_after.duration_since(now) {
        left if left < SignedDuration::ZERO => format!("EXPIRED at {}", facts.not_after),
        left => format!("{:.0} days left", left.as_secs_f64() / 86400.0),
    }
}
