use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    direct::DirectEnd,
    id::{HostName, InstanceId, MigrationId},
    identity::{Identity, Role},
    migration::Order,
    network::LinkName,
    policy::Flows,
};
use vmferry_proto::{
    carrier::GrantRequest,
    v1::{PostcopyStanding, TunnelChannel, TunnelRequest, TunnelResponse},
};
use vmferry_transport::Stream;

use super::{COPY_BUFFER, Carriers, REQUEST_LIMIT, open::OpenStreams, receive, refuse, requested, send};
use crate::{
    firewall::Firewall,
    hypervisor::OnRelease,
    libvirt::{Libvirt, Standing},
    storage::receivers::Receivers,
};

/// How long streams may stay open when the guest is here for good: longer than libvirt waits for an answer of its peer.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// How many probes are taken at once: those of two hosts that have several streams.
const PROBES: usize = 8;
/// For how long, and how much of, what comes is taken that leads nowhere: more than a probe sends.
const SINK_LIMIT: (Duration, u64) = (Duration::from_secs(5), 4 << 30);

/// More than the conversations of a guest take.
const FLOWS_LIMIT: u64 = 8 << 20;

/// Who may open tunnel streams to this host, which [`Carriers`] carry, and may say something beside them.
#[derive(Debug)]
pub struct Grants {
    carriers: Arc<Carriers>,
    libvirt_socket: PathBuf,
    libvirt: Libvirt,
    receivers: Arc<Receivers>,
    firewall: Arc<Firewall>,
    direct: Option<DirectEnd>,
    granted: Mutex<HashMap<MigrationId, Grant>>,
    probes: Arc<Semaphore>,
}

/// What a stream that ends in the agent leads to.
enum End {
    /// What remembers conversations, of these taps.
    Firewall(Arc<BTreeSet<LinkName>>),
    /// This response is all.
    Nothing(TunnelResponse),
    /// What comes is counted by who sends it.
    Sink(OwnedSemaphorePermit),
    /// What lets the guest run, once its source says so.
    Release(OnRelease),
}

