//! Several guests that move: the plan, and what came of it.

use serde::Serialize;
use vmferry_core::{
    drain::{Blocked, Move, Plan},
    id::HostName,
    instance::Instance,
    migration::Outcome,
    schedule::Objection,
};

use super::{
    Terminal,
    table::table,
    units::{about, bytes, milliseconds, time},
};
use crate::{
    convoy::{End, Ended},
    exit::Exit,
};

/// The line that tells of a guest when it is over.
pub(super) fn line(ended: &Ended) -> String {
    let Ended { name, source, destination, took, end, .. } = ended;
    let way = match destination {
        Some(destination) => format!("{name}  {source} → {destination}"),
        None => format!("{name}  {source}"),
    };
    match end {
        End::Moved { outcome, downtime, .. } => {
            let downtime = downtime.map(|downtime| format!(", downtime {}", time(downtime))).unwrap_or_default();
            format!("{way}  {}  {}{downtime}", outcome.as_str(), time(*took))
        }
        End::MovedByOthers => format!("{way}  moved by somebody else"),
        End::Failed { message, .. } => format!("{way}  {message}"),
        End::Blocked(blocked) => format!("{way}  stays: {}", objections(&blocked.objections)),
        End::NotBegun => format!("{way}  not begun"),
    }
}

/// A drain as it is foreseen. `off` are the guests that stay because they are off.
pub(crate) fn plan(plan: &Plan, off: &[Instance]) -> String {
    let mut text = String::new();
    if !plan.moves.is_empty() {
        text += &table(
            ["ORDER", "INSTANCE", "FROM", "TO", "MEMORY", "STARTS AFTER", "TAKES"],
            plan.moves.iter().enumerate().map(|(number, planned)| {
                [
                    (number + 1).to_string(),
                    planned.name.clone(),
                    planned.source.to_string(),
                    planned.destination.to_string(),
                    bytes(planned.memory),
                    about(planned.starts),
                    format!("about {}", about(planned.takes)),
                ]
            }),
        );
    }
    let moves = plan.moves.len();
    text += &format!("{moves} to move, about {} in all\n", about(plan.total));
    text += &in_the_way(&plan.blocked, off);
    text
}

/// Who stays, and why.
fn in_the_way(blocked: &[Blocked], off: &[Instance]) -> String {
    let mut text = String::new();
    for Blocked { name, objections, .. } in blocked {
        text += &format!("{name} stays:\n");
        for objection in objections {
            text += &format!("  {objection}\n    → {}\n", objection.example.remedy);
        }
    }
    if !off.is_empty() {
        let names: Vec<_> = off.iter().map(|guest| guest.name.as_str()).collect();
        text +=
            &format!("off, and left where they are: {} (vmferry migrate NAME --cold moves one)\n", names.join(", "));
    }
    text
}

