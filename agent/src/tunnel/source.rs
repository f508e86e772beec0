use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use futures::future::{pending, try_join_all};
use nix::unistd::Gid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    direct::DirectEnd,
    id::MigrationId,
    migration::{Endpoint, Order, Path, Streams},
    network::LinkName,
    policy::Flows,
};
use vmferry_proto::{
    convert::required,
    v1::{PostcopyStanding, TunnelChannel, TunnelRequest, TunnelResponse},
};
use vmferry_transport::{Credentials, Protocol, Stream, dial};

use super::{
    COPY_BUFFER, disk_socket, image_socket, libvirt_socket, memory_socket, open::OpenStreams, receive, send, splice,
};
use crate::libvirt::Standing;

/// How long a stream may take to open, connection and acknowledgement.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// For how long a way is tried.
const PROBE: Duration = Duration::from_millis(250);
/// By how many streams at most: a destination takes only so many probes at once.
const PROBED: u8 = 4;
/// How often it is asked whether the destination is still there, and after how long without an answer its streams are cut: as long
/// as libvirt waits.
const ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// How long the destination may take to have on its disk what was sent to it.
const IMAGES_LIMIT: Duration = Duration::from_secs(300);

/// The source's ends of tunnels.
#[derive(Debug)]
pub struct Listeners {
    credentials: watch::Receiver<Credentials>,
    open: Mutex<HashMap<MigrationId, OpenStreams>>,
    /// Over which the destination will be told that the guest is released.
    releases: Mutex<HashMap<MigrationId, Stream>>,
}

impl Listeners {
    /// None open.
    pub fn new(credentials: watch::Receiver<Credentials>) -> Self {
        Self { credentials, open: Mutex::default(), releases: Mutex::default() }
    }

