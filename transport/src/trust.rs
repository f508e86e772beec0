//! What can be wrong between two parties that do not trust each other, and how to find it in an error.
//!
//! In TLS 1.3 a client's handshake is over before the server has seen its certificate; a client that is refused learns it
//! from the first read. So the reason turns up in handshake errors and in later I/O errors, wrapped by whoever read.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription, CertificateError, OtherError};

use crate::{AcceptError, DialError, IdentityError};

/// Why two parties do not trust each other, as one of them sees it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Distrust {
    /// We refused the peer's certificate.
    #[error("we refused its certificate: {0}")]
    OfPeer(Fault),
    /// The peer refused our certificate.
    #[error("it refused our certificate: {0}")]
    OfUs(Fault),
    /// The peer speaks TLS but not the protocol that was asked for; or, to a server, no protocol of ours.
    #[error("no protocol in common")]
    NoCommonProtocol,
    /// The peer does not speak TLS 1.3.
    #[error("it does not speak TLS 1.3 as we do: {0}")]
    NotTls(rustls::Error),
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Its time is over. Said by the other side, also: not yet come.
    #[error("it has expired, or one of the two clocks is wrong")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet; is one of the two clocks wrong?")]
    NotYetValid,
    /// It was issued by a CA that the other does not trust.
    #[error("it comes from a CA that is not in the other's CA file")]
    UnknownIssuer,
    /// There was none.
    #[error("there was none")]
    Missing,
    /// It is not for the name that was called.
    #[error("it is not for the name that was called")]
    WrongName,
    /// It does not name an identity that is expected here. The reason is known only to the side that refused.
    #[error("{}", .0.as_ref().map_or("it does not name one who is expected there".into(), ToString::to_string))]
    WrongIdentity(Option<IdentityError>),
    /// It is not for this side of a connection (extended key usage).
    #[error("it may not be used for this side of a connection")]
    WrongPurpose,
    /// Anything else that we found.
    #[error("{0}")]
    Unusable(CertificateError),
    /// Anything else that the peer found.
    #[error("TLS alert {0:?}")]
    Alert(AlertDescription),
}

impl Distrust {
    /// What to do about it, as an imperative. `peer` is how the user knows the other side, e.g. a host's name.
    pub fn remedy(&self, peer: &str) -> String {
        let (who, fault) = match self {
            Self::OfPeer(fault) => (peer, fault),
            Self::OfUs(fault) => ("this side", fault),
            Self::NoCommonProtocol | Self::NotTls(_) => {
                return "check that the address and port are those of a vmferry-agent, or of `vmferry serve`, of a version that fits".into();
            }
        };
        match fault {
            Fault::Expired | Fault::NotYetValid => {
                format!("compare both clocks, else give {who} a new certificate (`vmferry pki issue`)")
            }
            Fault::UnknownIssuer => {
                format!("use the same ca.pem on both sides, and give {who} a certificate of that CA")
            }
            Fault::WrongName | Fault::WrongIdentity(_) => format!(
                "check that the address is that of the host meant, and who {who}'s certificate is for (`vmferry pki show`)"
            ),
            Fault::Missing | Fault::WrongPurpose | Fault::Unusable(_) | Fault::Alert(_) => {
                format!("give {who} a certificate made by `vmferry pki issue`")
            }
        }
    }

    fn from_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::OfPeer(Fault::from_certificate(error)),
            rustls::Error::NoCertificatesPresented => Self::OfPeer(Fault::Missing),
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::NoApplicationProtocol => Self::NoCommonProtocol,
            rustls::Error::AlertReceived(alert) => match Fault::from_alert(*alert) {
                Some(fault) => Self::OfUs(fault),
                None => Self::NotTls(error.clone()),
            },
            error => Self::NotTls(error.clone()),
        }
    }
}

impl Fault {
    fn from_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            // A bad signature is what two CAs of the same name look like: somebody made the cluster's CA twice.
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongName,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongPurpose,
            E::Other(OtherError(reason)) if reason.is::<IdentityError>() => {
                Self::WrongIdentity(reason.downcast_ref().cloned())
            }
            other => Self::Unusable(other.clone()),
        }
    }

    /// `None`: the alert is not about a certificate.
    fn from_alert(alert: AlertDescription) -> Option<Self> {
        use AlertDescription as A;
        Some(match alert {
            A::CertificateExpired => Self::Expired,
            // decrypt_error is how a bad signature is told.
            A::UnknownCA | A::DecryptError => Self::UnknownIssuer,
            A::CertificateRequired | A::NoCertificate => Self::Missing,
            A::BadCertificate => Self::WrongName,
            A::CertificateUnknown | A::AccessDenied => Self::WrongIdentity(None),
            A::UnsupportedCertificate => Self::WrongPurpose,
            A::CertificateRevoked => Self::Alert(alert),
            _ => return None,
        })
    }
}

/// Finds the distrust at the bottom of an error, through whatever was wrapped around it: I/O errors of a stream, what
/// [`dial`](crate::dial) returns, a `tonic::Status` of a [`channel`](crate::channel). `None`: it was about something else.
pub fn untrusted(error: &(dyn StdError + 'static)) -> Option<Distrust> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(DialError::Untrusted { reason, .. }) = error.downcast_ref() {
            return Some(reason.clone());
        }
        if let Some(AcceptError::Untrusted { reason, .. }) = error.downcast_ref() {
            return Some(reason.clone());
        }
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(Distrust::from_tls(found));
        }
        // An io::Error's source is that of what it wraps, not what it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
