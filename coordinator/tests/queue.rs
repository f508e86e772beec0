//! Migrations that wait for their turn, as users see them.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::{process::Child, time::sleep};
use vmferry_core::migration::Priority;

use crate::cluster::{Cluster, said, send};

/// A migration that waits for this host.
async fn waiting(cluster: &Cluster, host: &'static str, arguments: &str) -> Child {
    cluster.world().full = Some(host);
    let running = cluster.start(format!("migrate web --to node-31 --output json {arguments}").trim_end());
    while cluster.world().waiters.is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    running
}

#[tokio::test]
async fn one_that_waits_is_seen_with_its_reason_and_goes_when_it_is_its_turn() {
    for (host, does, side) in [("node-28", "sends", "source"), ("node-31", "takes", "destination")] {
        let cluster = Cluster::new().await;
        let running = waiting(&cluster, host, "--priority high").await;
        let why = format!("{host} {does} at most 1 migration at a time, now db; it is the next");
        let listed = cluster.vmferry("migrations").await.success().get_output().clone();
        let row = said(&listed).lines().nth(1).unwrap_or_default().to_owned();
        for words in ["web", "node-28", "node-31", "waiting", "high", "3.00 s", &why] {
            assert!(row.contains(words), "no `{words}` in: {}", said(&listed));
        }
        let (_, document) = cluster.json("migrations --active").await;
        let waiter = &document["waiting"][0];
        assert_eq!((waiter["instance"].as_str(), waiter["why"].as_str()), (Some("web"), Some(why.as_str())));
        assert_eq!((waiter["host"].as_str(), waiter["side"].as_str()), (Some(host), Some(side)), "{waiter}");
        assert_eq!((waiter["priority"].as_str(), waiter["waited_ms"].as_u64()), (Some("high"), Some(3_000)));
        assert_eq!(document["migrations"].as_array().map(Vec::len), Some(0), "nothing was begun: {document}");
        assert_eq!(cluster.world().checks, 2);

        cluster.world().full = None;
        let output = running.wait_with_output().await.expect("ran");
        assert!(output.status.success(), "{}", said(&output));
        let told = said(&output);
        assert_eq!(told.matches(&format!("waiting  {why}")).count(), 1, "once, not at every answer: {told}");
        let world = cluster.world();
        assert!(world.on_destination && world.waiters.is_empty());
        assert_eq!(world.checks, 4, "what was checked before it waited is checked again");
        assert!(world.records.values().all(|record| record.order.priority == Priority::High));
    }
}

#[tokio::test]
async fn whoever_does_not_want_to_wait_is_refused_and_nothing_is_left() {
    for arguments in ["--no-wait", "--queue-timeout 1200ms", "--queue-timeout 0s"] {
        let cluster = Cluster::new().await;
        cluster.world().full = Some("node-31");
        let (code, document) = cluster.json(&format!("migrate web --to node-31 {arguments}")).await;
        assert_eq!((code, document["cause"]["reason"].as_str()), (3, Some("TOO_MANY_MIGRATIONS")), "{document}");
        let message = document["message"].as_str().unwrap_or_default();
        assert!(message.contains("node-31 takes at most 1") && message.contains("nothing was changed"), "{message}");
        assert_eq!((document["outcome"].is_null(), document["runs_on"].as_str()), (true, Some("node-28")));
        let world = cluster.world();
        assert!(world.records.is_empty() && world.waiters.is_empty(), "{arguments}");
    }
    let cluster = Cluster::new().await;
    cluster.vmferry("migrate web --to node-31 --no-wait --queue-timeout 1s").await.code(2);
    cluster.vmferry("migrate web --to node-31 --no-wait").await.success();
}

#[tokio::test]
async fn an_interrupt_ends_the_wait() {
    for host in ["node-28", "node-31"] {
        let cluster = Cluster::new().await;
        let running = waiting(&cluster, host, "").await;
        send(Signal::SIGINT, &running);
        let output = running.wait_with_output().await.expect("ran");
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        let told = said(&output);
        for words in ["MIGRATION_ABORTED", "nothing was changed, web stays on node-28 as it was"] {
            assert!(told.contains(words) && !told.contains("error:"), "{told}");
        }
        let world = cluster.world();
        assert!(world.records.is_empty() && world.waiters.is_empty() && !world.on_destination);
    }
}

#[tokio::test]
async fn another_can_end_the_wait_by_its_name_or_its_id() {
    for (host, by_id) in [("node-28", false), ("node-31", true)] {
        let cluster = Cluster::new().await;
        let running = waiting(&cluster, host, "").await;
        let id = cluster.world().waiters.keys().next().expect("one").to_string();
        let wanted = if by_id { &id[..] } else { "web" };
        let (code, document) = cluster.json(&format!("abort {wanted}")).await;
        assert_eq!((code, document["migration_id"].as_str()), (0, Some(id.as_str())), "{document}");
        assert_eq!(document["cause"]["reason"].as_str(), Some("MIGRATION_ABORTED"), "{document}");
        let output = running.wait_with_output().await.expect("ran");
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("nothing was changed, web stays on node-28"), "{}", said(&output));
        let world = cluster.world();
        assert!(world.records.is_empty() && world.waiters.is_empty() && !world.on_destination);
    }
}

#[tokio::test]
async fn an_agent_that_knows_no_turns_lets_everybody_begin() {
    let cluster = Cluster::new().await;
    cluster.world().is_old = true;
    cluster.vmferry("migrate web --to node-31").await.success();
    assert!(cluster.world().on_destination);
}
