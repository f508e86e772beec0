//! `vmferry serve`: what it answers, what it passes on, and how it ends; and `vmferry --coordinator`, which must be as without.

mod aborts;
mod choice;
mod client;
mod emptying;
mod etcd;
mod ipv6;
mod migrations;
mod port;
mod relay;
mod repeats;
mod stop;
mod watch;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use vmferry_proto::fleet::{self, migrate_response::Event};

use crate::cluster::{Cluster, Service};

const OPS: &str = "coordinator-ops";
const VIEWER: &str = "viewer-dashboard";
const ID: &str = "0190f5fe-7c00-7a00-8abc-012345678901";

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

fn about(status: &Status) -> String {
    status.get_details_error_info().and_then(|info| info.metadata.get("host").cloned()).unwrap_or_default()
}

fn wish() -> fleet::Wish {
    fleet::Wish { instance: "web".into(), destination: "node-31".into(), ..fleet::Wish::default() }
}

fn request(id: &str) -> fleet::MigrateRequest {
    fleet::MigrateRequest { migration_id: id.into(), wish: Some(wish()) }
}

/// All that a migration tells until it ends.
async fn events(
    cluster: &Cluster,
    service: &Service,
    request: fleet::MigrateRequest,
) -> Result<Vec<Event>, (Vec<Event>, Status)> {
    let mut told = Vec::new();
    let stream = cluster.client(service, OPS).migrate(request).await;
    let mut stream = stream.map_err(|status| (vec![], status))?.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(response)) => told.extend(response.event),
            Ok(None) => return Ok(told),
            Err(status) => return Err((told, status)),
        }
    }
}

fn ended(told: &[Event]) -> &fleet::Ended {
    match told.last() {
        Some(Event::Ended(ended)) => ended,
        other => panic!("no end, but {other:?}"),
    }
}
