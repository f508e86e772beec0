use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use vmferry_core::{id::HostName, identity::is_address, migration::Endpoint};
use vmferry_registry::{Settings, SettingsText, TlsText};

use super::check;

/// Where the agent says that it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Which etcd.
    pub settings: Settings,
    /// What it says: this host's name, and where others reach it.
    pub host: Endpoint,
}

/// As [`SettingsText`] has it, and one key more. Not flattened into one: then unknown keys could not be told.
#[derive(Debug, Deserialize)]
pub(super) struct EtcdTable {
    endpoints: Option<Vec<String>>,
    prefix: Option<String>,
    tls: Option<TlsText>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    advertise: Option<String>,
}

/// Every problem is added to the others. `listen` is what is advertised if nothing else is said.
pub(super) fn etcd(
    problems: &mut Vec<String>,
    table: EtcdTable,
    host: Option<&HostName>,
    listen: Option<SocketAddr>,
) -> Option<Etcd> {
    let EtcdTable { endpoints, prefix, tls, username, password_file, advertise } = table;
    let settings = SettingsText { endpoints, prefix, tls, username, password_file }.judge(Path::new(""));
    let settings = settings
        .map_err(|complaints| {
            problems.extend(
                complaints
                    .into_iter()
                    .map(|complaint| format!("etcd.{}: {}; {}", complaint.key, complaint.what, complaint.remedy)),
            );
        })
        .ok();
    let own = listen.filter(|listen| !listen.ip().is_unspecified()).map(|listen| listen.to_string());
    let wanted = "HOST:PORT, as coordinators and other hosts reach this agent, e.g. \"192.0.2.10:7443\"";
    let address = check(problems, advertise.or(own), "etcd.advertise", wanted, |address| {
        let is_everywhere = address.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified());
        if is_everywhere || !is_address(&address) {
            return Err(format!("`{address}` is no address to call"));
        }
        Ok(address)
    });
    Some(Etcd { settings: settings?, host: Endpoint { host: host?.clone(), address: address? } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, listen: &str) -> Result<Etcd, Vec<String>> {
        let mut problems = Vec::new();
        let host = "node-31".parse().expect("a name");
        let table = toml::from_str(text).expect("TOML");
        let read = etcd(&mut problems, table, Some(&host), listen.parse().ok());
        read.filter(|_| problems.is_empty()).ok_or(problems)
    }

    const ENDPOINTS: &str = "endpoints = ['http://192.0.2.1:2379']\n";

    #[test]
    fn what_it_listens_on_is_advertised_unless_that_is_everything() {
        let etcd = read(ENDPOINTS, "192.0.2.11:7443").expect("whole");
        assert_eq!((etcd.host.host.as_str(), etcd.host.address.as_str()), ("node-31", "192.0.2.11:7443"));
        let etcd = read(&format!("{ENDPOINTS}advertise = 'node-31.example.org:7443'"), "[::]:7443").expect("whole");
        assert_eq!(etcd.host.address, "node-31.example.org:7443");
        let problems = read(ENDPOINTS, "[::]:7443").expect_err("where?");
        assert!(problems[0].starts_with("etcd.advertise: is missing; write HOST:PORT"), "{problems:?}");
    }

    #[test]
    fn what_nobody_could_call_is_refused_with_the_rest() {
        for advertise in ["0.0.0.0:7443", "[::]:7443", "192.0.2.11", "node 31:7443"] {
            let problems = read(&format!("prefix = 'x'\nadvertise = '{advertise}'"), "[::]:7443").expect_err(advertise);
            assert_eq!(problems.len(), 3, "{problems:?}");
            for (problem, key) in problems.iter().zip(["etcd.endpoints: ", "etcd.prefix: ", "etcd.advertise: "]) {
                assert!(problem.starts_with(key), "{problems:?}");
            }
        }
    }
}
