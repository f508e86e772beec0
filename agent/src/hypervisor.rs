//! The edge: everything that the phases ask of, or do to, the host they run on.
//!
//! [`Hypervisor`] has one implementation for real hosts, [`host::LibvirtHost`], and one in the flow's tests, for
//! faults that a real host cannot be made to have.

mod files;
mod host;

use std::{future::Future, sync::Arc};

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{DestinationFacts, SourceFacts},
    disk::{Image, Probe, StaticImage, Transfer},
    domain_xml::{Definition, rewrite::Relocation},
    id::{HostName, InstanceId, MigrationId},
    migration::{Order, Progress, Statistics},
    reason::Reason,
    volume::{Connection, Found, SecretName, Volume},
};

pub use self::host::LibvirtHost;

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

/// Takes samples of a running job.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Hears how much of an image was sent.
pub type OnSent = Arc<dyn Fn(ByteSize) + Send + Sync>;

/// The host, its libvirt and its tunnel.
///
/// Steps are idempotent: done twice they change nothing more, and taking back what is not there succeeds.
pub trait Hypervisor: Send + Sync + 'static {
    /// The host's name.
    fn name(&self) -> &HostName;

    /// What the source must know to judge whether an instance may leave, and what it tells the destination.
    /// `migration` and the probes are left for the caller to fill in.
    fn leaving(&self, order: &Order) -> impl Future<Output = Result<(SourceFacts, Leaving), Fault>> + Send;

    /// What the destination must know to judge whether it can take the instance. Claims are not deducted, and
    /// `migration` is left for the caller to fill in.
    fn arriving(&self, leaving: &Leaving) -> impl Future<Output = Result<DestinationFacts, Fault>> + Send;

    /// Source: writes a probe file, of which there is none yet. Returns its device number.
    fn place_probe(&self, probe: &Probe) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Source: removes a probe file.
    fn remove_probe(&self, probe: &Probe) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: the guest as it is now; `None` if there is none.
    fn definition(&self, instance: InstanceId) -> impl Future<Output = Result<Option<Definition>, Fault>> + Send;

    /// SHA-256 of a file that nobody writes to, in hexadecimal digits.
    fn digest(&self, path: &str) -> impl Future<Output = Result<String, Fault>> + Send;

    /// Destination: sees that libvirt can give QEMU the secret that opens this volume.
    fn ensure_secret(
        &self,
        migration: MigrationId,
        volume: &Connection,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: forgets a secret that VMFerry gave to libvirt, unless a domain here, or one that is arriving, needs it.
    fn release_secret(
        &self,
        migration: MigrationId,
        secret: &SecretName,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes a volume one that the guest can have here. Returns what was found, and where it is if that is
    /// not where the definition says.
    fn connect_volume(
        &self,
        volume: &Volume,
    ) -> impl Future<Output = Result<(Found, Option<Relocation>), Fault>> + Send;

    /// Either: detaches a volume from this host, flushed, unless a domain here uses it.
    fn disconnect_volume(&self, connection: &Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: the directories above this path that are not there, outermost first.
    fn missing_directories(&self, path: &str) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;

    /// Destination: makes a directory, the one above it is there.
    fn make_image_directory(&self, path: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: removes a directory that was made for images, if nothing is in it.
    fn remove_image_directory(&self, path: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: whether nothing is at this path. What is there is an error that names it.
    fn is_free(&self, path: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes an empty image for the job to fill; fails if something is there. `below` is what lies below it.
    fn make_image(
        &self,
        image: &Image,
        below: Option<&StaticImage>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: removes an image, unless a domain here uses it.
    fn remove_image(&self, path: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes an empty file for an image that is sent, and lets the source write to it; fails if something is
    /// there. `index` tells the images of a migration apart.
    fn receive_image(
        &self,
        migration: MigrationId,
        index: usize,
        image: &StaticImage,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets nobody write to images any more.
    fn stop_receivers(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: sends an image; `sent` hears how many bytes of it are through.
    fn send_image(
        &self,
        order: &Order,
        index: usize,
        image: &StaticImage,
        sent: OnSent,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: waits until every image that was sent is on the destination's disk.
    fn await_images(&self, order: &Order) -> impl Future<Output = Result<(), Fault>> + Send;

    /// What is to be seen of the instance now. A libvirt that does not answer is a fault, never an absence.
    fn sighting(&self, instance: InstanceId) -> impl Future<Output = Result<Sighting, Fault>> + Send;

    /// Source: opens the sockets that lead to the destination, with one for each of `images` that are sent.
    fn open_sockets(&self, order: &Order, images: usize) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes the directory in which QEMU opens its socket.
    fn make_directory(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: closes the migration's sockets and removes its directory.
    fn remove_sockets(&self, migration: MigrationId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets `source`, and nobody else, open tunnel streams of this migration.
    fn grant_tunnel(&self, migration: MigrationId, source: &HostName) -> Result<(), Fault>;

    /// Destination: lets nobody in any more, and cuts the streams that are open.
    fn revoke_tunnel(&self, migration: MigrationId) -> Result<(), Fault>;

    /// Source: runs libvirt's job to its end. Where the checks have proved that disks are shared, libvirt is not asked
    /// for its opinion.
    fn migrate(
        &self,
        order: &Order,
        transfer: &Transfer,
        relocations: &[Relocation],
        progress: OnProgress,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// Source, after a restart: waits until no job runs on the domain any more; ends it if it takes too long.
    fn await_job_end(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: keeps the definition when the guest stops.
    fn make_persistent(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: forgets the definition of a guest that does not run here.
    fn undefine(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: destroys the instance if it is arriving; a guest that ever ran here is not touched.
    fn destroy_arriving(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;
}
