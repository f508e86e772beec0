//! Hosts that come and go while it serves.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};
use tonic::{Code, transport::Channel};
use vmferry_proto::{
    fleet::{self, fleet_service_client::FleetServiceClient},
    v1::{self, host_service_client::HostServiceClient},
};
use vmferry_tests::etcd::Etcd;

use super::{ID, OPS, VIEWER, ended, events, reason, request};
use crate::cluster::{Cluster, Service, naming, said};

/// Waits until the coordinator knows exactly these hosts.
async fn known(cluster: &Cluster, service: &Service, names: &[&str]) {
    let mut client = cluster.client(service, VIEWER);
    let waiting = async {
        loop {
            let known = client.list_inventory(fleet::ListInventoryRequest {}).await.expect("answered").into_inner();
            if known.hosts.iter().map(|endpoint| endpoint.host.as_str()).eq(names.iter().copied()) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{names:?} are not what it knows"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_come_and_go_in_etcd_are_taken_up_without_a_restart() {
    let cluster = Cluster::new().await;
    let etcd = Etcd::on_loopback().expect("etcd");
    let put = |(name, address): &(String, String)| {
        etcd.ctl(&["put", &format!("/vmferry/hosts/{name}"), &format!("{{\"address\":\"{address}\"}}")])
            .expect("written");
    };
    let hosts = cluster.hosts();
    put(&hosts[0]);
    let service = cluster.serve_hosts_of(&format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url())).await;
    known(&cluster, &service, &["node-28"]).await;
    let through = format!("--coordinator {} migrate web --to node-31 --dry-run", service.address);
    let output = cluster.start(&through).wait_with_output().await.expect("ran");
    assert!(output.status.code() == Some(2) && said(&output).contains("no host node-31"), "{}", said(&output));

    put(&hosts[1]);
    known(&cluster, &service, &["node-28", "node-31"]).await;
    cluster.vmferry(&through).await.success();
    let told = events(&cluster, &service, request(ID)).await.expect("it moves");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);

    etcd.ctl(&["del", "/vmferry/hosts/node-28"]).expect("deleted");
    known(&cluster, &service, &["node-31"]).await;
    let mut hosts = HostServiceClient::new(naming(cluster.dial(&service, OPS), "node-28"));
    let status = hosts.get_host(v1::GetHostRequest {}).await.expect_err("it is gone");
    assert_eq!(reason(&status), (Code::NotFound, "HOST_NOT_FOUND".into()));
    let listing = cluster.start(&format!("--coordinator {} hypervisors", service.address));
    let output = listing.wait_with_output().await.expect("ran");
    let warning = format!("warning: the coordinator 127.0.0.1 at {}: node-28 at ", service.address);
    assert!(said(&output).contains(&warning) && said(&output).contains("no longer among"), "{}", said(&output));

    service.send(Signal::SIGTERM);
    let (code, said) = service.end().await;
    assert_eq!(code, Some(0), "{said}");
    for words in ["2 hosts, 1 before", "1 hosts, 2 before", "node-28 at ", "is no longer among the hosts of etcd at "] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_away_is_told_once_and_that_it_is_back() {
    let cluster = Cluster::new().await;
    let mut etcd = Etcd::on_loopback().expect("etcd");
    let (name, address) = &cluster.hosts()[0];
    etcd.ctl(&["put", &format!("/vmferry/hosts/{name}"), &format!("{{\"address\":\"{address}\"}}")]).expect("written");
    let service = cluster.serve_hosts_of(&format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url())).await;
    known(&cluster, &service, &["node-28"]).await;
    etcd.stop().expect("stopped");
    // It is asked again every 5 s.
    sleep(Duration::from_secs(17)).await;
    let mut client = cluster.client(&service, VIEWER);
    let warnings = async |client: &mut FleetServiceClient<Channel>| {
        let known = client.list_inventory(fleet::ListInventoryRequest {}).await.expect("answered").into_inner();
        known.warnings.join("\n")
    };
    let told = warnings(&mut client).await;
    assert!(told.contains("does not answer") && told.contains("1 host as of 1"), "as old as it is now: {told}");
    etcd.start().expect("started");
    let back = async {
        while !warnings(&mut client).await.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(20), back).await.expect("it is back");
    service.send(Signal::SIGTERM);
    let (_, said) = service.end().await;
    assert_eq!(said.matches(": 1 host as of ").count(), 1, "{said}");
    assert_eq!(said.matches("answers again").count(), 1, "{said}");
}
