//! `vmferry migrate` and what ends migrations: every way out with its exit code, its words and where the guest is.

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::cluster::{Cluster, INSTANCE, said, send};

#[tokio::test]
async fn moves_an_instance_and_measures_it() {
    let cluster = Cluster::new().await;
    let (code, document) = cluster.json("migrate web --to node-31").await;
    assert_eq!(code, 0, "{document}");
    for (key, value) in [("outcome", "completed"), ("source", "node-28"), ("destination", "node-31")] {
        assert_eq!(document[key], value);
    }
    assert_eq!(document["instance_id"], INSTANCE);
    assert_eq!(document["downtime_ms"], 74);
    assert!(document["wall_ms"].as_u64() >= document["total_time_ms"].as_u64());
    let phases: Vec<_> = document["phases"].as_array().expect("a list").iter().map(|span| &span["phase"]).collect();
    assert_eq!(phases, ["check", "pre", "migrate", "post"]);
    assert!(cluster.world().on_destination);

    let (_, history) = cluster.json("migrations").await;
    assert_eq!(history["migrations"][0]["id"], document["migration_id"]);
    assert_eq!(history["migrations"][0]["outcome"], "completed");
}

#[tokio::test]
async fn off_a_terminal_progress_is_plain_lines_on_stderr() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("migrate web --to node-31").await.success().get_output().clone();
    let (told, data) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    for line in ["check    ok", "pre      ok", "migrate  round 1", "migrate  ok", "post     ok"] {
        assert!(told.lines().any(|told| told.starts_with(line)), "{line}: {told}");
    }
    assert!(!told.contains('\x1b') && !told.contains('\r'), "{told}");
    assert!(data.contains("runs on") && data.contains("downtime") && data.contains("overhead"), "{data}");
}

#[tokio::test]
async fn a_cold_migration_says_first_that_the_guest_sees_a_reboot() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("migrate web --to node-31 --cold --dry-run").await.success().get_output().clone();
    assert!(said(&output).contains("it sees a reboot"), "{}", said(&output));
    let arguments = "migrate web --to node-31 --cold --shutdown-timeout 90s --shutdown-fallback give-up";
    let output = cluster.vmferry(arguments).await.success().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let warned =
        told.find("its guest sees a reboot; if it does not shut down within 1 min 30 s, it runs on and does not move");
    assert!(warned.is_some_and(|warned| told.find("check").is_some_and(|check| warned < check)), "{told}");
    // The source says 74 ms, the destination adds what its start took.
    assert!(said(&output).contains("574 ms (from its shutdown until it ran again)"), "{}", said(&output));

    for arguments in ["--shutdown-timeout 1m", "--cold --shutdown-timeout soon", "--cold --shutdown-fallback pray"] {
        cluster.vmferry(&format!("migrate web --to node-31 {arguments}")).await.code(2);
    }
}

