//! What VMFerry reads in a certificate: who holds it, and until when.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use vmferry_core::identity::{Identity, InvalidIdentity, Role};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    x509::X509Name,
};

/// Why a certificate does not make its holder one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The peer sent no certificate.
    #[error("no certificate was presented")]
    NoCertificate,
    /// These bytes are no X.509 certificate.
    #[error("the certificate cannot be read as X.509")]
    Unreadable,
    /// It has no SAN URI of ours.
    #[error("the certificate has no SAN URI of the form vmferry://CLUSTER/ROLE/NAME")]
    Missing,
    /// It has more than one SAN URI of ours; which one would count?
    #[error("the certificate has several vmferry:// SAN URIs")]
    Several,
    /// Its SAN URI is not an identity.
    #[error(transparent)]
    Invalid(#[from] InvalidIdentity),
    /// It was issued for another cluster.
    #[error("the certificate is of {presented}, which is not in cluster {cluster}")]
    OtherCluster {
        /// Our own cluster.
        cluster: String,
        /// Who the certificate says its holder is.
        presented: Identity,
    },
    /// It belongs to somebody else than the one who was called.
    #[error("the certificate is of {presented}, not of {expected}")]
    SomebodyElse {
        /// Who was called.
        expected: Identity,
        /// Who answered.
        presented: Identity,
    },
}

/// A certificate, as far as VMFerry cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's common name, else its whole distinguished name.
    pub subject: String,
    /// The issuer's common name, else its whole distinguished name.
    pub issuer: String,
    /// Every SAN URI.
    pub uris: Vec<String>,
    /// Every SAN DNS name and IP address.
    pub names: Vec<String>,
    /// Whether it may issue others.
    pub is_ca: bool,
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after.
    pub not_after: Timestamp,
}

impl CertificateFacts {
    /// Reads a DER certificate. Checks no signature.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        let alternative = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let (mut uris, mut names) = (Vec::new(), Vec::new());
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => names.push((*dns).to_owned()),
                GeneralName::IPAddress(octets) => names.extend(ip_address(octets)),
                _ => {}
            }
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| IdentityError::Unreadable);
        Ok(Self {
            subject: common_name(certificate.subject()),
            issuer: common_name(certificate.issuer()),
            uris,
            names,
            is_ca: certificate.is_ca(),
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
        })
    }

    /// The one identity that the certificate carries.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let mut ours = self.uris.iter().filter(|uri| uri.starts_with("vmferry://"));
        match (ours.next(), ours.next()) {
            (Some(uri), None) => Ok(uri.parse()?),
            (Some(_), Some(_)) => Err(IdentityError::Several),
            (None, _) => Err(IdentityError::Missing),
        }
    }
}

fn common_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|attribute| attribute.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

fn ip_address(octets: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

/// Who a peer is that presented `certificates` (its own first): an identity of our `cluster`, or the reason why not.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>, cluster: &str) -> Result<Identity, IdentityError> {
    let own = certificates.and_then(<[_]>::first).ok_or(IdentityError::NoCertificate)?;
    let identity = CertificateFacts::read(own)?.identity()?;
    if identity.cluster != cluster {
        return Err(IdentityError::OtherCluster { cluster: cluster.to_owned(), presented: identity });
    }
    Ok(identity)
}

/// As [`peer_identity`], and that it may answer for `name` in this role: an agent has its host's name. Several coordinators may
/// stand behind one name, which is among those that the certificate is for.
pub(crate) fn expect(
    certificate: &CertificateDer<'_>,
    cluster: &str,
    role: Role,
    name: &str,
) -> Result<(), IdentityError> {
    let presented = peer_identity(Some(std::slice::from_ref(certificate)), cluster)?;
    if presented.role == role && (role != Role::Agent || presented.name == name) {
        return Ok(());
    }
    let expected = Identity { cluster: cluster.to_owned(), role, name: name.to_owned() };
    Err(IdentityError::SomebodyElse { expected, presented })
}
