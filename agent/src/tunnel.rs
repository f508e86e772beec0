//! The data path: UNIX sockets on the source that lead to UNIX sockets on the destination, through the two agents'
//! own mTLS connection. libvirt and QEMU open no TCP port.
//!
//! The bytes are carried by a process of its own on each host ([`carrier`]), which an agent's end does not end. What is said between
//! the two agents beside them, of a release say, is the agents' own.
//!
//! ```text
//!  source                                                    destination
//!  libvirtd ──▶ libvirt.sock ─┐                          ┌─▶ libvirt-sock ──▶ libvirtd
//!  QEMU ──────▶ memory.sock ──┤                          ├─▶ memory.sock ───▶ QEMU (incoming)
//!  QEMU ──────▶ disk.sock ────┤ carrier ══ TLS ══ carrier ├─▶ disk.sock ─────▶ QEMU (NBD)
//!  qemu-img ──▶ image-N.sock ─┘   to the one port        └─▶ image-N.sock ──▶ qemu-nbd
//! ```
//!
//! Streams of one migration open one at a time, each acknowledged by the far end before the next is accepted: QEMU
//! takes the first connection it gets as its main channel. What a stream leads to is an entry of the destination's
//! table, chosen by migration and channel; no path ever travels.

mod carriage;
pub mod carrier;
mod carriers;
mod destination;
mod handing;
mod open;
mod source;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::UnixStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vmferry_core::{id::MigrationId, identity::Identity, leftovers::HeldDirectory, migration::Endpoint};
use vmferry_proto::v1::{TunnelRequest, TunnelResponse};
use vmferry_transport::{Credentials, DialError, Protocol, Stream, Unreachable, dial};

pub use self::{
    carriers::{Carriers, Error as CarriersError},
    destination::Grants,
    source::Listeners,
};

/// Where every migration has its directory, the same on every host: QEMU opens on the destination the very path that
/// QEMU connects to on the source.
pub const DIRECTORY: &str = "/run/vmferry/migrations";

/// How long a stream may take to open, connection and acknowledgement.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a caller may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

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

/// What the caller of a stream wants; `None` if it does not say, which is logged.
async fn requested(tls: &mut Stream, caller: &Identity) -> Option<TunnelRequest> {
    match timeout(REQUEST_LIMIT, receive::<TunnelRequest>(tls)).await {
        Ok(Ok(request)) => return Some(request),
        Ok(Err(error)) => warn!(%caller, %error, "tunnel: no request"),
        Err(_) => warn!(%caller, "tunnel: no request within {REQUEST_LIMIT:?}"),
    }
    None
}

async fn refuse(tls: &mut Stream, caller: &Identity, refusal: String) {
    warn!(%caller, "refused: {refusal}");
    // The caller may be gone already: it learns the same from the closed connection.
    _ = send(tls, &TunnelResponse { refusal, ..TunnelResponse::default() }).await;
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Unanswered {
    message: String,
    /// Nobody was there, or went away before answering: somebody may soon be.
    may_pass: bool,
}

impl Unanswered {
    fn slow() -> Self {
        Self::refused(format!("no answer within {OPEN_LIMIT:?}"))
    }

    fn refused(message: String) -> Self {
        Self { message, may_pass: false }
    }

    fn may_pass(&self) -> bool {
        self.may_pass
    }
}

impl From<DialError> for Unanswered {
    fn from(error: DialError) -> Self {
        let may_pass =
            matches!(error, DialError::Unreachable { reason: Unreachable::Refused | Unreachable::Broken(_), .. });
        Self { message: error.to_string(), may_pass }
    }
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Self { message: error.to_string(), may_pass: vmferry_transport::untrusted(&error).is_none() }
    }
}

/// Opens a stream and asks for what is in the request. A refusal is an answer.
async fn ask(
    credentials: &Credentials,
    destination: &Endpoint,
    protocol: Protocol,
    request: &TunnelRequest,
) -> Result<(Stream, TunnelResponse), Unanswered> {
    let Endpoint { host, address } = destination;
    let mut tls = dial(credentials, address, host.as_str(), protocol, OPEN_LIMIT).await?;
    send(&mut tls, request).await?;
    let response = receive(&mut tls).await?;
    Ok((tls, response))
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

#[cfg(test)]
mod tests;
