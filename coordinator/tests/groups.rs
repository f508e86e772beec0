//! `vmferry groups`, and who is told when a policy changes, as users see it.

use vmferry_core::{
    domain_xml::metadata::interfaces::InterfaceLabel,
    policy::{Member, Memberships, Policy, Told},
};

use crate::cluster::{Cluster, INSTANCE, said};

const OTHER: &str = "8e6a33c1-1564-4d63-8964-f10a6d66e2c2";

/// The guest, in the group with one address.
fn one(id: &str, name: &str, group: &str, address: &str) -> Memberships {
    let groups = [(group.parse().expect("valid"), [address.parse().expect("valid")].into())].into();
    [(id.parse().expect("valid"), Member { name: name.into(), groups })].into()
}

fn told(host: &str, memberships: Memberships) -> Told {
    Told([(host.parse().expect("valid"), memberships)].into())
}

#[tokio::test]
async fn a_policy_that_concerns_groups_is_known_on_all_hosts_at_once() {
    let cluster = Cluster::new().await;
    cluster.world().others = one(OTHER, "db", "web", "192.0.2.8");
    cluster.vmferry("instance policy set web --address 192.0.2.7 --ingress tcp:80").await.success();
    cluster.vmferry("instance network set web blue").await.success();
    assert_eq!(cluster.world().tellings, 0, "no group has to do with it");

    cluster.vmferry("instance policy set web --address 192.0.2.7 --group web").await.success();
    let joined = told("node-28", one(INSTANCE, "web", "web", "192.0.2.7"));
    assert_eq!(cluster.world().told["node-31"], joined);
    assert_eq!(cluster.world().told["node-28"], told("node-31", one(OTHER, "db", "web", "192.0.2.8")));
    let output = cluster.vmferry("groups").await.success().get_output().clone();
    insta::assert_snapshot!(said(&output), @"
    GROUP  ADDRESSES  INSTANCE  HOST
    web    192.0.2.8  db        node-31
    web    192.0.2.7  web       node-28
    ");

    cluster.vmferry("instance policy unset web").await.success();
    assert_eq!(cluster.world().told["node-31"], told("node-28", Memberships::new()));
    // A rule that names a group needs its members.
    cluster.world().told.clear();
    cluster.vmferry("instance policy set web --ingress any@group=web").await.success();
    assert_eq!(cluster.world().told["node-28"], told("node-31", one(OTHER, "db", "web", "192.0.2.8")));
}

#[tokio::test]
async fn a_host_that_cannot_be_told_is_named_and_told_later() {
    let mut cluster = Cluster::new().await;
    // What node-28 remembers of it stays.
    cluster.world().told.insert("node-28".into(), told("node-31", one(OTHER, "db", "web", "192.0.2.8")));
    cluster.stop(1).await;
    let output =
        cluster.vmferry("instance policy set web --address 192.0.2.7 --group web").await.success().get_output().clone();
    let said_then = said(&output);
    assert!(said_then.contains("warning: node-31 may not go by who is in which group now"), "{said_then}");
    assert!(said_then.contains("run `vmferry groups sync`"), "{said_then}");
    assert_eq!(cluster.world().told["node-28"], told("node-31", one(OTHER, "db", "web", "192.0.2.8")));

    let output = cluster.vmferry("groups sync").await.code(9).get_output().clone();
    assert!(said(&output).contains("error: ") && said(&output).contains("not told (AGENT_UNREACHABLE)"));
    let (code, document) = cluster.json("groups").await;
    assert_eq!((code, document["unreachable"][0]["host"].as_str()), (0, Some("node-31")));
    let hosts: Vec<_> = document["members"].as_array().expect("a list").iter().map(|row| &row["host"]).collect();
    assert_eq!(hosts, ["node-31", "node-28"], "what others remember of a silent host is shown");
    cluster.vmferry("groups sync --forget node-31").await.code(9);
    assert_eq!(cluster.world().told["node-28"], told("node-31", Memberships::new()));

    cluster.stop(0).await;
    cluster.vmferry("groups sync").await.code(7);
    cluster.vmferry("groups").await.code(7);
}

#[tokio::test]
async fn what_hosts_remember_wrongly_is_told_and_repaired() {
    let cluster = Cluster::new().await;
    cluster.vmferry("instance policy set web --address 192.0.2.7 --group web").await.success();
    let wrong = [one(INSTANCE, "web", "old", "192.0.2.6"), one(OTHER, "db", "web", "192.0.2.8")];
    let wrong = ["node-28", "node-9"].map(|host| host.parse().expect("valid")).into_iter().zip(wrong).collect();
    cluster.world().told.insert("node-31".into(), Told(wrong));
    let (_, document) = cluster.json("groups").await;
    assert_eq!(document["behind"], serde_json::json!(["node-28", "node-31"]));
    let output = cluster.vmferry("groups").await.success().get_output().clone();
    assert!(said(&output).contains("node-31 knows other members than these"), "{}", said(&output));
    assert!(said(&output).contains("node-9 is not in the inventory"), "{}", said(&output));

    let inventory = cluster.inventory("viewer-dashboard");
    cluster.vmferry(&format!("--inventory {inventory} groups sync")).await.code(7);
    cluster.vmferry(&format!("--inventory {inventory} groups")).await.success();
    let output = cluster.vmferry("groups sync --forget node-28").await.code(2).get_output().clone();
    assert!(said(&output).contains("node-28 answers"), "{}", said(&output));

    let output = cluster.vmferry("groups sync --forget node-99").await.code(2).get_output().clone();
    assert!(said(&output).contains("no host remembers anything of node-99"), "{}", said(&output));
    let (code, document) = cluster.json("groups sync --forget node-9").await;
    assert_eq!((code, &document["told"]), (0, &serde_json::json!(["node-28", "node-31"])));
    let mut expected = told("node-28", one(INSTANCE, "web", "web", "192.0.2.7"));
    expected.replace(told("node-9", Memberships::new()));
    assert_eq!(cluster.world().told["node-31"], expected);
    let (_, document) = cluster.json("groups sync").await;
    assert_eq!(document["known"], serde_json::json!(["node-28", "node-31"]), "nobody is told twice");
}

#[tokio::test]
async fn what_changes_while_hosts_are_told_is_told_too() {
    let cluster = Cluster::new().await;
    let policy = Policy {
        addresses: ["192.0.2.9".parse().expect("valid")].into(),
        groups: ["mail".parse().expect("valid")].into(),
        ..Policy::default()
    };
    let mac = "52:54:00:a0:00:01".parse().expect("valid");
    cluster.world().meanwhile = Some(InterfaceLabel { mac, network: None, policy: Some(policy) });
    cluster.vmferry("instance policy set web --address 192.0.2.7 --group web").await.success();
    assert_eq!(cluster.world().told["node-31"], told("node-28", one(INSTANCE, "web", "mail", "192.0.2.9")));
}
