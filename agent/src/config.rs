//! The agent's configuration: TOML, read and judged whole before anything is opened.

mod capacity;
mod direct;
mod etcd;
mod network;
mod policy;
mod storage;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use vmferry_core::{convergence::Policy, id::HostName};
use vmferry_transport::CertificateFiles;

pub use self::{capacity::Capacity, direct::Direct, etcd::Etcd, storage::Storage};
use self::{
    capacity::CapacityTable,
    direct::DirectTable,
    etcd::EtcdTable,
    network::{NetworkTable, OvsTable},
    storage::{SecretTable, StorageTable},
};
use crate::{network::Networks, storage::secrets::Secrets};

/// Where the packages put it.
pub const DEFAULT_PATH: &str = "/etc/vmferry/agent.toml";

/// Where journals are, if nothing else is said.
const STATE_DIRECTORY: &str = "/var/lib/vmferry";

/// Renewals are a third of a lease apart, and must be heard in time on a busy host.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// All there are.
const KEYS: &str = "name, zone, listen, tls.ca, tls.certificate, tls.key, libvirt.uri, libvirt.socket, libvirt.qemu_group, \
                    state_directory, keep_records, lease, storage.multipath, storage.device_timeout, storage.disk_overcommit, \
                    secret.uuid, secret.usage, secret.kind, secret.file, network.name, network.bridge, network.uplink, \
                    network.ovs, network.vlan, network.mtu, network.vxlan.vni, network.vxlan.local, network.vxlan.peers, \
                    network.vxlan.group, network.vxlan.device, network.vxlan.port, ovs.database, direct.address, direct.name, \
                    direct.certificates, policy.NAME, capacity.memory_reserve, capacity.memory_overcommit, \
                    capacity.cpu_overcommit, capacity.instances, capacity.incoming, capacity.outgoing, etcd.endpoints, \
                    etcd.prefix, etcd.tls.ca, etcd.tls.certificate, etcd.tls.key, etcd.username, etcd.password_file, \
                    etcd.advertise";

/// A configuration that can be worked with.
#[derive(Debug, Clone)]
pub struct Config {
    /// This host's name: as in the inventory and in the certificate.
    pub name: HostName,
    /// Its availability zone.
    pub zone: String,
    /// The one port.
    pub listen: SocketAddr,
    /// CA, certificate and key.
    pub tls: CertificateFiles,
    /// libvirt's URI.
    pub libvirt_uri: String,
    /// The UNIX socket on which libvirt answers; an incoming migration's control connection ends here.
    pub libvirt_socket: PathBuf,
    /// The group QEMU runs as: it must be able to make its socket in the migration's directory.
    pub qemu_group: String,
    /// Journals live below it.
    pub state_directory: PathBuf,
    /// How long records of ended migrations are kept.
    pub keep_records: Duration,
    /// How long who drives a migration from here may not be heard before this agent takes over.
    pub lease: Duration,
    /// How its storage is used.
    pub storage: Storage,
    /// What opens it. Not the values, which are read when they are needed.
    pub secrets: Secrets,
    /// The logical networks that it carries.
    pub networks: Networks,
    /// How live migrations from here may come to their end, besides the policies that are always there: by their names.
    pub policies: Vec<Policy>,
    /// How QEMU here talks to other hosts'; `None`: it does not.
    pub direct: Option<Direct>,
    /// Where it says that it is there; `None`: nowhere.
    pub etcd: Option<Etcd>,
    /// What its guests get at most.
    pub capacity: Capacity,
}

/// Everything that is wrong with a configuration, not the first thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// A problem each: key, what is wrong, what to write instead.
    pub problems: Vec<String>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used:", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[derive(Debug, Deserialize)]
struct File {
    name: Option<String>,
    zone: Option<String>,
    listen: Option<String>,
    #[serde(default)]
    tls: Tls,
    #[serde(default)]
    libvirt: Libvirt,
    state_directory: Option<PathBuf>,
    keep_records: Option<String>,
    lease: Option<String>,
    #[serde(default)]
    storage: StorageTable,
    #[serde(default)]
    secret: Vec<SecretTable>,
    #[serde(default)]
    network: Vec<NetworkTable>,
    #[serde(default)]
    ovs: OvsTable,
    policy: Option<toml::Value>,
    direct: Option<DirectTable>,
    etcd: Option<EtcdTable>,
    #[serde(default)]
    capacity: CapacityTable,
}

