//! What a call that failed says.

use std::error::Error as _;

use tonic::Status;
use uuid::Uuid;
use vmferry_core::{agent::CallError, id::HostName, reason::Reason};
use vmferry_proto::status::to_call_error;
use vmferry_transport::untrusted;

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
    /// The migration that may go on nevertheless. Ask again with it.
    pub migration: Option<Uuid>,
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
            return Self { reason, about: host.to_string(), message, migration: None };
        }
        let reason = match untrusted(status) {
            Some(_) => Reason::CoordinatorUntrusted,
            None => Reason::CoordinatorUnreachable,
        };
        let mut message = format!("cannot ask the coordinator {name}: {}", status.message());
        let mut source = status.source();
        while let Some(cause) = source {
            let cause_said = cause.to_string();
            if !message.contains(&cause_said) {
                message += &format!(": {cause_said}");
            }
            source = cause.source();
        }
        Self { reason, about: name.to_owned(), message, migration: None }
    }

    pub(crate) fn certificates(error: vmferry_transport::Error) -> Self {
        let mut message = error.to_string();
        if let Some(source) = error.source() {
            message += &format!(": {source}");
        }
        Self { reason: Reason::CoordinatorUntrusted, about: "us".to_owned(), message, migration: None }
    }

    pub(crate) fn nonsense(name: &str, field: &str) -> Self {
        let message = format!("the coordinator {name} answered without `{field}`; compare the versions");
        Self { reason: Reason::Internal, about: name.to_owned(), message, migration: None }
    }

    pub(crate) fn cut_short(name: &str) -> Self {
        let message = format!("the coordinator {name} stopped telling of the migration; was it restarted?");
        Self { reason: Reason::CoordinatorUnreachable, about: name.to_owned(), message, migration: None }
    }

    /// Whether the same call may be answered soon, by this coordinator or another.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.reason, Reason::CoordinatorUnreachable | Reason::CoordinatorStopping)
    }
}
