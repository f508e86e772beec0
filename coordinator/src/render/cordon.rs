//! Hosts to which no guest shall come.

use jiff::Timestamp;
use serde::Serialize;
use vmferry_core::host::Cordon;

use super::Unreachable;
use crate::{exit::Exit, fleet::Answer};

/// Why no guest comes, in a sentence without the host.
pub(crate) fn why(Cordon { reason, by, since }: &Cordon) -> String {
    format!("cordoned since {}: {reason} (says {by})", since.strftime("%Y-%m-%d %H:%M UTC"))
}

/// A line per host that is cordoned now, or could not be told.
pub(crate) fn closed(answers: &[Answer<Cordon>]) -> String {
    lines(answers, why)
}

/// A line per host to which guests may come again, or that could not be told.
pub(crate) fn opened(answers: &[Answer<Option<Cordon>>]) -> String {
    lines(answers, |was| match was {
        Some(was) => format!("takes guests again; was {}", why(was)),
        None => "takes guests; was not cordoned".to_owned(),
    })
}

fn lines<T>(answers: &[Answer<T>], words: impl Fn(&T) -> String) -> String {
    let line = |Answer { endpoint, result }: &Answer<T>| match result {
        Ok(answer) => format!("{}  {}\n", endpoint.host, words(answer)),
        Err(error) => format!("{}  not changed, as far as can be told ({})\n", endpoint.host, error.reason),
    };
    answers.iter().map(line).collect()
}

/// Why no guest shall come to a host, for documents.
#[derive(Serialize)]
pub(crate) struct CordonDocument<'a> {
    reason: &'a str,
    by: &'a str,
    since: Timestamp,
}

impl<'a> From<&'a Cordon> for CordonDocument<'a> {
    fn from(Cordon { reason, by, since }: &'a Cordon) -> Self {
        Self { reason, by, since: *since }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    exit_code: u8,
    hosts: Vec<HostDocument<'a>>,
    unreachable: Vec<Unreachable<'a>>,
}

#[derive(Serialize)]
struct HostDocument<'a> {
    host: &'a str,
    /// `null`: guests may come.
    cordon: Option<CordonDocument<'a>>,
    /// What was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<CordonDocument<'a>>,
}

/// `{"exit_code": …, "hosts": [{"host": …, "cordon": {…}}], "unreachable": […]}`
pub(crate) fn closed_document(answers: &[Answer<Cordon>], exit: Exit) -> impl Serialize {
    document(answers, exit, |host, cordon| HostDocument { host, cordon: Some(cordon.into()), was: None })
}

/// `{"exit_code": …, "hosts": [{"host": …, "cordon": null, "was": {…}}], "unreachable": […]}`
pub(crate) fn opened_document(answers: &[Answer<Option<Cordon>>], exit: Exit) -> impl Serialize {
    document(answers, exit, |host, was| HostDocument { host, cordon: None, was: was.as_ref().map(Into::into) })
}

fn document<'a, T>(
    answers: &'a [Answer<T>],
    exit: Exit,
    host: impl Fn(&'a str, &'a T) -> HostDocument<'a>,
) -> Document<'a> {
    let of_host = |answer: &'a Answer<T>| Some(host(answer.endpoint.host.as_str(), answer.result.as_ref().ok()?));
    Document {
        exit_code: exit.code(),
        hosts: answers.iter().filter_map(of_host).collect(),
        unreachable: answers.iter().filter_map(|answer| answer.result.as_ref().err()).map(Into::into).collect(),
    }
}
