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

/// As `migrations show` and `watch` are asked: by its name, or by its id.
fn names(cluster: &Cluster) -> [String; 2] {
    ["web".to_owned(), cluster.world().waiters.keys().next().expect("one").to_string()]
}

#[tokio::test]
async fn one_that_waits_is_shown_with_its_reason() {
    for host in ["node-28", "node-31"] {
        let cluster = Cluster::new().await;
        let running = waiting(&cluster, host, "").await;
        for wanted in names(&cluster) {
            let output = cluster.vmferry(&format!("migrations show {wanted}")).await.success().get_output().clone();
            let why = "at most 1 migration at a time, now db; it is the next";
            assert!(said(&output).contains("waiting") && said(&output).contains(why), "{}", said(&output));
            let (code, shown) = cluster.json(&format!("migrations show {wanted}")).await;
            let waiting = &shown["waiting"];
            assert_eq!(
                (code, shown["source_host"].as_str(), waiting["host"].as_str()),
                (0, Some("node-28"), Some(host))
            );
            assert!(
                shown["outcome"].is_null() && waiting["why"].as_str().is_some_and(|said| said.contains(why)),
                "{shown}"
            );
        }
        drop(running);
    }
}

#[tokio::test]
async fn whoever_watches_one_that_waits_waits_with_it_and_then_follows_it() {
    let cluster = Cluster::new().await;
    cluster.world().is_slow = true;
    let running = waiting(&cluster, "node-31", "").await;
    let [name, id] = names(&cluster);
    let by_name = cluster.start(&format!("watch {name}"));
    let by_id = cluster.start(&format!("watch {id} --output json"));
    sleep(Duration::from_millis(1_500)).await;
    cluster.world().full = None;
    cluster.moving().await;
    sleep(Duration::from_millis(500)).await;
    cluster.world().is_slow = false;
    assert!(running.wait_with_output().await.expect("ran").status.success());
    let output = by_name.wait_with_output().await.expect("ran");
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    for words in ["waiting  node-31 takes at most 1 migration at a time, now db", "migrate", "ended"] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    let output = by_id.wait_with_output().await.expect("ran");
    let lines: Vec<serde_json::Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let (first, last) = (lines.first().expect("lines"), lines.last().expect("lines"));
    assert_eq!((first["waiting"]["host"].as_str(), first["outcome"].is_null()), (Some("node-31"), true), "{first}");
    assert!(lines.iter().any(|line| line["percent"].is_u64()), "{lines:#?}");
    assert_eq!(last["outcome"].as_str(), Some("completed"), "{last}");
}

#[tokio::test]
async fn whoever_watches_one_that_waits_hears_that_it_was_not_begun() {
    let cluster = Cluster::new().await;
    let running = waiting(&cluster, "node-28", "").await;
    let watching = cluster.start("watch web");
    sleep(Duration::from_secs(1)).await;
    cluster.vmferry("abort web").await.success();
    assert_eq!(running.wait_with_output().await.expect("ran").status.code(), Some(4));
    let output = watching.wait_with_output().await.expect("ran");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for words in ["does not wait any more and was not begun", "web was left on node-28"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[tokio::test]
async fn one_that_waits_is_told_nothing_and_that_is_said() {
    let cluster = Cluster::new().await;
    let running = waiting(&cluster, "node-28", "").await;
    let [name, id] = names(&cluster);
    for command in [format!("set {name} max-downtime=1s"), format!("pause {id}"), format!("force-complete {name}")] {
        let output = cluster.vmferry(&command).await.code(1).get_output().clone();
        for words in ["web has not begun", "node-28 sends at most 1", &format!("vmferry abort {id}")] {
            assert!(said(&output).contains(words), "{command}: no `{words}` in {}", said(&output));
        }
    }
    assert!(cluster.world().steered.is_empty());
    // Of one that nobody knows nothing of the kind is said.
    let output = cluster.vmferry("set mail-1 max-downtime=1s").await.code(2).get_output().clone();
    assert!(said(&output).contains("no host of the inventory knows a migration mail-1"), "{}", said(&output));
    drop(running);
}

/// The destination's turn would be another's before the source is ready.
#[tokio::test]
async fn the_turns_of_a_migration_are_kept_while_its_source_gets_ready() {
    let cluster = Cluster::new().await;
    cluster.world().preparing = Duration::from_secs(11);
    cluster.vmferry("migrate web --to node-31").await.success();
    assert_eq!(cluster.world().admissions.get("node-31"), Some(&2), "asked for, and asked to keep");
}

#[tokio::test]
async fn an_interrupt_between_two_hosts_ends_the_search() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    cluster.world().refuses = true;
    cluster.say("[schedule]\nsame_zone = -100\n");
    // It is asked for facts twice: before the first host is tried, and after that has refused.
    cluster.world().slow_host = Some(("node-28", Duration::from_secs(2)));
    let running = cluster.start("migrate web --output json");
    while cluster.world().checks < 3 {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(500)).await;
    send(Signal::SIGINT, &running);
    let output = running.wait_with_output().await.expect("ran");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(
        (document["exit_code"].as_i64(), document["runs_on"].as_str()),
        (Some(4), Some("node-28")),
        "{document}"
    );
    assert_eq!(document["tried"][0]["host"].as_str(), Some("node-31"), "{document}");
    assert_eq!(document["cause"]["reason"].as_str(), Some("MIGRATION_ABORTED"), "{document}");
    let world = cluster.world();
    assert!(world.records.is_empty() && !world.on_destination, "nothing was begun");
}