#[tokio::test]
async fn a_refusal_changes_nothing_and_says_all() {
    let cluster = Cluster::new().await;
    cluster.world().refuses = true;
    for arguments in ["migrate web --to node-31", "migrate web --to node-31 --dry-run"] {
        let output = cluster.vmferry(arguments).await.code(3).get_output().clone();
        assert!(said(&output).contains("MEMORY_SHORT") && said(&output).contains("choose another host"));
    }
    assert!(cluster.world().records.is_empty());
    let (code, document) = cluster.json("migrate web --to node-31").await;
    assert_eq!((code, document["refusals"][0]["reason"].as_str()), (3, Some("MEMORY_SHORT")));
    let (code, document) = cluster.json("migrate web --to node-31 --dry-run").await;
    assert_eq!((code, document["would_migrate"].as_bool()), (3, Some(false)));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::new().await;
    cluster.vmferry("migrate web --to node-31 --dry-run").await.success();
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn what_cannot_be_meant_is_usage() {
    let cluster = Cluster::new().await;
    for (arguments, words) in [
        ("migrate mail --to node-31", "no instance mail"),
        ("migrate web --to node-99", "node-28, node-31"),
        ("migrate web --to node-31 --from node-31", "on node-28"),
        ("migrations show ffff0000", "no host of the inventory knows"),
        ("migrate", "<INSTANCE>"),
        ("migrate web --to node-31 --fast", "--fast"),
        ("instances --inventory /nonexistent.toml", "/nonexistent.toml"),
    ] {
        let output = cluster.vmferry(arguments).await.code(2).get_output().clone();
        assert!(said(&output).contains(words), "{arguments}: {}", said(&output));
        let (code, document) = cluster.json(arguments).await;
        assert_eq!(document["exit_code"], code);
    }
}

#[tokio::test]
async fn a_dead_destination_is_told_and_the_guest_untouched() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    let output = cluster.vmferry("migrate web --to node-31").await.code(7).get_output().clone();
    for words in ["node-31", "connection refused", "web stays on node-28"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    // It might be there.
    cluster.vmferry("instance show mail").await.code(7);
}

#[tokio::test]
async fn a_broken_stream_is_joined_again() {
    let cluster = Cluster::new().await;
    cluster.world().breaks = true;
    cluster.vmferry("migrate web --to node-31").await.success();
    assert!(cluster.world().on_destination);
}

#[tokio::test]
async fn a_failed_job_leaves_the_guest_on_the_source() {
    let cluster = Cluster::new().await;
    cluster.world().fails = true;
    let output = cluster.vmferry("migrate web --to node-31").await.code(1).get_output().clone();
    let told =
        ["migrate  failed", "MIGRATION_FAILED", "web runs on node-28", "failed_rolled_back", "vmferry migrations show"];
    for words in told {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[tokio::test]
async fn a_guest_that_died_on_the_way_is_told_to_be_off_on_its_source_with_what_to_do() {
    let cluster = Cluster::new().await;
    cluster.world().fails = true;
    cluster.world().kills = true;
    let output = cluster.vmferry("migrate web --to node-31").await.code(1).get_output().clone();
    let text = said(&output);
    assert!(text.contains("web was not moved to node-31") && text.contains("MIGRATION_FAILED"), "{text}");
    assert!(text.contains("web is shut off on node-28: start it there (virsh start web)"), "{text}");
    assert!(!text.contains("runs on") && !text.contains("as before"), "{text}");

    let (code, document) = cluster.json("migrate web --to node-31").await;
    assert_eq!((code, &document["outcome"], &document["guest"]), (1, &"failed_rolled_back".into(), &"shutoff".into()));
    assert!(document["runs_on"].is_null(), "{document}");
    let id = document["migration_id"].as_str().expect("an id");
    // Whoever asks later hears the same.
    let (_, shown) = cluster.json(&format!("migrations show {id}")).await;
    assert_eq!([&shown["guest"], &shown["source"]["guest"]], ["shutoff"; 2], "{shown}");
    assert!(shown["destination"]["guest"].is_null(), "{shown}");
    for (command, words) in [
        (format!("migrations show {id}"), "web is shut off on node-28: start it there (virsh start web)"),
        ("migrations".to_owned(), "failed_rolled_back, shut off"),
        (format!("watch {id}"), "(web stayed on node-28, where it was shut off at the end: virsh start web)"),
    ] {
        let output = cluster.vmferry(&command).await.get_output().clone();
        assert!(String::from_utf8_lossy(&output.stdout).contains(words), "{command}: {output:?}");
    }
}

#[tokio::test]
async fn a_guest_that_died_as_soon_as_it_had_moved_is_told_to_be_off_on_its_destination() {
    let cluster = Cluster::new().await;
    cluster.world().kills = true;
    let output = cluster.vmferry("migrate web --to node-31").await.success().get_output().clone();
    let text = said(&output);
    assert!(text.contains("web was moved and is shut off on node-31: start it there"), "{text}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("is shut off on") && !told.contains("runs on"), "{told}");
    let (_, shown) = cluster.json("migrations").await;
    assert_eq!(shown["migrations"][0]["guest"], "shutoff", "{shown}");
}

#[tokio::test]
async fn an_id_is_told_once_the_hosts_know_it() {
    let cluster = Cluster::new().await;
    let moved = cluster.vmferry("migrate web --to node-31").await.success().get_output().clone();
    let told = String::from_utf8_lossy(&moved.stderr).into_owned();
    let (before, after) = told.split_once("(migration ").expect("its id");
    assert!(before.contains("check    ok") && after.contains("pre      ok"), "{told}");

    let cluster = Cluster::new().await;
    cluster.world().refuses = true;
    let refused = cluster.vmferry("migrate web --to node-31").await.code(3).get_output().clone();
    assert!(!said(&refused).contains("(migration "), "{}", said(&refused));
    let planned = cluster.vmferry("migrate web --to node-31 --dry-run").await.code(3).get_output().clone();
    assert!(!said(&planned).contains("steps:"), "{}", said(&planned));
    cluster.world().refuses = false;
    let planned = cluster.vmferry("migrate web --to node-31 --dry-run").await.success().get_output().clone();
    assert!(said(&planned).contains("steps: check, pre"), "{}", said(&planned));
}

#[tokio::test]
async fn the_beginning_of_a_name_will_do_only_if_every_host_answered() {
    let mut cluster = Cluster::new().await;
    cluster.vmferry("migrate we --to node-31").await.success();
    cluster.stop(0).await;
    let output = cluster.vmferry("migrate we --to node-31").await.code(7).get_output().clone();
    assert!(said(&output).contains("did you mean web?"), "{}", said(&output));
}

#[tokio::test]
async fn what_an_agent_says_of_itself_names_its_host_and_a_remedy() {
    let cluster = Cluster::new().await;
    cluster.world().is_without_libvirt = true;
    let output = cluster.vmferry("hypervisors").await.success().get_output().clone();
    let warning = "warning: node-28: libvirt cannot be reached at qemu:///system: refused; see to libvirtd there";
    assert!(said(&output).contains(warning), "{}", said(&output));
    let output = cluster.vmferry("migrate mail --to node-31").await.code(7).get_output().clone();
    assert!(said(&output).contains("\n  node-28: libvirt cannot"), "{}", said(&output));
    let output = cluster.vmferry("instances").await.success().get_output().clone();
    assert!(said(&output).contains("node-28 is not in it: libvirt cannot"), "{}", said(&output));
}

#[tokio::test]
async fn an_interrupt_aborts() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let cluster = Cluster::new().await;
        cluster.world().is_slow = true;
        let running = cluster.start("migrate web --to node-31");
        cluster.moving().await;
        send(signal, &running);
        let output = running.wait_with_output().await.expect("ran");
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("aborting: web stays on node-28"), "{}", said(&output));
        assert!(said(&output).contains("migrate  aborted"), "{}", said(&output));
        assert!(!cluster.world().on_destination);
        assert!(cluster.world().records.values().all(|record| record.ended.is_some()));
    }
}

#[tokio::test]
async fn a_second_interrupt_leaves_at_once_and_says_how_to_go_on() {
    let cluster = Cluster::new().await;
    cluster.world().is_slow = true;
    cluster.world().is_deaf = true;
    let mut running = cluster.start("migrate web --to node-31 --output json");
    cluster.moving().await;
    send(Signal::SIGINT, &running);
    let mut told = BufReader::new(running.stderr.take().expect("piped")).lines();
    while !told.next_line().await.expect("text").expect("more").contains("aborting") {}
    send(Signal::SIGINT, &running);
    let last = told.next_line().await.expect("text").expect("more");
    let output = running.wait_with_output().await.expect("ran");
    assert_eq!(output.status.code(), Some(130));
    for way in ["migrations show", "abort", "migrations resolve"] {
        assert!(last.contains(&format!("vmferry {way} ")), "{last}");
    }
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(document["exit_code"], 130);
}

#[tokio::test]
async fn an_abort_from_elsewhere_ends_the_coordinator_too() {
    let cluster = Cluster::new().await;
    cluster.world().is_slow = true;
    let running = cluster.start("migrate web --to node-31");
    cluster.moving().await;
    let (_, open) = cluster.json("migrations --active").await;
    let id = open["migrations"][0]["id"].as_str().expect("an id").to_owned();
    cluster.vmferry(&format!("abort {id}")).await.success();
    let output = running.wait_with_output().await.expect("ran");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("migrate  aborted"), "{}", said(&output));
}

