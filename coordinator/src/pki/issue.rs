//! Certificates of agents and users.

use std::{fs, net::IpAddr, path::Path};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::ServerName;
use serde_json::json;
use vmferry_core::identity::{Identity, Role};
use vmferry_transport::CertificateFiles;

use super::{
    Error, Place,
    authority::{Authority, CLOCK_SKEW, offset_date_time},
    day, files, json, label, role_parser,
};
use crate::Output;

/// The longest common name that X.509 allows.
const LONGEST_COMMON_NAME: usize = 64;

/// What is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Order {
    /// What the holder may do: an agent runs on a hypervisor, a coordinator moves instances, a viewer looks
    #[arg(value_parser = role_parser())]
    role: Role,
    /// Whose it is: an agent's host name, else a person's or program's name
    #[arg(value_parser = label)]
    name: String,
    #[command(flatten)]
    place: Place,
    /// Of a coordinator: a name or IP address at which clients call its service (`vmferry serve`); of an agent: a further one, for
    /// other TLS clients, as VMFerry itself goes by NAME. May be repeated
    #[arg(long, value_name = "IP|DNS")]
    address: Vec<String>,
    /// For how long it is valid; never longer than the CA is
    #[arg(long, value_name = "N", default_value_t = 397, value_parser = clap::value_parser!(i64).range(1..=36500))]
    days: i64,
    /// When it expires, also in the past: to see what happens then
    #[arg(long, value_name = "RFC3339", conflicts_with = "days", hide = true)]
    expires_at: Option<Timestamp>,
}

/// Issues what was ordered into a new directory beside the CA. If that fails, the directory is gone again.
pub(super) fn issue(order: &Order, output: Output) -> Result<String, Error> {
    let place = order.place.directory()?;
    let names = names(order)?;
    let authority = Authority::open(&place)?;
    let identity = Identity { cluster: authority.cluster.clone(), role: order.role, name: order.name.clone() };

    let now = Timestamp::now();
    let wanted = order.expires_at.unwrap_or_else(|| now + SignedDuration::from_hours(24 * order.days));
    let not_after = wanted.min(authority.not_after);
    let mut params = params(&identity, &names)?;
    params.not_before = offset_date_time(now.min(not_after) - CLOCK_SKEW);
    params.not_after = offset_date_time(not_after);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority.issuer)?;

    let directory = place.join(format!("{}-{}", order.role, order.name));
    files::create_directory(&directory)?;
    let paths = CertificateFiles::in_directory(&directory);
    let written = || {
        files::create(&paths.key, files::PRIVATE, &key.serialize_pem())?;
        files::create(&paths.certificate, files::PUBLIC, &certificate.pem())?;
        files::create(&paths.ca, files::PUBLIC, &authority.bundle)?;
        files::sync_directory(&directory)?;
        files::sync_directory(&place)?;
        // The agent's own checks: a ca-key.pem that is not ca.pem's turns up here, not on the host.
        Ok(vmferry_transport::load(&paths)?)
    };
    if let Err(error) = written() {
        // Only what was made here is in it. What cannot be removed is named by the next try.
        let _ = fs::remove_dir_all(&directory);
        return Err(error);
    }
    Ok(match output {
        Output::Json => json(&json!({
            "identity": identity.to_string(),
            "directory": directory,
            "ca": paths.ca,
            "certificate": paths.certificate,
            "key": paths.key,
            "names": names,
            "not_after": not_after.to_string(),
        })),
        Output::Text => text(&identity, &directory, &names, not_after),
    })
}

fn params(identity: &Identity, names: &[String]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names)?;
    params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
    params.distinguished_name = rcgen::DistinguishedName::new();
    if identity.name.len() <= LONGEST_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, &identity.name);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Agents call each other: the source drives when the coordinator is gone, and opens the tunnels. A coordinator that
    // serves calls agents.
    params.extended_key_usages = match names {
        [] => vec![ExtendedKeyUsagePurpose::ClientAuth],
        _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The DNS names and addresses that the certificate is for: the name of an agent, or of a coordinator that serves, then the
/// others, each once. None: it is for a client.
fn names(order: &Order) -> Result<Vec<String>, Error> {
    match (order.role, order.address.is_empty()) {
        (Role::Viewer, false) => return Err(Error::AddressOfViewer),
        (Role::Viewer | Role::Coordinator, true) => return Ok(Vec::new()),
        (Role::Agent, _) | (Role::Coordinator, false) => {}
    }
    let mut names = match ServerName::try_from(order.name.as_str()) {
        Ok(_) => vec![order.name.clone()],
        Err(_) if order.role == Role::Coordinator => vec![],
        Err(_) => return Err(Error::NotAHostName(order.name.clone())),
    };
    for address in &order.address {
        if ServerName::try_from(address.as_str()).is_err() {
            return Err(Error::NotAnAddress(address.clone()));
        }
        let address = address.parse::<IpAddr>().map_or_else(|_| address.clone(), |ip| ip.to_string());
        if !names.contains(&address) {
            names.push(address);
        }
    }
    Ok(names)
}

fn text(identity: &Identity, directory: &Path, names: &[String], not_after: Timestamp) -> String {
    let places = match names {
        [] => String::new(),
        names => format!(", for {}", names.join(", ")),
    };
    let (directory, name): (_, &str) = (directory.display(), &identity.name);
    let next = match identity.role {
        Role::Agent => format!(
            "copy this directory to {name}:/etc/vmferry/pki\n  \
               ssh root@{name} install -d -m 700 /etc/vmferry/pki\n  \
               scp -p {directory}/*.pem root@{name}:/etc/vmferry/pki/"
        ),
        Role::Coordinator if !names.is_empty() => {
            "copy this directory to where `vmferry serve` runs, and name its files under [tls] in the inventory there"
                .into()
        }
        Role::Coordinator | Role::Viewer => {
            format!("copy this directory to where {name} runs vmferry, and name its files under [tls] in the inventory")
        }
    };
    format!(
        "Issued {identity}{places}, valid until {}:\n  \
           {directory}/ca.pem\n  \
           {directory}/cert.pem\n  \
           {directory}/key.pem: secret\n\
         Next: {next}\n",
        day(not_after),
    )
}