fn objections(objections: &[Objection]) -> String {
    objections.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What came of it, for people.
pub(crate) fn summary(ended: &[Ended], off: &[Instance]) -> String {
    let mut text = String::new();
    if !ended.is_empty() {
        text += &table(
            ["INSTANCE", "FROM", "TO", "OUTCOME", "TOOK", "DOWNTIME"],
            ended.iter().map(|ended| {
                let (outcome, downtime) = match &ended.end {
                    End::Moved { outcome, downtime, .. } => (outcome.as_str().to_owned(), downtime.map(time)),
                    End::MovedByOthers => ("moved by somebody else".to_owned(), None),
                    End::Failed { exit, .. } if *exit == Exit::Held => ("HELD".to_owned(), None),
                    End::Failed { .. } => ("failed".to_owned(), None),
                    End::Blocked(_) => ("stays".to_owned(), None),
                    End::NotBegun => ("not begun".to_owned(), None),
                };
                let destination = ended.destination.as_ref().filter(|_| ended.is_there());
                [
                    ended.name.clone(),
                    ended.source.to_string(),
                    destination.map_or("-".into(), ToString::to_string),
                    outcome,
                    if ended.took.is_zero() { "-".into() } else { time(ended.took) },
                    downtime.unwrap_or_else(|| "-".into()),
                ]
            }),
        );
    }
    let blocked: Vec<_> = ended
        .iter()
        .filter_map(|ended| match &ended.end {
            End::Blocked(blocked) => Some(blocked.clone()),
            _ => None,
        })
        .collect();
    text + &in_the_way(&blocked, off)
}

/// What went wrong, and what needs a look: to stderr.
pub(crate) fn complaints(terminal: Terminal, ended: &[Ended]) {
    for Ended { name, end, .. } in ended {
        match end {
            End::Failed { message, .. } => terminal.error(message),
            End::Moved { warnings, .. } => {
                warnings.iter().for_each(|warning| terminal.warn(&format!("{name}: {warning}")));
            }
            End::MovedByOthers | End::Blocked(_) | End::NotBegun => {}
        }
    }
}

/// A drain's document. `foreseen` is the plan, `ended` what came of it: nothing, if it was a dry run.
pub(crate) fn document<'a>(
    host: &'a HostName,
    foreseen: &'a Plan,
    ended: &'a [Ended],
    off: &'a [Instance],
    exit: Exit,
) -> impl Serialize + use<'a> {
    Document {
        host: host.as_str(),
        exit_code: exit.code(),
        foreseen_ms: milliseconds(foreseen.total),
        moves: foreseen.moves.iter().map(Into::into).collect(),
        blocked: foreseen.blocked.iter().map(Into::into).collect(),
        instances: ended.iter().map(Into::into).collect(),
        off: off.iter().map(|guest| guest.name.as_str()).collect(),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    host: &'a str,
    exit_code: u8,
    /// How long all of it takes, as it was foreseen.
    foreseen_ms: u64,
    /// As they were foreseen.
    moves: Vec<MoveDocument<'a>>,
    /// Who cannot go, as far as it was foreseen.
    blocked: Vec<BlockedDocument<'a>>,
    /// What came of it; empty for a dry run.
    instances: Vec<EndedDocument<'a>>,
    /// Those that are off, and stay.
    off: Vec<&'a str>,
}

#[derive(Serialize)]
struct MoveDocument<'a> {
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    destination: &'a str,
    memory_bytes: u64,
    starts_ms: u64,
    takes_ms: u64,
}

impl<'a> From<&'a Move> for MoveDocument<'a> {
    fn from(planned: &'a Move) -> Self {
        Self {
            instance: &planned.name,
            instance_id: planned.instance.to_string(),
            source: planned.source.as_str(),
            destination: planned.destination.as_str(),
            memory_bytes: planned.memory.as_u64(),
            starts_ms: milliseconds(planned.starts),
            takes_ms: milliseconds(planned.takes),
        }
    }
}

#[derive(Serialize)]
struct BlockedDocument<'a> {
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    objections: &'a [Objection],
}

impl<'a> From<&'a Blocked> for BlockedDocument<'a> {
    fn from(Blocked { instance, name, source, objections }: &'a Blocked) -> Self {
        Self { instance: name, instance_id: instance.to_string(), source: source.as_str(), objections }
    }
}

#[derive(Serialize)]
struct EndedDocument<'a> {
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    /// `null`: it had none.
    destination: Option<&'a str>,
    /// `moved`, `moved_by_others`, `failed`, `blocked` or `not_begun`
    end: &'static str,
    /// Of one that was moved by this coordinator.
    outcome: Option<Outcome>,
    exit_code: u8,
    took_ms: u64,
    downtime_ms: Option<u64>,
    message: Option<&'a str>,
    objections: &'a [Objection],
    warnings: &'a [String],
}

impl<'a> From<&'a Ended> for EndedDocument<'a> {
    fn from(ended: &'a Ended) -> Self {
        let mut document = Self {
            instance: &ended.name,
            instance_id: ended.instance.to_string(),
            source: ended.source.as_str(),
            destination: ended.destination.as_ref().map(HostName::as_str),
            end: "not_begun",
            outcome: None,
            exit_code: ended.exit().code(),
            took_ms: milliseconds(ended.took),
            downtime_ms: None,
            message: None,
            objections: &[],
            warnings: &[],
        };
        match &ended.end {
            End::Moved { outcome, downtime, warnings } => {
                document.end = "moved";
                document.outcome = Some(*outcome);
                document.downtime_ms = downtime.map(milliseconds);
                document.warnings = warnings;
            }
            End::MovedByOthers => document.end = "moved_by_others",
            End::Failed { message, .. } => {
                document.end = "failed";
                document.message = Some(message);
            }
            End::Blocked(blocked) => {
                document.end = "blocked";
                document.objections = &blocked.objections;
            }
            End::NotBegun => {}
        }
        document
    }
}
