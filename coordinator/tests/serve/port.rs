//! Who may call what, and with which certificate.

use std::time::Duration;

use tonic::Code;
use vmferry_proto::{
    fleet::{self, fleet_service_client::FleetServiceClient},
    v1::{self, host_service_client::HostServiceClient},
};

use super::{ID, OPS, VIEWER, reason, request, wish};
use crate::cluster::{Cluster, naming, said};

#[tokio::test]
async fn a_viewer_looks_and_moves_nothing() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let through = format!("--inventory {} --coordinator {}", cluster.inventory(VIEWER), service.address);
    cluster.vmferry(&format!("{through} instances")).await.success();
    let output = cluster.vmferry(&format!("{through} migrate web --to node-31")).await.code(7).get_output().clone();
    let refused = "vmferry://default/viewer/dashboard may not call Check";
    assert!(said(&output).contains(refused), "{}", said(&output));

    let mut client = cluster.client(&service, VIEWER);
    client.list_migrations(fleet::ListMigrationsRequest::default()).await.expect("may look");
    for status in [
        client.migrate(request(ID)).await.map(drop),
        client.plan(fleet::PlanRequest { wish: Some(wish()) }).await.map(drop),
        client.abort_migration(fleet::AbortMigrationRequest::default()).await.map(drop),
        client.steer_migration(fleet::SteerMigrationRequest::default()).await.map(drop),
    ] {
        assert_eq!(reason(&status.expect_err("refused")), (Code::PermissionDenied, "PERMISSION_DENIED".into()));
    }
    // An agent's certificate opens nothing here.
    let mut host = HostServiceClient::new(naming(cluster.dial(&service, "agent-node-28"), "node-31"));
    let status = host.get_host(v1::GetHostRequest {}).await.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn a_client_that_speaks_nonsense_is_told_so() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let mut client = cluster.client(&service, OPS);
    for (request, words) in [
        (fleet::MigrateRequest::default(), "migration_id"),
        (request("web"), "migration_id"),
        (fleet::MigrateRequest { migration_id: ID.into(), wish: None }, "wish"),
        (fleet::MigrateRequest { migration_id: ID.into(), wish: Some(fleet::Wish::default()) }, "wish.instance"),
    ] {
        let status = match client.migrate(request).await {
            Ok(stream) => stream.into_inner().message().await.expect_err("refused"),
            Err(status) => status,
        };
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_REQUEST".into()), "{words}");
        assert!(status.message().contains(words), "{words}: {status}");
    }
    let wish = fleet::Wish { destination: "node-99".into(), ..wish() };
    let status = client.plan(fleet::PlanRequest { wish: Some(wish) }).await.expect_err("unknown");
    assert_eq!(reason(&status), (Code::NotFound, "HOST_NOT_FOUND".into()));
    let status = client.get_migration(fleet::GetMigrationRequest { migration: ID.into() }).await.expect_err("unknown");
    assert_eq!(reason(&status), (Code::NotFound, "MIGRATION_NOT_FOUND".into()));
    // Whoever does not speak TLS gets no answer, and the next one does.
    let mut tcp = tokio::net::TcpStream::connect(&service.address).await.expect("connected");
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    client.list_inventory(fleet::ListInventoryRequest {}).await.expect("answered");
}

#[tokio::test]
async fn a_certificate_that_cannot_serve_is_told_at_once() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("serve --listen 127.0.0.1:0").await.code(2).get_output().clone();
    assert!(said(&output).contains("is for no address to serve at"), "{}", said(&output));
    let viewer = cluster.inventory(VIEWER);
    let output = cluster.vmferry(&format!("serve --inventory {viewer}")).await.code(2).get_output().clone();
    assert!(said(&output).contains("which is no coordinator"), "{}", said(&output));
    let service = cluster.serve().await;
    let taken = format!("serve --inventory {} --listen {}", cluster.inventory("coordinator-fleet"), service.address);
    let output = cluster.vmferry(&taken).await.code(2).get_output().clone();
    assert!(said(&output).contains("cannot listen on"), "{}", said(&output));
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_open_connections_go_on() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let mut open = cluster.client(&service, OPS);
    open.list_inventory(fleet::ListInventoryRequest {}).await.expect("answered");
    cluster.renew("fleet.example.org");
    let renewed = async {
        loop {
            let channel = cluster.dial_as("fleet.example.org", &service, OPS);
            let mut client = FleetServiceClient::new(channel);
            if client.list_inventory(fleet::ListInventoryRequest {}).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("it looks every two seconds");
    open.list_inventory(fleet::ListInventoryRequest {}).await.expect("still answered");
}
