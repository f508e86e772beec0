//! All text for people, and the JSON for programs. Values in, text out; [`Terminal`] alone writes.

pub(crate) mod affinity;
pub(crate) mod board;
pub(crate) mod checks;
pub(crate) mod convoy;
pub(crate) mod cordon;
pub(crate) mod doctor;
pub(crate) mod forecast;
pub(crate) mod groups;
pub(crate) mod guest;
pub(crate) mod hosts;
pub(crate) mod instances;
pub(crate) mod limits;
pub(crate) mod live;
pub(crate) mod migration;
pub(crate) mod migrations;
pub(crate) mod policies;
pub(crate) mod policy;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod steering;
pub(crate) mod story;
pub(crate) mod survey;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod volumes;
pub(crate) mod watch;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use vmferry_core::agent::CallError;

use crate::exit::{Exit, Failed};

/// Whom the results are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // For people. (No doc comments: clap would print a list with them.)
    #[value(name = "table", alias = "text")]
    Text,
    // For programs: one document, whatever happens.
    Json,
}

/// Where results and messages go: data to stdout, everything else to stderr.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// How data is printed.
    pub(crate) output: Output,
    /// Whether messages may have colours.
    pub(crate) color: bool,
    /// Whether a line may be drawn over and over again.
    pub(crate) live: bool,
}

impl Terminal {
    /// As the environment and the user want it. `is_shared`: others write to stderr as well.
    pub(crate) fn new(output: Output, no_color: bool, is_shared: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let no_color = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { output, color: is_terminal && !no_color, live: is_terminal && !is_shared }
    }

    /// Writes data. A reader that hangs up (`vmferry … | head -1`) is no failure of ours.
    pub(crate) fn print(self, text: &str) -> Result<(), Failed> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed {
                exit: Exit::Failed,
                reason: None,
                host: None,
                message: format!("cannot write to stdout: {error}"),
            }),
            _ => Ok(()),
        }
    }

    /// Writes data, in the form that the user wants.
    pub(crate) fn show(self, text: impl FnOnce() -> String, document: &impl Serialize) -> Result<(), Failed> {
        match self.output {
            Output::Text => self.print(&text()),
            Output::Json => self.print(&(json(document) + "\n")),
        }
    }

    /// A line that is neither data nor bad.
    pub(crate) fn note(self, text: &str) {
        say(text);
    }

    /// What was asked for is done, and yet somebody should look.
    pub(crate) fn warn(self, text: &str) {
        say(&format!("{} {text}", self.paint(Paint::Yellow, "warning:")));
    }

    /// What was asked for is not done.
    pub(crate) fn error(self, text: &str) {
        say(&format!("{} {text}", self.paint(Paint::Red, "error:")));
    }

    /// Ends a command that could not do its work.
    pub(crate) fn fail(self, failed: &Failed) {
        self.error(&failed.message);
        if self.output == Output::Json {
            // stderr has it already.
            let _ = self.document_of(failed);
        }
    }

    /// The document of a command that could not do its work.
    pub(crate) fn document_of(self, failed: &Failed) -> Result<(), Failed> {
        let document = json!({
            "exit_code": failed.exit.code(),
            "error": { "reason": failed.reason, "host": failed.host, "message": failed.message },
        });
        self.print(&(json(&document) + "\n"))
    }

    /// Colours a word, where there may be colours.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Red => "1;31",
            Paint::Yellow => "1;33",
            Paint::Green => "32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Not done.
    Red,
    /// Look at it.
    Yellow,
    /// As it should be.
    Green,
}

/// A document with its fields in the order of its type.
fn json(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document).expect("documents have text keys and serialize without fail")
}

/// To stderr. A terminal that went away must not end a migration.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Errors of several hosts, a line each, to be put behind a sentence.
pub(crate) fn list(errors: &[CallError]) -> String {
    errors.iter().map(|error| format!("\n  {}", named(error))).collect()
}

/// An error behind its host's name.
pub(crate) fn named(error: &CallError) -> String {
    once(&format!("{}: {error}", error.host))
}

/// An error for behind words that name its host.
pub(crate) fn unnamed(error: &CallError) -> &str {
    let rest = error.message.strip_prefix(error.host.as_str()).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(&error.message)
}

/// A message in which whose it is stands but once: those who pass it on put the host's name before it, as do others.
pub(crate) fn once(message: &str) -> String {
    match message.split_once(": ") {
        Some((host, rest)) if rest.strip_prefix(host).is_some_and(|rest| rest.starts_with(": ")) => rest.to_owned(),
        _ => message.to_owned(),
    }
}

/// A host that could not be asked, for documents.
#[derive(Serialize)]
pub(crate) struct Unreachable<'a> {
    host: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl<'a> From<&'a CallError> for Unreachable<'a> {
    fn from(error: &'a CallError) -> Self {
        Self { host: error.host.as_str(), reason: error.reason.as_str(), message: &error.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_once() {
        assert_eq!(once("node-28: node-28: no space left"), "node-28: no space left");
        assert_eq!(once("node-28: node-281: no"), "node-28: node-281: no");
        assert_eq!(once("node-28: the agent of node-28: gone"), "node-28: the agent of node-28: gone");
        assert_eq!(once("no host"), "no host");
    }
}
