//! What a call that failed says.

use std::error::Error as _;

use tonic::Status;
use uuid::Uuid;
use vmferry_core::{agent::CallError, id::HostName, reason::Reason};
use vmferry_proto::status::to_call_error;
use vmferry_transport::{DialError, untrusted};

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The stable code, as in `docs/errors.md`.
    pub reason: Reason,
    /// Whom it is about: a host, or the coordinator.
    pub about: String,
    /// For people: what happened, and what to do.
    pub message: String,
    /// A migration of which this does not tell what became of it: it may go on, or have ended, or never have been begun. Ask again with
    /// the same id, at any coordinator. `None`: nothing was begun, or this is about no migration.
    pub migration: Option<Uuid>,
    /// Who says so.
    origin: Origin,
}

/// Where an error comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Here: nobody was called.
    Us,
    /// A connection that did not come about.
    Dial,
    /// A connection that broke, or an answer that means nothing.
    Connection,
    /// A coordinator.
    Coordinator,
}

impl Error {
    pub(crate) fn of(status: &Status, name: &str) -> Self {
        let fallback: HostName = "coordinator".parse().expect("a valid name");
        let mut is_answer = true;
        let error = to_call_error(status, &fallback, |_| {
            is_answer = false;
            CallError { host: fallback.clone(), reason: Reason::CoordinatorUnreachable, message: String::new() }
        });
        if is_answer {
            let CallError { host, reason, message } = error;
            return Self { reason, about: host.to_string(), message, migration: None, origin: Origin::Coordinator };
        }
        let reason = match untrusted(status) {
            Some(_) => Reason::CoordinatorUntrusted,
            None => Reason::CoordinatorUnreachable,
        };
        let mut message = format!("cannot ask the coordinator {name}: {}", status.message());
        let mut source = status.source();
        let mut origin = Origin::Connection;
        while let Some(cause) = source {
            if cause.is::<DialError>() {
                origin = Origin::Dial;
            }
            let cause_said = cause.to_string();
            if !message.contains(&cause_said) {
                message += &format!(": {cause_said}");
            }
            source = cause.source();
        }
        Self { reason, about: name.to_owned(), message, migration: None, origin }
    }

    pub(crate) fn certificates(error: vmferry_transport::Error) -> Self {
        let mut message = error.to_string();
        if let Some(source) = error.source() {
            message += &format!(": {source}");
        }
        Self {
            reason: Reason::CoordinatorUntrusted,
            about: "us".to_owned(),
            message,
            migration: None,
            origin: Origin::Us,
        }
    }

    pub(crate) fn nonsense(name: &str, field: &str) -> Self {
        let message = format!("the coordinator {name} answered without `{field}`; compare the versions");
        Self { reason: Reason::Internal, about: name.to_owned(), message, migration: None, origin: Origin::Connection }
    }

    pub(crate) fn cut_short(name: &str) -> Self {
        let message = format!("the coordinator {name} stopped telling of the migration; was it restarted?");
        Self {
            reason: Reason::CoordinatorUnreachable,
            about: name.to_owned(),
            message,
            migration: None,
            origin: Origin::Connection,
        }
    }

    /// Whether the same call may be answered soon, by this coordinator or another.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.reason, Reason::CoordinatorUnreachable | Reason::CoordinatorStopping)
    }

    /// Whether a coordinator may have been asked for what the call was to do.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.origin, Origin::Connection | Origin::Coordinator)
    }

    /// Whether a migration may go on that this was said of; `asked`: somebody may have been asked for it before.
    pub(crate) fn leaves_open(&self, asked: bool) -> bool {
        match (self.origin, self.reason) {
            (Origin::Us | Origin::Dial, _) => asked,
            (Origin::Connection, _) => true,
            // Said before any host was asked.
            (Origin::Coordinator, Reason::PermissionDenied | Reason::InvalidRequest) => asked,
            // Said of a host that could not be asked, or of itself.
            (
                Origin::Coordinator,
                Reason::AgentUnreachable
                | Reason::AgentUntrusted
                | Reason::CoordinatorUnreachable
                | Reason::CoordinatorUntrusted
                | Reason::CoordinatorStopping
                | Reason::InventoryUnavailable
                | Reason::Internal,
            ) => true,
            // Before it is begun its hosts are asked whether it was.
            (Origin::Coordinator, _) => false,
        }
    }

    pub(crate) fn leaving_open(self, id: Uuid) -> Self {
        let message = format!(
            "{}; what became of migration {id} is not known: ask again with the same id",
            self.message.trim_end_matches('.')
        );
        Self { message, migration: Some(id), ..self }
    }
}

#[cfg(test)]
mod tests {
    use vmferry_proto::status::from_call_error;

    use super::*;

    fn said(reason: Reason) -> Error {
        let host = "node-28".parse().expect("valid");
        Error::of(&from_call_error(&CallError { host, reason, message: "why".into() }), "fleet")
    }

    #[test]
    fn what_a_coordinator_refuses_does_not_go_on() {
        for reason in [Reason::MemoryShort, Reason::InstanceMigrating, Reason::MigrationAborted, Reason::HostNotFound] {
            assert!(!said(reason).leaves_open(true), "{reason}");
        }
        // It has asked nobody: what was asked before is as it was.
        for reason in [Reason::PermissionDenied, Reason::InvalidRequest] {
            assert_eq!([true, false].map(|asked| said(reason).leaves_open(asked)), [true, false], "{reason}");
        }
    }

    #[test]
    fn what_nobody_can_know_is_not_called_over() {
        for reason in [Reason::Internal, Reason::AgentUnreachable, Reason::CoordinatorStopping] {
            assert!(said(reason).leaves_open(false), "{reason}");
        }
        let broken = Error::of(&Status::unavailable("keep-alive timed out"), "fleet");
        assert!(broken.is_asked() && broken.leaves_open(false));
        assert!(Error::cut_short("fleet").leaves_open(false) && Error::nonsense("fleet", "ended").leaves_open(false));
        let id = Uuid::now_v7();
        let told = broken.leaving_open(id);
        assert_eq!(told.migration, Some(id));
        assert!(told.message.contains(&format!("what became of migration {id} is not known")), "{told}");
    }

    #[test]
    fn who_was_never_reached_was_asked_for_nothing() {
        let dial = DialError::Unreachable {
            callee: vmferry_transport::Callee::Coordinator("fleet".into()),
            address: "192.0.2.1:7444".into(),
            reason: vmferry_transport::Unreachable::Refused,
        };
        let error = Error::of(&Status::from_error(Box::new(dial)), "fleet");
        assert!(!error.is_asked() && !error.leaves_open(false) && error.leaves_open(true));
        assert_eq!(error.reason, Reason::CoordinatorUnreachable);
    }
}
