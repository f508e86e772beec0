use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;
use vmferry_core::{direct::DirectEnd, id::HostName};

use super::check;

/// Where libvirt looks for QEMU's certificates unless its `qemu.conf` says otherwise.
const CERTIFICATES: &str = "/etc/pki/qemu";

/// How QEMU on this host talks to other hosts' without the agents between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Where it takes guests.
    pub end: DirectEnd,
    /// Where its certificates are.
    pub certificates: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(super) struct DirectTable {
    address: Option<String>,
    name: Option<String>,
    certificates: Option<PathBuf>,
}

/// Every problem is added to the others. `host` is the name that a certificate has if no other is given.
pub(super) fn direct(problems: &mut Vec<String>, table: DirectTable, host: Option<&HostName>) -> Option<Direct> {
    let wanted = "the IP address at which other hosts' QEMU reaches this one's, e.g. \"10.0.0.31\"";
    let address = check(problems, table.address, "direct.address", wanted, |text| {
        let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is no IP address"))?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(format!("no other host reaches this one at {address}"));
        }
        Ok(address)
    });
    let name = table.name.or_else(|| host.map(|host| host.to_string())).and_then(|name| {
        let wanted = "a DNS name or an IP address of QEMU's certificate server-cert.pem";
        check(problems, Some(name), "direct.name", wanted, |name| {
            let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
            if fits { Ok(name) } else { Err(format!("{name:?} is no name")) }
        })
    });
    let certificates = table.certificates.unwrap_or_else(|| CERTIFICATES.into());
    let wanted = "the directory that qemu.conf names as migrate_tls_x509_cert_dir";
    let certificates = check(problems, Some(certificates), "direct.certificates", wanted, |path| {
        if path.is_absolute() { Ok(path) } else { Err(format!("{} is not absolute", path.display())) }
    });
    // Whether the certificates serve is looked at for each migration: they are replaced while the agent runs.
    Some(Direct { end: DirectEnd { address: address?, name: name? }, certificates: certificates? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Direct, Vec<String>> {
        let mut problems = Vec::new();
        let host = "node-31".parse().expect("a name");
        let read = direct(&mut problems, toml::from_str(text).expect("TOML"), Some(&host));
        read.filter(|_| problems.is_empty()).ok_or(problems)
    }

    #[test]
    fn an_address_is_enough() {
        let direct = read("address = '10.0.0.31'").expect("whole");
        assert_eq!((direct.end.name.as_str(), direct.certificates), ("node-31", CERTIFICATES.into()));
        let other = read("address = 'fd00::31'\nname = 'n31.example'\ncertificates = '/etc/tls'").expect("whole");
        assert_eq!((other.end.name.as_str(), other.certificates), ("n31.example", "/etc/tls".into()));
    }

    #[test]
    fn what_no_other_host_could_use_is_refused_all_at_once() {
        for address in ["", "address = '0.0.0.0'", "address = '::1'", "address = 'node-31'", "address = '10.0.0.31:1'"]
        {
            let problems = read(&format!("{address}\nname = 'a b'\ncertificates = 'pki'")).expect_err(address);
            for (key, problem) in ["direct.address: ", "direct.name: ", "direct.certificates: "].iter().zip(&problems) {
                assert!(problem.starts_with(key), "{problems:#?}");
            }
            assert_eq!(problems.len(), 3, "{problems:#?}");
        }
    }
}
