use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use nix::unistd::Gid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    id::MigrationId,
    migration::{Endpoint, Order},
    network::LinkName,
    policy::Flows,
};
use vmferry_proto::v1::{PostcopyStanding, TunnelChannel, TunnelRequest, TunnelResponse};
use vmferry_transport::{Credentials, Protocol, Stream, dial};

use super::{
    COPY_BUFFER, disk_socket, image_socket, libvirt_socket, memory_socket, receive, send, splice, streams::Streams,
};
use crate::libvirt::Standing;

/// How long a stream may take to open, connection and acknowledgement.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// For how long a way is tried.
const PROBE: Duration = Duration::from_millis(250);
/// How long the destination may take to have on its disk what was sent to it.
const IMAGES_LIMIT: Duration = Duration::from_secs(300);

/// The source's ends of tunnels.
#[derive(Debug)]
pub struct Listeners {
    credentials: watch::Receiver<Credentials>,
    open: Mutex<HashMap<MigrationId, Streams>>,
}

impl Listeners {
    /// None open.
    pub fn new(credentials: watch::Receiver<Credentials>) -> Self {
        Self { credentials, open: Mutex::default() }
    }

    /// Opens the migration's sockets, in its directory, which must exist: with one for each of `images` that are sent. Open
    /// already: nothing is done.
    ///
    /// QEMU itself connects to the one for disks, as a member of `qemu_group`; the others are root's.
    pub fn open(&self, order: &Order, images: usize, qemu_group: Gid) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&order.id) {
            return Ok(());
        }
        let streams = Streams::new();
        let ends = [
            (libvirt_socket(order.id), TunnelChannel::Libvirt, 0),
            (memory_socket(order.id), TunnelChannel::Memory, 0),
            (disk_socket(order.id), TunnelChannel::Disk, 0),
        ];
        let images = (0..images).map(|index| (image_socket(order.id, index), TunnelChannel::Image, index));
        for (path, channel, index) in ends.into_iter().chain(images) {
            let group = (channel == TunnelChannel::Disk).then_some(qemu_group);
            // The first ends are closed again if a later one cannot be opened.
            let listener = bind(&path, group).inspect_err(|_| streams.close())?;
            let end = self.end(order, channel, index, streams.clone())?;
            let span = info_span!("tunnel", migration = %order.id, channel = channel.as_str_name(), index);
            tokio::spawn(end.serve(listener).instrument(span));
        }
        open.insert(order.id, streams);
        Ok(())
    }

    /// Waits until every image that was sent is on the destination's disk, cut to these lengths; without any: as long as it
    /// was made. An error is a sentence.
    pub async fn await_images(&self, order: &Order, lengths: &[ByteSize]) -> Result<(), String> {
        let end = self.end(order, TunnelChannel::ImagesDone, 0, Streams::new());
        let mut end = end.map_err(|error| error.to_string())?;
        end.request.image_bytes = lengths.iter().map(ByteSize::as_u64).collect();
        let answer = timeout(IMAGES_LIMIT, end.connect()).await;
        answer.map_err(|_| format!("no answer within {IMAGES_LIMIT:?}"))?.map(drop)
    }

    /// Tells the destination what is remembered of the guest's conversations, by its taps there. An error is a sentence.
    pub async fn send_flows(&self, order: &Order, flows: &BTreeMap<LinkName, Flows>) -> Result<(), String> {
        let end = self.end(order, TunnelChannel::Flows, 0, Streams::new());
        let end = end.map_err(|error| error.to_string())?;
        let text = serde_json::to_vec(flows).map_err(|error| error.to_string())?;
        let sent = async {
            let mut tls = end.connect().await?;
            let told = async {
                tls.write_all(&text).await?;
                tls.shutdown().await?;
                // It ends when all is remembered.
                tls.read_to_end(&mut Vec::new()).await
            };
            told.await.map(drop).map_err(|error| error.to_string())
        };
        timeout(OPEN_LIMIT, sent).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
    }

    /// What the way to another host's agent carries per second, by sending it something for a moment. An error is a sentence.
    pub async fn probe(&self, destination: &Endpoint) -> Result<ByteSize, String> {
        let end = self.probing(destination);
        let probed = async {
            let mut tls = end.connect().await?;
            let sent = async {
                let (begun, something) = (Instant::now(), vec![0x5a; COPY_BUFFER]);
                let mut sent = 0_u64;
                while begun.elapsed() < PROBE {
                    tls.write_all(&something).await?;
                    sent += something.len() as u64;
                }
                tls.shutdown().await?;
                // It ends when all has arrived.
                tls.read_to_end(&mut Vec::new()).await?;
                Ok::<_, io::Error>(ByteSize::b((sent as f64 / begun.elapsed().as_secs_f64()) as u64))
            };
            sent.await.map_err(|error| error.to_string())
        };
        timeout(OPEN_LIMIT, probed).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
    }

    /// Whether another host's agent can be reached. An error is a sentence.
    pub async fn reach(&self, destination: &Endpoint) -> Result<(), String> {
        let end = self.probing(destination);
        let reached = async {
            let mut tls = end.connect().await?;
            tls.shutdown().await.map_err(|error| error.to_string())
        };
        timeout(OPEN_LIMIT, reached).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
    }

    /// Cuts what streams of the migration are open, at both ends, and asks how far the guest is there. An error is a sentence.
    pub async fn renew(&self, order: &Order) -> Result<Standing, String> {
        if let Some(streams) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&order.id) {
            streams.cut();
        }
        self.ask_standing(order, TunnelChannel::Renew).await
    }

    /// Asks how far the guest is there that was switched to postcopy. An error is a sentence.
    pub async fn standing(&self, order: &Order) -> Result<Standing, String> {
        self.ask_standing(order, TunnelChannel::Standing).await
    }

    /// Whether the guest's memory still has the way that it had: a stream that is open.
    pub fn carries_memory(&self, migration: MigrationId) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&migration).is_some_and(Streams::carry_memory)
    }

    async fn ask_standing(&self, order: &Order, channel: TunnelChannel) -> Result<Standing, String> {
        let end = self.end(order, channel, 0, Streams::new()).map_err(|error| error.to_string())?;
        let answer = timeout(OPEN_LIMIT, end.ask()).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?;
        match answer?.1.standing() {
            PostcopyStanding::Incomplete => Ok(Standing::Incomplete),
            PostcopyStanding::Complete => Ok(Standing::Complete),
            PostcopyStanding::Gone => Ok(Standing::Gone),
            PostcopyStanding::Unspecified => Err(format!("{} does not say how far it is", order.destination.host)),
        }
    }

    fn probing(&self, destination: &Endpoint) -> End {
        End {
            credentials: self.credentials.clone(),
            destination: destination.clone(),
            request: TunnelRequest { channel: TunnelChannel::Probe.into(), ..TunnelRequest::default() },
            streams: Streams::new(),
        }
    }

    fn end(&self, order: &Order, channel: TunnelChannel, index: usize, streams: Streams) -> io::Result<End> {
        let image = u32::try_from(index).map_err(io::Error::other)?;
        Ok(End {
            credentials: self.credentials.clone(),
            destination: order.destination.clone(),
            request: TunnelRequest {
                migration_id: order.id.to_string(),
                channel: channel.into(),
                image,
                image_bytes: Vec::new(),
            },
            streams,
        })
    }

    /// Closes them and cuts their streams.
    pub fn close(&self, migration: MigrationId) {
        if let Some(streams) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration) {
            streams.close();
        }
    }
}

