//! Programs that leave it open where to, and those that wait for a turn.

use std::collections::BTreeSet;

use tonic::Code;
use vmferry_core::reason::Reason;
use vmferry_proto::{
    fleet::{self, migrate_response::Event},
    v1,
};

use super::{ID, OPS, VIEWER, ended, events, reason, wish};
use crate::cluster::{Cluster, Service};

fn anywhere() -> fleet::Wish {
    fleet::Wish { destination: String::new(), ..wish() }
}

fn zone(zone: &str) -> fleet::Wish {
    fleet::Wish { target: Some(fleet::Target { zone: zone.into(), ..fleet::Target::default() }), ..anywhere() }
}

fn request(wish: fleet::Wish) -> fleet::MigrateRequest {
    fleet::MigrateRequest { migration_id: ID.into(), wish: Some(wish) }
}

async fn check(cluster: &Cluster, service: &Service, wish: fleet::Wish, all_hosts: bool) -> fleet::CheckResponse {
    let request = fleet::CheckRequest { wish: Some(wish), all_hosts };
    cluster.client(service, OPS).check(request).await.expect("answered").into_inner()
}

fn reasons(hosts: &[fleet::Candidate]) -> Vec<(&str, Vec<&str>)> {
    hosts
        .iter()
        .map(|host| (host.host.as_str(), host.refusals.iter().map(|refusal| refusal.reason.as_str()).collect()))
        .collect()
}

#[tokio::test]
async fn a_check_has_a_row_a_host_with_all_reasons_and_what_speaks_for_it() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    let service = cluster.serve().await;
    let checked = check(&cluster, &service, anywhere(), false).await;
    assert_eq!(checked.instance.map(|instance| instance.host).as_deref(), Some("node-28"));
    assert_eq!(checked.source_checks.len(), 2);
    // The guest's own zone before the other.
    assert_eq!(reasons(&checked.hosts), [("node-32", vec![]), ("node-31", vec![])]);
    let best = &checked.hosts[0];
    assert!(best.takes_it && best.asked && best.checks.len() == 2 && best.zone == "nova", "{best:?}");
    let zone_part = best.parts.iter().find(|part| part.weigher == "same_zone").expect("it is weighed");
    assert!(best.score.expect("a candidate") >= 100.0 && zone_part.weight == 100.0, "{best:?}");

    // One is left out, and not even asked; asked itself, it says what it has as well.
    let refused = check(&cluster, &service, zone("nova2"), false).await;
    assert_eq!(reasons(&refused.hosts), [("node-31", vec![]), ("node-32", vec!["ZONE_DIFFERS"])]);
    assert!(!refused.hosts[1].asked && refused.hosts[1].score.is_none(), "{refused:?}");
    cluster.world().refuses = true;
    let refused = check(&cluster, &service, zone("nova2"), true).await;
    assert_eq!(
        reasons(&refused.hosts),
        [("node-31", vec!["MEMORY_SHORT"]), ("node-32", vec!["MEMORY_SHORT", "ZONE_DIFFERS"])]
    );
    cluster.stop(1).await;
    let service = cluster.serve().await;
    let silent = check(&cluster, &service, anywhere(), true).await;
    assert_eq!(reasons(&silent.hosts)[1], ("node-31", vec!["AGENT_UNREACHABLE"]));
    assert!(silent.hosts[1].zone.is_empty() && silent.warnings.len() == 1, "{silent:?}");

    for (wish, code) in [
        (None, Code::InvalidArgument),
        (Some(fleet::Wish { instance: "nobody".into(), ..anywhere() }), Code::Unavailable),
        (Some(fleet::Wish { destination: "node-99".into(), ..wish() }), Code::NotFound),
    ] {
        let request = fleet::CheckRequest { wish, all_hosts: false };
        assert_eq!(cluster.client(&service, OPS).check(request).await.expect_err("refused").code(), code);
    }
    let request = fleet::CheckRequest { wish: Some(anywhere()), all_hosts: false };
    let status = cluster.client(&service, VIEWER).check(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn the_best_host_is_chosen_and_said_with_its_reasons() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    let service = cluster.serve().await;
    let plan = fleet::PlanRequest { wish: Some(anywhere()) };
    cluster.world().facts = 0;
    let plan = cluster.client(&service, OPS).plan(plan).await.expect("planned").into_inner();
    // Each host once, although it was looked for the instance as well.
    assert_eq!(cluster.world().facts, 3);
    assert_eq!(plan.order.and_then(|order| order.destination).map(|to| to.host).as_deref(), Some("node-32"));
    assert!(plan.chosen.is_some_and(|chosen| chosen.host == "node-32" && chosen.others == 1));
    assert!(plan.forecast.is_some() && plan.refused.is_empty());

    let told = events(&cluster, &service, request(zone("nova2"))).await.expect("ended");
    let Event::Chosen(chosen) = &told[0] else { panic!("{told:?}") };
    assert_eq!((chosen.host.as_str(), chosen.others), ("node-31", 0));
    let Event::Order(order) = &told[1] else { panic!("{told:?}") };
    assert_eq!(order.migration_id, ID);
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
    assert!(cluster.world().on_destination);
}

