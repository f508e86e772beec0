//! `vmferry serve`: what it answers, what it passes on, and how it ends; and `vmferry --coordinator`, which must be as without.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use vmferry_proto::{
    fleet::{self, fleet_host::State, fleet_service_client::FleetServiceClient, migrate_response::Event},
    v1::{
        self, host_service_client::HostServiceClient, instance_service_client::InstanceServiceClient,
        migration_service_client::MigrationServiceClient,
    },
};
use vmferry_tests::etcd::Etcd;

use crate::cluster::{Cluster, INSTANCE, Service, naming, said};

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

#[tokio::test]
async fn a_migration_tells_of_itself_until_its_end_and_a_repeat_tells_the_same_end() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let told = events(&cluster, &service, request(ID)).await.expect("ended");
    let Event::Order(order) = &told[0] else { panic!("{told:?}") };
    assert_eq!((order.migration_id.as_str(), order.instance_id.as_str()), (ID, INSTANCE));
    let phase = |event: &Event| if let Event::Phase(phase) = event { Some(*phase) } else { None };
    let phases: Vec<_> = told.iter().filter_map(phase).collect();
    use v1::Phase::{Check, Migrate, Post, Pre};
    assert_eq!(phases, [Check, Pre, Migrate, Post].map(i32::from));
    assert!(told.iter().any(|event| matches!(event, Event::Checked(checked) if checked.checks.len() == 4)));
    assert!(told.iter().any(|event| matches!(event, Event::Progress(_))));
    let end = ended(&told);
    assert_eq!(end.outcome(), v1::Outcome::Completed);
    assert!(end.message.contains("web runs on node-31") && end.statistics.is_some(), "{end:?}");

    // Whoever asks again, and wherever, gets the same and moves nothing.
    let samples = cluster.world().samples;
    let other = cluster.serve().await;
    for service in [&service, &other] {
        let told = events(&cluster, service, request(ID)).await.expect("ended");
        assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
        assert_eq!(ended(&told).statistics, end.statistics);
    }
    assert_eq!(cluster.world().samples, samples);
    let elsewhere = fleet::Wish { destination: "node-28".into(), ..wish() };
    let another = fleet::MigrateRequest { migration_id: ID.into(), wish: Some(elsewhere) };
    let (_, status) = events(&cluster, &service, another).await.expect_err("another one");
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_REQUEST".into()));

    let known = fleet::GetMigrationRequest { migration: "web".into() };
    let known = cluster.client(&service, VIEWER).get_migration(known).await.expect("known").into_inner();
    let known = known.migration.expect("set");
    assert!(known.source.is_some() && known.destination.is_some());
    assert_eq!(known.outcome(), v1::Outcome::Completed);
}

#[tokio::test]
async fn a_caller_that_goes_away_changes_nothing() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let mut stream = cluster.client(&service, OPS).migrate(request(ID)).await.expect("begun").into_inner();
    stream.message().await.expect("told").expect("something");
    drop(stream);
    // Several join it; one of them began it.
    let told = tokio::join!(events(&cluster, &service, request(ID)), events(&cluster, &service, request(ID)));
    for told in [told.0, told.1] {
        assert_eq!(ended(&told.expect("ended")).outcome(), v1::Outcome::Completed);
    }
    assert!(cluster.world().on_destination);
    assert_eq!(cluster.world().records.len(), 2);
}

#[tokio::test]
async fn what_a_killed_coordinator_left_behind_another_ends_by_the_same_request() {
    let cluster = Cluster::new().await;
    let (first, second) = (cluster.serve().await, cluster.serve().await);
    cluster.world().is_slow = true;
    let begun = cluster.client(&first, OPS).migrate(request(ID)).await.expect("begun");
    cluster.moving().await;
    first.send(Signal::SIGKILL);
    first.end().await;
    let (_, open) = cluster.json("migrations --active").await;
    assert_eq!(open["migrations"][0]["id"], ID);
    drop(begun);
    let again = events(&cluster, &second, request(ID));
    let speed_up = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.world().is_slow = false;
    };
    let (told, ()) = tokio::join!(again, speed_up);
    assert_eq!(ended(&told.expect("ended")).outcome(), v1::Outcome::Completed);
    let (_, open) = cluster.json("migrations --active").await;
    assert_eq!(open["migrations"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn who_is_stopped_says_that_the_migration_goes_on() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().is_slow = true;
    let telling = events(&cluster, &service, request(ID));
    let stopping = async {
        cluster.moving().await;
        service.send(Signal::SIGTERM);
    };
    let (told, ()) = tokio::join!(telling, stopping);
    let (told, status) = told.expect_err("it does not end in time");
    assert!(!told.is_empty());
    assert_eq!(reason(&status), (Code::Unavailable, "COORDINATOR_STOPPING".into()));
    for words in [ID, "goes on without it", "vmferry migrations resolve"] {
        assert!(status.message().contains(words), "{status}");
    }
    let (code, said) = service.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("migration {ID} goes on without us")), "{said}");
    // It does, until somebody ends it.
    cluster.world().is_slow = false;
    cluster.vmferry(&format!("migrations resolve {ID}")).await.success();
    assert!(cluster.world().on_destination);
}

