use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    id::MigrationId,
    migration::{Endpoint, Order},
};
use vmferry_proto::v1::{TunnelChannel, TunnelRequest, TunnelResponse};
use vmferry_transport::{Credentials, Protocol, Stream, dial};

use super::{CHANNELS, libvirt_socket, memory_socket, receive, send, splice};

/// How long a stream may take to open, connection and acknowledgement.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The source's ends of tunnels.
#[derive(Debug)]
pub struct Listeners {
    credentials: watch::Receiver<Credentials>,
    open: Mutex<HashMap<MigrationId, CancellationToken>>,
}

impl Listeners {
    /// None open.
    pub fn new(credentials: watch::Receiver<Credentials>) -> Self {
        Self { credentials, open: Mutex::default() }
    }

    /// Opens the migration's sockets, in its directory, which must exist. Open already: nothing is done.
    pub fn open(&self, order: &Order) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&order.id) {
            return Ok(());
        }
        let closed = CancellationToken::new();
        for channel in CHANNELS {
            let path = match channel {
                TunnelChannel::Memory => memory_socket(order.id),
                _ => libvirt_socket(order.id),
            };
            // The first end is closed again if the second cannot be opened.
            let listener = bind(&path).inspect_err(|_| closed.cancel())?;
            let end = End {
                credentials: self.credentials.clone(),
                destination: order.destination.clone(),
                request: TunnelRequest { migration_id: order.id.to_string(), channel: channel.into() },
                closed: closed.clone(),
            };
            let span = info_span!("tunnel", migration = %order.id, channel = channel.as_str_name());
            tokio::spawn(end.serve(listener).instrument(span));
        }
        open.insert(order.id, closed);
        Ok(())
    }

    /// Closes them and cuts their streams.
    pub fn close(&self, migration: MigrationId) {
        if let Some(closed) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration) {
            closed.cancel();
        }
    }
}

/// A leftover of an earlier process of this agent is replaced; nobody else writes here.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

struct End {
    credentials: watch::Receiver<Credentials>,
    destination: Endpoint,
    request: TunnelRequest,
    closed: CancellationToken,
}

impl End {
    /// One at a time: the next connection is accepted when the far end has this one.
    async fn serve(self, listener: UnixListener) {
        while let Some(accepted) = self.closed.run_until_cancelled(listener.accept()).await {
            let unix = match accepted {
                Ok((unix, _)) => unix,
                Err(error) => {
                    // Out of file descriptors, mostly: a pause lets some be closed.
                    warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match timeout(OPEN_LIMIT, self.connect()).await {
                Ok(Ok(tls)) => self.carry(unix, tls),
                // Closing the socket is all that libvirt or QEMU can be told.
                Ok(Err(reason)) => warn!("no way to {}: {reason}", self.destination.host),
                Err(_) => warn!("no way to {}: no answer within {OPEN_LIMIT:?}", self.destination.host),
            }
        }
    }

    async fn connect(&self) -> Result<Stream, String> {
        let credentials = self.credentials.borrow().clone();
        let Endpoint { host, address } = &self.destination;
        let mut tls = dial(&credentials, address, host.as_str(), Protocol::Tunnel, OPEN_LIMIT)
            .await
            .map_err(|error| error.to_string())?;
        let opened = async {
            send(&mut tls, &self.request).await?;
            receive::<TunnelResponse>(&mut tls).await
        };
        let TunnelResponse { refusal } = opened.await.map_err(|error| error.to_string())?;
        if refusal.is_empty() { Ok(tls) } else { Err(refusal) }
    }

    fn carry(&self, unix: UnixStream, tls: Stream) {
        tokio::spawn(splice(unix, tls, self.closed.clone()).in_current_span());
    }
}
