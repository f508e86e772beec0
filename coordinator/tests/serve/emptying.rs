//! Hosts that programs close, empty, open and fill again.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};
use vmferry_core::reason::Reason;
use vmferry_proto::fleet::{self, DrainTotals, cordoned_host::State, drain_event::Event, guest_ended::End};

use super::{OPS, VIEWER, about, reason};
use crate::cluster::{Cluster, Service};

fn drain() -> fleet::DrainRequest {
    fleet::DrainRequest { host: "node-28".into(), reason: "new disks".into(), ..fleet::DrainRequest::default() }
}

fn undrain() -> fleet::UndrainRequest {
    fleet::UndrainRequest { host: "node-28".into(), bring_back: true, pace: None }
}

fn event(response: fleet::DrainResponse) -> Event {
    response.event.and_then(|event| event.event).expect("set")
}

async fn begin(cluster: &Cluster, service: &Service, request: fleet::DrainRequest) -> Streaming<fleet::DrainResponse> {
    cluster.client(service, OPS).drain(request).await.expect("begun").into_inner()
}

/// All that a drain tells until it ends.
async fn drained(
    cluster: &Cluster,
    service: &Service,
    request: fleet::DrainRequest,
) -> Result<Vec<Event>, (Vec<Event>, Status)> {
    let mut told = Vec::new();
    let stream = cluster.client(service, OPS).drain(request).await;
    let mut stream = stream.map_err(|status| (vec![], status))?.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(response)) => told.push(event(response)),
            Ok(None) => return Ok(told),
            Err(status) => return Err((told, status)),
        }
    }
}

async fn filled(cluster: &Cluster, service: &Service) -> Vec<Event> {
    let stream = cluster.client(service, OPS).undrain(undrain()).await;
    let mut stream = stream.expect("begun").into_inner();
    let mut told = Vec::new();
    while let Some(response) = stream.message().await.expect("told") {
        told.push(response.event.and_then(|event| event.event).expect("set"));
    }
    told
}

fn plan(told: &[Event]) -> &fleet::DrainPlan {
    match told.first() {
        Some(Event::Plan(plan)) => plan,
        other => panic!("no plan, but {other:?}"),
    }
}

fn totals(told: &[Event]) -> DrainTotals {
    match told.last() {
        Some(Event::Totals(totals)) => *totals,
        other => panic!("no totals, but {other:?}"),
    }
}

fn ends(told: &[Event]) -> Vec<&End> {
    told.iter().filter_map(|event| if let Event::Ended(ended) = event { ended.end.as_ref() } else { None }).collect()
}

/// Until the guest runs there.
async fn arrived(cluster: &Cluster) {
    let arriving = async {
        while !cluster.world().on_destination {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), arriving).await.expect("it goes on to its end");
}

#[tokio::test]
async fn a_dry_run_is_a_plan_and_nothing_else() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let dry = fleet::DrainRequest { dry_run: true, ..drain() };
    let told = drained(&cluster, &service, dry.clone()).await.expect("planned");
    let plan_of = plan(&told);
    assert!(told.len() == 1 && plan_of.cordon.is_none() && plan_of.blocked.is_empty(), "{told:?}");
    let planned = &plan_of.moves[0];
    assert_eq!((planned.instance_name.as_str(), planned.destination.as_str()), ("web", "node-31"));
    assert!(planned.takes.is_some_and(|takes| takes.seconds > 1) && plan_of.total == planned.takes, "{planned:?}");

    let target = Some(fleet::Target { zone: "nova3".into(), ..fleet::Target::default() });
    let told = drained(&cluster, &service, fleet::DrainRequest { target, ..dry }).await.expect("planned");
    let objections = &plan(&told).blocked[0].objections;
    assert_eq!(objections[0].refusal.as_ref().map(|refusal| refusal.reason.as_str()), Some("ZONE_DIFFERS"));
    assert!(cluster.world().records.is_empty() && cluster.world().cordons.is_empty());
}