#[tokio::test]
async fn what_ends_soon_is_waited_for_and_a_second_signal_waits_for_nothing() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let telling = events(&cluster, &service, request(ID));
    let stopping = async {
        cluster.moving().await;
        service.send(Signal::SIGINT);
    };
    let (told, ()) = tokio::join!(telling, stopping);
    assert_eq!(ended(&told.expect("it ended in time")).outcome(), v1::Outcome::Completed);
    assert_eq!(service.end().await.0, Some(0));

    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().is_slow = true;
    let _begun = cluster.client(&service, OPS).migrate(request(ID)).await.expect("begun");
    cluster.moving().await;
    service.send(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = std::time::Instant::now();
    service.send(Signal::SIGTERM);
    assert_eq!(service.end().await.0, Some(130));
    assert!(second.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn what_the_checks_refuse_is_a_status_and_every_check_is_told_before() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().refuses = true;
    let (told, status) = events(&cluster, &service, request(ID)).await.expect_err("refused");
    assert_eq!((reason(&status), about(&status)), ((Code::ResourceExhausted, "MEMORY_SHORT".into()), "node-31".into()));
    assert!(told.iter().any(|event| matches!(event, Event::Checked(checked) if checked.checks.len() == 4)), "{told:?}");
    assert!(cluster.world().records.is_empty());
    let plan = fleet::PlanRequest { wish: Some(wish()) };
    let plan = cluster.client(&service, OPS).plan(plan).await.expect("planned").into_inner();
    assert!(plan.forecast.is_none() && plan.checks.len() == 4, "{plan:?}");
    // Nothing was begun, so that the same may be asked again.
    cluster.world().refuses = false;
    let plan = fleet::PlanRequest { wish: Some(wish()) };
    let plan = cluster.client(&service, OPS).plan(plan).await.expect("planned").into_inner();
    assert!(plan.forecast.is_some_and(|forecast| forecast.likely.is_some()));
    let told = events(&cluster, &service, request(ID)).await.expect("ended");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
}

#[tokio::test]
async fn a_migration_is_watched_steered_and_aborted() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().is_slow = true;
    let telling = events(&cluster, &service, request(ID));
    let meddling = async {
        cluster.moving().await;
        let mut client = cluster.client(&service, OPS);
        let watch = fleet::WatchMigrationRequest { migration: "web".into(), after: 0 };
        let mut watched = client.watch_migration(watch).await.expect("known").into_inner();
        while watched.message().await.expect("told").expect("more").progress.is_none() {}
        let pause = v1::Steering { change: Some(v1::steering::Change::Pause(v1::steering::Pause {})) };
        let steer = fleet::SteerMigrationRequest { migration: "web".into(), steering: Some(pause) };
        client.steer_migration(steer.clone()).await.expect("told");
        let none = fleet::SteerMigrationRequest { steering: None, ..steer };
        assert_eq!(client.steer_migration(none).await.expect_err("nothing").code(), Code::InvalidArgument);
        let abort = fleet::AbortMigrationRequest { migration: ID.into() };
        let aborted = client.abort_migration(abort).await.expect("aborted").into_inner().ended.expect("set");
        assert_eq!(aborted.outcome(), v1::Outcome::AbortedRolledBack);
        while let Some(seen) = watched.message().await.expect("told") {
            let outcome = seen.migration.expect("set").outcome();
            assert!([v1::Outcome::Unspecified, v1::Outcome::AbortedRolledBack].contains(&outcome));
        }
    };
    let (told, ()) = tokio::join!(telling, meddling);
    let told = told.expect("ended");
    assert_eq!(ended(&told).cause.as_ref().map(|cause| cause.reason.as_str()), Some("MIGRATION_ABORTED"));
    assert_eq!(cluster.world().steered.len(), 1);
    assert!(!cluster.world().on_destination);

    // What has gone through is not taken back.
    cluster.world().is_slow = false;
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
