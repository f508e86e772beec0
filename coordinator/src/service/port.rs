//! The one port: TLS with client certificates, then gRPC.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{debug, info, warn};
use vmferry_core::id::HostName;
use vmferry_proto::{DESCRIPTORS, authorize, fleet::fleet_service_server::FleetServiceServer};
use vmferry_transport::{Accepted, Credentials, Protocol, accept};

use super::{calls::Calls, drives::Drives, relay};
use crate::fleet::Newest;

/// A client that does not finish its handshake in this time is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Connections that may be in their handshake at once; later ones wait their turn.
const HANDSHAKES: usize = 8192;

/// What the port serves.
#[derive(Debug)]
pub(crate) struct Port {
    /// Newest first: every new connection takes what is current.
    pub(crate) credentials: watch::Receiver<Credentials>,
    /// The hosts.
    pub(crate) fleet: Newest,
    /// What is driven here.
    pub(crate) drives: Arc<Drives>,
    /// This coordinator's name.
    pub(crate) name: HostName,
    /// From then on no connection is accepted, and nothing begun.
    pub(crate) stop: CancellationToken,
    /// From then on nobody is told of what goes on.
    pub(crate) end: CancellationToken,
}

impl Port {
    /// Serves until `stop`, and then until the calls that run have been answered.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        let Self { credentials, fleet, drives, name, stop, end } = self;
        let (grpc, incoming) = mpsc::channel(64);
        tokio::spawn(accept_all(listener, credentials, grpc, stop.clone()));

        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FleetServiceServer<Calls>>().await;
        // Clients are still divided between the two versions of the same protocol.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let well_formed = "our own descriptors are well-formed";
        let calls = Calls { fleet: fleet.clone(), drives, name: name.clone(), stop: stop.clone(), end };
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .layer(authorize::Layer::new(name.clone()))
            .layer(relay::Layer { fleet, name })
            .add_service(health_service)
            .add_service(reflection().build_v1().expect(well_formed))
            .add_service(reflection().build_v1alpha().expect(well_formed))
            .add_service(FleetServiceServer::new(calls))
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
            .await
    }
}

async fn accept_all(
    listener: TcpListener,
    credentials: watch::Receiver<Credentials>,
    grpc: mpsc::Sender<io::Result<Accepted>>,
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of file descriptors, mostly: a pause lets some be closed.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let credentials = credentials.borrow().clone();
        let (grpc, handshakes) = (grpc.clone(), Arc::clone(&handshakes));
        tokio::spawn(async move {
            let Ok(turn) = handshakes.acquire().await else { return };
            let accepted = accept(&credentials, tcp, HANDSHAKE_LIMIT).await;
            drop(turn);
            match accepted {
                Ok(Accepted { protocol: Protocol::Tunnel, peer, identity, .. }) => {
                    warn!("connection refused: {identity} at {peer} wants a tunnel, which agents have");
                }
                Ok(accepted) => {
                    debug!(peer = %accepted.peer, identity = %accepted.identity, "connected");
                    // Nobody receives any more: we are stopping.
                    _ = grpc.send(Ok(accepted)).await;
                }
                Err(error) => warn!("connection refused: {error}"),
            }
        });
    }
    info!("no longer accepting connections");
}