#[derive(Debug, Default, Deserialize)]
struct Tls {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct Libvirt {
    uri: Option<String>,
    socket: Option<PathBuf>,
    qemu_group: Option<String>,
}

impl Config {
    /// Reads and judges the file.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = fs::read_to_string(path).map_err(|error| Problems {
            file: path.to_owned(),
            problems: vec![format!("it cannot be read: {error}")],
        })?;
        Self::parse(&text).map_err(|problems| Problems { file: path.to_owned(), problems })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        // Not serde's `deny_unknown_fields`: that stops at the first.
        let unknown = |key: serde_ignored::Path<'_>| {
            // A table that may be missing is a `?` in it.
            let key = key.to_string().replace(".?.", ".");
            problems.push(format!("{key}: is unknown; remove it, or write one of {KEYS}"));
        };
        let file: File = toml::Deserializer::parse(text)
            .and_then(|deserializer| serde_ignored::deserialize(deserializer, unknown))
            .map_err(|error| vec![error.to_string().trim_end().to_owned()])?;

        let name = check(&mut problems, file.name, "name", "this host's name, e.g. \"node-28\"", |name| {
            name.parse::<HostName>().map_err(|error| error.to_string())
        });
        let zone = check(&mut problems, file.zone, "zone", "its availability zone, e.g. \"nova\"", |zone| {
            if zone.trim().is_empty() { Err("is empty".into()) } else { Ok(zone) }
        });
        let listen = file.listen.unwrap_or_else(|| "[::]:7443".into());
        let listen = check(&mut problems, Some(listen), "listen", "ADDRESS:PORT, e.g. \"0.0.0.0:7443\"", |listen| {
            listen.parse::<SocketAddr>().map_err(|error| error.to_string())
        });
        let mut pem = |path: Option<PathBuf>, key, default: &str| {
            check(&mut problems, Some(path.unwrap_or_else(|| default.into())), key, "the path of a PEM file", |path| {
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => Ok(path),
                    Ok(_) => Err(format!("{} is not a file", path.display())),
                    Err(error) => Err(format!("{}: {error}", path.display())),
                }
            })
        };
        let ca = pem(file.tls.ca, "tls.ca", "/etc/vmferry/pki/ca.pem");
        let certificate = pem(file.tls.certificate, "tls.certificate", "/etc/vmferry/pki/cert.pem");
        let key = pem(file.tls.key, "tls.key", "/etc/vmferry/pki/key.pem");
        let qemu_group = match file.libvirt.qemu_group {
            Some(group) => check(&mut problems, Some(group), "libvirt.qemu_group", "a group of this host", |group| {
                if has_group(&group) { Ok(group) } else { Err(format!("there is no group `{group}`")) }
            }),
            // Debian's name, then Fedora's and SUSE's.
            None => {
                ["libvirt-qemu", "qemu"].into_iter().find(|group| has_group(group)).map(str::to_owned).or_else(|| {
                    problems.push(
                        "libvirt.qemu_group: neither `libvirt-qemu` nor `qemu` is a group of this host; \
                     install QEMU and libvirt, or name the group QEMU runs as"
                            .into(),
                    );
                    None
                })
            }
        };
        let keep = file.keep_records.unwrap_or_else(|| "30d".into());
        let keep_records = check(&mut problems, Some(keep), "keep_records", "a time, e.g. \"30d\"", |text| {
            humantime::parse_duration(&text).map_err(|error| format!("`{text}`: {error}"))
        });
        let lease = file.lease.unwrap_or_else(|| "10s".into());
        let lease = check(&mut problems, Some(lease), "lease", "a time of a second or more, e.g. \"10s\"", |text| {
            let lease = humantime::parse_duration(&text).map_err(|error| format!("`{text}`: {error}"))?;
            if lease < SHORTEST_LEASE { Err(format!("`{text}` is too short")) } else { Ok(lease) }
        });

        let storage = storage::storage(&mut problems, file.storage);
        let secrets = storage::secrets(&mut problems, file.secret);
        let networks = network::networks(&mut problems, file.network, file.ovs);
        let policies = policy::policies(&mut problems, file.policy);
        let direct = file.direct.and_then(|table| direct::direct(&mut problems, table, name.as_ref()));
        let etcd = file.etcd.and_then(|table| etcd::etcd(&mut problems, table, name.as_ref(), listen));

        let capacity = capacity::capacity(&mut problems, file.capacity);

        match (name, zone, listen, ca, certificate, key, qemu_group, keep_records, lease, storage, capacity) {
            _ if !problems.is_empty() => Err(problems),
            (
                Some(name),
                Some(zone),
                Some(listen),
                Some(ca),
                Some(certificate),
                Some(key),
                Some(qemu_group),
                Some(keep_records),
                Some(lease),
                Some(storage),
                Some(capacity),
            ) => Ok(Self {
                name,
                zone,
                listen,
                tls: CertificateFiles { ca, certificate, key },
                libvirt_uri: file.libvirt.uri.unwrap_or_else(|| "qemu:///system".into()),
                libvirt_socket: file.libvirt.socket.unwrap_or_else(|| "/run/libvirt/libvirt-sock".into()),
                qemu_group,
                state_directory: file.state_directory.unwrap_or_else(|| STATE_DIRECTORY.into()),
                keep_records,
                lease,
                storage,
                secrets,
                networks,
                policies,
                direct,
                etcd,
                capacity,
            }),
            _ => Err(problems),
        }
    }
}