#[derive(Clone)]
struct Grant {
    source: HostName,
    /// The taps that are filtered for the guest that comes.
    taps: Arc<BTreeSet<LinkName>>,
    instance: InstanceId,
    /// With a strict hand-over.
    release: Option<OnRelease>,
    streams: OpenStreams,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("source", &self.source).field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Grants {
    /// None granted. `carriers` carry what is; `libvirt_socket` is where this host's libvirt answers, `receivers` take the images that are sent here,
    /// `firewall` what was remembered of guests' conversations. `direct` is where QEMU takes guests without a tunnel.
    pub fn new(
        carriers: Arc<Carriers>,
        libvirt_socket: PathBuf,
        libvirt: Libvirt,
        receivers: Arc<Receivers>,
        firewall: Arc<Firewall>,
        direct: Option<DirectEnd>,
    ) -> Self {
        let probes = Arc::new(Semaphore::new(PROBES));
        Self { carriers, libvirt_socket, libvirt, receivers, firewall, direct, granted: Mutex::default(), probes }
    }

    /// Lets the agent of the source, and nobody else, open streams of this migration, tell of the conversations of `taps`, and, with a strict
    /// hand-over, that it has released the guest.
    pub async fn grant(&self, order: &Order, taps: BTreeSet<LinkName>, release: Option<OnRelease>) -> io::Result<()> {
        {
            let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
            granted.entry(order.id).or_insert_with(|| Grant {
                source: order.source.host.clone(),
                taps: Arc::new(taps),
                instance: order.instance,
                release,
                streams: OpenStreams::new(),
            });
        }
        self.let_in(order.id, &order.source.host).await
    }

    async fn let_in(&self, migration: MigrationId, source: &HostName) -> io::Result<()> {
        let request = GrantRequest {
            migration_id: migration.to_string(),
            source_host: source.to_string(),
            libvirt_socket: self.libvirt_socket.display().to_string(),
        };
        self.carriers.grant(request).await
    }

    /// Lets nobody in any more and cuts the streams that are open.
    pub async fn revoke(&self, migration: MigrationId) -> io::Result<()> {
        if let Some(grant) = self.forget(migration) {
            grant.streams.close();
        }
        self.carriers.close(migration, Duration::ZERO).await
    }

    /// Lets nobody in any more. What is open has some time to end by itself: libvirt's answer to its last question may be on its way.
    pub async fn retire(&self, migration: MigrationId) -> io::Result<()> {
        if let Some(grant) = self.forget(migration) {
            tokio::spawn(async move {
                sleep(LAST_WORDS).await;
                grant.streams.close();
            });
        }
        self.carriers.close(migration, LAST_WORDS).await
    }

    fn forget(&self, migration: MigrationId) -> Option<Grant> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration)
    }

    /// What carries the bytes.
    pub(crate) fn carriers(&self) -> &Arc<Carriers> {
        &self.carriers
    }

    /// Serves one that says something, to its end.
    pub async fn serve(&self, mut tls: Stream, caller: Identity) {
        let Some(request) = requested(&mut tls, &caller).await else { return };
        let span = info_span!("tunnel", migration = request.migration_id, channel = request.channel().as_str_name());
        async {
            let (end, revoked) = match self.lead(&request, &caller).await {
                Ok(lead) => lead,
                Err(refusal) => return refuse(&mut tls, &caller, refusal).await,
            };
            let response = if let End::Nothing(response) = &end { response.clone() } else { TunnelResponse::default() };
            match (send(&mut tls, &response).await, end) {
                (Ok(()), End::Nothing(_)) => {}
                (Ok(()), End::Sink(_permit)) => sink(&mut tls).await,
                (Ok(()), End::Firewall(taps)) => {
                    if let Some(Err(error)) = revoked.run_until_cancelled(self.remember(&mut tls, &taps)).await {
                        warn!("what the guest's conversations were is not known here: {error}");
                    }
                }
                (Ok(()), End::Release(release)) => {
                    if let Some(Err(error)) = revoked.run_until_cancelled(await_release(&mut tls, release)).await {
                        // The source has others, or its agent is gone.
                        tracing::debug!(%error, "nobody was told over this stream that the guest is released");
                    }
                }
                (Err(error), _) => warn!(%error, "the caller left before its stream was open"),
            }
        }
        .instrument(span)
        .await;
    }

    /// What the table has for the request. One answer for "no such migration" and "not yours": who asks for another's
    /// migration learns nothing.
    async fn lead(&self, request: &TunnelRequest, caller: &Identity) -> Result<(End, CancellationToken), String> {
        if request.channel() == TunnelChannel::Probe && caller.role == Role::Agent {
            let permit = Arc::clone(&self.probes).try_acquire_owned();
            let permit = permit.map_err(|_| "too many probes at once; try again in a moment".to_owned())?;
            return Ok((End::Sink(permit), CancellationToken::new()));
        }
        let none = || format!("{caller} was granted no tunnel for migration {}", request.migration_id);
        let migration: MigrationId = request.migration_id.parse().map_err(|_| none())?;
        let grant = {
            let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
            granted.get(&migration).cloned().ok_or_else(none)?
        };
        if caller.role != Role::Agent || caller.name != grant.source.as_str() {
            return Err(none());
        }
        match request.channel() {
            TunnelChannel::ImagesDone => {
                let lengths: Vec<_> = request.image_bytes.iter().copied().map(ByteSize::b).collect();
                let done = self.receivers.finish(migration, &lengths).await;
                done.map(|()| (End::Nothing(TunnelResponse::default()), grant.streams.one_more()))
            }
            TunnelChannel::Direct => {
                let direct = self.direct.clone().ok_or("its agent is not configured for the direct path")?;
                let response = TunnelResponse { direct: Some(direct.into()), ..TunnelResponse::default() };
                Ok((End::Nothing(response), grant.streams.one_more()))
            }
            TunnelChannel::Standing | TunnelChannel::Renew => {
                if request.channel() == TunnelChannel::Renew {
                    let renewed = async {
                        self.carriers.cut(migration, false).await?;
                        // What carried them may have ended.
                        self.let_in(migration, &grant.source).await
                    };
                    renewed.await.map_err(|error| error.to_string())?;
                }
                let standing = self.libvirt.standing(grant.instance).await.map_err(|error| error.to_string())?;
                let standing = wire_standing(standing).into();
                let response = TunnelResponse { standing, ..TunnelResponse::default() };
                Ok((End::Nothing(response), grant.streams.one_more()))
            }
            TunnelChannel::Release => {
                let release = grant.release.ok_or("the guest's hand-over is libvirt's own")?;
                Ok((End::Release(release), grant.streams.one_more()))
            }
            TunnelChannel::Flows => Ok((End::Firewall(grant.taps), grant.streams.one_more())),
            TunnelChannel::Probe => Err(none()),
            TunnelChannel::Libvirt | TunnelChannel::Memory | TunnelChannel::Disk | TunnelChannel::Image => {
                Err(format!("{} is carried, not said", request.channel().as_str_name()))
            }
            TunnelChannel::Unspecified => Err("the request names no channel".to_owned()),
        }
    }

    /// Takes what was remembered of conversations, of taps that are filtered here for their sake.
    async fn remember(&self, tls: &mut Stream, taps: &BTreeSet<LinkName>) -> Result<(), String> {
        let mut text = Vec::new();
        let read = timeout(REQUEST_LIMIT, (&mut *tls).take(FLOWS_LIMIT).read_to_end(&mut text)).await;
        read.map_err(|_| format!("not all of it came within {REQUEST_LIMIT:?}"))?.map_err(|error| error.to_string())?;
        let flows: BTreeMap<LinkName, Flows> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if let Some(foreign) = flows.keys().find(|tap| !taps.contains(tap)) {
            return Err(format!("{foreign} is not the guest's"));
        }
        for (tap, flows) in flows {
            self.firewall.restore_flows(&tap, &flows).await.map_err(|fault| fault.message)?;
        }
        tls.shutdown().await.map_err(|error| error.to_string())
    }
}

/// Waits until the source says that it has released the guest, for as long as its stream is open; and answers when the guest runs.
async fn await_release(tls: &mut Stream, release: OnRelease) -> io::Result<()> {
    receive::<TunnelRequest>(tls).await?;
    let refusal = release().await.err().unwrap_or_default();
    send(tls, &TunnelResponse { refusal, ..TunnelResponse::default() }).await?;
    tls.shutdown().await
}

fn wire_standing(standing: Standing) -> PostcopyStanding {
    match standing {
        Standing::Incomplete => PostcopyStanding::Incomplete,
        Standing::Complete => PostcopyStanding::Complete,
        Standing::Gone | Standing::Unknown => PostcopyStanding::Gone,
    }
}

/// Takes what comes, and ends the stream when the caller does.
async fn sink(tls: &mut Stream) {
    let (limit, most) = SINK_LIMIT;
    let mut buffer = vec![0; COPY_BUFFER];
    let taken = async {
        let mut left = most;
        while left > 0 {
            match tls.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read as u64),
            }
        }
        tls.shutdown().await
    };
    match timeout(limit, taken).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the probe broke"),
        Err(_) => warn!("a probe did not end within {limit:?}"),
    }
}
