//! Who looks on.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use vmferry_proto::{fleet, v1};

use super::{ID, OPS, VIEWER, request};
use crate::cluster::Cluster;

#[tokio::test]
async fn who_is_slow_is_told_everything_and_holds_up_nobody() {
    let cluster = Cluster::new().await;
    let service = cluster.serve().await;
    cluster.world().is_slow = true;
    let _begun = cluster.client(&service, OPS).migrate(request(ID)).await.expect("begun");
    cluster.moving().await;
    // Far more than connections and channels hold on the way.
    let samples = 20_000;
    cluster.world().samples = samples;
    let watch = fleet::WatchMigrationRequest { migration: "web".into(), after: 0 };
    let mut slow = cluster.client(&service, VIEWER).watch_migration(watch).await.expect("known").into_inner();
    sleep(Duration::from_secs(2)).await;
    let get = fleet::GetMigrationRequest { migration: ID.into() };
    let answer = timeout(Duration::from_secs(5), cluster.client(&service, VIEWER).get_migration(get)).await;
    answer.expect("others are answered meanwhile").expect("known");

    let (mut last, mut is_over) = (0, false);
    while let Some(seen) = slow.message().await.expect("told") {
        if seen.progress.is_some() {
            assert_eq!(seen.token, last + 1, "none is left out, and none told twice");
            last = seen.token;
        }
        if last == samples {
            cluster.world().is_slow = false;
        }
        is_over = seen.migration.expect("set").outcome() != v1::Outcome::Unspecified;
    }
    assert!(last >= samples && is_over, "{last} samples");
}
