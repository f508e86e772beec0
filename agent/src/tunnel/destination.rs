use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    id::{HostName, MigrationId},
    identity::{Identity, Role},
};
use vmferry_proto::v1::{TunnelChannel, TunnelRequest, TunnelResponse};
use vmferry_transport::Stream;

use super::{disk_socket, image_socket, memory_socket, receive, send, splice};
use crate::storage::receivers::Receivers;

/// How long a caller may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Who may open tunnel streams to this host, and what they lead to.
#[derive(Debug)]
pub struct Grants {
    libvirt: PathBuf,
    receivers: Arc<Receivers>,
    granted: Mutex<HashMap<MigrationId, Grant>>,
}

#[derive(Debug, Clone)]
struct Grant {
    source: HostName,
    revoked: CancellationToken,
}

impl Grants {
    /// None granted. `libvirt` is the socket on which this host's libvirt answers, `receivers` take the images that are
    /// sent here.
    pub fn new(libvirt: PathBuf, receivers: Arc<Receivers>) -> Self {
        Self { libvirt, receivers, granted: Mutex::default() }
    }

    /// Lets the agent of `source`, and nobody else, open streams of this migration.
    pub fn grant(&self, migration: MigrationId, source: &HostName) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.entry(migration).or_insert_with(|| Grant { source: source.clone(), revoked: CancellationToken::new() });
    }

    /// Lets nobody in any more and cuts the streams that are open.
    pub fn revoke(&self, migration: MigrationId) {
        let grant = self.granted.lock().unwrap_or_else(PoisonError::into_inner).remove(&migration);
        if let Some(grant) = grant {
            grant.revoked.cancel();
        }
    }

    /// Serves one stream to its end.
    pub async fn serve(&self, mut tls: Stream, caller: Identity) {
        let request = match timeout(REQUEST_LIMIT, receive::<TunnelRequest>(&mut tls)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return warn!(%caller, %error, "tunnel: no request"),
            Err(_) => return warn!(%caller, "tunnel: no request within {REQUEST_LIMIT:?}"),
        };
        let span = info_span!("tunnel", migration = request.migration_id, channel = request.channel().as_str_name());
        async {
            let (unix, revoked) = match self.lead(&request, &caller).await {
                Ok(lead) => lead,
                Err(refusal) => {
                    warn!(%caller, "refused: {refusal}");
                    // The caller may be gone already: it learns the same from the closed connection.
                    _ = send(&mut tls, &TunnelResponse { refusal }).await;
                    return;
                }
            };
            match (send(&mut tls, &TunnelResponse::default()).await, unix) {
                (Ok(()), Some(unix)) => splice(unix, tls, revoked).await,
                (Ok(()), None) => {}
                (Err(error), _) => warn!(%error, "the caller left before its stream was open"),
            }
        }
        .instrument(span)
        .await;
    }

    /// What the table has for the request. One answer for "no such migration" and "not yours": who asks for another's
    /// migration learns nothing.
    async fn lead(
        &self,
        request: &TunnelRequest,
        caller: &Identity,
    ) -> Result<(Option<UnixStream>, CancellationToken), String> {
        let none = || format!("{caller} was granted no tunnel for migration {}", request.migration_id);
        let migration: MigrationId = request.migration_id.parse().map_err(|_| none())?;
        let grant = {
            let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
            granted.get(&migration).cloned().ok_or_else(none)?
        };
        if caller.role != Role::Agent || caller.name != grant.source.as_str() {
            return Err(none());
        }
        let path = match request.channel() {
            TunnelChannel::Libvirt => self.libvirt.clone(),
            TunnelChannel::Memory => memory_socket(migration),
            TunnelChannel::Disk => disk_socket(migration),
            TunnelChannel::Image => image_socket(migration, request.image.try_into().map_err(|_| none())?),
            TunnelChannel::ImagesDone => {
                let lengths: Vec<_> = request.image_bytes.iter().copied().map(ByteSize::b).collect();
                return self.receivers.finish(migration, &lengths).await.map(|()| (None, grant.revoked));
            }
            TunnelChannel::Unspecified => return Err("the request names no channel".to_owned()),
        };
        let unix = UnixStream::connect(&path)
            .await
            .map_err(|error| format!("nobody answers on {}: {error}", path.display()))?;
        Ok((Some(unix), grant.revoked))
    }
}
