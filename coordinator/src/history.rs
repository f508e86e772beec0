//! Migrations as people know them: the two hosts' halves put together.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use vmferry_core::{
    agent::{CallError, Sighting},
    id::{HostName, MigrationId},
    migration::{Cause, Order, Outcome, Phase, Record, Side, Statistics, Story},
    reason::Reason,
};

use crate::exit::{Exit, Failed};

/// A prefix of an id shorter than this is more likely a slip.
pub(crate) const SHORTEST_PREFIX: usize = 4;

/// One migration. At least one half is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Migration {
    /// What was asked for.
    pub(crate) order: Order,
    /// What the source has of it; `None` if it has nothing or was not asked.
    pub(crate) source: Option<Record>,
    /// What the destination has of it; likewise.
    pub(crate) destination: Option<Record>,
}

impl Migration {
    /// Its id, as text.
    pub(crate) fn id(&self) -> String {
        self.order.id.to_string()
    }

    /// Whether a host has not brought it to its end.
    pub(crate) fn is_open(&self) -> bool {
        self.halves().any(|half| half.ended.is_none())
    }

    /// Whether a host has still to take something back, though it ended.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.halves().any(|half| half.ended.is_some() && !half.pending.is_empty())
    }

    /// Whether there is nothing left to do, on neither host; `answered` tells whether a host was asked. One that was, and
    /// has no half, has nothing to end.
    pub(crate) fn is_settled(&self, answered: impl Fn(&HostName) -> bool) -> bool {
        let is_settled = |half: &Option<Record>, host: &HostName| match half {
            Some(half) => half.ended.is_some() && half.pending.is_empty(),
            None => answered(host),
        };
        is_settled(&self.source, &self.order.source.host)
            && is_settled(&self.destination, &self.order.destination.host)
            && !matches!(self.outcome(), None | Some(Outcome::Held))
    }

    /// How it ended; `None` while it is open.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.is_open() {
            return None;
        }
        // The source was the first to begin and is the last to end. A warning may be on either side.
        let outcome = self.leading().outcome;
        match outcome {
            Some(Outcome::Completed)
                if self.halves().any(|half| half.outcome == Some(Outcome::CompletedWithWarnings)) =>
            {
                Some(Outcome::CompletedWithWarnings)
            }
            outcome => outcome,
        }
    }

    /// The phase it is in or ended in. If only one half is open, that one's.
    pub(crate) fn phase(&self) -> Phase {
        self.halves().find(|half| half.ended.is_none()).unwrap_or(self.leading()).phase()
    }

    /// When it began, by one host's clock.
    pub(crate) fn started(&self) -> Timestamp {
        self.leading().started
    }

    /// When it ended, by the same clock.
    pub(crate) fn ended(&self) -> Option<Timestamp> {
        self.leading().ended.filter(|_| !self.is_open())
    }

    /// From its beginning to its end, or to `now`.
    pub(crate) fn duration(&self, now: Timestamp) -> Duration {
        let end = self.ended().unwrap_or(now);
        Duration::try_from(end.duration_since(self.started())).unwrap_or_default()
    }

    /// What the job measured.
    pub(crate) fn statistics(&self) -> Option<Statistics> {
        self.halves().find_map(|half| half.statistics)
    }

    /// How its job went, as the source has it; `None` if that was not asked, or has nothing of it. Lists leave it out.
    pub(crate) fn story(&self) -> Option<&Story> {
        self.source.as_ref().map(|source| &source.story)
    }

    /// Why it did not go through.
    pub(crate) fn cause(&self) -> Option<&Cause> {
        self.halves().find_map(|half| half.cause.as_ref())
    }

    /// What was to be seen of the guest at its end, on the host that had it then. `None`: it is open or held, or nobody has seen it.
    pub(crate) fn guest(&self) -> Option<Sighting> {
        match self.outcome()? {
            Outcome::Completed | Outcome::CompletedWithWarnings => self.destination.as_ref()?.guest,
            Outcome::FailedRolledBack | Outcome::AbortedRolledBack => self.source.as_ref()?.guest,
            Outcome::Held => None,
        }
    }

    /// What needs a look, of both hosts.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.halves()
            .flat_map(|half| half.warnings.iter().map(|warning| format!("{}: {warning}", host(half))))
            .collect()
    }

    fn leading(&self) -> &Record {
        self.halves().next().expect("made from at least one half")
    }

    fn halves(&self) -> impl Iterator<Item = &Record> {
        [&self.source, &self.destination].into_iter().flatten()
    }
}

