//! Agents' calls, passed on; and every command through them.

use std::time::Duration;

use nix::sys::signal::Signal;
use tonic::Code;
use vmferry_proto::{
    fleet::{self, fleet_host::State},
    v1::{
        self, host_service_client::HostServiceClient, instance_service_client::InstanceServiceClient,
        migration_service_client::MigrationServiceClient,
    },
};

use super::{ID, OPS, VIEWER, about, reason};
use crate::cluster::{Cluster, naming, said};

#[tokio::test]
async fn every_command_says_the_same_through_a_coordinator() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let through = format!("--coordinator {}", service.address);
    for arguments in [
        "hypervisors",
        "zones",
        "instances",
        "instances -o json",
        "instance show web",
        "instance show mail",
        "instance limits show web",
        "instance policy show web",
        "instance affinity set web --group db --policy soft-affinity",
        "instance affinity show web",
        "migrate web --to node-31 --dry-run",
        "migrate web --dry-run",
        "plan web --to node-31 -o json",
        "migrations",
        "policies",
        "policies --host node-28",
        "volumes",
        "groups",
        "doctor",
        "check web --all-hosts",
        "drain node-28 --dry-run",
        "uncordon node-31",
        "cordon node-31 --reason fan",
        "abort web",
        "instance limits set web --max-downtime 300ms",
        "instance network set web --network blue",
        "migrations show web",
        "set web max-downtime=500ms",
    ] {
        let run = async |arguments: String| {
            let output = cluster.start(&arguments).wait_with_output().await.expect("ran");
            // Facts of hosts are told with the moment when they were asked.
            let told = said(&output).replace(&service.address, "");
            (
                output.status.code(),
                told.lines().filter(|line| !line.contains("answered")).collect::<Vec<_>>().join("\n"),
            )
        };
        assert_eq!(run(arguments.into()).await, run(format!("{through} {arguments}")).await, "{arguments}");
    }

    cluster.vmferry(&format!("{through} uncordon node-31")).await.success();
    let (code, document) = cluster.json(&format!("{through} migrate web --to node-31")).await;
    assert_eq!(
        (code, document["outcome"].as_str(), document["downtime_ms"].as_u64()),
        (0, Some("completed"), Some(74))
    );
    for arguments in ["migrations", "migrations show web", "report web --html", "watch web", "migrations resolve"] {
        let direct = cluster.vmferry(arguments).await.success().get_output().clone();
        let relayed = cluster.vmferry(&format!("{through} {arguments}")).await.success().get_output().clone();
        assert_eq!(said(&direct), said(&relayed), "{arguments}");
    }
    // The hosts know whose wish it was, and who passed it on.
    let by: Vec<_> = cluster.world().records.values().map(|record| record.requested_by.clone()).collect();
    let both = "vmferry://default/coordinator/ops via vmferry://default/coordinator/fleet";
    assert_eq!(by, [both, both]);
}

#[tokio::test]
async fn a_coordinator_may_stand_in_the_inventory_in_the_place_of_hosts() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let path = cluster.inventory("relayed");
    let pki = "[tls]\nca = \"pki/coordinator-ops/ca.pem\"\ncertificate = \"pki/coordinator-ops/cert.pem\"\n\
        key = \"pki/coordinator-ops/key.pem\"\n";
    let place = format!("[coordinator]\naddress = \"{}\"\nname = \"fleet\"\n", service.address);
    std::fs::write(&path, format!("{pki}{place}")).expect("written");
    let output = cluster.vmferry(&format!("--inventory {path} hypervisors")).await.success().get_output().clone();
    assert!(said(&output).contains("node-28") && said(&output).contains("node-31"), "{}", said(&output));
    let output = cluster.vmferry(&format!("--inventory {path} migrate web --to node-99")).await.code(2);
    assert!(said(output.get_output()).contains("of the coordinator fleet"), "{}", said(output.get_output()));

    // Only it is called so.
    std::fs::write(&path, format!("{pki}{}", place.replace("\"fleet\"", "\"elsewhere\""))).expect("written");
    let output = cluster.vmferry(&format!("--inventory {path} hypervisors")).await.code(7);
    assert!(said(output.get_output()).contains("no trust between us and the coordinator elsewhere"));
    // It cannot serve by itself.
    let output = cluster.vmferry(&format!("--inventory {path} serve")).await.code(2);
    assert!(said(output.get_output()).contains("calls the agents itself"), "{}", said(output.get_output()));
}