#[tokio::test]
async fn a_host_is_emptied_and_filled_again_and_each_guest_is_told_of() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let told = drained(&cluster, &service, drain()).await.expect("drained");
    assert_eq!(plan(&told).cordon.as_ref().map(|cordon| cordon.reason.as_str()), Some("new disks"));
    assert_eq!(plan(&told).moves.len(), 1);
    assert!(matches!(&told[1], Event::Begins(order) if order.instance_name == "web"), "{told:?}");
    let phases: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            Event::Moves(moves) if moves.progress.is_none() => Some(moves.phase()),
            _ => None,
        })
        .collect();
    use vmferry_proto::v1::Phase::{Check, Migrate, Post, Pre};
    assert_eq!(phases, [Check, Pre, Migrate, Post]);
    assert!(told.iter().any(|event| matches!(event, Event::Moves(moves) if moves.progress.is_some())), "{told:?}");
    assert!(matches!(ends(&told)[..], [End::Moved(_)]), "{told:?}");
    assert_eq!(totals(&told), DrainTotals { moved: 1, ..DrainTotals::default() });
    assert!(cluster.world().on_destination && cluster.world().cordons["node-28"].reason == "new disks");
    // The hosts know whose wish it was.
    let by = cluster.world().records.values().map(|record| record.requested_by.clone()).collect::<Vec<_>>();
    assert!(by.iter().all(|by| by.starts_with("vmferry://default/coordinator/ops via")), "{by:?}");

    // There is nothing left to do.
    let again = drained(&cluster, &service, drain()).await.expect("drained");
    assert_eq!((again.len(), totals(&again)), (2, DrainTotals::default()));

    let told = filled(&cluster, &service).await;
    assert_eq!(plan(&told).moves[0].destination, "node-28");
    assert_eq!(totals(&told), DrainTotals { moved: 1, ..DrainTotals::default() });
    assert!(!cluster.world().on_destination && cluster.world().cordons.is_empty());
    let again = filled(&cluster, &service).await;
    assert!(plan(&again).open_since.is_some(), "it was open before: {again:?}");
    assert_eq!(totals(&again), DrainTotals::default());
}

#[tokio::test]
async fn who_was_not_brought_home_when_a_host_was_opened_is_by_the_next_who_asks() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    drained(&cluster, &service, drain()).await.expect("drained");
    let open = fleet::UncordonRequest { hosts: vec!["node-28".into()] };
    cluster.client(&service, OPS).uncordon(open).await.expect("opened");
    let told = filled(&cluster, &service).await;
    assert_eq!(totals(&told), DrainTotals { moved: 1, ..DrainTotals::default() });
    assert!(!cluster.world().on_destination);
    // Who has gone since, on purpose, is left there.
    cluster.vmferry("migrate web --to node-31").await.success();
    let output = cluster.vmferry("undrain node-28 --return").await.success().get_output().clone();
    assert!(crate::cluster::said(&output).contains("node-28 is open since"), "{output:?}");
    assert!(cluster.world().on_destination);
}

#[tokio::test]
async fn whoever_goes_away_lets_nobody_start_and_the_same_again_goes_on() {
    let cluster = Cluster::new().await;
    let (service, other) = (cluster.serve().await, cluster.serve().await);
    cluster.world().full = Some("node-31");
    let mut stream = begin(&cluster, &service, drain()).await;
    let waits = loop {
        if let Event::Waits(waits) = event(stream.message().await.expect("told").expect("more")) {
            break waits;
        }
    };
    assert_eq!(waits.turn.map(|turn| turn.host).as_deref(), Some("node-31"));
    assert!(waits.message.contains("node-31 takes at most 1 migration"), "{}", waits.message);
    drop(stream);
    // It does not even wait any more.
    while !cluster.world().waiters.is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    cluster.world().full = None;
    sleep(Duration::from_millis(500)).await;
    assert!(cluster.world().records.is_empty() && !cluster.world().on_destination);

    // Another coordinator begins it; its caller goes away while it moves, which harms it nothing.
    cluster.world().is_slow = true;
    let moving = begin(&cluster, &other, drain()).await;
    cluster.moving().await;
    drop(moving);
    sleep(Duration::from_millis(200)).await;
    cluster.world().is_slow = false;
    arrived(&cluster).await;
    let told = drained(&cluster, &service, drain()).await.expect("drained");
    assert_eq!(totals(&told).failed + totals(&told).blocked, 0, "{told:?}");
    let (_, open) = cluster.json("migrations --active").await;
    assert_eq!(open["migrations"].as_array().map(Vec::len), Some(0), "{open}");
}

#[tokio::test]
async fn what_a_killed_coordinator_left_in_the_middle_of_a_drain_another_ends() {
    let cluster = Cluster::new().await;
    let (service, other) = (cluster.serve().await, cluster.serve().await);
    cluster.world().is_slow = true;
    let begun = begin(&cluster, &service, drain()).await;
    cluster.moving().await;
    service.send(Signal::SIGKILL);
    service.end().await;
    drop(begun);
    let speed_up = async {
        sleep(Duration::from_millis(500)).await;
        cluster.world().is_slow = false;
    };
    let (told, ()) = tokio::join!(drained(&cluster, &other, drain()), speed_up);
    let told = told.expect("drained");
    assert_eq!(totals(&told), DrainTotals { moved: 1, ..DrainTotals::default() });
    let (_, known) = cluster.json("migrations").await;
    assert_eq!(known["migrations"][0]["outcome"], "completed", "{known}");
}

