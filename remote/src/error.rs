//! What a call that failed says: the agent's own answer, or what the connection tells.

use std::{error::Error as StdError, fmt, io, time::Duration};

use tonic::{Code, Status};
use vmferry_core::{agent::CallError, migration::Endpoint, reason::Reason};
use vmferry_proto::convert::Invalid;
use vmferry_transport::{Callee, DialError, Distrust, untrusted};

use super::{Coordinator, Place};
use crate::chain::chain;

/// The agent's answer if it is one, else how the connection failed.
pub fn from_status(status: &Status, place: &Place) -> CallError {
    about(vmferry_proto::status::to_call_error(status, &place.endpoint.host, |status| broken(status, place)))
}

/// A coordinator that serves did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unserved {
    /// The stable code.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
}

/// The coordinator's own answer if it is one, else how the connection to it failed.
pub(super) fn of_coordinator(status: &Status, coordinator: &Coordinator) -> Unserved {
    let Ok(host) = coordinator.name.parse() else { return unheard(status, coordinator) };
    let mut is_answer = true;
    let error = vmferry_proto::status::to_call_error(status, &host, |_| {
        is_answer = false;
        CallError { host: host.clone(), reason: Reason::Internal, message: String::new() }
    });
    if !is_answer {
        return unheard(status, coordinator);
    }
    let CallError { reason, message, .. } = about(error);
    Unserved { reason, message }
}

fn unheard(status: &Status, coordinator: &Coordinator) -> Unserved {
    let (reason, message) = unreached(status, coordinator);
    Unserved { reason, message }
}

/// It did not answer in time.
pub(super) fn silent_coordinator(coordinator: &Coordinator, limit: Duration) -> Unserved {
    let message =
        format!("{coordinator} did not answer within {} s; see whether it is overloaded or cut off", limit.as_secs());
    Unserved { reason: Reason::CoordinatorUnreachable, message }
}

/// An answer of a coordinator that cannot mean anything.
pub(super) fn nonsense_of_coordinator(coordinator: &Coordinator, invalid: &Invalid) -> Unserved {
    let version = env!("CARGO_PKG_VERSION");
    let message =
        format!("{coordinator} answered what vmferry {version} does not understand ({invalid}); compare the versions");
    Unserved { reason: Reason::Internal, message }
}

/// How the connection to a coordinator failed.
fn unreached(status: &Status, coordinator: &Coordinator) -> (Reason, String) {
    if let Some(dial) = find::<DialError>(status) {
        return dialed(dial);
    }
    if let Some(distrust) = untrusted(status) {
        let remedy = distrust.remedy(&coordinator.name);
        return (Reason::CoordinatorUntrusted, format!("no trust between us and {coordinator}: {distrust}; {remedy}"));
    }
    let said = status.message();
    match status.code() {
        Code::Unimplemented => (
            Reason::Internal,
            format!(
                "what answers for {coordinator} is none, or of an older version ({said}); see that `vmferry serve` runs there"
            ),
        ),
        code => (
            Reason::CoordinatorUnreachable,
            format!("lost the connection to {coordinator}: {}; see whether it was restarted", why(status, code)),
        ),
    }
}

fn dialed(dial: &DialError) -> (Reason, String) {
    let reason = match dial {
        DialError::Unreachable { callee: Callee::Agent(_), .. } => Reason::AgentUnreachable,
        DialError::Untrusted { callee: Callee::Agent(_), .. } => Reason::AgentUntrusted,
        DialError::Unreachable { callee: Callee::Coordinator(_), .. } => Reason::CoordinatorUnreachable,
        DialError::Untrusted { callee: Callee::Coordinator(_), .. } => Reason::CoordinatorUntrusted,
    };
    (reason, dial.to_string())
}

/// What a status says that came from nobody of ours.
fn why(status: &Status, code: Code) -> String {
    match status.source() {
        Some(source) => chain(source),
        None if status.message().is_empty() => code.to_string(),
        None => status.message().to_owned(),
    }
}

impl fmt::Display for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the coordinator {} at {}", self.name, self.address)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, address } = &self.endpoint;
        match &self.through {
            Some(coordinator) => write!(f, "the agent of {host} at {address}, through {coordinator},"),
            None => write!(f, "the agent of {host} at {address}"),
        }
    }
}