#[tokio::test]
async fn without_a_host_all_reasons_are_told_and_then_a_status() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let plan = fleet::PlanRequest { wish: Some(zone("nova3")) };
    let plan = cluster.client(&service, OPS).plan(plan).await.expect("planned").into_inner();
    assert!(plan.order.is_none() && plan.chosen.is_none());
    assert_eq!(reasons(&plan.refused), [("node-31", vec!["ZONE_DIFFERS"])]);

    let (told, status) = events(&cluster, &service, request(zone("nova3"))).await.expect_err("refused");
    assert_eq!(reason(&status), (Code::FailedPrecondition, "ZONE_DIFFERS".into()));
    assert!(status.message().contains("web stays on node-28 as it was"), "{status}");
    let [Event::Nowhere(nowhere)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(reasons(&nowhere.hosts), [("node-31", vec!["ZONE_DIFFERS"])]);
    assert_eq!(nowhere.source_checks.len(), 2);

    // Tried, and refused by its own checks.
    cluster.world().refuses = true;
    let (told, status) = events(&cluster, &service, request(anywhere())).await.expect_err("refused");
    assert_eq!(reason(&status), (Code::ResourceExhausted, "MEMORY_SHORT".into()));
    assert!(told.iter().any(|event| matches!(event, Event::Refused(refused) if refused.checks.len() == 2)), "{told:?}");
    let Some(Event::Nowhere(nowhere)) = told.last() else { panic!("{told:?}") };
    assert_eq!(reasons(&nowhere.hosts), [("node-31", vec!["MEMORY_SHORT"])]);
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn who_refuses_as_it_gets_ready_is_followed_by_the_next_and_a_repeat_finds_both() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    let (service, other) = (cluster.serve().await, cluster.serve().await);
    cluster.world().pre_refusals = vec![("node-32", Reason::HostFull)];
    let told = events(&cluster, &service, request(anywhere())).await.expect("ended");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
    let tries = |told: &[Event]| {
        let order = |event: &Event| if let Event::Order(order) = event { Some(order.clone()) } else { None };
        let tries = told.iter().filter_map(order);
        tries.map(|order| (order.migration_id, order.destination.expect("set").host)).collect::<Vec<_>>()
    };
    let first = tries(&told);
    assert_eq!(first.iter().map(|(_, host)| host.as_str()).collect::<Vec<_>>(), ["node-32", "node-31"]);
    assert!(first[0].0 == ID && first[1].0 != ID, "{first:?}");
    let refused = told.iter().find_map(|event| if let Event::Refused(refused) = event { Some(refused) } else { None });
    assert_eq!(refused.map(|refused| refused.refusals[0].reason.as_str()), Some("HOST_FULL"));

    // It is all on the hosts.
    let samples = cluster.world().samples;
    let again = events(&cluster, &other, request(anywhere())).await.expect("ended");
    assert_eq!(tries(&again), first);
    assert_eq!(ended(&again).outcome(), v1::Outcome::Completed);
    assert_eq!(cluster.world().samples, samples, "nothing has moved");
    let ids: BTreeSet<_> = cluster.world().records.keys().map(|(_, id)| id.to_string()).collect();
    assert_eq!(ids.len(), 2);

    // So many, and no more.
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().pre_refusals = vec![("node-31", Reason::HostFull)];
    let wish = fleet::Wish { retries: Some(0), ..anywhere() };
    let (told, status) = events(&cluster, &service, request(wish)).await.expect_err("refused");
    assert_eq!(reason(&status).1, "HOST_FULL");
    assert!(matches!(told.last(), Some(Event::Nowhere(_))), "{told:?}");
}

