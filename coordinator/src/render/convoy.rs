//! Several guests that move: the plan, and what came of it.

use std::time::Duration;

use serde::Serialize;
use vmferry_core::{
    drain::{Blocked, Move, Plan},
    flow::{Completed, Failure},
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Outcome},
    schedule::Objection,
};

use super::{
    Terminal,
    migration::sentence,
    once,
    table::table,
    units::{about, bytes, milliseconds, time},
};
use crate::exit::Exit;

/// A guest that shall move no more.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    instance: InstanceId,
    name: String,
    source: HostName,
    destination: Option<HostName>,
    took: Duration,
    /// How it ended.
    pub(crate) end: End,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// It runs where it should.
    Moved {
        /// `None`: somebody else has moved it.
        outcome: Option<Outcome>,
        /// For how long it stood still, by QEMU.
        downtime: Option<Duration>,
        /// What needs a look, a sentence each.
        warnings: Vec<String>,
    },
    /// It did not arrive, or that cannot be told.
    Failed {
        /// As for a migration by itself.
        exit: Exit,
        /// What happened, where it is, and what to do.
        message: String,
    },
    /// No host takes it, or it may not leave.
    Blocked(Blocked),
    /// The user has ended it before.
    NotBegun,
}

impl Ended {
    /// A move that ran to its end.
    pub(crate) fn of(order: &Order, result: &Result<Completed, Failure>, took: Duration) -> Self {
        let end = match result {
            Ok(completed) => End::Moved {
                outcome: Some(completed.outcome()),
                downtime: completed.statistics.map(|statistics| statistics.downtime),
                warnings: completed.warnings.iter().map(|warning| once(warning)).collect(),
            },
            Err(_) => End::Failed { exit: Exit::of_flow(result), message: sentence(order, result) },
        };
        Self {
            instance: order.instance,
            name: order.instance_name.clone(),
            source: order.source.host.clone(),
            destination: Some(order.destination.host.clone()),
            took,
            end,
        }
    }

    /// One that nobody takes.
    pub(crate) fn blocked(blocked: Blocked) -> Self {
        Self {
            instance: blocked.instance,
            name: blocked.name.clone(),
            source: blocked.source.clone(),
            destination: None,
            took: Duration::ZERO,
            end: End::Blocked(blocked),
        }
    }

    /// One that could not be moved, or be asked after.
    pub(crate) fn failed(guest: &Instance, destination: Option<HostName>, exit: Exit, message: String) -> Self {
        Self { destination, ..Self::from(guest, End::Failed { exit, message }) }
    }

    /// One that somebody else has moved.
    pub(crate) fn moved_by_others(guest: &Instance, destination: HostName, took: Duration) -> Self {
        let end = End::Moved { outcome: None, downtime: None, warnings: vec![] };
        Self { destination: Some(destination), took, ..Self::from(guest, end) }
    }

    /// One that waited when the user ended it.
    pub(crate) fn not_begun(guest: &Instance) -> Self {
        Self::from(guest, End::NotBegun)
    }

    fn from(guest: &Instance, end: End) -> Self {
        Self {
            instance: guest.id,
            name: guest.name.clone(),
            source: guest.host.clone(),
            destination: None,
            took: Duration::ZERO,
            end,
        }
    }

    /// Whether it runs where it should.
    pub(crate) fn has_moved(&self) -> bool {
        matches!(self.end, End::Moved { .. })
    }

    /// As for a migration by itself.
    pub(crate) fn exit(&self) -> Exit {
        match &self.end {
            End::Moved { .. } => Exit::Done,
            End::Failed { exit, .. } => *exit,
            End::Blocked(_) => Exit::Refused,
            End::NotBegun => Exit::Aborted,
        }
    }

    /// The line that tells of it when it is over.
    pub(crate) fn line(&self) -> String {
        let way = match &self.destination {
            Some(destination) => format!("{}  {} → {destination}", self.name, self.source),
            None => format!("{}  {}", self.name, self.source),
        };
        match &self.end {
            End::Moved { outcome, downtime, .. } => {
                let outcome = outcome.map_or("completed (by somebody else)", Outcome::as_str);
                let downtime = downtime.map(|downtime| format!(", downtime {}", time(downtime))).unwrap_or_default();
                format!("{way}  {outcome}  {}{downtime}", time(self.took))
            }
            End::Failed { message, .. } => format!("{way}  {message}"),
            End::Blocked(blocked) => format!("{way}  stays: {}", objections(&blocked.objections)),
            End::NotBegun => format!("{way}  not begun"),
        }
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
                    End::Moved { outcome, downtime, .. } => {
                        (outcome.map_or("completed", Outcome::as_str).to_owned(), downtime.map(time))
                    }
                    End::Failed { exit, .. } if *exit == Exit::Held => ("HELD".to_owned(), None),
                    End::Failed { .. } => ("failed".to_owned(), None),
                    End::Blocked(_) => ("stays".to_owned(), None),
                    End::NotBegun => ("not begun".to_owned(), None),
                };
                let destination = ended.destination.as_ref().filter(|_| ended.has_moved());
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
            End::Blocked(_) | End::NotBegun => {}
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
    /// `moved`, `failed`, `blocked` or `not_begun`
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
                document.outcome = *outcome;
                document.downtime_ms = downtime.map(milliseconds);
                document.warnings = warnings;
            }
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
