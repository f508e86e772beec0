//! The one port: TLS with client certificates, then gRPC or the tunnel, as ALPN says.

mod group;
mod host;
mod instance;
mod migration;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use vmferry_proto::{
    DESCRIPTORS, authorize,
    v1::{
        group_service_server::GroupServiceServer,
        host_service_server::HostServiceServer,
        instance_service_server::InstanceServiceServer,
        migration_service_server::{MigrationService, MigrationServiceServer},
    },
};
use vmferry_transport::{Accepted, Credentials, Protocol, listen_but};

use crate::{hypervisor::Served, migrations::Migrations, tunnel::Grants};

/// Definitions of large guests are below 1 MiB, and so is what is told of groups unless tens of thousands of guests are in some;
/// nothing else is larger than a few KiB.
const MESSAGE_LIMIT: usize = 8 << 20;

/// The calls of migrations, without a port: who has a network of its own serves them there. Calls that are held back are answered at
/// `stop`; `lease` is what drivers are granted.
pub fn migration_calls<H: Served>(
    migrations: Arc<Migrations<H>>,
    stop: CancellationToken,
    lease: Duration,
) -> MigrationServiceServer<impl MigrationService> {
    MigrationServiceServer::new(migration::Service::new(migrations, stop, lease))
        .max_decoding_message_size(MESSAGE_LIMIT)
}

/// What the port serves.
#[derive(Debug)]
pub struct Port<H> {
    /// Newest first: every new connection takes what is current.
    pub credentials: watch::Receiver<Credentials>,
    /// The host and its migrations.
    pub migrations: Arc<Migrations<H>>,
    /// The host's availability zone.
    pub zone: String,
    /// How long the lease of a migration lasts that is not renewed.
    pub lease: Duration,
    /// Where tunnel streams lead.
    pub grants: Arc<Grants>,
}

impl<H: Served> Port<H> {
    /// Serves until `stop`, and then until the calls that run have been answered.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let (grpc, incoming) = mpsc::channel(64);
        let grants = Arc::clone(&self.grants);
        let carriers = Arc::clone(grants.carriers());
        let serve = move |accepted: Accepted| {
            let (grants, grpc) = (Arc::clone(&grants), grpc.clone());
            async move {
                match accepted.protocol {
                    Protocol::Tunnel => grants.carriers().serve(accepted).await,
                    Protocol::Agents => grants.serve(accepted.stream, accepted.identity).await,
                    // Nobody receives any more: the agent is stopping.
                    Protocol::Grpc => _ = grpc.send(Ok::<_, io::Error>(accepted)).await,
                }
            }
        };
        let take = move |tcp| {
            let carriers = Arc::clone(&carriers);
            async move { carriers.take(tcp).await }
        };
        let credentials = self.credentials.clone();
        tokio::spawn(listen_but(listener, credentials, stop.clone(), serve, Protocol::Tunnel, take));

        let (tidied, until) = (Arc::clone(&self.migrations), stop.clone());
        tokio::spawn(async move { tidied.keep_tidy(until).await });

        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<MigrationServiceServer<migration::Service<H>>>().await;
        // Clients are still divided between the two versions of the same protocol.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let well_formed = "our own descriptors are well-formed";
        let migrations = migration_calls(Arc::clone(&self.migrations), stop.clone(), self.lease);
        let instances = InstanceServiceServer::new(instance::Service::new(Arc::clone(&self.migrations)));
        let service = group::Service::new(Arc::clone(&self.migrations));
        let groups = GroupServiceServer::new(service).max_decoding_message_size(MESSAGE_LIMIT);
        let name = self.migrations.host().name().clone();
        let hosts = HostServiceServer::new(host::Service::new(self.migrations, self.zone, self.credentials));
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .layer(authorize::Layer::new(name))
            .add_service(health_service)
            .add_service(reflection().build_v1().expect(well_formed))
            .add_service(reflection().build_v1alpha().expect(well_formed))
            .add_service(groups)
            .add_service(hosts)
            .add_service(instances)
            .add_service(migrations)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
            .await
    }
}
