//! Which hosts there are, and with which certificate we call them: one TOML file, and where it says that hosts are.
//!
//! ```toml
//! [tls]
//! ca = "pki/ca.pem"              # relative to this file's directory
//! certificate = "pki/cert.pem"
//! key = "pki/key.pem"
//!
//! [coordinator]                  # in the place of hosts: one that serves, and knows them
//! address = "fleet.example.org:7444"
//! name = "fleet"                 # what its certificate is for, if not the address
//!
//! [[host]]
//! name = "node-28"               # as in the agent's certificate
//! address = "192.0.2.10:7443"    # as the other hosts reach it, too
//!
//! [dns]                          # hosts from SRV records
//! srv = "_vmferry._tcp.example.org"
//!
//! [etcd]                         # hosts whose agents register
//! endpoints = ["https://etcd-1.example.org:2379"]
//! tls = { ca = "etcd/ca.pem", certificate = "etcd/cert.pem", key = "etcd/key.pem" }
//!
//! [policy.patient]               # how a live migration comes to its end: `--policy patient`
//! downtime = "50ms"
//! steps = [{ stalled = 3, downtime = "300ms" }, { after = "1h", do = "abort" }]
//!
//! [schedule]                     # how much each of these counts where a host is chosen
//! memory = 2.0
//! ```

mod cache;
mod dns;
mod etcd;
mod merge;
mod problem;
mod source;
mod sources;
mod warning;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};
use vmferry_core::{
    convergence::{Policy, PolicyText},
    id::HostName,
    identity::is_address,
    migration::Endpoint,
    schedule::{Weigher, Weights},
};
use vmferry_registry::Settings;
use vmferry_transport::CertificateFiles;

use self::dns::Dns;
pub(crate) use self::{
    cache::Cache,
    merge::{LeftOut, canonical},
    problem::{Invalid, Problem},
    source::{Loaded, Source},
    warning::Warning,
};

use crate::client::Coordinator;

/// The hosts and our credentials.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inventory {
    /// Where it was read from.
    pub(crate) path: PathBuf,
    /// Our certificate, its key and the CA of the agents.
    pub(crate) tls: CertificateFiles,
    /// Through whom agents are called, if not by ourselves; it knows the hosts.
    pub(crate) coordinator: Option<Coordinator>,
    /// The file's in its order, then those of DNS, then those of etcd; names are unique.
    pub(crate) hosts: Vec<Endpoint>,
    /// The file's: how live migrations may come to their end.
    pub(crate) policies: Vec<Policy>,
    /// How a host is chosen.
    pub(crate) weights: Weights,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct File {
    /// What is in it: of the hosts, those that it names itself.
    inventory: Inventory,
    /// Further hosts.
    dns: Option<Dns>,
    /// Further hosts.
    etcd: Option<Settings>,
}

impl Inventory {
    /// Where the hosts are from, for people.
    pub(crate) fn place(&self) -> String {
        match &self.coordinator {
            Some(coordinator) => format!("of {coordinator}"),
            None => self.path.display().to_string(),
        }
    }
}

