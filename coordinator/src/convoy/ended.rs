//! How it ended for each guest.

use std::time::Duration;

use vmferry_core::{
    drain::Blocked,
    flow::{Completed, Failure},
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Outcome},
};

use crate::{
    exit::Exit,
    render::{migration::sentence, once},
};

/// A guest that shall move no more.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Who.
    pub(crate) instance: InstanceId,
    /// Its name.
    pub(crate) name: String,
    /// Where it was.
    pub(crate) source: HostName,
    /// Where it went, or was to go. None: nobody had got so far.
    pub(crate) destination: Option<HostName>,
    /// Since its move began, or since it was known that somebody else moves it.
    pub(crate) took: Duration,
    /// How it ended.
    pub(crate) end: End,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// It runs where it should.
    Moved {
        /// How well that went.
        outcome: Outcome,
        /// For how long it stood still, by QEMU.
        downtime: Option<Duration>,
        /// What needs a look, a sentence each.
        warnings: Vec<String>,
    },
    /// It runs where it should, and that was not our doing.
    MovedByOthers,
    /// It did not arrive, or that cannot be told.
    Failed {
        /// As for a migration by itself.
        exit: Exit,
        /// What happened, where it is, and what to do.
        message: String,
    },
    /// No host takes it, or it may not leave.
    Blocked(Blocked),
    /// It waited when the convoy was ended.
    NotBegun,
}

impl Ended {
    /// A move that ran to its end.
    pub(super) fn of(order: &Order, result: &Result<Completed, Failure>, took: Duration) -> Self {
        let end = match result {
            Ok(completed) => End::Moved {
                outcome: completed.outcome(),
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
    pub(super) fn blocked(blocked: Blocked) -> Self {
        Self::new(blocked.instance, blocked.name.clone(), blocked.source.clone(), End::Blocked(blocked))
    }

    /// One that could not be moved, or be asked after.
    pub(super) fn failed(instance: InstanceId, name: &str, source: &HostName, exit: Exit, message: String) -> Self {
        Self::new(instance, name.to_owned(), source.clone(), End::Failed { exit, message })
    }

    /// One that somebody else has moved.
    pub(super) fn moved_by_others(
        instance: InstanceId,
        name: String,
        source: HostName,
        destination: HostName,
        took: Duration,
    ) -> Self {
        Self { destination: Some(destination), took, ..Self::new(instance, name, source, End::MovedByOthers) }
    }

    /// One that waited when the convoy was ended.
    pub(super) fn not_begun(guest: &Instance) -> Self {
        Self::new(guest.id, guest.name.clone(), guest.host.clone(), End::NotBegun)
    }

    fn new(instance: InstanceId, name: String, source: HostName, end: End) -> Self {
        Self { instance, name, source, destination: None, took: Duration::ZERO, end }
    }

    /// Whether we have brought it to where it should run.
    pub(crate) fn has_moved(&self) -> bool {
        matches!(self.end, End::Moved { .. })
    }

    /// Whether it runs where it should, whoever has brought it there.
    pub(crate) fn is_there(&self) -> bool {
        self.has_moved() || matches!(self.end, End::MovedByOthers)
    }

    /// As for a migration by itself.
    pub(crate) fn exit(&self) -> Exit {
        match &self.end {
            End::Moved { .. } | End::MovedByOthers => Exit::Done,
            End::Failed { exit, .. } => *exit,
            End::Blocked(_) => Exit::Refused,
            End::NotBegun => Exit::Aborted,
        }
    }
}
