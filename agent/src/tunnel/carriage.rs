//! What carries bytes: the sockets of migrations that leave, the way in for those that come, and the streams through both. It knows
//! nothing of journals and of libvirt, so that it can be a process of its own.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    id::{HostName, MigrationId},
    identity::{Identity, Role},
    migration::Endpoint,
};
use vmferry_proto::{
    carrier::{Carried, GrantRequest, OpenRequest, Socket},
    v1::{TunnelChannel, TunnelRequest, TunnelResponse},
};
use vmferry_transport::{Credentials, Protocol, Stream};

use super::{
    OPEN_LIMIT, Unanswered, ask, disk_socket, image_socket, memory_socket, open::OpenStreams, refuse, requested, send,
    splice,
};

/// How a destination is dialed again whose agent is just being started again.
const DIAL_AGAIN: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_secs(1))
    .with_max_times(20);

/// Why something is not carried.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCarried {
    /// The process is about to end; another one will.
    #[error("this process carries nothing any more")]
    Leaving,
    /// The request cannot be understood.
    #[error("not understood: {0}")]
    Invalid(&'static str),
    /// The sockets cannot be opened.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is carried on this host.
#[derive(Debug)]
pub(super) struct Carriage {
    credentials: watch::Receiver<Credentials>,
    state: Mutex<State>,
    /// How many migrations there are.
    held: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    migrations: HashMap<MigrationId, Held>,
    is_leaving: bool,
}

/// A migration's streams, and who may open more.
#[derive(Debug, Clone)]
struct Held {
    streams: OpenStreams,
    /// On the destination, until it is closed.
    way_in: Option<WayIn>,
}

#[derive(Debug, Clone)]
struct WayIn {
    source: HostName,
    libvirt_socket: PathBuf,
}

impl Carriage {
    pub(super) fn new(credentials: watch::Receiver<Credentials>) -> Self {
        Self { credentials, state: Mutex::default(), held: watch::Sender::new(0) }
    }

    /// As whom it dials and is dialed.
    pub(super) fn credentials(&self) -> Credentials {
        self.credentials.borrow().clone()
    }

    /// Opens sockets that lead to the destination. Those of a migration whose sockets are open stay as they are.
    pub(super) fn open(&self, request: OpenRequest) -> Result<(), NotCarried> {
        let OpenRequest { migration_id, destination_host, destination_address: address, sockets } = request;
        let migration = migration_of(&migration_id)?;
        let host = destination_host.parse().map_err(|_| NotCarried::Invalid("destination_host"))?;
        let mut state = self.lock();
        if state.is_leaving {
            return Err(NotCarried::Leaving);
        }
        if state.migrations.contains_key(&migration) {
            return Ok(());
        }
        let streams = OpenStreams::new();
        for socket in &sockets {
            // The first ones are closed again if a later one cannot be opened.
            let listener = bind(socket).inspect_err(|_| streams.close())?;
            let end = Arc::new(End {
                credentials: self.credentials.clone(),
                destination: Endpoint { host: HostName::clone(&host), address: address.clone() },
                request: TunnelRequest {
                    migration_id: migration_id.clone(),
                    channel: socket.channel,
                    image: socket.image,
                    ..TunnelRequest::default()
                },
                streams: streams.clone(),
            });
            let span = info_span!("tunnel", %migration, channel = socket.channel().as_str_name(), index = socket.image);
            tokio::spawn(end.serve(listener).instrument(span));
        }
        state.migrations.insert(migration, Held { streams, way_in: None });
        self.tell(&state);
        Ok(())
    }

    /// Lets the source in.
    pub(super) fn grant(&self, request: GrantRequest) -> Result<(), NotCarried> {
        let migration = migration_of(&request.migration_id)?;
        let source = request.source_host.parse().map_err(|_| NotCarried::Invalid("source_host"))?;
        let way_in = WayIn { source, libvirt_socket: request.libvirt_socket.into() };
        let mut state = self.lock();
        if state.is_leaving {
            return Err(NotCarried::Leaving);
        }
        let new = || Held { streams: OpenStreams::new(), way_in: None };
        state.migrations.entry(migration).or_insert_with(new).way_in = Some(way_in);
        self.tell(&state);
        Ok(())
    }

    /// No more streams. What is open may take so long to end by itself.
    pub(super) fn close(self: &Arc<Self>, migration: MigrationId, last_words: Duration) {
        let mut state = self.lock();
        let Some(held) = state.migrations.get_mut(&migration) else { return };
        held.way_in = None;
        let streams = held.streams.clone();
        if last_words.is_zero() {
            streams.close();
            state.migrations.remove(&migration);
            self.tell(&state);
            return;
        }
        let carriage = Arc::clone(self);
        tokio::spawn(async move {
            _ = timeout(last_words, streams.ended()).await;
            let mut state = carriage.lock();
            // It may have been opened again meanwhile.
            if state.migrations.get(&migration).is_some_and(|held| held.way_in.is_none()) {
                streams.close();
                state.migrations.remove(&migration);
                carriage.tell(&state);
            }
        });
    }

    /// Cuts what is open, or only what carries memory.
    pub(super) fn cut(&self, migration: MigrationId, memory_only: bool) {
        if let Some(Held { streams, .. }) = self.lock().migrations.get(&migration) {
            if memory_only { streams.cut_memory() } else { streams.cut() }
        }
    }

    /// What there is.
    pub(super) fn list(&self) -> Vec<Carried> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let carried = |(migration, Held { streams, way_in }): (&MigrationId, &Held)| Carried {
            migration_id: migration.to_string(),
            streams: count(streams.count()),
            memory_streams: count(streams.count_of_memory()),
            granted: way_in.as_ref().map(|WayIn { source, libvirt_socket }| GrantRequest {
                migration_id: migration.to_string(),
                source_host: source.to_string(),
                libvirt_socket: libvirt_socket.display().to_string(),
            }),
        };
        self.lock().migrations.iter().map(carried).collect()
    }

    /// Returns when there has been nothing to carry for so long. From then on nothing is taken any more.
    pub(super) async fn left(&self, idle: Duration) {
        let mut held = self.held.subscribe();
        loop {
            // Its sender is here.
            _ = held.wait_for(|held| *held == 0).await;
            if timeout(idle, held.wait_for(|held| *held > 0)).await.is_err() {
                let mut state = self.lock();
                state.is_leaving = state.migrations.is_empty();
                if state.is_leaving {
                    return;
                }
            }
        }
    }

    /// Serves one stream of a source's to its end.
    pub(super) async fn serve(&self, mut tls: Stream, caller: Identity) {
        let Some(request) = requested(&mut tls, &caller).await else { return };
        let span = info_span!("tunnel", migration = request.migration_id, channel = request.channel().as_str_name());
        async {
            let (unix, streams) = match self.lead(&request, &caller).await {
                Ok(lead) => lead,
                Err(refusal) => return refuse(&mut tls, &caller, refusal).await,
            };
            let (cut, _counted) = streams.counted(request.channel() == TunnelChannel::Memory);
            match send(&mut tls, &TunnelResponse::default()).await {
                Ok(()) => splice(unix, tls, cut).await,
                Err(error) => warn!(%error, "the caller left before its stream was open"),
            }
        }
        .instrument(span)
        .await;
    }

    /// What the table has for the request. One answer for "no such migration" and "not yours": who asks for another's
    /// migration learns nothing.
    async fn lead(&self, request: &TunnelRequest, caller: &Identity) -> Result<(UnixStream, OpenStreams), String> {
        let none = || format!("{caller} was granted no tunnel for migration {}", request.migration_id);
        let migration: MigrationId = request.migration_id.parse().map_err(|_| none())?;
        let Held { streams, way_in } = self.lock().migrations.get(&migration).cloned().ok_or_else(none)?;
        let way_in = way_in.filter(|way_in| caller.role == Role::Agent && caller.name == way_in.source.as_str());
        let WayIn { libvirt_socket, .. } = way_in.ok_or_else(none)?;
        let path = match request.channel() {
            TunnelChannel::Libvirt => libvirt_socket,
            TunnelChannel::Memory => memory_socket(migration),
            TunnelChannel::Disk => disk_socket(migration),
            TunnelChannel::Image => image_socket(migration, request.image.try_into().map_err(|_| none())?),
            channel => return Err(format!("no bytes are carried for {}", channel.as_str_name())),
        };
        let unix = UnixStream::connect(&path).await.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((unix, streams))
    }

    fn tell(&self, state: &State) {
        self.held.send_replace(state.migrations.len());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn migration_of(id: &str) -> Result<MigrationId, NotCarried> {
    id.parse().map_err(|_| NotCarried::Invalid("migration_id"))
}

/// A leftover is replaced; nobody else writes here. The socket is root's, and the group's, if there is one.
fn bind(socket: &Socket) -> io::Result<UnixListener> {
    let path = Path::new(&socket.path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    chown(path, None, socket.group)?;
    fs::set_permissions(path, Permissions::from_mode(if socket.group.is_some() { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

/// Where a socket of the source leads.
struct End {
    credentials: watch::Receiver<Credentials>,
    destination: Endpoint,
    request: TunnelRequest,
    streams: OpenStreams,
}

impl End {
    /// One at a time: the next connection is accepted when the far end has this one.
    async fn serve(self: Arc<Self>, listener: UnixListener) {
        let closed = self.streams.closed();
        while let Some(accepted) = closed.run_until_cancelled(listener.accept()).await {
            let unix = match accepted {
                Ok((unix, _)) => unix,
                Err(error) => {
                    // Out of file descriptors, mostly: a pause lets some be closed.
                    warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // What waits in the port's backlog while an agent is started again breaks with the old one.
            let connect = || Arc::clone(&self).connect();
            let connected = connect.retry(DIAL_AGAIN).when(Unanswered::may_pass).notify(|error, _| {
                warn!("{}: {error}; it is dialed again", self.destination.host);
            });
            match closed.run_until_cancelled(connected).await {
                Some(Ok(tls)) => self.carry(unix, tls),
                // Closing the socket is all that libvirt or QEMU can be told.
                Some(Err(error)) => warn!("no way to {}: {error}", self.destination.host),
                None => return,
            }
        }
    }

    async fn connect(self: Arc<Self>) -> Result<Stream, Unanswered> {
        let credentials = self.credentials.borrow().clone();
        let asked = ask(&credentials, &self.destination, Protocol::Tunnel, &self.request);
        let (tls, response) = timeout(OPEN_LIMIT, asked).await.map_err(|_| Unanswered::slow())??;
        if response.refusal.is_empty() { Ok(tls) } else { Err(Unanswered::refused(response.refusal)) }
    }

    fn carry(&self, unix: UnixStream, tls: Stream) {
        let (cut, counted) = self.streams.counted(self.request.channel() == TunnelChannel::Memory);
        let spliced = splice(unix, tls, cut);
        tokio::spawn(async move { (spliced.await, drop(counted)) }.in_current_span());
    }
}
