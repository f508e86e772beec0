//! A failed call on the wire: `google.rpc.Status` with `ErrorInfo`. Made and read here alone.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use vmferry_core::{agent::CallError, id::HostName, reason::Reason};

/// `ErrorInfo.domain` of everything that is ours.
pub const DOMAIN: &str = "vmferry";

/// The status to answer with.
pub fn from_call_error(error: &CallError) -> Status {
    let metadata = HashMap::from([("host".to_owned(), error.host.to_string())]);
    let details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(code(error.reason), &error.message, details)
}

/// What a status from `host` says.
///
/// `broken` describes why a connection failed, where the transport knows; a status without our details came from the
/// transport or from something that is no agent.
pub fn to_call_error(status: &Status, host: &HostName, broken: impl FnOnce(&Status) -> CallError) -> CallError {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    match info {
        Some(info) => CallError {
            host: info.metadata.get("host").and_then(|host| host.parse().ok()).unwrap_or_else(|| host.clone()),
            reason: info.reason.parse().unwrap_or(Reason::Internal),
            message: status.message().to_owned(),
        },
        None => broken(status),
    }
}

/// The gRPC code that says most of it.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::InstanceNotFound | Reason::HostNotFound | Reason::MigrationNotFound => Code::NotFound,
        Reason::InvalidRequest => Code::InvalidArgument,
        Reason::PermissionDenied => Code::PermissionDenied,
        Reason::AgentUnreachable
        | Reason::CoordinatorUnreachable
        | Reason::CoordinatorStopping
        | Reason::LibvirtFailed => Code::Unavailable,
        Reason::AgentUntrusted | Reason::CoordinatorUntrusted => Code::Unauthenticated,
        Reason::MigrationAborted | Reason::InstanceMigrating => Code::Aborted,
        Reason::Internal | Reason::JournalFailed => Code::Internal,
        Reason::MemoryShort | Reason::TooManyMigrations => Code::ResourceExhausted,
        _ => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        let host: HostName = "node-28".parse().expect("valid");
        for reason in Reason::ALL {
            let error = CallError { host: host.clone(), reason: *reason, message: "why".into() };
            let other: HostName = "node-31".parse().expect("valid");
            let read = to_call_error(&from_call_error(&error), &other, |_| unreachable!("it carries our details"));
            assert_eq!(read, error);
        }
    }
}
