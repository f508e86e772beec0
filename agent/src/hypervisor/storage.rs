//! The part of the edge that is about disks.

use std::{future::Future, sync::Arc};

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    disk::{Image, Probe, StaticImage},
    domain_xml::rewrite::Relocation,
    id::MigrationId,
    migration::Order,
    volume::{Connection, Found, Volume},
};

use super::Fault;

/// Hears how much of an image was sent.
pub type OnSent = Arc<dyn Fn(ByteSize) + Send + Sync>;

/// The host's files and volumes.
///
/// Steps are idempotent: done twice they change nothing more, and taking back what is not there succeeds.
pub trait Storage: Send + Sync + 'static {
    /// Source: writes a probe file, of which there is none yet. Returns its device number.
    fn place_probe(&self, probe: &Probe) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Source: removes a probe file.
    fn remove_probe(&self, probe: &Probe) -> impl Future<Output = Result<(), Fault>> + Send;

    /// SHA-256 of a file that nobody writes to, in hexadecimal digits.
    fn digest(&self, path: &str) -> impl Future<Output = Result<String, Fault>> + Send;

    /// Either: forgets the secret that VMFerry gave to libvirt for a volume, unless a domain here, or one that is arriving,
    /// needs it.
    fn release_secret(
        &self,
        migration: MigrationId,
        connection: &Connection,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes volumes ones that the guest can have here; libvirt gets the secrets that QEMU opens them with. Returns
    /// of each, in their order, what was found, and where it is if that is not where the definition says. None of them is worked
    /// on any more then, whatever became of the others.
    fn connect_volumes(
        &self,
        migration: MigrationId,
        volumes: &[&Volume],
    ) -> impl Future<Output = Vec<Result<(Found, Option<Relocation>), Fault>>> + Send;

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
    fn make_image(&self, image: &Image, below: Option<&StaticImage>) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: removes an image, unless a domain here uses it.
    fn remove_image(&self, path: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: makes an empty file for an image that is sent, and lets the source write to it; fails if something is
    /// there. `index` tells the images of a migration apart; `written`: the guest will write to it.
    fn receive_image(
        &self,
        migration: MigrationId,
        index: usize,
        image: &StaticImage,
        written: bool,
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

    /// Source: how many bytes the file of an image has now.
    fn image_length(&self, path: &str) -> impl Future<Output = Result<ByteSize, Fault>> + Send;

    /// Source: waits until every image that was sent is on the destination's disk, cut to its length; they come in the order
    /// of their indices.
    fn await_images(&self, order: &Order, lengths: &[ByteSize]) -> impl Future<Output = Result<(), Fault>> + Send;
}
