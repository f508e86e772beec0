//! `vmferry instance policy` and `vmferry instance network`, as users see them.

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn a_policy_is_shown_as_it_was_set_and_keeps_the_network() {
    let cluster = Cluster::new().await;
    cluster.vmferry("instance network set web blue").await.success();
    let output = cluster
        .vmferry(
            "instance policy set web --address 192.0.2.7 --group web --ingress tcp:80-443@192.0.2.0/24 --egress any",
        )
        .await
        .success()
        .get_output()
        .clone();
    assert!(
        said(&output).contains("52:54:00:a0:00:01 bridge br0, network blue (virtio); filtered"),
        "{}",
        said(&output)
    );
    let output = cluster.vmferry("instance policy show web").await.success().get_output().clone();
    insta::assert_snapshot!(said(&output), @r"
    vif      52:54:00:a0:00:01
    network  blue
    address  192.0.2.7
    group    web
    rule     ingress tcp:80-443@192.0.2.0/24
    rule     egress any
    ");

    let (code, shown) = cluster.json("instance policy show web").await;
    let vif = &shown["vifs"][0];
    assert_eq!(
        (code, vif["network"].as_str(), vif["policy"]["addresses"][0].as_str()),
        (0, Some("blue"), Some("192.0.2.7"))
    );
    cluster.vmferry("instance policy unset web").await.success();
    let (_, shown) = cluster.json("instance policy show web").await;
    assert_eq!((shown["vifs"][0]["network"].as_str(), shown["vifs"][0]["policy"].is_null()), (Some("blue"), true));
    cluster.vmferry("instance network unset web --vif 52:54:00:A0:00:01").await.success();
    assert!(cluster.world().vif.is_none());
}

#[tokio::test]
async fn what_cannot_be_meant_is_told_before_anything_is_changed() {
    let cluster = Cluster::new().await;
    for (arguments, told) in [
        ("policy set web --ingress tcp:0-70000", "`0-70000` are no ports; write PORT or FIRST-LAST"),
        ("policy set web --ingress tcp:9-1", "are no ports"),
        ("policy set web --egress icmp:80", "icmp has no ports"),
        ("policy set web --egress any@192.0.2.300", "is no peer; write an address"),
        ("policy set web --ingress any@192.0.2.7/24", "write 192.0.2.0/24"),
        ("policy set web --address 192.0.2.0/24", "invalid IP address"),
        ("policy set web --group a/b", "is not a valid security group's name"),
        ("policy set web --vif 52:54:00:a0:00:09", "web has no vif 52:54:00:a0:00:09; it has 52:54:00:a0:00:01"),
        ("policy unset web --all --vif 52:54:00:a0:00:01", "cannot be used with"),
        ("network set web a/b", "is not a valid network name"),
    ] {
        let output = cluster.vmferry(&format!("instance {arguments}")).await.code(2).get_output().clone();
        let all = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stderr));
        assert!(all.contains(told), "{arguments}: {all}");
    }
    let inventory = cluster.inventory("viewer-dashboard");
    cluster.vmferry(&format!("--inventory {inventory} instance policy set web --address 192.0.2.7")).await.code(7);
    cluster.vmferry(&format!("--inventory {inventory} instance policy show web")).await.success();
    assert!(cluster.world().vif.is_none());
}