#[tokio::test]
async fn to_resolve_is_done_when_it_is_rolled_back() {
    let cluster = Cluster::new().await;
    let id = cluster.left_behind().await;
    cluster.world().fails = true;
    let output = cluster.vmferry(&format!("migrations resolve {id}")).await.success().get_output().clone();
    assert!(said(&output).contains("web was not moved to node-31"), "{}", said(&output));
    assert!(!said(&output).contains("error:"), "{}", said(&output));

    let (code, past) = cluster.json(&format!("migrations resolve {id}")).await;
    let past = &past["migrations"][0];
    assert_eq!((code, past["outcome"].as_str()), (0, Some("failed_rolled_back")));
    assert!(past["message"].as_str().expect("text").contains("failed, rolled back (web stayed on node-28)"), "{past}");
    let (code, past) = cluster.json(&format!("abort {id}")).await;
    assert_eq!((code, past["outcome"].as_str()), (0, Some("failed_rolled_back")));
    assert!(
        past["runs_on"].is_null() && past["message"].as_str().expect("text").contains("has ended already"),
        "{past}"
    );
}

#[tokio::test]
async fn what_is_left_to_take_back_is_no_end() {
    let cluster = Cluster::new().await;
    let id = cluster.left_behind().await;
    cluster.world().fails = true;
    cluster.world().leaves = true;
    let (code, document) = cluster.json(&format!("migrations resolve {id}")).await;
    assert_eq!((code, document["migrations"][0]["outcome"].as_str()), (1, Some("failed_rolled_back")), "{document}");
    cluster.world().leaves = false;
    // Both halves have ended, and yet there is something to do.
    let (code, document) = cluster.json("migrations resolve").await;
    assert_eq!((code, document["migrations"][0]["runs_on"].as_str()), (0, Some("node-28")), "{document}");
    let (code, document) = cluster.json("migrations resolve").await;
    assert_eq!((code, document["migrations"].as_array().map(Vec::len)), (0, Some(0)), "{document}");
}

