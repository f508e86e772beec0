//! The storage node: a real Ceph cluster of one monitor and one OSD, and a real iSCSI target, for all hosts of a testbed.
//!
//! It is one more container on the underlay, with two addresses, and no hypervisor: no agent runs on it, and nobody
//! starts guests there. It goes with the testbed, and its volumes are in memory or in its own overlay.
//!
//! ```no_run
//! use vmferry_tests::{guest::LinuxGuest, storage::Backend, Options, Testbed};
//!
//! # fn main() -> anyhow::Result<()> {
//! let testbed = Testbed::up(Options { storage: vec![Backend::Ceph], ..Options::default() })?;
//! let ceph = testbed.storage()?.ceph()?;
//! let image = ceph.import("volumes/admin_vol01", &testbed.storage()?.boot_image(64)?)?;
//! let secret = ceph.secret()?;
//! testbed.host("node-28")?.define_secret(&secret)?;
//! let guest = LinuxGuest::new("admin_vm01").booted_from(&image.disk("vda", &secret));
//! testbed.start(guest, "node-28")?;
//! # Ok(())
//! # }
//! ```

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use ceph::{Ceph, RbdImage};
use iscsi::Daemon;
pub use iscsi::{Iscsi, Lun, Target};
pub use secret::{Kind, Secret};

use crate::{
    boot,
    host::Host,
    layout::{LOCAL, Layout},
    network,
    state::{HostState, StorageState},
    tree::Tree,
};

mod ceph;
mod image;
mod iscsi;
mod secret;

/// The node's name.
pub const NODE: &str = "storage";

/// The hosts that are cut off are in a set, so that no cut touches another's rule. On the node: a host's own rules are
/// compared before and after a migration.
const CUTS: &str = "nft 'table inet cuts {
    set cut { type ipv4_addr . ipv4_addr . inet_service; flags interval; }
    chain input { type filter hook input priority 0; ip saddr . ip daddr . tcp dport @cut drop; }
}'";

/// What a storage node can run. Ceph takes seconds to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Backend {
    /// A Ceph cluster with cephx, and a pool `volumes`.
    Ceph,
    /// An iSCSI target with CHAP.
    Iscsi,
}

/// Something on the node that a host talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Ceph's monitor.
    Monitor,
    /// Ceph's OSD.
    Osd,
    /// One of the target's two portals: see [`Iscsi::portals`].
    Portal(Ipv4Addr),
}

impl Endpoint {
    fn ports(self) -> (Ipv4Addr, &'static [&'static str]) {
        match self {
            Self::Monitor => (network::STORAGE[0], &["3300", "6789"]),
            Self::Osd => (network::STORAGE[0], &["6800-7300"]),
            Self::Portal(address) => (address, &["3260"]),
        }
    }
}

/// The storage node of a testbed.
#[derive(Debug)]
pub struct Storage {
    node: Host,
    backends: Vec<Backend>,
    layout: Layout,
    tree: Tree,
}

impl Storage {
    pub(crate) fn recorded(backends: &[Backend]) -> StorageState {
        let machine = HostState {
            name: NODE.to_owned(),
            zone: String::new(),
            address: network::STORAGE[0],
            supervisor: None,
            init: None,
        };
        StorageState { machine, backends: backends.to_vec() }
    }

    pub(crate) fn new(layout: &Layout, tree: &Tree, recorded: StorageState) -> Self {
        let node = Host::new(layout, tree, None, recorded.machine);
        Self { node, backends: recorded.backends, layout: layout.clone(), tree: tree.clone() }
    }

    /// Its network and its overlay.
    pub(crate) fn prepare(&self, layout: &Layout, hosts: &[HostState]) -> Result<()> {
        let machine = Self::recorded(&self.backends).machine;
        network::create_host(layout, &machine)?;
        network::add_address(layout, NODE, network::STORAGE[1])?;
        boot::prepare(layout, &machine, hosts)
    }

    /// Boots it, and waits until what it runs is ready.
    pub(crate) fn start(&self) -> Result<()> {
        self.node.power_on()?;
        self.node.sh(CUTS)?;
        if let Ok(iscsi) = self.iscsi() {
            iscsi.start()?;
        }
        if let Ok(ceph) = self.ceph() {
            ceph.create()?;
        }
        Ok(())
    }

    /// The node itself, to look around on it.
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// The Ceph cluster; an error if it was not asked for.
    pub fn ceph(&self) -> Result<Ceph<'_>> {
        ensure!(self.backends.contains(&Backend::Ceph), "the storage node runs no Ceph");
        Ok(Ceph::new(self))
    }

    /// The iSCSI target; an error if it was not asked for.
    pub fn iscsi(&self) -> Result<Iscsi<'_>> {
        ensure!(self.backends.contains(&Backend::Iscsi), "the storage node runs no iSCSI target");
        Ok(Iscsi::new(self, Daemon::Real))
    }

    /// Starts a second target daemon at the same addresses, which only those find who are [misled](Self::mislead).
    pub fn impostor(&self) -> Result<Iscsi<'_>> {
        let impostor = Iscsi::new(self, Daemon::Impostor);
        impostor.start()?;
        Ok(impostor)
    }

    /// From now on, whoever on this host connects to a portal of [`Storage::iscsi`] gets to the [`Storage::impostor`].
    pub fn mislead(&self, host: &Host) -> Result<()> {
        let (from, to) = (Daemon::Real.port(), Daemon::Impostor.port());
        let rule = |address| format!("ip daddr {address} tcp dport {from} dnat to {address}:{to}");
        let rules = network::STORAGE.map(rule).join("; ");
        host.sh(&format!(
            "nft 'table ip misled {{ chain output {{ type nat hook output priority -100; {rules}; }}\n}}'"
        ))?;
        Ok(())
    }

    /// Takes that back.
    pub fn lead_aright(&self, host: &Host) -> Result<()> {
        host.sh("nft delete table ip misled").map(drop)
    }

    /// From now on nothing that this host sends there arrives, also on connections that are open. Others notice nothing.
    pub fn cut(&self, host: &Host, endpoint: Endpoint) -> Result<()> {
        self.change_cuts("add", host, endpoint)
    }

    /// Takes a cut back.
    pub fn mend(&self, host: &Host, endpoint: Endpoint) -> Result<()> {
        self.change_cuts("delete", host, endpoint)
    }

    fn change_cuts(&self, verb: &str, host: &Host, endpoint: Endpoint) -> Result<()> {
        let (to, ports) = endpoint.ports();
        let elements: Vec<_> = ports.iter().map(|port| format!("{} . {to} . {port}", host.address())).collect();
        self.node.sh(&format!("nft '{verb} element inet cuts cut {{ {} }}'", elements.join(", "))).map(drop)
    }

    /// A file of this name that the node sees: where the machine sees it, and where the node does.
    fn file(&self, name: &str) -> (PathBuf, String) {
        (self.layout.local(NODE).join(name), format!("{LOCAL}/{name}"))
    }
}

/// A volume's name as a file's name.
fn flat(name: &str) -> String {
    name.replace('/', "-")
}

/// A disk that QEMU itself reaches over the network. `source` is all that tells one kind from another.
fn network_disk(target: &str, auth: &str, source: &str) -> String {
    format!(
        "<disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      {auth}
      {source}
      <target dev='{target}' bus='virtio'/>
    </disk>"
    )
}

/// A UUID that nobody has.
fn new_uuid() -> Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("the kernel makes UUIDs")?;
    Ok(uuid.trim().to_owned())
}
