//! The one port: TLS with client certificates, then gRPC.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::warn;
use vmferry_core::id::HostName;
use vmferry_proto::{DESCRIPTORS, authorize, fleet::fleet_service_server::FleetServiceServer};
use vmferry_transport::{Accepted, Credentials, Protocol, listen};

use super::{calls::Calls, drives::Drives, relay};
use crate::fleet::Newest;

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
        tokio::spawn(listen(listener, credentials, stop.clone(), move |accepted: Accepted| {
            let grpc = grpc.clone();
            async move {
                let Accepted { peer, identity, protocol, .. } = &accepted;
                match protocol {
                    Protocol::Tunnel | Protocol::Agents => {
                        warn!("connection refused: {identity} at {peer} wants a tunnel, which agents have");
                    }
                    // Nobody receives any more: we are stopping.
                    Protocol::Grpc => _ = grpc.send(Ok::<_, io::Error>(accepted)).await,
                }
            }
        }));

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
