//! The edge: everything that the phases ask of, or do to, the host they run on.
//!
//! [`Hypervisor`] has one implementation for real hosts, [`host::LibvirtHost`], and two for tests: one in the flow's, for
//! faults that a real host cannot be made to have, and one for fleets that are larger than a machine has room for. What calls from
//! outside ask of a host besides its migrations is [`Served`].

mod examine;
pub mod files;
mod filter;
mod group;
mod handover;
mod host;
mod housing;
mod instance;
mod label;
mod measure;
mod network;
mod power;
mod report;
mod storage;

use std::future::Future;

use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{DestinationFacts, Refusal, SourceFacts},
    disk::Transfer,
    domain_xml::{Definition, rewrite::Relocation},
    id::{HostName, InstanceId, MigrationId},
    migration::{Order, Statistics},
    reason::Reason,
    resolution::Seen,
};

pub use self::{
    examine::Examining,
    filter::Filtering,
    group::Grouping,
    handover::{HandingOver, OnRelease},
    host::LibvirtHost,
    housing::Housing,
    instance::instance_of,
    label::Labelling,
    measure::Measuring,
    network::Networking,
    power::Power,
    report::Reporting,
    storage::{OnSent, Storage},
};
pub use crate::libvirt::{Control, Helm, OnDeed, OnProgress, OnSwitch, SteeringError, Switch};

/// What went wrong at the edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The stable code.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
}

impl Fault {
    /// A fault with its code.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<Refusal> for Fault {
    fn from(Refusal { reason, message, remedy }: Refusal) -> Self {
        Self { reason, message: format!("{message}; {remedy}") }
    }
}

/// All that the port's calls ask of a host.
pub trait Served: Hypervisor + Reporting + Labelling + Grouping + Examining {}

impl<H: Hypervisor + Reporting + Labelling + Grouping + Examining> Served for H {}

/// The host, its libvirt and its tunnel; its disks are [`Storage`]'s, its vifs [`Networking`]'s, libvirt's
/// own filters [`Filtering`]'s, guests that are off [`Power`]'s, strict hand-overs [`HandingOver`]'s, what forecasts go by [`Measuring`]'s, what room is left [`Housing`]'s.
///
/// Steps are idempotent: done twice they change nothing more, and taking back what is not there succeeds.
pub trait Hypervisor: Storage + Networking + Filtering + Power + HandingOver + Measuring + Housing {
    /// The host's name.
    fn name(&self) -> &HostName;

    /// What the source must know to judge whether an instance may leave, and what it tells the destination.
    /// `migration`, `policy` and the probes are left for the caller to fill in.
    fn leaving(&self, order: &Order) -> impl Future<Output = Result<(SourceFacts, Leaving), Fault>> + Send;

    /// What the destination must know to judge whether it can take the instance. `space`, `cordon` and `migration` are left for the
    /// caller to fill in.
    fn arriving(&self, leaving: &Leaving) -> impl Future<Output = Result<DestinationFacts, Fault>> + Send;

    /// Source: the guest as it is to move, as it is now; `None` if there is none.
    fn definition(&self, order: &Order) -> impl Future<Output = Result<Option<Definition>, Fault>> + Send;

    /// What is to be seen of the instance now. A libvirt that does not answer is a fault, never an absence.
    fn sighting(&self, instance: InstanceId) -> impl Future<Output = Result<Sighting, Fault>> + Send;

    /// The same as facts by which a live migration is resolved.
    fn seen(&self, instance: InstanceId) -> impl Future<Output = Result<Seen, Fault>> + Send;

    /// Source: opens the sockets that lead to the destination, with one for each of `images` that are sent.
    fn open_sockets(&self, order: &Order, images: usize) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes the directory in which QEMU opens its socket.
    fn make_directory(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: closes the migration's sockets and removes its directory.
    fn remove_sockets(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets the source, and nobody else, open tunnel streams of this migration. `release` is called when it says that it has
    /// released the guest.
    fn grant_tunnel(&self, order: &Order, release: OnRelease) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets nobody in any more, and cuts the streams that are open.
    fn revoke_tunnel(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets nobody in any more. The streams that are open end by themselves, or are cut when that takes too long.
    fn retire_tunnel(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: runs libvirt's job to its end. Where the checks have proved that disks are shared, libvirt is not asked
    /// for its opinion.
    fn migrate(
        &self,
        order: &Order,
        transfer: &Transfer,
        relocations: &[Relocation],
        control: Control,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// Source, after a restart: sends what is left of a guest that was switched to postcopy, as soon as the way is there.
    fn resume_migration(
        &self,
        order: &Order,
        control: Control,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// Source, after a restart: whether libvirt's job that moves the guest away goes on.
    fn is_leaving(&self, instance: InstanceId) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Source, after a restart: goes on with such a job, as [`Hypervisor::migrate`] does. `begun`: the guest may have been switched to
    /// postcopy.
    fn join_migration(
        &self,
        order: &Order,
        relocations: &[Relocation],
        begun: bool,
        control: Control,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// Source, after a restart: waits until no job runs on the domain any more; ends it if it takes too long.
    fn await_job_end(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: keeps the definition when the guest stops.
    fn make_persistent(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: forgets the definition of a guest that does not run here.
    fn undefine(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: destroys the instance if it is arriving; a guest that ever ran here is not touched.
    fn destroy_arriving(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;
}
