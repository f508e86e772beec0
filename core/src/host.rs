//! What a hypervisor is: the facts its agent reports.

mod alike;
mod claims;
mod room;

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    alike::Alike,
    claims::{Claim, Claims, Resident, Space},
    room::{Capacity, Cordon, LastCordon, Machines, Offers, Pages, Room, Taken, Uncordoned},
};
use crate::{
    convergence::{Policy, overlaid},
    id::HostName,
};

/// Facts of one host, read afresh for each answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The name in the agent's configuration and certificate.
    pub name: HostName,
    /// The availability zone it is in.
    pub zone: String,
    /// Version of the agent.
    pub agent_version: String,
    /// libvirt's version, `9.0.0`.
    pub libvirt_version: String,
    /// QEMU's version, `7.2.22`.
    pub qemu_version: String,
    /// Architecture as libvirt names it, `x86_64`.
    pub architecture: String,
    /// CPU model of the host as libvirt names it.
    pub cpu_model: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory of the host.
    pub memory_total: ByteSize,
    /// Memory the kernel could give to a new guest now (`MemAvailable`), less what is claimed by migrations coming in.
    pub memory_available: ByteSize,
    /// Domains that run.
    pub instances_active: u32,
    /// Domains that are defined or run.
    pub instances_total: u32,
    /// Migrations that have not ended.
    pub migrations_active: u32,
    /// When the agent's certificate expires.
    pub certificate_expires: Timestamp,
    /// Why no guest shall come here; `None`: they may.
    pub cordon: Option<Cordon>,
    /// What it has for guests; `None`: its agent is too old to say.
    pub room: Option<Room>,
    /// The host's clock when it answered; `None`: its agent is too old to say.
    pub answered: Option<Timestamp>,
}

/// A policy that a host knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// It.
    pub policy: Policy,
    /// Whether its agent's configuration has it. It is always there otherwise.
    pub configured: bool,
}

/// What a host knows: the policies that are always there, the default first, and its configuration's; one of these replaces one of the
/// same name.
pub fn host_policies(configured: &[Policy]) -> Vec<HostPolicy> {
    let known = overlaid([(false, Policy::all_named()), (true, configured.to_vec())]);
    known.into_iter().map(|(configured, policy)| HostPolicy { policy, configured }).collect()
}
