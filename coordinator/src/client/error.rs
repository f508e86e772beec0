//! What a call that failed says: the agent's own answer, or what the connection tells.

use std::{error::Error as StdError, io, time::Duration};

use tonic::{Code, Status};
use vmferry_core::{agent::CallError, migration::Endpoint, reason::Reason};
use vmferry_transport::{DialError, untrusted};

use crate::chain::chain;

/// The agent's answer if it is one, else how the connection failed.
pub(super) fn from_status(status: &Status, endpoint: &Endpoint) -> CallError {
    about(vmferry_proto::status::to_call_error(status, &endpoint.host, |status| broken(status, endpoint)))
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
pub(super) fn silent(endpoint: &Endpoint, limit: Duration) -> CallError {
    let Endpoint { host, address } = endpoint;
    let message = format!(
        "the agent of {host} at {address} did not answer within {} s; see whether the host is overloaded or cut off",
        limit.as_secs()
    );
    CallError { host: host.clone(), reason: Reason::AgentUnreachable, message }
}

/// No connection came about, and nobody else was waited for.
pub(super) fn overdue(endpoint: &Endpoint, waited: Duration) -> CallError {
    let Endpoint { host, address } = endpoint;
    let message = format!(
        "cannot reach the agent of {host} at {address}: no answer within {:.1} s, when others had answered; \
         check the address, the route and firewalls, and that the host is up",
        waited.as_secs_f64()
    );
    CallError { host: host.clone(), reason: Reason::AgentUnreachable, message }
}

/// The stream of a job ended without its end.
pub(super) fn cut_short(endpoint: &Endpoint) -> CallError {
    let Endpoint { host, address } = endpoint;
    let message = format!("the agent of {host} at {address} stopped telling of the job; see whether it was restarted");
    CallError { host: host.clone(), reason: Reason::AgentUnreachable, message }
}

/// An answer that cannot mean anything.
pub(super) fn nonsense(endpoint: &Endpoint, invalid: &vmferry_proto::convert::Invalid) -> CallError {
    let host = &endpoint.host;
    let message = format!(
        "the agent of {host} answered what vmferry {} does not understand ({invalid}); \
         compare the versions with `vmferry hypervisors`",
        env!("CARGO_PKG_VERSION")
    );
    CallError { host: host.clone(), reason: Reason::Internal, message }
}

fn broken(status: &Status, endpoint: &Endpoint) -> CallError {
    let Endpoint { host, address } = endpoint;
    let (reason, message) = if let Some(dial) = find::<DialError>(status) {
        let reason = match dial {
            DialError::Unreachable { .. } => Reason::AgentUnreachable,
            DialError::Untrusted { .. } => Reason::AgentUntrusted,
        };
        (reason, dial.to_string())
    } else if let Some(distrust) = untrusted(status) {
        let remedy = distrust.remedy(host.as_str());
        (
            Reason::AgentUntrusted,
            format!("no trust between us and the agent of {host} at {address}: {distrust}; {remedy}"),
        )
    } else {
        let said = status.message();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => {
                (Reason::PermissionDenied, format!("the agent of {host} refuses us: {said}"))
            }
            Code::Unimplemented => (
                Reason::Internal,
                format!(
                    "what answers for {host} at {address} does not know this call ({said}); compare the versions with `vmferry hypervisors`"
                ),
            ),
            Code::OutOfRange => (Reason::Internal, format!("the answer of {host} is too long: {said}")),
            // Whatever else comes without our details says nothing about the host.
            code => {
                let why = match status.source() {
                    Some(source) => chain(source),
                    None if said.is_empty() => code.to_string(),
                    None => said.to_owned(),
                };
                let what = format!("lost the connection to the agent of {host} at {address}: {why}");
                (Reason::AgentUnreachable, format!("{what}; see whether it was restarted"))
            }
        }
    };
    CallError { host: host.clone(), reason, message }
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
    use vmferry_proto::status::from_call_error;
    use vmferry_transport::{Distrust, Fault, Unreachable};

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint { host: "node-31".parse().expect("valid"), address: "192.0.2.11:7443".into() }
    }

    fn of(dial: DialError) -> CallError {
        from_status(&Status::from_error(Box::new(dial)), &endpoint())
    }

    #[test]
    fn an_answer_that_names_its_host_passes_unchanged() {
        let refusal = CallError {
            host: "node-31".parse().expect("valid"),
            reason: Reason::PermissionDenied,
            message: "a viewer may not call Pre on node-31.".into(),
        };
        assert_eq!(from_status(&from_call_error(&refusal), &endpoint()), refusal);
    }

    #[test]
    fn an_answer_always_names_its_host_and_that_of_libvirt_a_remedy() {
        let said = |reason, message: &str| {
            let error = CallError { host: endpoint().host, reason, message: message.into() };
            from_status(&from_call_error(&error), &endpoint()).message
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
            host: "node-31".into(),
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
            host: "node-31".into(),
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
            let error = from_status(&status, &endpoint());
            assert!(error.is_silence(), "{error:?}");
            assert!(error.message.contains("node-31") && error.message.contains("192.0.2.11:7443"), "{error}");
        }
    }

    #[test]
    fn another_server_is_not_silence() {
        assert!(!from_status(&Status::unimplemented(""), &endpoint()).is_silence());
        assert_eq!(from_status(&Status::permission_denied("no"), &endpoint()).reason, Reason::PermissionDenied);
    }
}
