//! Which affinity groups an instance is in, as users see it.

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn groups_are_joined_shown_and_left() {
    let cluster = Cluster::new().await;
    let set = "instance affinity set web --group db --policy";
    let output = cluster.vmferry(&format!("{set} affinity")).await.success().get_output().clone();
    assert!(said(&output).contains("affinity    db (affinity)"), "{}", said(&output));
    cluster.vmferry(&format!("{set} anti-affinity")).await.success();
    cluster.vmferry("instance affinity set web --group shop --policy soft-affinity").await.success();
    let output = cluster.vmferry("instance affinity show web").await.success().get_output().clone();
    insta::assert_snapshot!(said(&output), @"
    instance  web
    group     db (anti-affinity)
    group     shop (soft-affinity)
    ");
    let (code, shown) = cluster.json("instance affinity show web").await;
    assert_eq!((code, &shown["affinity"][0]["policy"]), (0, &"anti-affinity".into()), "{shown}");
    cluster.vmferry("instance affinity unset web --group db").await.success();
    let (_, shown) = cluster.json("instance show web").await;
    assert_eq!(shown["affinity"], serde_json::json!([{ "group": "shop", "policy": "soft-affinity" }]));
    cluster.vmferry("instance affinity unset web --all").await.success();
    assert!(cluster.world().affinity.is_empty());
    let output = cluster.vmferry("instance affinity show web").await.success().get_output().clone();
    assert!(said(&output).contains("group     none"), "{}", said(&output));
}

#[tokio::test]
async fn groups_that_cannot_be_are_not_joined() {
    let cluster = Cluster::new().await;
    for (arguments, words) in [
        ("set web --group db", "--policy <POLICY>"),
        ("set web --policy affinity", "--group <NAME>"),
        ("set web --group db --policy apart", "`apart` is none of affinity, anti-affinity"),
        ("set web --group /db --policy affinity", "`/db` is not a valid name of an affinity group"),
        ("unset web", "--group <NAME>"),
        ("unset web --group db --all", "cannot be used with"),
        ("set nobody --group db --policy affinity", "nobody"),
    ] {
        let output = cluster.vmferry(&format!("instance affinity {arguments}")).await.code(2).get_output().clone();
        assert!(said(&output).contains(words), "{arguments}: {}", said(&output));
    }
    let viewer = cluster.inventory("viewer-dashboard");
    let set = format!("instance affinity set web --group db --policy affinity --inventory {viewer}");
    let output = cluster.vmferry(&set).await.code(7).get_output().clone();
    assert!(said(&output).contains("may only look"), "{}", said(&output));
    assert!(cluster.world().affinity.is_empty());
}