    /// Opens the migration's sockets, in its directory, which must exist: with one for each of `images` that are sent. Open
    /// already: nothing is done.
    ///
    /// QEMU itself connects to the one for disks, and with several streams to the one for memory, as a member of `qemu_group`; the
    /// others are root's.
    pub fn open(&self, order: &Order, images: usize, qemu_group: Gid) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&order.id) {
            return Ok(());
        }
        let streams = OpenStreams::new();
        let mut ends = vec![(libvirt_socket(order.id), TunnelChannel::Libvirt, 0)];
        if order.limits.path == Path::Tunnel {
            ends.push((memory_socket(order.id), TunnelChannel::Memory, 0));
            ends.push((disk_socket(order.id), TunnelChannel::Disk, 0));
        }
        let images = (0..images).map(|index| (image_socket(order.id, index), TunnelChannel::Image, index));
        for (path, channel, index) in ends.into_iter().chain(images) {
            let is_qemus = match channel {
                TunnelChannel::Disk => true,
                // A single stream is libvirt's to open.
                TunnelChannel::Memory => order.limits.streams.are_several(),
                _ => false,
            };
            let group = is_qemus.then_some(qemu_group);
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
        let end = self.end(order, TunnelChannel::ImagesDone, 0, OpenStreams::new());
        let mut end = end.map_err(|error| error.to_string())?;
        end.request.image_bytes = lengths.iter().map(ByteSize::as_u64).collect();
        let answer = timeout(IMAGES_LIMIT, end.connect()).await;
        answer.map_err(|_| format!("no answer within {IMAGES_LIMIT:?}"))?.map(drop)
    }

    /// Tells the destination what is remembered of the guest's conversations, by its taps there. An error is a sentence.
    pub async fn send_flows(&self, order: &Order, flows: &BTreeMap<LinkName, Flows>) -> Result<(), String> {
        let end = self.end(order, TunnelChannel::Flows, 0, OpenStreams::new());
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

    /// Opens a way over which the destination can be told at once that the guest is released. An error is a sentence.
    pub async fn open_release(&self, order: &Order) -> Result<(), String> {
        let tls = self.connect_release(order).await?;
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).insert(order.id, tls);
        Ok(())
    }

    /// Tells the destination that the guest is released, and waits until it runs there. An error is a sentence.
    pub async fn release(&self, order: &Order) -> Result<(), String> {
        let open = self.releases.lock().unwrap_or_else(PoisonError::into_inner).remove(&order.id);
        let mut tls = match open {
            Some(tls) => tls,
            None => self.connect_release(order).await?,
        };
        let told = async {
            send(&mut tls, &request(order, TunnelChannel::Release)).await?;
            receive::<TunnelResponse>(&mut tls).await
        };
        let response = told.await.map_err(|error| error.to_string())?;
        if response.refusal.is_empty() { Ok(()) } else { Err(response.refusal) }
    }

    async fn connect_release(&self, order: &Order) -> Result<Stream, String> {
        let end = self.end(order, TunnelChannel::Release, 0, OpenStreams::new());
        let end = end.map_err(|error| error.to_string())?;
        timeout(OPEN_LIMIT, end.connect()).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
    }

    /// Where the destination's QEMU takes the guest on the direct path. An error is a sentence.
    pub async fn direct_end(&self, order: &Order) -> Result<DirectEnd, String> {
        let end = self.end(order, TunnelChannel::Direct, 0, OpenStreams::new());
        let end = end.map_err(|error| error.to_string())?;
        let answer = timeout(OPEN_LIMIT, end.ask()).await;
        let (_, response) = answer.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))??;
        required(response.direct, "direct").map_err(|invalid| invalid.to_string())
    }

    /// For as long as it is polled: cuts the migration's streams of memory when its destination has not answered for long, and nothing
    /// has been sent for as long: `idle` says for how long; none once the guest is stopped.
    ///
    /// libvirt notices by itself, and has QEMU end the migration. Of several streams QEMU then waits for each to be written to, which
    /// with a peer that is gone takes TCP a quarter of an hour (seen with QEMU 7.2).
    pub async fn watch(&self, order: &Order, idle: impl Fn() -> Option<Duration>) -> Infallible {
        let end = self.probing(&order.destination);
        let (interval, longest) = ALIVE;
        let mut answered = Instant::now();
        while answered.elapsed() < longest || idle().is_none_or(|idle| idle < longest) {
            sleep(interval).await;
            if let Ok(Ok(_)) = timeout(OPEN_LIMIT, end.answer()).await {
                answered = Instant::now();
            }
        }
        warn!("{} has not answered for {longest:?}: the streams of memory to it are cut", order.destination.host);
        if let Some(streams) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&order.id) {
            streams.cut_memory();
        }
        pending().await
    }

    /// What the way to another host's agent carries per second, by sending it something for a moment, over as many streams as
    /// memory will take, or nearly. An error is a sentence.
    pub async fn probe(&self, destination: &Endpoint, streams: Streams) -> Result<ByteSize, String> {
        let probes = (0..streams.get().min(PROBED)).map(|_| async {
            let end = self.probing(destination);
            timeout(OPEN_LIMIT, end.probe()).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
        });
        let carried = try_join_all(probes).await?;
        Ok(ByteSize::b(carried.into_iter().fold(0, u64::saturating_add)))
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
        open.get(&migration).is_some_and(OpenStreams::carry_memory)
    }

    async fn ask_standing(&self, order: &Order, channel: TunnelChannel) -> Result<Standing, String> {
        let end = self.end(order, channel, 0, OpenStreams::new()).map_err(|error| error.to_string())?;
        let answer = timeout(OPEN_LIMIT, end.answer()).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?;
        let (_, response) = answer?;
        if !response.refusal.is_empty() {
            warn!("{}: {}", order.destination.host, response.refusal);
            return Ok(Standing::Unknown);
        }
        match response.standing() {
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
            streams: OpenStreams::new(),
        }
    }

    fn end(&self, order: &Order, channel: TunnelChannel, index: usize, streams: OpenStreams) -> io::Result<End> {
        let image = u32::try_from(index).map_err(io::Error::other)?;
        Ok(End {
            credentials: self.credentials.clone(),
            destination: order.destination.clone(),
            request: TunnelRequest { image, ..request(order, channel) },
            streams,
        })
    }

    /// Closes them and cuts their streams.
    pub fn close(&self, migration: MigrationId) {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration);
        if let Some(streams) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration) {
            streams.close();
        }
    }
}

fn request(order: &Order, channel: TunnelChannel) -> TunnelRequest {
    TunnelRequest { migration_id: order.id.to_string(), channel: channel.into(), ..TunnelRequest::default() }
}

/// A leftover of an earlier process of this agent is replaced; nobody else writes here. The socket is root's, and the
/// group's, if there is one.
fn bind(path: &path::Path, group: Option<Gid>) -> io::Result<UnixListener> {
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
    streams: OpenStreams,
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

    /// What one stream carries per second.
    async fn probe(&self) -> Result<u64, String> {
        let mut tls = self.connect().await?;
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
            Ok::<_, io::Error>((sent as f64 / begun.elapsed().as_secs_f64()) as u64)
        };
        sent.await.map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<Stream, String> {
        self.ask().await.map(|(tls, _)| tls)
    }

    /// The far end's response, if it does not refuse.
    async fn ask(&self) -> Result<(Stream, TunnelResponse), String> {
        let (tls, response) = self.answer().await?;
        if response.refusal.is_empty() { Ok((tls, response)) } else { Err(response.refusal) }
    }

    /// Any answer will do.
    async fn answer(&self) -> Result<(Stream, TunnelResponse), String> {
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
        Ok((tls, response))
    }

    fn carry(&self, unix: UnixStream, tls: Stream) {
        let is_memory = self.request.channel() == TunnelChannel::Memory;
        let (cut, memory) = match is_memory {
            true => {
                let (cut, memory) = self.streams.memory();
                (cut, Some(memory))
            }
            false => (self.streams.one_more(), None),
        };
        let spliced = splice(unix, tls, cut);
        tokio::spawn(async move { (spliced.await, drop(memory)) }.in_current_span());
    }
}