/// A leftover of an earlier process of this agent is replaced; nobody else writes here. The socket is root's, and the
/// group's, if there is one.
fn bind(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    chown(path, None, group.map(Gid::as_raw))?;
    fs::set_permissions(path, Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

struct End {
    credentials: watch::Receiver<Credentials>,
    destination: Endpoint,
    request: TunnelRequest,
    streams: Streams,
}

impl End {
    /// One at a time: the next connection is accepted when the far end has this one.
    async fn serve(self, listener: UnixListener) {
        while let Some(accepted) = self.streams.closed().run_until_cancelled(listener.accept()).await {
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
        self.ask().await.map(|(tls, _)| tls)
    }

    async fn ask(&self) -> Result<(Stream, TunnelResponse), String> {
        let credentials = self.credentials.borrow().clone();
        let Endpoint { host, address } = &self.destination;
        let mut tls = dial(&credentials, address, host.as_str(), Protocol::Tunnel, OPEN_LIMIT)
            .await
            .map_err(|error| error.to_string())?;
        let opened = async {
            send(&mut tls, &self.request).await?;
            receive::<TunnelResponse>(&mut tls).await
        };
        let response = opened.await.map_err(|error| error.to_string())?;
        if response.refusal.is_empty() { Ok((tls, response)) } else { Err(response.refusal) }
    }

    fn carry(&self, unix: UnixStream, tls: Stream) {
        let is_memory = self.request.channel() == TunnelChannel::Memory;
        let memory = is_memory.then(|| self.streams.memory());
        let spliced = splice(unix, tls, self.streams.one_more());
        tokio::spawn(async move { (spliced.await, drop(memory)) }.in_current_span());
    }
}
