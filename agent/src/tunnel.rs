//! The data path: UNIX sockets on the source that lead to UNIX sockets on the destination, through the two agents'
//! own mTLS connection. libvirt and QEMU open no TCP port.
//!
//! ```text
//!  source                                                    destination
//!  libvirtd ──▶ libvirt.sock ─┐                          ┌─▶ libvirt-sock ──▶ libvirtd
//!  QEMU ──────▶ memory.sock ──┤                          ├─▶ memory.sock ───▶ QEMU (incoming)
//!  QEMU ──────▶ disk.sock ────┤ agent ══ TLS, one port ══ agent ├─▶ disk.sock ─────▶ QEMU (NBD)
//!  qemu-img ──▶ image-N.sock ─┘                          └─▶ image-N.sock ──▶ qemu-nbd
//! ```
//!
//! Streams of one migration open one at a time, each acknowledged by the far end before the next is accepted: QEMU
//! takes the first connection it gets as its main channel. What a stream leads to is an entry of the destination's
//! table, chosen by migration and channel; no path ever travels.

mod destination;
mod open;
mod source;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::UnixStream,
};
use tokio_util::sync::CancellationToken;
use vmferry_core::{id::MigrationId, leftovers::HeldDirectory};
use vmferry_transport::Stream;

pub use self::{destination::Grants, source::Listeners};

/// Where every migration has its directory, the same on every host: QEMU opens on the destination the very path that
/// QEMU connects to on the source.
pub const DIRECTORY: &str = "/run/vmferry/migrations";

/// Below 64 KiB throughput falls, above it hardly rises.
const COPY_BUFFER: usize = 64 * 1024;

/// A migration's directory. Unique, since QEMU unlinks and rebinds what it finds.
pub fn directory(migration: MigrationId) -> PathBuf {
    Path::new(DIRECTORY).join(migration.to_string())
}

/// On the source, the way to the destination's libvirt.
pub fn libvirt_socket(migration: MigrationId) -> PathBuf {
    directory(migration).join("libvirt.sock")
}

/// On the source, the way to the incoming QEMU; on the destination, that QEMU's socket.
pub fn memory_socket(migration: MigrationId) -> PathBuf {
    directory(migration).join("memory.sock")
}

/// On the source, the way to the disks of the incoming QEMU; on the destination, its NBD server's socket.
pub fn disk_socket(migration: MigrationId) -> PathBuf {
    directory(migration).join("disk.sock")
}

/// On the source, the way to what receives an image; on the destination, its socket.
pub fn image_socket(migration: MigrationId, index: usize) -> PathBuf {
    directory(migration).join(format!("image-{index}.sock"))
}

/// What lies where migrations have their directories.
pub fn directories() -> io::Result<Vec<HeldDirectory>> {
    let mut held = Vec::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(held),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let migration = entry.file_name().to_str().and_then(|name| name.parse().ok());
        held.push(HeldDirectory { path: entry.path().display().to_string(), migration });
    }
    held.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(held)
}

async fn send(stream: &mut Stream, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn receive<M: Message + Default>(stream: &mut Stream) -> io::Result<M> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Carries bytes both ways until both ends are done, one breaks, or the tunnel is closed.
async fn splice(mut unix: UnixStream, mut tls: Stream, closed: CancellationToken) {
    let carried =
        closed.run_until_cancelled(copy_bidirectional_with_sizes(&mut unix, &mut tls, COPY_BUFFER, COPY_BUFFER)).await;
    match carried {
        Some(Ok((out, back))) => tracing::debug!(out, back, "stream ended"),
        Some(Err(error)) => tracing::debug!(%error, "stream broke"),
        None => tracing::debug!("stream cut: its tunnel was closed"),
    }
}