/// The same error with its host in the sentence, which an agent may think is known, and a remedy.
fn about(mut error: CallError) -> CallError {
    let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let mut words = error.message.split(|letter| !is_of_name(letter));
    if !words.any(|word| word.trim_end_matches('.') == error.host.as_str()) {
        error.message = format!("{}: {}", error.host, error.message);
    }
    if error.reason == Reason::LibvirtFailed && !error.message.contains("libvirtd") {
        error.message += "; see to libvirtd there (systemctl status libvirtd)";
    }
    error
}

/// Nothing came in time.
pub(super) fn silent(place: &Place, limit: Duration) -> CallError {
    let message =
        format!("{place} did not answer within {} s; see whether the host is overloaded or cut off", limit.as_secs());
    CallError { host: place.endpoint.host.clone(), reason: Reason::AgentUnreachable, message }
}

/// No connection came about, and nobody else was waited for.
pub(super) fn overdue(place: &Place, waited: Duration) -> CallError {
    let message = format!(
        "cannot reach {place}: no answer within {:.1} s, when others had answered; \
         check the address, the route and firewalls, and that the host is up",
        waited.as_secs_f64()
    );
    CallError { host: place.endpoint.host.clone(), reason: Reason::AgentUnreachable, message }
}

/// The stream of a job ended without its end.
pub(super) fn cut_short(place: &Place) -> CallError {
    let message = format!("{place} stopped telling of the job; see whether it was restarted");
    CallError { host: place.endpoint.host.clone(), reason: Reason::AgentUnreachable, message }
}

/// An answer that cannot mean anything.
pub(super) fn nonsense(place: &Place, invalid: &Invalid) -> CallError {
    let host = &place.endpoint.host;
    let message = format!(
        "the agent of {host} answered what vmferry {} does not understand ({invalid}); \
         compare the versions with `vmferry hypervisors`",
        env!("CARGO_PKG_VERSION")
    );
    CallError { host: host.clone(), reason: Reason::Internal, message }
}

fn broken(status: &Status, place: &Place) -> CallError {
    let host = &place.endpoint.host;
    let said = status.message();
    let (reason, message) = match (status.code(), untrusted(status)) {
        (Code::PermissionDenied | Code::Unauthenticated, None) => {
            (Reason::PermissionDenied, format!("the agent of {host} refuses us: {said}"))
        }
        (Code::Unimplemented, None) => (
            Reason::Internal,
            format!(
                "what answers for {place} does not know this call ({said}); compare the versions with `vmferry hypervisors`"
            ),
        ),
        (Code::OutOfRange, None) => (Reason::Internal, format!("the answer of {host} is too long: {said}")),
        (code, distrust) => match &place.through {
            // What a coordinator says of an agent has our details.
            Some(coordinator) => unreached(status, coordinator),
            None => unreached_agent(status, place, code, distrust),
        },
    };
    CallError { host: host.clone(), reason, message }
}

fn unreached_agent(status: &Status, place: &Place, code: Code, distrust: Option<Distrust>) -> (Reason, String) {
    if let Some(dial) = find::<DialError>(status) {
        return dialed(dial);
    }
    if let Some(distrust) = distrust {
        let remedy = distrust.remedy(place.endpoint.host.as_str());
        return (Reason::AgentUntrusted, format!("no trust between us and {place}: {distrust}; {remedy}"));
    }
    // Whatever else comes without our details says nothing about the host.
    let what = format!("lost the connection to {place}: {}", why(status, code));
    (Reason::AgentUnreachable, format!("{what}; see whether it was restarted"))
}

