//! How one migration ended: the sentence, the figures, the document.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use vmferry_core::{
    agent::Sighting,
    flow::{Completed, Failure},
    migration::{Cause, Order, Outcome, Phase, Statistics},
    reason::Reason,
};

use super::{
    Terminal, checks,
    checks::CheckDocument,
    guest::Seen,
    migrations::{moment, until},
    once,
    survey::TurnedDocument,
    table::facts,
    units::{bytes, count, milliseconds, time},
};
use crate::{exit::Exit, history::Migration, journey::Turned};

/// A migration that this coordinator ran to its end, and how long that took.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// What was asked for.
    pub(crate) order: &'a Order,
    /// What the flow returned.
    pub(crate) result: &'a Result<Completed, Failure>,
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What the job measured, if the flow or the source's record has it.
    pub(crate) statistics: Option<Statistics>,
    /// As the user waited.
    pub(crate) wall: Duration,
    /// The phases as seen from here.
    pub(crate) phases: Vec<(Phase, Duration)>,
    /// The hosts that were tried before, and did not take it.
    pub(crate) tried: &'a [Turned],
}

/// Where the guest is if nothing was changed.
pub(crate) fn untouched(order: &Order) -> String {
    format!("{} stays on {} as it was", order.instance_name, order.source.host)
}

/// What happened, where the guest is, and what to do.
pub(crate) fn sentence(order: &Order, result: &Result<Completed, Failure>) -> String {
    let Order { id, instance_name: name, destination, .. } = order;
    let destination = &destination.host;
    match result {
        Ok(completed) => {
            let seen = Seen::on_destination(order, completed.guest);
            if seen.is_as_before() { seen.sentence() } else { format!("{name} was moved and {}", seen.clause()) }
        }
        Err(Failure::NotStarted(error)) if error.reason == Reason::PermissionDenied => {
            format!("{error}; nothing was changed, {}; use a certificate of role coordinator", untouched(order))
        }
        Err(Failure::NotStarted(error)) => format!("{error}; nothing was changed, {}", untouched(order)),
        Err(Failure::Refused(plan)) => checks::refused(order, plan),
        Err(Failure::RolledBack { cause, guest, .. }) => {
            let seen = Seen::on_source(order, *guest);
            let stays = seen.sentence() + if seen.is_as_before() { " as before" } else { "" };
            match cause.reason {
                Reason::MigrationAborted => format!("aborted: {stays}"),
                _ => format!(
                    "{name} was not moved to {destination}: {}; {stays}; details: vmferry migrations show {id}",
                    cause_text(cause)
                ),
            }
        }
        Err(Failure::Held { reason, message, cause }) => format!(
            "HELD: {message} [{reason}], after: {}; nothing is undone until that is known: when the hosts can be \
             asked again, run vmferry migrations resolve {id}",
            cause_text(cause)
        ),
    }
}

/// How a migration ended some time ago. Says nothing of where the guest is now: it may have gone elsewhere since.
pub(crate) fn past(migration: &Migration) -> String {
    let order = &migration.order;
    let (name, source, destination) = (&order.instance_name, &order.source.host, &order.destination.host);
    let outcome = migration.outcome();
    let moved = Seen::on_destination(order, migration.guest()).then();
    let stayed = Seen::on_source(order, migration.guest()).then();
    let how = match outcome.map(Exit::of_outcome) {
        Some(Exit::Done) if outcome == Some(Outcome::CompletedWithWarnings) => {
            format!("completed with warnings (moved {name} from {source} to {destination}{moved})")
        }
        Some(Exit::Done) => format!("completed (moved {name} from {source} to {destination}{moved})"),
        Some(Exit::Aborted) => format!("aborted, rolled back ({name} stayed on {source}{stayed})"),
        _ => match migration.cause() {
            Some(cause) => format!("failed, rolled back ({name} stayed on {source}{stayed}): {}", cause_text(cause)),
            None => format!("failed, rolled back ({name} stayed on {source}{stayed})"),
        },
    };
    match migration.ended() {
        Some(ended) => format!("at {}: {how}", moment(ended)),
        None => how,
    }
}

