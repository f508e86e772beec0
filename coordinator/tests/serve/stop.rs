//! How it ends, and what it says of what goes on without it.

use std::time::Duration;

use nix::sys::signal::Signal;
use tonic::Code;
use vmferry_proto::v1;

use super::{ID, OPS, ended, events, reason, request};
use crate::cluster::Cluster;

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
