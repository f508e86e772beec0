//! A destination that is chosen, and hosts that are emptied.

use serde_json::json;

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn a_guest_goes_to_the_host_that_suits_it_if_none_is_named() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("migrate web").await.success().get_output().clone();
    let told = said(&output);
    assert!(told.contains("web: node-31 is chosen (the only one that comes into question)"), "{told}");
    assert!(told.contains("node-28 → node-31"), "{told}");
}

#[tokio::test]
async fn the_inventory_says_what_counts_for_how_much() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    let chosen = async || said(cluster.vmferry("migrate web --dry-run").await.success().get_output());
    // It is in the guest's zone, and node-31 is not.
    let told = chosen().await;
    assert!(told.contains("web: node-32 is chosen"), "{told}");
    cluster.say("[schedule]\nsame_zone = -100\n");
    let told = chosen().await;
    assert!(told.contains("web: node-31 is chosen"), "{told}");
}

#[tokio::test]
async fn without_a_host_that_takes_it_all_reasons_are_told_and_nothing_is_changed() {
    let cluster = Cluster::new().await;
    for (arguments, reason) in [
        ("migrate web --zone nova3", "ZONE_DIFFERS"),
        ("migrate web --exclude node-31", "HOST_EXCLUDED"),
        ("plan web --zone nova3", "ZONE_DIFFERS"),
        ("check web --zone nova3", "ZONE_DIFFERS"),
    ] {
        let (code, document) = cluster.json(arguments).await;
        assert_eq!(code, 3, "{arguments}: {document}");
        assert_eq!(document["exit_code"], 3, "{arguments}");
        assert_eq!(document["hosts"][0]["host"], "node-31", "{arguments}: {document}");
        assert_eq!(document["hosts"][0]["refusals"][0]["reason"], reason, "{arguments}");
        assert_eq!(document["hosts"][0]["asked"], false, "{arguments}");
    }
    cluster.world().refuses = true;
    let (code, document) = cluster.json("migrate web").await;
    assert_eq!((code, &document["hosts"][0]["refusals"][0]["reason"]), (3, &json!("MEMORY_SHORT")), "{document}");
    let output = cluster.vmferry("migrate web").await.code(3).get_output().clone();
    let told = said(&output);
    assert!(told.contains("web cannot move: the one host that comes into question does not take it"), "{told}");
    assert!(told.contains("web needs 256.0 MiB, node-31 has 12.0 MiB"), "{told}");
    assert!(!cluster.world().on_destination && cluster.world().records.is_empty());
}

#[tokio::test]
async fn a_host_that_is_down_is_a_reason_too() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    let (code, document) = cluster.json("migrate web").await;
    assert_eq!((code, &document["hosts"][0]["refusals"][0]["reason"]), (7, &json!("AGENT_UNREACHABLE")), "{document}");
}

#[tokio::test]
async fn names_that_nobody_has_are_told_before_anybody_is_asked() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    cluster.stop(0).await;
    for arguments in
        ["migrate web --exclude node-99", "check web --to node-99", "drain node-99", "migrate web --to node-31,node-99"]
    {
        let output = cluster.vmferry(arguments).await.code(2).get_output().clone();
        assert!(said(&output).contains("no host node-99 in the inventory"), "{arguments}: {}", said(&output));
    }
}

#[tokio::test]
async fn hosts_are_asked_who_could_take_it() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("check web").await.success().get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout), @"
    web (node-28, 2 vCPUs, 256.0 MiB of memory) can go to 1 of 1 hosts
    HOST     ZONE   TAKES IT  SCORE  REASONS
    node-31  nova2  yes       0.00
    ");
    cluster.world().refuses = true;
    let output = cluster.vmferry("check web --all-hosts").await.code(3).get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout), @"
    web (node-28, 2 vCPUs, 256.0 MiB of memory) cannot go to any of 1 hosts
    HOST     ZONE   TAKES IT  SCORE  REASONS
    node-31  nova2  no        0.00   MEMORY_SHORT
      node-31 memory: web needs 256.0 MiB, node-31 has 12.0 MiB [MEMORY_SHORT]
        → choose another host
    ");
}

#[tokio::test]
async fn a_drain_says_what_it_would_do() {
    let cluster = Cluster::new().await;
    let (code, document) = cluster.json("drain node-28 --dry-run").await;
    assert_eq!(code, 0, "{document}");
    assert_eq!(document["moves"][0]["instance"], "web");
    assert_eq!(document["moves"][0]["destination"], "node-31");
    assert!(document["foreseen_ms"].as_u64().expect("a time") > 1_000, "{document}");
    assert!(cluster.world().records.is_empty());

    let (code, document) = cluster.json("drain node-28 --dry-run --zone nova3").await;
    assert_eq!(code, 3, "{document}");
    let reasons = document["blocked"][0]["objections"].as_array().expect("a list");
    assert!(reasons.iter().any(|objection| objection["reason"] == "ZONE_DIFFERS"), "{document}");
}

#[tokio::test]
async fn a_plan_that_was_saved_is_insisted_on() {
    let cluster = Cluster::new().await;
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("web.plan").display().to_string();
    let output = cluster.vmferry(&format!("plan web --save {file}")).await.success().get_output().clone();
    assert!(said(&output).contains(&format!("vmferry migrate --plan {file} insists on it")), "{}", said(&output));
    // What is in it does not go with anything else.
    for arguments in ["migrate --plan nowhere.plan", "migrate web --save x.plan", "migrate web --plan x.plan"] {
        cluster.vmferry(arguments).await.code(2);
    }
    cluster.vmferry(&format!("plan --plan {file}")).await.success();

    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::write(&file, text.replace("\"vcpus\": 2", "\"vcpus\": 4")).expect("written");
    let (code, document) = cluster.json(&format!("migrate --plan {file}")).await;
    assert_eq!((code, &document["refusals"][0]["reason"]), (3, &json!("PLAN_DIFFERS")), "{document}");
    assert_eq!(document["refusals"][0]["message"], "the number of vCPUs of web was planned as 4, and is 2 now");
    assert!(cluster.world().records.is_empty());

    std::fs::write(&file, text).expect("written");
    let (code, document) = cluster.json(&format!("migrate --plan {file}")).await;
    assert_eq!((code, &document["runs_on"]), (0, &json!("node-31")), "{document}");
    // It is not there any more.
    let (code, document) = cluster.json(&format!("migrate --plan {file}")).await;
    assert_eq!(code, 3, "{document}");
}