#[tokio::test]
async fn who_is_dead_is_told_the_coordinator_or_an_agent_behind_it() {
    let mut cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let through = format!("--coordinator {}", service.address);
    cluster.stop(1).await;
    let output = cluster.vmferry(&format!("{through} migrate web --to node-31")).await.code(7).get_output().clone();
    for words in ["cannot reach the agent of node-31", "web stays on node-28"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    let (code, hosts) = cluster.json(&format!("{through} hypervisors")).await;
    assert_eq!((code, hosts["hypervisors"][1]["reason"].as_str()), (0, Some("AGENT_UNREACHABLE")));

    let mut client = cluster.client(&service, VIEWER);
    let hosts = client.list_hosts(fleet::ListHostsRequest {}).await.expect("answered").into_inner().hosts;
    let states: Vec<_> = hosts.into_iter().map(|host| host.state.expect("set")).collect();
    assert!(matches!(&states[..], [State::Up(_), State::Unreachable(why)] if why.host == "node-31"), "{states:?}");
    let instances = client.list_instances(fleet::ListInstancesRequest {}).await.expect("answered").into_inner();
    assert_eq!((instances.instances.len(), instances.unreachable.len()), (1, 1));
    // It might be there.
    let wanted = fleet::GetInstanceRequest { instance: "mail".into(), ..Default::default() };
    let status = client.get_instance(wanted).await.expect_err("unknown");
    assert_eq!(reason(&status), (Code::Unavailable, "AGENT_UNREACHABLE".into()));

    service.send(Signal::SIGKILL);
    service.end().await;
    let (code, document) = cluster.json(&format!("{through} hypervisors")).await;
    assert_eq!((code, document["error"]["reason"].as_str()), (7, Some("COORDINATOR_UNREACHABLE")), "{document}");
    let output = cluster.vmferry(&format!("{through} instances")).await.code(7).get_output().clone();
    assert!(said(&output).contains("cannot reach the coordinator 127.0.0.1 at"), "{}", said(&output));
    cluster.vmferry("--coordinator nowhere instances").await.code(2);
}

#[tokio::test]
async fn what_is_passed_on_names_its_host() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let channel = cluster.dial(&service, OPS);
    let mut there = HostServiceClient::new(naming(channel.clone(), "node-31"));
    let host = there.get_host(v1::GetHostRequest {}).await.expect("passed on").into_inner().host.expect("set");
    assert_eq!((host.name.as_str(), host.zone.as_str()), ("node-31", "nova2"));

    let mut nowhere = HostServiceClient::new(naming(channel.clone(), "node-99"));
    let status = nowhere.get_host(v1::GetHostRequest {}).await.expect_err("unknown");
    assert_eq!((reason(&status), about(&status)), ((Code::NotFound, "HOST_NOT_FOUND".into()), "fleet".into()));
    let mut unnamed = HostServiceClient::new(channel.clone());
    let status = unnamed.get_host(v1::GetHostRequest {}).await.expect_err("no host");
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_REQUEST".into()));
    assert!(status.message().contains("vmferry-host"), "{status}");

    // An agent's own answer arrives as it is.
    let mut there = MigrationServiceClient::new(naming(channel.clone(), "node-31"));
    let unknown = v1::GetMigrationRequest { migration_id: ID.into() };
    let status = there.get_migration(unknown).await.expect_err("unknown");
    assert_eq!((reason(&status), about(&status)), ((Code::NotFound, "MIGRATION_NOT_FOUND".into()), "node-31".into()));
    // So does a deadline's end, and that it was too short.
    let mut slow = InstanceServiceClient::new(naming(channel, "node-28"));
    let mut request = tonic::Request::new(v1::ListInstancesRequest {});
    request.set_timeout(Duration::from_nanos(1));
    let status = slow.list_instances(request).await.expect_err("too short");
    assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&status.code()), "{status}");
}

#[tokio::test]
async fn an_agent_that_goes_away_in_the_middle_of_a_stream_is_told_as_that() {
    let cluster = Cluster::new().await;
    let (service, wire) = cluster.serve_over_a_wire().await;
    cluster.world().is_slow = true;
    let mut running = cluster.start("migrate web --to node-31");
    cluster.moving().await;
    let id = cluster.world().records.keys().next().expect("begun").1.to_string();
    let mut source = MigrationServiceClient::new(naming(cluster.dial(&service, VIEWER), "node-28"));
    let watched = source.watch_migration(v1::WatchMigrationRequest { migration_id: id, after: 0 }).await;
    let mut stream = watched.expect("passed on").into_inner();
    stream.message().await.expect("told").expect("something");
    running.kill().await.expect("killed");
    drop(wire);
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it did not end"),
            Err(status) => break status,
        }
    };
    assert_eq!((reason(&status), about(&status)), ((Code::Unavailable, "AGENT_UNREACHABLE".into()), "node-28".into()));
}
