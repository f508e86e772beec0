//! Migrations that programs ask for.

use std::time::Duration;

use nix::sys::signal::Signal;
use tonic::Code;
use vmferry_proto::{
    fleet::{self, migrate_response::Event},
    v1,
};

use super::{ID, OPS, VIEWER, about, ended, events, reason, request, wish};
use crate::cluster::{Cluster, INSTANCE};

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
    assert_eq!((end.outcome(), end.guest()), (v1::Outcome::Completed, v1::Sighting::Running));
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
async fn a_guest_that_died_on_the_way_is_told_to_programs_as_it_was_seen() {
    for (fails, outcome) in [(true, v1::Outcome::FailedRolledBack), (false, v1::Outcome::Completed)] {
        let cluster = Cluster::new().await;
        cluster.world().fails = fails;
        cluster.world().kills = true;
        // The first drives it, the second has it from the hosts' records.
        for service in [cluster.serve().await, cluster.serve().await] {
            let told = events(&cluster, &service, request(ID)).await.expect("ended");
            let end = ended(&told);
            assert_eq!((end.outcome(), end.guest()), (outcome, v1::Sighting::Shutoff), "{end:?}");
            assert!(end.message.contains("shut off") && end.message.contains("virsh start web"), "{end:?}");
        }
    }
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