fn host(half: &Record) -> &HostName {
    match half.side {
        Side::Source => &half.order.source.host,
        Side::Destination => &half.order.destination.host,
    }
}

/// Puts halves together by id; the newest first.
pub(crate) fn merge(halves: impl IntoIterator<Item = Record>) -> Vec<Migration> {
    let mut migrations: BTreeMap<MigrationId, Migration> = BTreeMap::new();
    for half in halves {
        let migration = migrations.entry(half.order.id).or_insert_with(|| Migration {
            order: half.order.clone(),
            source: None,
            destination: None,
        });
        match half.side {
            Side::Source => migration.source = Some(half),
            Side::Destination => migration.destination = Some(half),
        }
    }
    let mut migrations: Vec<_> = migrations.into_values().collect();
    // Ids are time-ordered only if a coordinator made them; the proto allows others.
    migrations.sort_by_key(|migration| (std::cmp::Reverse(migration.started()), migration.order.id));
    migrations
}

/// Whether `wanted` is this id, or enough of its beginning.
pub(crate) fn is_beginning(wanted: &str, id: MigrationId) -> bool {
    wanted.len() >= SHORTEST_PREFIX && id.to_string().starts_with(&wanted.to_ascii_lowercase())
}

/// The migration that `wanted` names: an id, or the beginning of one.
pub(crate) fn find(migrations: Vec<Migration>, silent: &[CallError], wanted: &str) -> Result<Migration, Failed> {
    let long_enough = wanted.len() >= SHORTEST_PREFIX;
    let mut found: Vec<_> =
        migrations.into_iter().filter(|migration| is_beginning(wanted, migration.order.id)).collect();
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (count, Some(_)) => Err(Failed::usage(format!(
            "{wanted} is the beginning of {count} migrations' ids; write more of it (`vmferry migrations` has them whole)"
        ))),
        _ if !long_enough => Err(Failed::usage(format!(
            "{wanted} is too little of a migration's id; write at least {SHORTEST_PREFIX} characters of it"
        ))),
        (_, None) if silent.is_empty() => Err(Failed::because(
            Reason::MigrationNotFound,
            format!("no host of the inventory knows a migration {wanted}; list them with `vmferry migrations`"),
        )),
        (_, None) => {
            let unasked: Vec<_> = silent.iter().map(|error| error.host.as_str()).collect();
            let message = format!(
                "no migration {wanted} on the hosts that answered, and {} could not be asked{}",
                unasked.join(", "),
                crate::render::list(silent)
            );
            Err(Failed::because(Reason::MigrationNotFound, message).with_exit(Exit::Unreachable))
        }
    }
}

/// The migration that `wanted` names: the one of its instance that goes on, or was the last; or as [`find`] has it.
pub(crate) fn newest(migrations: Vec<Migration>, silent: &[CallError], wanted: &str) -> Result<Migration, Failed> {
    let (of_instance, others): (Vec<_>, Vec<_>) =
        migrations.into_iter().partition(|migration| migration.order.instance_name == wanted);
    let open = of_instance.iter().filter(|migration| migration.is_open()).count();
    let wanted_one = of_instance.into_iter().find(|migration| open == 0 || migration.is_open());
    match (open, wanted_one) {
        (_, None) => find(others, silent, wanted),
        (0, Some(_)) if !silent.is_empty() => {
            let unasked: Vec<_> = silent.iter().map(|error| error.host.as_str()).collect();
            let message = format!(
                "no migration of {wanted} goes on at the hosts that answered, and {} could not be asked{}",
                unasked.join(", "),
                crate::render::list(silent)
            );
            Err(Failed::because(Reason::MigrationNotFound, message).with_exit(Exit::Unreachable))
        }
        (0 | 1, Some(only)) => Ok(only),
        (count, Some(_)) => Err(Failed::usage(format!(
            "{count} instances are called {wanted} and move; name the migration (`vmferry migrations --active`)"
        ))),
    }
}

/// The migration that goes on and that `wanted` names, as [`newest`] has it.
pub(crate) fn moving(mut migrations: Vec<Migration>, silent: &[CallError], wanted: &str) -> Result<Migration, Failed> {
    migrations.retain(Migration::is_open);
    newest(migrations, silent, wanted).map_err(|failed| match failed.reason {
        Some(Reason::MigrationNotFound) => {
            Failed { message: format!("{}; only what goes on can be told anything", failed.message), ..failed }
        }
        _ => failed,
    })
}

#[cfg(test)]
pub(crate) mod tests;
