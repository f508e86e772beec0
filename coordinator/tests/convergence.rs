//! How a migration comes to its end, as the user asks for it, sees it and changes it.

use std::time::Duration;

use bytesize::ByteSize;
use vmferry_core::migration::{Path, Steering};

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn what_its_policy_gives_up_has_an_exit_code_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.world().expires = true;
    let (code, document) = cluster.json("migrate web --to node-31 --policy gentle").await;
    assert_eq!((code, document["cause"]["reason"].as_str()), (5, Some("NOT_CONVERGING")), "{document}");
    assert_eq!((&document["outcome"], &document["runs_on"]), (&"failed_rolled_back".into(), &"node-28".into()));
    let order = cluster.world().records.values().next().expect("one").order.clone();
    assert_eq!(order.limits.policy.name(), "gentle");
}

#[tokio::test]
async fn limits_of_one_migration_are_part_of_its_order() {
    let cluster = Cluster::new().await;
    let limits = "--max-downtime 2s --deadline 5min --bandwidth 100MiB/s --streams 4 --path direct";
    cluster.vmferry(&format!("migrate web --to node-31 {limits}")).await.success();
    let order = cluster.world().records.values().next().expect("one").order.clone();
    assert_eq!(order.limits.policy.longest_downtime(), Duration::from_secs(2));
    let last = order.limits.policy.steps().last().expect("one").to_string();
    assert_eq!((last.as_str(), order.limits.bandwidth), ("after 5m: abort", Some(ByteSize::mib(100))));
    assert_eq!((order.limits.streams.get(), order.limits.path), (4, Path::Direct));
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_before_anybody_is_asked() {
    let cluster = Cluster::new().await;
    for (limits, words) in [
        (
            "--policy nonesuch",
            "no policy nonesuch; there are default, gentle, never-pause, must-finish, postcopy, nova",
        ),
        ("--max-downtime 0s", "no time for which a guest may stand still"),
        ("--max-downtime 40min", "no time for which a guest may stand still"),
        ("--max-downtime=-5ms", "--max-downtime"),
        ("--deadline 0s", "it would abort before anything is sent"),
        ("--bandwidth 0", "too little"),
        ("--bandwidth fast", "is no rate"),
        ("--streams 0", "`0` is no number of streams: write 1 to 16"),
        ("--streams 1000", "`1000` is no number of streams"),
        ("--streams=-1", "`-1` is no number of streams"),
        ("--path tcp", "possible values: tunnel, direct"),
        ("--path direct --cold", "cannot be used with"),
        ("--streams 4 --cold", "cannot be used with"),
        ("--policy gentle --cold", "cannot be used with"),
    ] {
        let output = cluster.vmferry(&format!("migrate web --to node-31 {limits}")).await.code(2).get_output().clone();
        assert!(said(&output).contains(words), "{limits}: {}", said(&output));
    }
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn a_policy_of_the_inventory_is_one_and_may_replace_the_default() {
    let cluster = Cluster::new().await;
    let mut inventory = std::fs::read_to_string(cluster.inventory("inventory")).expect("there");
    inventory += "[policy.default]\ndowntime = \"7ms\"\nsteps = [{ after = \"1h\", do = \"abort\" }]\n";
    std::fs::write(cluster.inventory("inventory"), inventory).expect("written");
    let (code, document) = cluster.json("policies").await;
    assert_eq!((code, &document["policies"][0]["downtime_ms"]), (0, &7.into()), "{document}");
    cluster.vmferry("migrate web --to node-31").await.success();
    let order = cluster.world().records.values().next().expect("one").order.clone();
    assert_eq!(order.limits.policy.downtime(), Duration::from_millis(7));
}

#[tokio::test]
async fn a_migration_that_goes_on_is_told_by_its_instance_or_its_id() {
    let cluster = Cluster::new().await;
    let id = cluster.left_behind().await;
    for command in [
        "set web max-downtime=500ms bandwidth=unlimited",
        &format!("set {id} deadline=20min"),
        "pause web",
        &format!("resume {}", &id[..30]),
        "force-complete web",
    ] {
        cluster.vmferry(command).await.success();
    }
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let steered = cluster.world().steered.clone();
    assert_eq!(
        steered,
        [
            Steering::Downtime(Duration::from_millis(500)),
            Steering::Bandwidth(None),
            Steering::Deadline(minutes(20)),
            Steering::Pause,
            Steering::Resume,
            Steering::Suspend,
        ]
    );
    let (code, document) = cluster.json("set web bandwidth=1GiB/s").await;
    assert_eq!((code, &document["bandwidth_bytes_per_second"]), (0, &(1_u64 << 30).into()), "{document}");
}

#[tokio::test]
async fn nothing_is_told_that_makes_no_sense_or_to_what_does_not_go_on() {
    let cluster = Cluster::new().await;
    let (_, done) = cluster.json("migrate web --to node-31").await;
    let id = done["migration_id"].as_str().expect("an id");
    for (command, code, words) in [
        (format!("set {id} bandwidth=1GiB/s"), 2, "only what goes on can be told anything"),
        ("pause web".into(), 2, "too little of a migration's id"),
        ("set web".into(), 2, "WHAT=VALUE"),
        ("set web speed=9".into(), 2, "cannot be set"),
        (format!("set {id} max-downtime=0s"), 2, "no time for which a guest may stand still"),
        (format!("force-complete {id} --how magic"), 2, "suspend"),
    ] {
        let output = cluster.vmferry(&command).await.code(code).get_output().clone();
        assert!(said(&output).contains(words), "{command}: {}", said(&output));
    }
    let viewer = cluster.inventory("viewer-dashboard");
    let output = cluster.vmferry(&format!("--inventory {viewer} pause {id}")).await.code(7).get_output().clone();
    assert!(said(&output).contains("may only look"), "{}", said(&output));
    assert!(cluster.world().steered.is_empty());
}

#[tokio::test]
async fn a_dry_run_says_how_it_may_go() {
    let cluster = Cluster::new().await;
    cluster.world().writes = 5;
    let output = cluster.vmferry("migrate web --to node-31 --dry-run").await.success().get_output().clone();
    for words in [
        "measured: web writes to 5.0 MiB/s, the way to node-31 carries 100.0 MiB/s",
        "forecast: 538.9 MiB sent in 3 rounds, 5.75 s in all (3.85 s to 12.40 s)",
        "web stands still for 72 ms (61 ms to 94 ms)",
    ] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    cluster.world().writes = 300;
    let output = cluster.vmferry("migrate web --to node-31 --dry-run").await.success().get_output().clone();
    for words in ["web does NOT ARRIVE", "gives up after 10 min", "it would take one of: ", "--policy must-finish"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    // Too much even for one that is slowed down.
    cluster.world().writes = 900;
    let (code, document) = cluster.json("migrate web --to node-31 --dry-run --policy must-finish").await;
    let forecast = &document["forecast"];
    assert_eq!((code, &forecast["converges"], &forecast["likely"]["end"]), (0, &false.into(), &"suspend".into()));
    assert!(forecast["needed_bandwidth_bytes_per_second"].as_u64() > Some(200 << 20), "{forecast:#}");
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn the_policy_that_is_left_open_is_chosen_by_what_is_measured() {
    let cluster = Cluster::new().await;
    for (writes, policy, more) in [
        (5, "default", ""),
        (120, "never-pause", ""),
        (120, "never-pause", "--postcopy"),
        (900, "postcopy", "--postcopy"),
    ] {
        cluster.world().writes = writes;
        let command = format!("plan web --to node-31 --policy auto {more}");
        let output = cluster.vmferry(command.trim_end()).await.success().get_output().clone();
        let chosen = format!("policy {policy}: chosen by what was measured");
        assert!(said(&output).contains(&chosen), "{writes}: {}", said(&output));
        assert!(!said(&output).contains("NOT ARRIVE"), "what was chosen is what is foreseen: {}", said(&output));
    }
    // Postcopy is nobody's choice who has not said so, and nothing else helps.
    let output = cluster.vmferry("migrate web --to node-31 --policy auto").await.code(3).get_output().clone();
    for words in ["web was not moved", "it would take one of: ", "of bandwidth"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    assert!(cluster.world().records.is_empty(), "nothing was begun");
    cluster.world().writes = 120;
    cluster.vmferry("migrate web --to node-31 --policy auto").await.success();
    let world = cluster.world();
    let moved = world.records.values().all(|record| record.order.limits.policy.name() == "never-pause");
    assert!(moved && !world.records.is_empty());
}

#[tokio::test]
async fn of_what_is_refused_nothing_is_foreseen() {
    let cluster = Cluster::new().await;
    cluster.world().refuses = true;
    let (code, document) = cluster.json("migrate web --to node-31 --dry-run").await;
    assert_eq!((code, document["forecast"].is_null()), (3, true), "{document}");
}

/// The lines of `vmferry watch … -o json`.
async fn lines(cluster: &Cluster, arguments: &str) -> (i32, Vec<serde_json::Value>) {
    let output = cluster.start(&format!("watch {arguments} -o json")).wait_with_output().await.expect("ran");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", said(&output))));
    (output.status.code().expect("not killed"), lines.collect())
}

#[tokio::test]
async fn a_migration_can_be_watched_from_elsewhere_to_its_end() {
    let cluster = Cluster::new().await;
    let running = cluster.start("migrate web --to node-31");
    cluster.moving().await;
    let (code, seen) = lines(&cluster, "web").await;
    let (last, samples) = seen.split_last().expect("an end");
    assert_eq!((code, last["outcome"].as_str()), (0, Some("completed")), "{last}");
    let of = |key: &str| samples.iter().map(|sample| sample[key].as_u64().expect(key)).collect::<Vec<_>>();
    assert!(of("token").iter().copied().eq(1..=samples.len() as u64), "each once: {samples:?}");
    assert!(of("percent").is_sorted() && of("percent").iter().all(|percent| *percent < 100), "{samples:?}");
    assert!(running.wait_with_output().await.expect("ran").status.success());

    // Whoever comes late sees the same, and whoever comes again the rest of it.
    let id = last["migration_id"].as_str().expect("an id").to_owned();
    assert_eq!(lines(&cluster, &id).await.1.len(), seen.len());
    assert_eq!(lines(&cluster, &format!("{id} --after 4")).await.1.len(), seen.len() - 4);
    let output = cluster.vmferry("watch web").await.success().get_output().clone();
    assert!(said(&output).contains("completed (moved web from node-28 to node-31)"), "{}", said(&output));
}

#[tokio::test]
async fn a_watcher_that_is_cut_off_goes_on_where_it_was() {
    let cluster = Cluster::new().await;
    let id = cluster.left_behind().await;
    let watching = cluster.start("watch web -o json");
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.world().breaks = true;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.vmferry(&format!("abort {id}")).await.success();
    let output = watching.wait_with_output().await.expect("ran");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let tokens: Vec<u64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["token"].as_u64())
        .collect();
    assert!(!cluster.world().breaks && tokens.iter().copied().eq(1..=tokens.len() as u64), "{}", said(&output));
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    cluster.vmferry("watch nonesuch").await.code(2);
}

#[tokio::test]
async fn a_watcher_waits_until_both_hosts_are_done() {
    let cluster = Cluster::new().await;
    cluster.world().lingers = true;
    let id = cluster.left_behind().await;
    let watching = cluster.start("watch web -o json");
    cluster.vmferry(&format!("abort {id}")).await.success();
    let output = watching.wait_with_output().await.expect("ran");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("an end")).expect("JSON");
    assert_eq!((output.status.code(), last["outcome"].as_str()), (Some(4), Some("aborted_rolled_back")), "{last}");
}

#[tokio::test]
async fn an_abort_may_name_the_instance() {
    let cluster = Cluster::new().await;
    cluster.left_behind().await;
    let (code, aborted) = cluster.json("abort web").await;
    assert_eq!((code, aborted["outcome"].as_str()), (0, Some("aborted_rolled_back")), "{aborted}");
}