/// The document of a migration that ended some time ago, as it stands in the records.
pub(crate) fn past_document(migration: &Migration, exit: Exit, message: &str) -> impl Serialize {
    let order = &migration.order;
    let statistics = migration.statistics();
    Document {
        cause: migration.cause().cloned(),
        warnings: migration.warnings(),
        ended: migration.ended(),
        guest: migration.guest(),
        message: message.to_owned(),
        ..Document::new(order, migration.outcome(), exit, statistics.as_ref())
    }
}

fn cause_text(cause: &Cause) -> String {
    format!("{} [{} on {}]", cause.message, cause.reason, cause.host)
}

impl Report<'_> {
    fn outcome(&self) -> Option<Outcome> {
        match self.result {
            Ok(completed) => Some(completed.outcome()),
            Err(failure) => failure.outcome(),
        }
    }

    /// `None`: it cannot be told, or nowhere.
    fn runs_on(&self) -> Option<&str> {
        match self.result {
            // Nobody has touched it.
            Err(Failure::NotStarted(_) | Failure::Refused(_)) if !self.order.kind.stays_off() => {
                Some(self.order.source.host.as_str())
            }
            _ => self.seen().filter(|seen| seen.runs()).map(Seen::host),
        }
    }

    /// Where it is, running or off. `None`: it cannot be told, or no migration came about.
    fn seen(&self) -> Option<Seen<'_>> {
        match self.result {
            Ok(completed) => Some(Seen::on_destination(self.order, completed.guest)),
            Err(Failure::RolledBack { guest, .. }) => Some(Seen::on_source(self.order, *guest)),
            Err(Failure::Held { .. } | Failure::NotStarted(_) | Failure::Refused(_)) => None,
        }
    }

    fn guest(&self) -> Option<Sighting> {
        match self.result {
            Ok(Completed { guest, .. }) | Err(Failure::RolledBack { guest, .. }) => *guest,
            Err(_) => None,
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self.result {
            Ok(_) | Err(Failure::Refused(_)) => None,
            Err(Failure::NotStarted(error)) => Some(error.clone().into()),
            Err(Failure::RolledBack { cause, .. }) => Some(cause.clone()),
            Err(Failure::Held { reason, message, cause }) => {
                Some(Cause { reason: *reason, host: cause.host.clone(), message: message.clone() })
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let warnings = match self.result {
            Ok(completed) => completed.warnings.as_slice(),
            Err(Failure::RolledBack { leftovers, .. }) => leftovers,
            Err(_) => &[],
        };
        warnings.iter().map(|warning| once(warning)).collect()
    }

    /// All that took time besides the job.
    fn overhead(&self) -> Option<Duration> {
        Some(self.order.kind).filter(|kind| !kind.is_cold())?;
        Some(self.wall.saturating_sub(self.statistics?.total_time))
    }

    /// What goes to stderr.
    pub(crate) fn messages(&self, terminal: Terminal) {
        let sentence = sentence(self.order, self.result);
        match self.result {
            Ok(_) if self.seen().is_some_and(Seen::is_as_before) => {}
            Ok(_) => terminal.warn(&sentence),
            Err(Failure::Refused(plan)) => {
                terminal.error(&sentence);
                terminal.note(checks::refusals(terminal, plan).trim_end());
            }
            Err(Failure::RolledBack { cause, .. })
                if cause.reason == Reason::MigrationAborted || self.exit == Exit::Done =>
            {
                terminal.note(&sentence);
            }
            Err(Failure::NotStarted(error)) if error.reason == Reason::MigrationAborted => terminal.note(&sentence),
            Err(_) => terminal.error(&sentence),
        }
        for warning in self.warnings() {
            terminal.warn(&warning);
        }
        if matches!(self.result, Err(Failure::RolledBack { leftovers, .. }) if !leftovers.is_empty()) {
            let id = self.order.id;
            terminal.warn(&format!("take back what is left with: vmferry migrations resolve {id}"));
        }
    }

    /// The figures, for people. Empty if no migration came about.
    pub(crate) fn text(&self) -> String {
        let Some(outcome) = self.outcome() else { return String::new() };
        let mut rows = vec![
            ("outcome", outcome.to_string()),
            match self.seen() {
                Some(seen) => (seen.verb(), seen.host().to_owned()),
                None => ("runs on", "cannot be told, see above".to_owned()),
            },
        ];
        if let Some(statistics) = self.statistics.as_ref().filter(|_| self.order.kind.is_cold()) {
            rows.push(("transferred", bytes(statistics.transferred)));
            if self.order.kind.shutdown().is_some() {
                rows.push((
                    "downtime",
                    format!("{} (from its shutdown until it ran again)", time(statistics.downtime)),
                ));
            }
        } else if let Some(statistics) = &self.statistics {
            rows.extend([
                ("total time", format!("{} (libvirt's job)", time(statistics.total_time))),
                ("downtime", format!("{} ({})", time(statistics.downtime), until(self.order))),
                ("transferred", format!("{} in {}", bytes(statistics.transferred), count(statistics.rounds, "round"))),
            ]);
        }
        rows.push(("wall time", time(self.wall)));
        if let Some(overhead) = self.overhead() {
            rows.push(("overhead", format!("{} (wall time less total time)", time(overhead))));
        }
        rows.push(("migration", self.order.id.to_string()));
        facts(rows)
    }

    /// The same for programs.
    pub(crate) fn document(&self) -> impl Serialize {
        let refusals = match self.result {
            Err(Failure::Refused(plan)) => plan.checks.as_slice(),
            _ => &[],
        };
        Document {
            runs_on: self.runs_on(),
            guest: self.guest(),
            wall_ms: milliseconds(self.wall),
            overhead_ms: self.overhead().map(milliseconds),
            phases: self.phases.iter().map(|(phase, took)| Span { phase: *phase, ms: milliseconds(*took) }).collect(),
            warnings: self.warnings(),
            cause: self.cause(),
            refusals: refusals.iter().filter(|check| check.refusal().is_some()).map(Into::into).collect(),
            tried: self.tried.iter().map(Into::into).collect(),
            message: sentence(self.order, self.result),
            ..Document::new(self.order, self.outcome(), self.exit, self.statistics.as_ref())
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    migration_id: String,
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    destination: &'a str,
    /// `null`: refused or not started, nothing was changed.
    outcome: Option<Outcome>,
    /// `live` or `cold`
    kind: String,
    exit_code: u8,
    /// `null`: it cannot be told, or nowhere.
    runs_on: Option<&'a str>,
    /// What was to be seen of the guest at the end, on the destination if it completed, on the source if it was rolled back: `running`,
    /// `shutoff`, `paused`, `absent`; `null`: no migration came about, it is held, or its host could not be asked.
    guest: Option<Sighting>,
    wall_ms: u64,
    overhead_ms: Option<u64>,
    /// By QEMU, like all down to `rounds`; `null`: no job finished.
    total_time_ms: Option<u64>,
    downtime_ms: Option<u64>,
    transferred_bytes: Option<u64>,
    total_bytes: Option<u64>,
    rounds: Option<u32>,
    phases: Vec<Span>,
    warnings: Vec<String>,
    cause: Option<Cause>,
    refusals: Vec<CheckDocument<'a>>,
    /// The hosts that were tried before `destination`, and did not take it.
    tried: Vec<TurnedDocument<'a>>,
    message: String,
    /// Only of one that had ended before: nothing was done, and `runs_on` is `null`, for the guest may have gone on.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Timestamp>,
}

impl<'a> Document<'a> {
    /// What is known of every migration.
    fn new(order: &'a Order, outcome: Option<Outcome>, exit: Exit, statistics: Option<&Statistics>) -> Self {
        Self {
            migration_id: order.id.to_string(),
            instance: &order.instance_name,
            instance_id: order.instance.to_string(),
            source: order.source.host.as_str(),
            destination: order.destination.host.as_str(),
            outcome,
            kind: order.kind.to_string(),
            exit_code: exit.code(),
            runs_on: None,
            guest: None,
            wall_ms: 0,
            overhead_ms: None,
            total_time_ms: statistics.map(|statistics| milliseconds(statistics.total_time)),
            downtime_ms: statistics.map(|statistics| milliseconds(statistics.downtime)),
            transferred_bytes: statistics.map(|statistics| statistics.transferred.as_u64()),
            total_bytes: statistics.map(|statistics| statistics.total.as_u64()),
            rounds: statistics.map(|statistics| statistics.rounds),
            phases: vec![],
            warnings: vec![],
            cause: None,
            refusals: vec![],
            tried: vec![],
            message: String::new(),
            ended: None,
        }
    }
}

#[derive(Serialize)]
struct Span {
    phase: Phase,
    ms: u64,
}

#[cfg(test)]
mod tests;
