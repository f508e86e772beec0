//! The same request at several coordinators, and different ones for the same instance: one move, told by all of them as it is.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use vmferry_proto::{fleet, v1};

use super::{ID, OPS, ended, events, reason, request};
use crate::cluster::Cluster;

const OTHER: &str = "0190f5fe-7c00-7a00-8abc-000000000002";

#[tokio::test]
async fn a_repeat_joins_one_that_waits_and_whatever_becomes_of_it_is_told_by_both() {
    for (host, is_aborted) in [("node-28", false), ("node-31", false), ("node-31", true)] {
        let cluster = Cluster::new().await;
        let (first, second) = (cluster.serve().await, cluster.serve().await);
        cluster.world().full = Some(host);
        let meddling = async {
            while cluster.world().waiters.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            // By itself it would be refused.
            cluster.world().refuses = true;
            let repeat = events(&cluster, &second, request(ID));
            let going_on = async {
                sleep(Duration::from_millis(700)).await;
                assert_eq!(cluster.world().waiters.len(), 1, "nobody has given up");
                cluster.world().refuses = false;
                if is_aborted {
                    let abort = fleet::AbortMigrationRequest { migration: ID.into() };
                    cluster.client(&second, OPS).abort_migration(abort).await.expect("aborted");
                } else {
                    cluster.world().full = None;
                }
            };
            tokio::join!(repeat, going_on).0
        };
        let (told, repeated) = tokio::join!(events(&cluster, &first, request(ID)), meddling);
        if is_aborted {
            for told in [told, repeated] {
                let (_, status) = told.expect_err("never begun");
                assert_eq!(reason(&status), (Code::Aborted, "MIGRATION_ABORTED".into()));
            }
            assert!(cluster.world().records.is_empty());
            continue;
        }
        let ends = [told, repeated].map(|told| ended(&told.expect("ended")).clone());
        assert_eq!(ends.each_ref().map(fleet::Ended::outcome), [v1::Outcome::Completed; 2]);
        assert_eq!(ends[0].statistics, ends[1].statistics);
        assert_eq!(cluster.world().records.len(), 2);
    }
}

#[tokio::test]
async fn two_who_begin_the_same_at_once_with_different_orders_tell_one_end() {
    let cluster = Cluster::new().await;
    // They know the source by different addresses, so that their orders differ.
    let (first, (second, _wire)) = (cluster.serve().await, cluster.serve_over_a_wire().await);
    let told = tokio::join!(events(&cluster, &first, request(ID)), events(&cluster, &second, request(ID)));
    let ends = [told.0, told.1].map(|told| ended(&told.expect("ended")).clone());
    assert_eq!(ends.each_ref().map(fleet::Ended::outcome), [v1::Outcome::Completed; 2], "{ends:?}");
    assert_eq!(ends[0].statistics, ends[1].statistics);
    assert!(cluster.world().on_destination);
}

#[tokio::test]
async fn of_two_that_want_the_same_instance_one_moves_it_and_the_other_is_told_which() {
    let cluster = Cluster::new().await;
    let (first, second) = (cluster.serve().await, cluster.serve().await);
    let told = tokio::join!(events(&cluster, &first, request(ID)), events(&cluster, &second, request(OTHER)));
    let (moved, refused, winner) = match told {
        (Ok(moved), Err(refused)) => (moved, refused.1, ID),
        (Err(refused), Ok(moved)) => (moved, refused.1, OTHER),
        told => panic!("{told:?}"),
    };
    assert_eq!(ended(&moved).outcome(), v1::Outcome::Completed);
    assert_eq!(reason(&refused), (Code::Aborted, "INSTANCE_MIGRATING".into()));
    for words in [winner, "nothing was changed"] {
        assert!(refused.message().contains(words), "{refused}");
    }
}