#[tokio::test]
async fn a_coordinator_that_is_stopped_says_that_another_is_to_go_on() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().full = Some("node-31");
    let telling = drained(&cluster, &service, drain());
    let stopping = async {
        while cluster.world().waiters.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        service.send(Signal::SIGTERM);
    };
    let (told, ()) = tokio::join!(telling, stopping);
    let (told, status) = told.expect_err("it does not go on");
    assert_eq!(reason(&status), (Code::Unavailable, "COORDINATOR_STOPPING".into()));
    assert_eq!(about(&status), "fleet");
    assert!(matches!(ends(&told)[..], [End::NotBegun(_)]), "{told:?}");
    assert_eq!(service.end().await.0, Some(0));
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn a_guest_that_no_host_takes_stays_with_what_they_said_themselves() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().refuses = true;
    let told = drained(&cluster, &service, drain()).await.expect("drained");
    let refused = told.iter().find_map(|event| if let Event::Refused(refused) = event { Some(refused) } else { None });
    let candidate = refused.and_then(|refused| refused.candidate.as_ref()).expect("told");
    assert_eq!((candidate.host.as_str(), candidate.checks.len()), ("node-31", 2));
    let [End::Blocked(blocked)] = ends(&told)[..] else { panic!("{told:?}") };
    let said: Vec<_> = blocked
        .objections
        .iter()
        .map(|objection| (objection.refusal.as_ref().expect("set").reason.as_str(), &objection.hosts[..]))
        .collect();
    assert_eq!(said, [("MEMORY_SHORT", &["node-31".to_owned()][..])], "and not HOST_EXCLUDED");
    assert_eq!(totals(&told), DrainTotals { blocked: 1, ..DrainTotals::default() });
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_asked_again_before_a_guest_is_given_up() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    let service = cluster.serve().await;
    let mut stream = begin(&cluster, &service, drain()).await;
    let waits = loop {
        match event(stream.message().await.expect("told").expect("more")) {
            Event::Waits(waits) => break waits,
            Event::Ended(ended) => panic!("given up at once: {ended:?}"),
            _ => {}
        }
    };
    let reasons = waits.objections.iter().filter_map(|objection| objection.refusal.as_ref());
    assert_eq!(reasons.map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>(), ["AGENT_UNREACHABLE"]);
    assert!(waits.message.contains("asked again"), "{}", waits.message);
}

#[tokio::test]
async fn a_host_that_has_lost_the_place_it_had_is_not_left_out_for_good() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().pre_refusals = vec![("node-31", Reason::TooManyMigrations)];
    let told = drained(&cluster, &service, drain()).await.expect("drained");
    assert!(told.iter().any(|event| matches!(event, Event::Refused(_))), "{told:?}");
    assert!(told.iter().any(|event| matches!(event, Event::Waits(_))), "{told:?}");
    assert_eq!(totals(&told), DrainTotals { moved: 1, ..DrainTotals::default() });
}

#[tokio::test]
async fn hosts_are_closed_and_opened_and_a_dead_one_costs_its_own_row() {
    let mut cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.stop(1).await;
    let mut client = cluster.client(&service, OPS);
    let hosts = vec!["node-31".to_owned(), "node-28".to_owned()];
    let close = fleet::CordonRequest { hosts: hosts.clone(), reason: "fan".into() };
    let closed = client.cordon(close.clone()).await.expect("answered").into_inner().hosts;
    let [Some(State::Failed(why)), Some(State::Cordon(cordon))] = [&closed[0].state, &closed[1].state] else {
        panic!("{closed:?}")
    };
    assert_eq!((why.reason.as_str(), cordon.reason.as_str()), ("AGENT_UNREACHABLE", "fan"));
    let open = fleet::UncordonRequest { hosts };
    let opened = client.uncordon(open.clone()).await.expect("answered").into_inner().hosts;
    assert!(opened[0].failed.is_some() && opened[0].was.is_none(), "{opened:?}");
    assert!(opened[1].failed.is_none() && opened[1].was.is_some(), "{opened:?}");
    assert!(cluster.world().cordons.is_empty());

    let unknown = fleet::CordonRequest { hosts: vec!["node-28".into(), "node-99".into()], ..close.clone() };
    assert_eq!(reason(&client.cordon(unknown).await.expect_err("unknown")), (Code::NotFound, "HOST_NOT_FOUND".into()));
    let nobody = fleet::UncordonRequest { hosts: vec![] };
    assert_eq!(client.uncordon(nobody).await.expect_err("nobody").code(), Code::InvalidArgument);
    let mut viewer = cluster.client(&service, VIEWER);
    for status in [
        viewer.cordon(close).await.map(drop),
        viewer.uncordon(open).await.map(drop),
        viewer.drain(drain()).await.map(drop),
        viewer.undrain(undrain()).await.map(drop),
    ] {
        assert_eq!(status.expect_err("refused").code(), Code::PermissionDenied);
    }
    for (request, code) in [
        (fleet::DrainRequest { host: "node-99".into(), ..drain() }, Code::NotFound),
        (fleet::DrainRequest { host: String::new(), ..drain() }, Code::InvalidArgument),
        (
            fleet::DrainRequest {
                target: Some(fleet::Target { hosts: vec!["a b".into()], ..fleet::Target::default() }),
                ..drain()
            },
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(client.drain(request).await.expect_err("refused").code(), code);
    }
    assert!(cluster.world().cordons.is_empty());
}
