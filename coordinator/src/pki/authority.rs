//! The CA.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;
use time::OffsetDateTime;
use vmferry_core::identity::is_label;
use vmferry_transport::{CertificateFacts, read_certificates, read_private};

use super::{Error, day, files, json};
use crate::Output;

const LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);

/// Certificates are valid from a little earlier on, for hosts whose clock is behind.
pub(super) const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// A CA that can issue.
pub(super) struct Authority {
    pub(super) cluster: String,
    pub(super) not_after: Timestamp,
    /// ca.pem as it stands: while a CA is being replaced it holds the old one too, and both must travel.
    pub(super) bundle: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

pub(super) fn certificate_path(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

pub(super) fn key_path(directory: &Path) -> PathBuf {
    directory.join("ca-key.pem")
}

/// Makes a CA in `directory`, where none may be yet.
pub(super) fn init(directory: &Path, cluster: &str, output: Output) -> Result<String, Error> {
    let (certificate_path, key_path) = (certificate_path(directory), key_path(directory));
    if let Some(path) = [&certificate_path, &key_path].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(Error::Exists(path.clone()));
    }

    let not_after = Timestamp::now() + LIFETIME;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("VMFerry CA of {cluster}"));
    params.subject_alt_names = vec![SanType::URI(format!("vmferry://{cluster}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = offset_date_time(Timestamp::now() - CLOCK_SKEW);
    params.not_after = offset_date_time(not_after);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;

    files::ensure_directory(directory)?;
    files::create(&key_path, files::PRIVATE, &key.serialize_pem())?;
    files::create(&certificate_path, files::PUBLIC, &certificate.pem())?;
    files::sync_directory(directory)?;

    Ok(match output {
        Output::Json => json(&json!({
            "cluster": cluster,
            "ca": certificate_path,
            "ca_key": key_path,
            "not_after": not_after.to_string(),
        })),
        Output::Text => format!(
            "Made the CA of cluster {cluster}, valid until {}:\n  \
               {}: goes with every certificate\n  \
               {}: secret; stays here, and in a backup\n\
             Next, for every hypervisor: vmferry pki issue agent HOSTNAME\n\
             and for everyone who moves instances: vmferry pki issue coordinator NAME\n",
            day(not_after),
            certificate_path.display(),
            key_path.display(),
        ),
    })
}

impl Authority {
    /// Opens the CA of `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let (path, key_path) = (certificate_path(directory), key_path(directory));
        if !path.exists() {
            return Err(Error::NoCa(directory.to_owned()));
        }
        let unreadable = |source| vmferry_transport::Error::Unreadable { path: path.clone(), source };
        let der = read_certificates(&path)?.swap_remove(0);
        let facts = CertificateFacts::read(&der).map_err(|source| Error::Certificate { path: path.clone(), source })?;
        let cluster = facts.uris.iter().find_map(|uri| uri.strip_prefix("vmferry://").filter(|name| is_label(name)));
        let (Some(cluster), true) = (cluster, facts.is_ca) else { return Err(Error::NotOurCa(path)) };
        if facts.not_after <= Timestamp::now() {
            return Err(Error::CaExpired { path, at: facts.not_after });
        }

        let not_a_key = || Error::NotAKey(key_path.clone());
        let key = String::from_utf8(read_private(&key_path)?).map_err(|_| not_a_key())?;
        // rcgen's error could quote the file (I6).
        let key = KeyPair::from_pem(&key).map_err(|_| not_a_key())?;
        Ok(Self {
            cluster: cluster.to_owned(),
            not_after: facts.not_after,
            bundle: fs::read_to_string(&path).map_err(unreadable)?,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
        })
    }
}

pub(super) fn offset_date_time(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).expect("both libraries end with the year 9999")
}
