//! What a host has for guests: how much it gives, how much of that is taken, and what they find there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{affinity::GroupName, network::NetworkName, volume::SecretName};

/// Why no guest shall come to a host. Kept by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// In the words of who said so.
    pub reason: String,
    /// Identity of who said so.
    pub by: String,
    /// Since when, by the host's clock.
    pub since: Timestamp,
}

/// The cordon that a host had last. Kept by its agent, so that those that left it meanwhile can come home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCordon {
    /// It.
    pub cordon: Cordon,
    /// When it was taken away, by the host's clock.
    pub ended: Timestamp,
}

/// A host to which guests may come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uncordoned {
    /// What was taken away. None: the host was not cordoned.
    pub was: Option<Cordon>,
    /// The cordon that was taken away last, now or before. None: there was none, or the agent is too old to know.
    pub last: Option<LastCordon>,
}

/// What a host has for guests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Room {
    /// What its guests may have at most, all together.
    pub capacity: Capacity,
    /// What of it is taken.
    pub taken: Taken,
    /// What guests find there.
    pub offers: Offers,
}

/// What a host gives its guests at most, all together: by its agent's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Memory that may be promised: what the host has without its reserve, times what it may be overcommitted by.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub memory: ByteSize,
    /// vCPUs that may be promised: logical CPUs, times what they may be overcommitted by.
    pub vcpus: u32,
    /// Guests that may run. None: as many as there is room for.
    pub instances: Option<u32>,
    /// Migrations that may come at the same time.
    pub incoming: u32,
    /// Migrations that may leave at the same time.
    pub outgoing: u32,
}

/// What of a host's [`Capacity`] is taken: by guests that run, and by those that are on their way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Taken {
    /// Memory that they may have.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub memory: ByteSize,
    /// Their vCPUs.
    pub vcpus: u32,
    /// How many they are.
    pub instances: u32,
    /// Migrations that come.
    pub incoming: u32,
    /// Migrations that leave.
    pub outgoing: u32,
}

/// Guests that a host can run: architecture, virtualisation type, machine type.
pub type Machines = BTreeSet<(String, String, String)>;

/// What guests find on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offers {
    /// Which guests it can run: architecture, virtualisation type, machine type.
    pub machines: Arc<Machines>,
    /// libvirt's models of CPUs that it can give to guests under KVM. Empty: it is not known.
    pub cpu_models: Arc<BTreeSet<String>>,
    /// Logical networks that it carries.
    pub networks: BTreeSet<NetworkName>,
    /// Its bridges.
    pub bridges: BTreeSet<String>,
    /// libvirt's networks that are up.
    pub libvirt_networks: BTreeSet<String>,
    /// The secrets that open its storage, by each name they have.
    pub secrets: BTreeSet<SecretName>,
    /// Its huge pages: by their size in KiB, how many there are and how many are free.
    pub pages: BTreeMap<u64, Pages>,
    /// The numbers of its logical CPUs that are on.
    pub cpus: BTreeSet<u32>,
    /// How many guests of each affinity group it runs or is about to.
    pub groups: BTreeMap<GroupName, u32>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pages {
    /// All there are.
    pub total: u64,
    /// Those that nobody has.
    pub free: u64,
}
