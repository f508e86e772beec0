//! Migrations that are aborted before anything was changed for them, at the coordinator that drives them and at others.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use vmferry_proto::{fleet, v1};

use super::{ID, OPS, ended, events, reason, request};
use crate::cluster::{Cluster, Service};

const EARLIER: &str = "0190f5fe-7c00-7a00-8abc-000000000001";

async fn abort(cluster: &Cluster, service: &Service, migration: &str) -> Result<fleet::Ended, Status> {
    let request = fleet::AbortMigrationRequest { migration: migration.into() };
    let answer = cluster.client(service, OPS).abort_migration(request).await?;
    Ok(answer.into_inner().ended.expect("set"))
}

async fn until_one_waits(cluster: &Cluster) {
    while cluster.world().waiters.is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_that_waits_is_aborted_at_any_coordinator_whatever_ended_before() {
    for (host, by_id, elsewhere) in
        [("node-28", false, false), ("node-28", true, true), ("node-31", true, false), ("node-31", false, true)]
    {
        let case = format!("waits on {host}, by id: {by_id}, at another coordinator: {elsewhere}");
        let cluster = Cluster::new().await;
        let (driving, other) = (cluster.serve().await, cluster.serve().await);
        cluster.world().fails = true;
        let told = events(&cluster, &driving, request(EARLIER)).await.expect("ended");
        assert_eq!(ended(&told).outcome(), v1::Outcome::FailedRolledBack);
        cluster.world().fails = false;
        cluster.world().full = Some(host);
        let aborting = async {
            until_one_waits(&cluster).await;
            let asked = if elsewhere { &other } else { &driving };
            abort(&cluster, asked, if by_id { ID } else { "web" }).await.expect(&case)
        };
        let (told, aborted) = tokio::join!(events(&cluster, &driving, request(ID)), aborting);
        assert_eq!(aborted.outcome(), v1::Outcome::Unspecified, "{case}: {aborted:?}");
        assert_eq!(aborted.cause.map(|cause| cause.reason).as_deref(), Some("MIGRATION_ABORTED"), "{case}");
        assert!(aborted.message.contains("nothing was changed, web stays on node-28"), "{case}: {}", aborted.message);
        let (_, status) = told.expect_err("it was never begun");
        assert_eq!(reason(&status), (Code::Aborted, "MIGRATION_ABORTED".into()), "{case}");
        let world = cluster.world();
        assert!(world.waiters.is_empty() && !world.on_destination, "{case}");
        assert!(world.records.keys().all(|(_, id)| id.to_string() == EARLIER), "{case}");
    }
}

#[tokio::test]
async fn one_that_is_being_checked_is_aborted_at_any_coordinator() {
    for elsewhere in [false, true] {
        let cluster = Cluster::new().await;
        let (driving, other) = (cluster.serve().await, cluster.serve().await);
        cluster.world().slow_host = Some(("node-28", Duration::from_millis(1500)));
        cluster.world().is_slow = true;
        let aborting = async {
            sleep(Duration::from_millis(300)).await;
            let began = Instant::now();
            let aborted = abort(&cluster, if elsewhere { &other } else { &driving }, ID).await.expect("aborted");
            (aborted, began.elapsed())
        };
        let (told, (aborted, took)) = tokio::join!(events(&cluster, &driving, request(ID)), aborting);
        assert_eq!(aborted.cause.map(|cause| cause.reason).as_deref(), Some("MIGRATION_ABORTED"));
        assert!(!cluster.world().on_destination);
        if elsewhere {
            // No host knew of it yet: it is waited for.
            assert_eq!(aborted.outcome, i32::from(v1::Outcome::AbortedRolledBack));
            assert_eq!(ended(&told.expect("begun")).outcome(), v1::Outcome::AbortedRolledBack);
        } else {
            assert_eq!(reason(&told.expect_err("never begun").1), (Code::Aborted, "MIGRATION_ABORTED".into()));
            assert!(took < Duration::from_secs(1) && cluster.world().records.is_empty(), "{took:?}");
        }
    }
}

#[tokio::test]
async fn a_name_means_what_goes_on_and_an_id_what_has_ended_too() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().fails = true;
    events(&cluster, &service, request(EARLIER)).await.expect("ended");
    let status = abort(&cluster, &service, "web").await.expect_err("nothing goes on");
    assert_eq!(reason(&status), (Code::NotFound, "MIGRATION_NOT_FOUND".into()));
    assert!(
        status.message().contains(&format!("no migration of web goes on; the last one, {EARLIER}, ended")),
        "{status}"
    );
    let past = abort(&cluster, &service, EARLIER).await.expect("it has ended");
    assert_eq!(past.outcome(), v1::Outcome::FailedRolledBack);

    let began = Instant::now();
    let status = abort(&cluster, &service, ID).await.expect_err("nobody knows it");
    assert_eq!(reason(&status), (Code::NotFound, "MIGRATION_NOT_FOUND".into()));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