/// Where an inventory may be, in the order in which it is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// `--inventory` or `$VMFERRY_INVENTORY`: if there is one, no other is looked at.
    pub(crate) named: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `$HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `--coordinator` or `$VMFERRY_COORDINATOR`: counts before what the file says.
    pub(crate) coordinator: Option<String>,
}

impl Places {
    /// The usual ones of the user who runs this.
    pub(crate) fn of_user(named: Option<PathBuf>, coordinator: Option<String>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { named, xdg_config_home: variable("XDG_CONFIG_HOME"), home: variable("HOME"), coordinator }
    }

    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(named) = &self.named {
            return vec![named.clone()];
        }
        let config = self.xdg_config_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        config
            .map(|config| config.join("vmferry/inventory.toml"))
            .into_iter()
            .chain([PathBuf::from("/etc/vmferry/inventory.toml")])
            .collect()
    }

    /// Reads the first that exists.
    fn read(&self) -> Result<File, Invalid> {
        let candidates = self.candidates();
        let Some(path) = candidates.iter().find(|path| path.exists()) else {
            return Err(Invalid::NotFound { looked_at: candidates });
        };
        let text = fs::read_to_string(path)
            .map_err(|error| Invalid::Unreadable { path: path.clone(), error: error.to_string() })?;
        parse(path, &text, self.coordinator.as_deref())
    }
}

/// Reads an inventory; `path` is where `text` came from. Reports all that is wrong with it at once. `coordinator` is the address
/// of one that counts before what the text says.
fn parse(path: &Path, text: &str, coordinator: Option<&str>) -> Result<File, Invalid> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| Invalid::Wrong {
        path: path.to_owned(),
        problems: vec![Problem::syntax(text, &error)],
    })?;
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut reader = Reader { directory, problems: Vec::new() };
    let tls = reader.tls(&table);
    let coordinator = match coordinator {
        Some(address) => reader.given(address),
        None => reader.coordinator(&table),
    };
    let hosts = if coordinator.is_some() && !table.contains_key("host") { vec![] } else { reader.hosts(&table) };
    let policies = reader.policies(&table);
    let weights = reader.weights(&table);
    let dns = table.get("dns").and_then(|dns| reader.dns(dns));
    let etcd = table.get("etcd").and_then(|etcd| reader.etcd(etcd));
    reader.unknown("", &table, &["tls", "coordinator", "host", "policy", "schedule", "dns", "etcd"]);
    match (tls, reader.problems.is_empty()) {
        (Some(tls), true) => {
            let path = path.to_owned();
            Ok(File { inventory: Inventory { path, tls, coordinator, hosts, policies, weights }, dns, etcd })
        }
        _ => Err(Invalid::Wrong { path: path.to_owned(), problems: reader.problems }),
    }
}

struct Reader {
    directory: PathBuf,
    problems: Vec<Problem>,
}

impl Reader {
    fn tls(&mut self, table: &Table) -> Option<CertificateFiles> {
        let remedy = "add [tls] with ca, certificate and key, as `vmferry pki issue` made them";
        let tls = match table.get("tls") {
            Some(Value::Table(tls)) => tls,
            Some(_) => return self.complain("tls", "is not a table", remedy),
            None => return self.complain("tls", "is missing", remedy),
        };
        self.unknown("tls.", tls, &["ca", "certificate", "key"]);
        // All three are read before any is given up on, so that each gets its complaint.
        let [ca, certificate, key] = ["ca", "certificate", "key"].map(|key| self.file(tls, key));
        Some(CertificateFiles { ca: ca?, certificate: certificate?, key: key? })
    }

    fn file(&mut self, tls: &Table, key: &str) -> Option<PathBuf> {
        let text = self.text(tls, "tls.", key, "name a PEM file")?;
        let path = self.directory.join(text);
        if path.is_file() {
            return Some(path);
        }
        let what = format!("names {}, which is not a file", path.display());
        self.complain(&format!("tls.{key}"), &what, "create it with `vmferry pki issue`, or correct the path")
    }

    /// The coordinator that the user named.
    fn given(&mut self, address: &str) -> Option<Coordinator> {
        if is_address(address) {
            return Some(Coordinator::new(address, None));
        }
        let remedy = "write HOST:PORT, for example fleet.example.org:7444 or [2001:db8::10]:7443";
        self.complain("--coordinator", &format!("is `{address}`, not an address with a port"), remedy)
    }

    fn coordinator(&mut self, table: &Table) -> Option<Coordinator> {
        let coordinator = match table.get("coordinator")? {
            Value::Table(coordinator) => coordinator,
            _ => return self.complain("coordinator", "is not a table", "write [coordinator] with its address"),
        };
        self.unknown("coordinator.", coordinator, &["address", "name"]);
        let name = match coordinator.contains_key("name") {
            true => Some(self.text(coordinator, "coordinator.", "name", "write what its certificate is for")?),
            false => None,
        };
        Some(Coordinator::new(&self.address(coordinator, "coordinator.")?, name))
    }

    fn hosts(&mut self, table: &Table) -> Vec<Endpoint> {
        let remedy =
            "add a [[host]] with name and address for each hypervisor, or [dns] or [etcd] that say where they are";
        let hosts = match table.get("host") {
            Some(Value::Array(hosts)) if !hosts.is_empty() => hosts.as_slice(),
            Some(Value::Array(_)) | None if table.contains_key("dns") || table.contains_key("etcd") => &[],
            Some(Value::Array(_)) | None => {
                self.complain::<()>("host", "is missing", remedy);
                &[]
            }
            Some(_) => {
                self.complain::<()>("host", "is not a list of tables", "write [[host]], with two brackets");
                &[]
            }
        };
        let mut found = Vec::new();
        let (mut names, mut addresses) = (HashMap::new(), HashMap::new());
        for (number, host) in hosts.iter().enumerate() {
            let prefix = format!("host[{}].", number + 1);
            let Value::Table(host) = host else {
                self.complain::<()>(prefix.trim_end_matches('.'), "is not a table", remedy);
                continue;
            };
            self.unknown(&prefix, host, &["name", "address"]);
            let name = self.name(host, &prefix);
            let address = self.address(host, &prefix);
            if let Some(first) = name.as_ref().and_then(|name| names.insert(name.clone(), number + 1)) {
                let what = format!("repeats that of host[{first}]");
                self.complain::<()>(&format!("{prefix}name"), &what, "give each host a name of its own");
            }
            if let Some(first) = address.as_ref().and_then(|address| addresses.insert(canonical(address), number + 1)) {
                let what = format!("repeats that of host[{first}]");
                self.complain::<()>(&format!("{prefix}address"), &what, "give each host an address of its own");
            }
            if let (Some(host), Some(address)) = (name, address) {
                found.push(Endpoint { host, address });
            }
        }
        found
    }

    fn policies(&mut self, table: &Table) -> Vec<Policy> {
        let mut policies = Vec::new();
        let written = match table.get("policy") {
            Some(Value::Table(written)) => written,
            Some(_) => {
                self.complain::<()>("policy", "is not a table", "write [policy.NAME]");
                return policies;
            }
            None => return policies,
        };
        for (name, policy) in written {
            match read_policy(name, policy) {
                Ok(policy) => policies.push(policy),
                Err(what) => {
                    let remedy =
                        "write `downtime`, and `steps` of which the last one ends it; `vmferry policies` lists some";
                    self.complain::<()>(
                        &format!("policy.{}", name.escape_debug()),
                        &format!("is none: {what}"),
                        remedy,
                    );
                }
            }
        }
        policies
    }

    fn weights(&mut self, table: &Table) -> Weights {
        let mut weights = Weights::default();
        let written = match table.get("schedule") {
            Some(Value::Table(written)) => written,
            Some(_) => {
                self.complain::<()>("schedule", "is not a table", "write [schedule]");
                return weights;
            }
            None => return weights,
        };
        let known = Weigher::ALL.map(Weigher::as_str);
        self.unknown("schedule.", written, &known);
        let mut read = Table::new();
        for (key, value) in written.iter().filter(|(key, _)| known.contains(&key.as_str())) {
            read.insert(key.clone(), value.clone());
            match Value::Table(read.clone()).try_into() {
                Ok(so_far) => weights = so_far,
                Err(error) => {
                    read.remove(key);
                    let error: toml::de::Error = error;
                    let what = format!("is `{value}`: {}", error.message());
                    self.complain::<()>(&format!("schedule.{key}"), &what, "write a number, for example 2.0 or -1");
                }
            }
        }
        weights
    }

    fn name(&mut self, host: &Table, prefix: &str) -> Option<HostName> {
        let remedy = "write the name that the agent's certificate carries: letters, digits, `-`, `.`, `_`";
        let text = self.text(host, prefix, "name", remedy)?;
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => self.complain(&format!("{prefix}name"), &format!("is wrong: {error}"), remedy),
        }
    }

    fn address(&mut self, host: &Table, prefix: &str) -> Option<String> {
        let remedy = "write HOST:PORT, for example \"192.0.2.10:7443\" or \"[2001:db8::10]:7443\"";
        let text = self.text(host, prefix, "address", remedy)?;
        if is_address(&text) {
            return Some(text);
        }
        self.complain(&format!("{prefix}address"), &format!("is `{text}`, not an address with a port"), remedy)
    }

    fn text(&mut self, table: &Table, prefix: &str, key: &str, remedy: &str) -> Option<String> {
        let path = format!("{prefix}{key}");
        match table.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::String(_)) => self.complain(&path, "is empty", remedy),
            Some(other) => self.complain(&path, &format!("is of type {}, not a string", other.type_str()), remedy),
            None => self.complain(&path, "is missing", remedy),
        }
    }

    fn unknown(&mut self, prefix: &str, table: &Table, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            let remedy = format!("remove it; known here: {}", known.join(", "));
            self.complain::<()>(&format!("{prefix}{key}"), "is unknown", &remedy);
        }
    }

    fn complain<T>(&mut self, key: &str, what: &str, remedy: &str) -> Option<T> {
        self.problems.push(Problem { key: key.to_owned(), what: what.to_owned(), remedy: remedy.to_owned() });
        None
    }
}

fn read_policy(name: &str, value: &Value) -> Result<Policy, String> {
    let text: PolicyText = value.clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    text.policy(name).map_err(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests;