#[tokio::test]
async fn an_old_end_is_not_told_as_what_is() {
    let cluster = Cluster::new().await;
    let (_, done) = cluster.json("migrate web --to node-31").await;
    let id = done["migration_id"].as_str().expect("an id");
    // It was moved on since.
    cluster.world().on_destination = false;
    let output = cluster.vmferry(&format!("migrations resolve {id}")).await.success().get_output().clone();
    for words in [&format!("migration {id} ended at 20"), ": completed (moved web from node-28 to node-31)"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    assert!(!said(&output).contains("runs on"), "{}", said(&output));
    let (code, past) = cluster.json(&format!("migrations resolve {id}")).await;
    let past = &past["migrations"][0];
    assert_eq!((code, past["outcome"].as_str(), past["downtime_ms"].as_u64()), (0, Some("completed"), Some(74)));
    assert!(past["runs_on"].is_null() && past["ended"].is_string(), "{past}");
}

#[tokio::test]
async fn nothing_to_resolve_is_certain_only_if_all_were_asked() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    let output = cluster.vmferry("migrations resolve").await.code(7).get_output().clone();
    let words = "no migration is open on the hosts that answered; node-31 could not be asked";
    assert!(said(&output).contains(words) && !said(&output).contains("nothing to resolve"), "{}", said(&output));
    let (code, document) = cluster.json("migrations resolve").await;
    assert_eq!((code, document["unreachable"][0]["host"].as_str()), (7, Some("node-31")));
    assert_eq!(document["exit_code"], 7);
}

#[tokio::test]
async fn what_a_killed_coordinator_left_is_shown_and_resolved() {
    let cluster = Cluster::new().await;
    cluster.world().is_slow = true;
    let mut running = cluster.start("migrate web --to node-31");
    cluster.moving().await;
    running.kill().await.expect("killed");

    let (_, open) = cluster.json("migrations --active").await;
    let id = open["migrations"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(open["migrations"][0]["outcome"], serde_json::Value::Null);
    cluster.world().is_slow = false;
    let (code, resolved) = cluster.json("migrations resolve").await;
    assert_eq!((code, resolved["migrations"][0]["migration_id"].as_str()), (0, Some(id.as_str())));
    assert!(cluster.world().on_destination);

    let output = cluster.vmferry("migrations resolve").await.success().get_output().clone();
    assert!(said(&output).contains("nothing to resolve"));
    cluster.vmferry(&format!("migrations show {id}")).await.success();
}

#[tokio::test]
async fn a_migration_nobody_drives_can_be_aborted_once() {
    let cluster = Cluster::new().await;
    cluster.world().is_slow = true;
    let mut running = cluster.start("migrate web --to node-31");
    cluster.moving().await;
    running.kill().await.expect("killed");
    let (_, open) = cluster.json("migrations --active").await;
    let id = open["migrations"][0]["id"].as_str().expect("an id").to_owned();

    let (code, aborted) = cluster.json(&format!("abort {id}")).await;
    assert_eq!((code, aborted["outcome"].as_str()), (0, Some("aborted_rolled_back")), "{aborted}");
    let (_, all) = cluster.json("migrations").await;
    assert_eq!(all["migrations"][0]["outcome"], "aborted_rolled_back");
}

#[tokio::test]
async fn it_is_too_late_to_abort_what_is_done() {
    let cluster = Cluster::new().await;
    let (_, done) = cluster.json("migrate web --to node-31").await;
    let id = done["migration_id"].as_str().expect("an id");
    let output = cluster.vmferry(&format!("abort {id}")).await.code(1).get_output().clone();
    for words in ["too late to abort", "has ended already", "completed (moved web from node-28 to node-31)"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    let (code, document) = cluster.json(&format!("abort {id}")).await;
    assert_eq!((code, document["error"]["reason"].as_str()), (1, Some("TOO_LATE_TO_ABORT")));
}

#[tokio::test]
async fn a_viewer_only_looks() {
    let cluster = Cluster::new().await;
    let inventory = cluster.inventory("viewer-dashboard");
    cluster.vmferry(&format!("migrations --inventory {inventory}")).await.success();
    let arguments = format!("migrations resolve --inventory {inventory}");
    let output = cluster.vmferry(&arguments).await.code(7).get_output().clone();
    assert!(said(&output).contains("role coordinator"), "{}", said(&output));
}
