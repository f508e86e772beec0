//! What is known about a testbed, on disk, so that another process can use it or take it down.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    net::Ipv4Addr,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{binaries::Binaries, layout::Layout, process::Process, storage::Backend, tree::Tree};

/// A testbed, as recorded in its `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// With this process's death the testbed is stale, and the next `up` of anybody removes it.
    /// None: it stays until `down`.
    pub owner: Option<Process>,
    /// The tree under its hosts.
    pub tree: Tree,
    /// The programs under test; none if the hosts run no agents.
    pub binaries: Option<Binaries>,
    /// The hosts, in order of their addresses.
    pub hosts: Vec<HostState>,
    /// The storage node, if one was asked for.
    #[serde(default)]
    pub storage: Option<StorageState>,
    /// The guests that were ever started here. Where they are now, libvirt knows.
    pub guests: Vec<GuestState>,
}

/// The storage node, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StorageState {
    /// Its container.
    pub machine: HostState,
    /// What it runs.
    pub backends: Vec<Backend>,
}

/// A host, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// Its name, also its hostname.
    pub name: String,
    /// Its availability zone.
    pub zone: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// The systemd-nspawn process, once started.
    pub supervisor: Option<Process>,
    /// The host's systemd, once started.
    pub init: Option<Process>,
}

/// A guest, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestState {
    /// The domain's name.
    pub name: String,
    /// Its address on the guests' network, if it has one.
    pub address: Option<Ipv4Addr>,
}

impl State {
    /// Reads the state; `None` if there is no such testbed.
    pub fn read(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.state_file();
        match fs::read_to_string(&path) {
            Ok(text) => {
                Ok(Some(serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// All containers: the hosts, and the storage node.
    pub fn machines(&self) -> impl Iterator<Item = &HostState> {
        self.hosts.iter().chain(self.storage.iter().map(|storage| &storage.machine))
    }

    /// The container with this name.
    pub fn machine_mut(&mut self, name: &str) -> Option<&mut HostState> {
        let storage = self.storage.iter_mut().map(|storage| &mut storage.machine);
        self.hosts.iter_mut().chain(storage).find(|machine| machine.name == name)
    }

    /// Writes the state. A reader sees the old one or the new one.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        let path = layout.state_file();
        let draft = path.with_extension("json.new");
        fs::write(&draft, serde_json::to_string_pretty(self)?)?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Changes the state of a testbed that exists, alone among all processes and threads.
    pub fn update<T>(layout: &Layout, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _lock = lock(&layout.run_dir().join("lock"))?;
        let mut state = Self::read(layout)?.with_context(|| format!("there is no testbed {}", layout.name()))?;
        let answer = change(&mut state)?;
        state.write(layout)?;
        Ok(answer)
    }
}

/// Holds the lock file until dropped.
pub(crate) fn lock(path: &std::path::Path) -> Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .with_context(|| format!("cannot lock {}", path.display()))
}
