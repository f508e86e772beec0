//! What two hosts know, by which they are judged.

use super::{Postcopy, VifSight};
use crate::{
    agent::Leaving,
    convergence::Policy,
    direct::DirectFacts,
    disk::{Disks, Shown, Sight},
    domain_xml::{Definition, FilterDefinition, HostCapabilities},
    host::{Cordon, Space},
    id::{HostName, MigrationId},
    instance::InstanceState,
    migration::{Kind, Limits},
    nwfilter::Missing,
};

/// What the source knows of an instance that shall leave.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFacts {
    /// The source.
    pub host: HostName,
    /// Whether the guest shall run meanwhile.
    pub kind: Kind,
    /// What the domain does now.
    pub state: InstanceState,
    /// Whether it is paused here because it comes, goes, or is on both hosts: who moves it lets it go on, where it belongs, and nobody else.
    pub crosses: bool,
    /// Whether libvirt keeps its definition when it stops.
    pub persistent: bool,
    /// Whether libvirt keeps its memory, saved when it was stopped.
    pub saved: bool,
    /// What it has only until it stops: see [`super::until_it_stops`].
    pub passing: Vec<String>,
    /// A migration of this instance that has not ended, other than the one that asks.
    pub migration: Option<MigrationId>,
    /// The libvirt job on the domain that has not ended, by its name.
    pub job: Option<String>,
    /// Snapshots that libvirt keeps for the domain.
    pub snapshots: u32,
    /// The definition.
    pub definition: Definition,
    /// Vifs that are plugged into something else than their metadata say: MAC address, and what is wrong.
    pub misplaced: Vec<(String, String)>,
    /// libvirt's filters that its vifs name and that are not here; or why none can be here.
    pub filters_missing: Result<Vec<Missing>, String>,
    /// What this host shows of its disks.
    pub shown: Shown,
    /// What the move may cost, and which way it takes.
    pub limits: Limits,
    /// What it has for the direct path; `None`: it is not configured for it.
    pub direct: Option<DirectFacts>,
    /// QEMU's version, comparable.
    pub qemu_version: u64,
    /// What it can do of a postcopy, if the migration may come to one.
    pub postcopy: Option<Postcopy>,
    /// How the migration comes to its end. None: the guest is off, or this is not filled in yet.
    pub policy: Option<Policy>,
}

/// What the destination knows about itself and about the instance that wants to come.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationFacts {
    /// The destination.
    pub host: HostName,
    /// Whether the guest shall run meanwhile.
    pub kind: Kind,
    /// A migration that brings this instance here already, other than the one that asks.
    pub migration: Option<MigrationId>,
    /// A domain with the instance's UUID: its name and state.
    pub same_id: Option<(String, InstanceState)>,
    /// Whether a domain with the instance's name but another UUID is there.
    pub same_name: bool,
    /// What it has for one guest more, what is promised to others deducted.
    pub space: Space,
    /// Why no guest shall come; `None`: they may.
    pub cordon: Option<Cordon>,
    /// Which guests the host can run.
    pub capabilities: HostCapabilities,
    /// vCPUs at most on the guest's machine type, where the host knows that machine type.
    pub vcpus_max: Option<u32>,
    /// Whether the host can give the guest's CPU; `Err` says what is missing. `None` if the definition names none.
    pub cpu: Option<Result<(), String>>,
    /// The host's bridges.
    pub bridges: Vec<String>,
    /// libvirt networks that are active.
    pub networks: Vec<String>,
    /// What it knows of the guest's vifs, in the definition's order.
    pub vifs: Vec<VifSight>,
    /// Why it cannot filter; none: it can.
    pub firewall: Option<String>,
    /// What its libvirt has under the names of the filters that the guest brings; or why it can have none.
    pub filters: Result<Vec<FilterDefinition>, String>,
    /// Whether the host does not have the emulator that the definition names.
    pub lacks_emulator: bool,
    /// What the host sees of the guest's disks.
    pub sight: Sight,
    /// QEMU's version, comparable.
    pub qemu_version: u64,
    /// What the move may cost, and which way it takes.
    pub limits: Limits,
    /// What it has for the direct path; `None`: it is not configured for it.
    pub direct: Option<DirectFacts>,
    /// What it can do of a postcopy, if the migration may come to one.
    pub postcopy: Option<Postcopy>,
}

impl DestinationFacts {
    /// The guest's disks, as both hosts see them.
    pub fn disks<'a>(&'a self, leaving: &'a Leaving) -> Disks<'a> {
        Disks {
            guest: &leaving.definition.name,
            disks: &leaving.definition.disks,
            source: &leaving.instance.host,
            destination: &self.host,
            shown: &leaving.shown,
            sight: &self.sight,
            kind: self.kind,
        }
    }
}
