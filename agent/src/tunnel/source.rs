use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use futures::future::{pending, try_join_all};
use nix::unistd::Gid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::warn;
use vmferry_core::{
    direct::DirectEnd,
    id::MigrationId,
    migration::{Endpoint, Order, Path, Streams},
    network::LinkName,
    policy::Flows,
};
use vmferry_proto::{
    carrier::{OpenRequest, Socket},
    convert::required,
    v1::{PostcopyStanding, TunnelChannel, TunnelRequest, TunnelResponse},
};
use vmferry_transport::{Credentials, Protocol, Stream};

use super::{
    COPY_BUFFER, Carriers, OPEN_LIMIT, ask, disk_socket, image_socket, libvirt_socket, memory_socket, receive, send,
};
use crate::libvirt::Standing;

/// For how long a way is tried.
const PROBE: Duration = Duration::from_millis(250);
/// By how many streams at most: a destination takes only so many probes at once.
const PROBED: u8 = 4;
/// How often it is asked whether the destination is still there, and after how long without an answer its streams are cut: as long
/// as libvirt waits.
const ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// How long the destination may take to have on its disk what was sent to it.
const IMAGES_LIMIT: Duration = Duration::from_secs(300);

/// The source's ends of tunnels, which [`Carriers`] carry, and what is said to the destination's agent beside them.
#[derive(Debug)]
pub struct Listeners {
    credentials: watch::Receiver<Credentials>,
    carriers: Arc<Carriers>,
    /// What was opened, in case that has to be done again.
    opened: Mutex<HashMap<MigrationId, OpenRequest>>,
    /// Over which the destination will be told that the guest is released.
    releases: Mutex<HashMap<MigrationId, Stream>>,
}

impl Listeners {
    /// None open.
    pub fn new(credentials: watch::Receiver<Credentials>, carriers: Arc<Carriers>) -> Self {
        Self { credentials, carriers, opened: Mutex::default(), releases: Mutex::default() }
    }

    /// Opens the migration's sockets, in its directory, which must exist: with one for each of `images` that are sent. Open
    /// already: nothing is done.
    ///
    /// QEMU itself connects to the one for disks, and with several streams to the one for memory, as a member of `qemu_group`; the
    /// others are root's.
    pub async fn open(&self, order: &Order, images: usize, qemu_group: Gid) -> io::Result<()> {
        let mut ends = vec![(libvirt_socket(order.id), TunnelChannel::Libvirt, 0)];
        if order.limits.path == Path::Tunnel {
            ends.push((memory_socket(order.id), TunnelChannel::Memory, 0));
            ends.push((disk_socket(order.id), TunnelChannel::Disk, 0));
        }
        let images = (0..images).map(|index| (image_socket(order.id, index), TunnelChannel::Image, index));
        let socket = |(path, channel, index): (PathBuf, TunnelChannel, usize)| {
            let is_qemus = match channel {
                TunnelChannel::Disk => true,
                // A single stream is libvirt's to open.
                TunnelChannel::Memory => order.limits.streams.are_several(),
                _ => false,
            };
            Ok(Socket {
                path: path.display().to_string(),
                channel: channel.into(),
                image: u32::try_from(index).map_err(io::Error::other)?,
                group: is_qemus.then_some(qemu_group.as_raw()),
            })
        };
        let request = OpenRequest {
            migration_id: order.id.to_string(),
            destination_host: order.destination.host.to_string(),
            destination_address: order.destination.address.clone(),
            sockets: ends.into_iter().chain(images).map(socket).collect::<io::Result<_>>()?,
        };
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(order.id, request.clone());
        self.carriers.open(request).await
    }

    /// Waits until every image that was sent is on the destination's disk, cut to these lengths; without any: as long as it
    /// was made. An error is a sentence.
    pub async fn await_images(&self, order: &Order, lengths: &[ByteSize]) -> Result<(), String> {
        let mut end = self.end(order, TunnelChannel::ImagesDone);
        end.request.image_bytes = lengths.iter().map(ByteSize::as_u64).collect();
        let answer = timeout(IMAGES_LIMIT, end.connect()).await;
        answer.map_err(|_| format!("no answer within {IMAGES_LIMIT:?}"))?.map(drop)
    }

    /// Tells the destination what is remembered of the guest's conversations, by its taps there. An error is a sentence.
    pub async fn send_flows(&self, order: &Order, flows: &BTreeMap<LinkName, Flows>) -> Result<(), String> {
        let end = self.end(order, TunnelChannel::Flows);
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
        let end = self.end(order, TunnelChannel::Release);
        timeout(OPEN_LIMIT, end.connect()).await.map_err(|_| format!("no answer within {OPEN_LIMIT:?}"))?
    }

    /// Where the destination's QEMU takes the guest on the direct path. An error is a sentence.
    pub async fn direct_end(&self, order: &Order) -> Result<DirectEnd, String> {
        let end = self.end(order, TunnelChannel::Direct);
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
        if let Err(error) = self.carriers.cut(order.id, true).await {
            warn!("the streams of memory to {} are not cut: {error}", order.destination.host);
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
        let renewed = async {
            self.carriers.cut(order.id, false).await?;
            // What carried them may have ended.
            let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&order.id).cloned();
            match opened {
                Some(opened) => self.carriers.open(opened).await,
                None => Ok(()),
            }
        };
        renewed.await.map_err(|error| error.to_string())?;
        self.ask_standing(order, TunnelChannel::Renew).await
    }

    /// Asks how far the guest is there that was switched to postcopy. An error is a sentence.
    pub async fn standing(&self, order: &Order) -> Result<Standing, String> {
        self.ask_standing(order, TunnelChannel::Standing).await
    }

    /// Whether the guest's memory still has the way that it had: a stream that is open.
    pub async fn carries_memory(&self, migration: MigrationId) -> bool {
        self.carriers.carries_memory(migration).await
    }

    async fn ask_standing(&self, order: &Order, channel: TunnelChannel) -> Result<Standing, String> {
        let end = self.end(order, channel);
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
        }
    }

    fn end(&self, order: &Order, channel: TunnelChannel) -> End {
        End {
            credentials: self.credentials.clone(),
            destination: order.destination.clone(),
            request: request(order, channel),
        }
    }

    /// Closes them and cuts their streams.
    pub async fn close(&self, migration: MigrationId) -> io::Result<()> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration);
        self.carriers.close(migration, Duration::ZERO).await
    }
}

fn request(order: &Order, channel: TunnelChannel) -> TunnelRequest {
    TunnelRequest { migration_id: order.id.to_string(), channel: channel.into(), ..TunnelRequest::default() }
}

/// Something that is said to the destination's agent.
struct End {
    credentials: watch::Receiver<Credentials>,
    destination: Endpoint,
    request: TunnelRequest,
}

impl End {
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
        let asked = ask(&credentials, &self.destination, Protocol::Agents, &self.request);
        asked.await.map_err(|error| error.to_string())
    }
}