/// The first `E` in the error or below it.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error's source is that of what it wraps, not what it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmferry_proto::status::from_call_error;
    use vmferry_transport::{Fault, Unreachable};

    use super::*;

    fn place() -> Place {
        let endpoint = Endpoint { host: "node-31".parse().expect("valid"), address: "192.0.2.11:7443".into() };
        Place { endpoint, through: None }
    }

    fn through() -> Place {
        Place { through: Some(Arc::new(Coordinator::new("fleet.example.org:7444", None))), ..place() }
    }

    fn of(dial: DialError) -> CallError {
        from_status(&Status::from_error(Box::new(dial)), &place())
    }

    #[test]
    fn an_answer_that_names_its_host_passes_unchanged() {
        let refusal = CallError {
            host: "node-31".parse().expect("valid"),
            reason: Reason::PermissionDenied,
            message: "a viewer may not call Pre on node-31.".into(),
        };
        assert_eq!(from_status(&from_call_error(&refusal), &place()), refusal);
    }

    #[test]
    fn an_answer_always_names_its_host_and_that_of_libvirt_a_remedy() {
        let said = |reason, message: &str| {
            let error = CallError { host: place().endpoint.host, reason, message: message.into() };
            from_status(&from_call_error(&error), &place()).message
        };
        assert_eq!(
            said(Reason::LibvirtFailed, "libvirt cannot be reached at qemu:///system"),
            "node-31: libvirt cannot be reached at qemu:///system; see to libvirtd there (systemctl status libvirtd)"
        );
        assert_eq!(said(Reason::JournalFailed, "no space left"), "node-31: no space left");
        // Another host's name that begins like this one's.
        assert_eq!(said(Reason::TunnelFailed, "no way to node-310"), "node-31: no way to node-310");
        assert_eq!(said(Reason::LibvirtFailed, "node-31: start libvirtd"), "node-31: start libvirtd");
    }

    #[test]
    fn an_agent_that_is_down_is_unreachable() {
        let error = of(DialError::Unreachable {
            callee: Callee::Agent("node-31".into()),
            address: "192.0.2.11:7443".into(),
            reason: Unreachable::Refused,
        });
        assert_eq!(error.reason, Reason::AgentUnreachable);
        for part in ["node-31", "192.0.2.11:7443", "connection refused", "start vmferry-agent"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_wrong_ca_is_distrust() {
        let error = of(DialError::Untrusted {
            callee: Callee::Agent("node-31".into()),
            address: "192.0.2.11:7443".into(),
            reason: Distrust::OfUs(Fault::UnknownIssuer),
        });
        assert_eq!(error.reason, Reason::AgentUntrusted);
        assert!(error.message.contains("ca.pem"), "{}", error.message);
    }

    #[test]
    fn a_connection_that_breaks_is_silence() {
        let reset: io::Error = io::ErrorKind::ConnectionReset.into();
        for status in [
            Status::from_error(Box::new(reset)),
            Status::cancelled("operation was canceled"),
            Status::unavailable("keep-alive timed out"),
            Status::internal("stream closed"),
        ] {
            let error = from_status(&status, &place());
            assert!(error.is_silence(), "{error:?}");
            assert!(error.message.contains("node-31") && error.message.contains("192.0.2.11:7443"), "{error}");
        }
    }

    #[test]
    fn a_coordinator_that_is_down_is_told_from_an_agent_behind_it_that_is() {
        let dial = DialError::Unreachable {
            callee: Callee::Coordinator("fleet.example.org".into()),
            address: "fleet.example.org:7444".into(),
            reason: Unreachable::Refused,
        };
        let down = from_status(&Status::from_error(Box::new(dial)), &through());
        assert_eq!(down.reason, Reason::CoordinatorUnreachable);
        for part in ["the coordinator fleet.example.org at", "start `vmferry serve` there"] {
            assert!(down.message.contains(part), "{down}");
        }
        let lost = from_status(&Status::unavailable("keep-alive timed out"), &through());
        assert_eq!(lost.reason, Reason::CoordinatorUnreachable);
        assert!(lost.is_silence() && lost.message.contains("lost the connection to the coordinator"), "{lost}");

        let behind = CallError {
            host: place().endpoint.host,
            reason: Reason::AgentUnreachable,
            message: "cannot reach the agent of node-31 at 192.0.2.11:7443".into(),
        };
        assert_eq!(from_status(&from_call_error(&behind), &through()), behind);
    }

    #[test]
    fn another_server_is_not_silence() {
        assert!(!from_status(&Status::unimplemented(""), &place()).is_silence());
        assert_eq!(from_status(&Status::permission_denied("no"), &place()).reason, Reason::PermissionDenied);
    }
}