#[tokio::test]
async fn a_host_that_has_lost_the_place_it_had_is_tried_again() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().pre_refusals = vec![("node-31", Reason::TooManyMigrations)];
    let told = events(&cluster, &service, request(anywhere())).await.expect("ended");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
    assert_eq!(told.iter().filter(|event| matches!(event, Event::Refused(_))).count(), 1, "{told:?}");
    // But not for ever.
    let cluster = Cluster::new().await;
    cluster.world().pre_refusals = vec![("node-31", Reason::TooManyMigrations); 9];
    cluster.vmferry("migrate web").await.code(3);
    assert_eq!(cluster.world().pre_refusals.len(), 6);
}

#[tokio::test]
async fn who_waits_for_a_turn_is_told_for_what_and_waits_no_longer_than_it_wants() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().full = Some("node-31");
    let none = fleet::Wish { patience: Some(prost_types::Duration::default()), ..wish() };
    let (told, status) = events(&cluster, &service, request(none)).await.expect_err("it does not wait");
    assert_eq!(reason(&status), (Code::ResourceExhausted, "TOO_MANY_MIGRATIONS".into()));
    let is_waiting = |event: &&Event| matches!(event, Event::Waiting(_));
    assert_eq!(told.iter().filter(is_waiting).count(), 1, "{told:?}");

    let mut stream = cluster.client(&service, OPS).migrate(request(wish())).await.expect("begun").into_inner();
    let mut told = Vec::new();
    while let Some(response) = stream.message().await.expect("told") {
        let event = response.event.expect("set");
        if let Event::Waiting(waiting) = &event {
            assert_eq!((waiting.host.as_str(), waiting.limit, &waiting.busy[..]), ("node-31", 1, &["db".into()][..]));
            assert_eq!(waiting.side(), v1::Side::Destination);
            cluster.world().full = None;
        }
        told.push(event);
    }
    assert_eq!(told.iter().filter(is_waiting).count(), 1, "once, not at every answer: {told:?}");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
}

#[tokio::test]
async fn a_repeat_that_asks_for_something_else_is_another_one() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    events(&cluster, &service, request(wish())).await.expect("ended");
    let slower = fleet::wish::Live { bandwidth_bytes_per_second: Some(1 << 24), ..fleet::wish::Live::default() };
    for other in [
        fleet::Wish { source: "node-31".into(), ..wish() },
        fleet::Wish { how: Some(fleet::wish::How::Live(slower)), ..wish() },
        fleet::Wish {
            target: Some(fleet::Target { exclude: vec!["node-31".into()], ..fleet::Target::default() }),
            ..anywhere()
        },
    ] {
        let (_, status) = events(&cluster, &service, request(other)).await.expect_err("another one");
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_REQUEST".into()));
    }
    // It left that open, and means this one.
    let told = events(&cluster, &service, request(anywhere())).await.expect("known");
    assert_eq!(ended(&told).outcome(), v1::Outcome::Completed);
}

#[tokio::test]
async fn a_source_is_asked_once_for_its_policies_however_many_are_tried() {
    let cluster = Cluster::new().await;
    cluster.vmferry("migrate web --policy auto").await.success();
    assert_eq!(cluster.world().policies_asked, 1);
}