/// Where the journals are, also if the rest of the configuration cannot be used, or there is none.
///
/// # Errors
/// The file is no TOML, or cannot be read.
pub fn state_directory(path: &Path) -> Result<PathBuf, Problems> {
    #[derive(Deserialize)]
    struct Where {
        state_directory: Option<PathBuf>,
    }
    let problem = |problem: String| Problems { file: path.to_owned(), problems: vec![problem] };
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| problem(format!("it cannot be read: {error}")))?,
    };
    let read: Where = toml::from_str(&text).map_err(|error| problem(error.to_string().trim_end().to_owned()))?;
    Ok(read.state_directory.unwrap_or_else(|| STATE_DIRECTORY.into()))
}

fn check<T, U>(
    problems: &mut Vec<String>,
    value: Option<T>,
    key: &str,
    wanted: &str,
    judge: impl FnOnce(T) -> Result<U, String>,
) -> Option<U> {
    let judged = value.ok_or_else(|| "is missing".to_owned()).and_then(judge);
    judged.map_err(|problem| problems.push(format!("{key}: {problem}; write {wanted}"))).ok()
}

fn has_group(name: &str) -> bool {
    nix::unistd::Group::from_name(name).ok().flatten().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let problems = Config::parse(
            "name = 'a b'\nlisten = 'nowhere'\nkeep_records = 'soon'\n[tls]\nca = '/nonexistent'\n\
             [libvirt]\nqemu_group = 'no-such-group'\n\
             [policy.endless]\ndowntime = '1ms'\nsteps = []",
        )
        .expect_err("all wrong");
        for key in ["name:", "zone:", "listen:", "tls.ca:", "libvirt.qemu_group:", "keep_records:", "policy.endless:"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:#?}");
        }
    }

    #[test]
    fn every_unknown_key_is_named_with_those_that_are_known() {
        let problems = Config::parse("name = 'a'\nzoen = 'b'\n[tls]\ncert = 'c'").expect_err("unknown keys");
        for key in ["zoen:", "tls.cert:", "zone:"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:#?}");
        }
        for key in KEYS.split(", ") {
            assert!(problems[0].contains(key), "{key} in {problems:#?}");
        }
    }

    /// The file as packages install it; in it `# ` begins a sentence, and `#` alone what may be said.
    const INSTALLED: &str = include_str!("../../packaging/config/agent.toml");

    #[test]
    fn what_is_installed_says_nothing_but_that_the_host_must_be_named() {
        let problems = Config::parse(INSTALLED).expect_err("there is no name");
        for key in ["name: is missing", "zone: is missing"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:#?}");
        }
        // And there are no certificates where the tests run; nor need there be QEMU.
        let expected = ["name:", "zone:", "tls.", "libvirt.qemu_group:"];
        assert!(problems.iter().all(|p| expected.iter().any(|key| p.starts_with(key))), "{problems:#?}");
    }

    #[test]
    fn what_is_installed_shows_every_key_and_each_as_it_may_be_written() {
        let said: Vec<_> = INSTALLED
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace())).unwrap_or(line)
            })
            .collect();
        let said = said.join("\n");
        let problems = Config::parse(&said).expect_err("there are no certificates");
        let absent = ["tls.", "secret 1 (file)", "etcd.password_file", "etcd.tls", "libvirt.qemu_group"];
        assert!(problems.iter().all(|p| absent.iter().any(|key| p.starts_with(key))), "{problems:#?}");

        let written: toml::Table = said.parse().expect("TOML");
        for key in KEYS.split(", ").map(|key| key.replace("NAME", "default")) {
            let mut places: Vec<&toml::Value> = Vec::new();
            for (depth, part) in key.split('.').enumerate() {
                let found: Vec<_> = match depth {
                    0 => written.get(part).into_iter().collect(),
                    _ => places.iter().filter_map(|place| place.get(part)).collect(),
                };
                // Of several tables of a kind, any may show it.
                places = found
                    .into_iter()
                    .flat_map(|it| it.as_array().map_or(vec![it], |all| all.iter().collect()))
                    .collect();
            }
            assert!(!places.is_empty(), "{key} is not in what is installed");
        }
    }

    #[test]
    fn journals_are_found_also_where_nothing_else_is_said_and_not_guessed_where_that_cannot_be_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("agent.toml");
        assert_eq!(state_directory(&file).expect("no file"), Path::new("/var/lib/vmferry"));
        fs::write(&file, "zoen = 'b'\nstate_directory = '/srv/vmferry'").expect("written");
        assert_eq!(state_directory(&file).expect("said"), Path::new("/srv/vmferry"));
        fs::write(&file, "state_directory = ").expect("written");
        assert!(state_directory(&file).expect_err("no TOML").to_string().contains("agent.toml cannot be used"));
    }

    #[test]
    fn what_is_no_toml_is_shown_with_its_line() {
        let problems = Config::parse("name = 'a'\nzone = ").expect_err("no TOML");
        assert!(problems[0].contains("line 2"), "{problems:?}");
    }
}
