//! Hosts to which no guest shall come, and clocks that are not ours.

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn a_cordon_is_put_shown_replaced_and_taken_away() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("cordon node-28 --reason fan").await.success().get_output().clone();
    insta::assert_snapshot!(
        String::from_utf8_lossy(&output.stdout),
        @"node-28  cordoned since 2026-11-23 14:00 UTC: fan (says vmferry://cloud/coordinator/ops)"
    );
    let (_, hosts) = cluster.json("hypervisors").await;
    let [cordoned, free] = [0, 1].map(|host: usize| hosts["hypervisors"][host].clone());
    assert_eq!((&cordoned["state"], &free["state"]), (&"cordoned".into(), &"up".into()));
    insta::assert_snapshot!(
        cordoned["cordon"],
        @r#"{"by":"vmferry://cloud/coordinator/ops","reason":"fan","since":"2026-11-23T14:00:00Z"}"#
    );
    insta::assert_snapshot!(format!("{:#}", free["room"]), @r#"
    {
      "capacity": {
        "instances": null,
        "memory_bytes": 7516192768,
        "migrations_incoming": 4,
        "migrations_outgoing": 4,
        "vcpus": 64
      },
      "huge_pages": [
        {
          "free": 10,
          "size_bytes": 2097152,
          "total": 64
        }
      ],
      "networks": [
        "blue"
      ],
      "taken": {
        "instances": 1,
        "memory_bytes": 268435456,
        "migrations_incoming": 0,
        "migrations_outgoing": 0,
        "vcpus": 2
      }
    }
    "#);
    assert!(free["cordon"].is_null());
    let shown = said(cluster.vmferry("hypervisors").await.success().get_output());
    assert!(shown.contains("node-28 is cordoned since 2026-11-23 14:00 UTC: fan (says vmferry://"), "{shown}");

    let (code, answer) = cluster.json("cordon node-28 node-31 --reason kernel").await;
    assert_eq!((code, answer["hosts"][0]["cordon"]["reason"].as_str()), (0, Some("kernel")));
    let (code, answer) = cluster.json("uncordon node-28").await;
    assert_eq!((code, answer["hosts"][0]["was"]["reason"].as_str()), (0, Some("kernel")));
    assert!(answer["hosts"][0]["cordon"].is_null());
    let output = cluster.vmferry("uncordon node-28 node-31").await.success().get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout), @"
    node-28  takes guests; was not cordoned
    node-31  takes guests again; was cordoned since 2026-11-23 14:00 UTC: kernel (says vmferry://cloud/coordinator/ops)
    ");
    assert!(cluster.world().cordons.is_empty());
}

#[tokio::test]
async fn a_dead_host_costs_its_own_answer_only() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    for command in ["cordon node-31 node-28 --reason fan", "uncordon node-28 node-31"] {
        let (code, answer) = cluster.json(command).await;
        assert_eq!((code, answer["exit_code"].as_u64()), (9, Some(9)), "{answer}");
        assert_eq!(answer["hosts"][0]["host"], "node-28");
        assert_eq!(answer["unreachable"][0]["host"], "node-31");
        assert_eq!(answer["unreachable"][0]["reason"], "AGENT_UNREACHABLE");
    }
    let output = cluster.vmferry("cordon node-28 node-31 --reason fan").await.code(9).get_output().clone();
    let told = said(&output);
    assert!(told.contains("node-28  cordoned") && told.contains("node-31  not changed"), "{told}");
    assert!(told.contains("error: "), "{told}");
    cluster.vmferry("cordon node-31 --reason fan").await.code(7);
}

#[tokio::test]
async fn what_cannot_be_meant_reaches_no_host() {
    let cluster = Cluster::new().await;
    cluster.vmferry("cordon --reason fan").await.code(2);
    cluster.vmferry("cordon node-28").await.code(2);
    cluster.vmferry("uncordon").await.code(2);
    let output = cluster.vmferry("cordon node-28 node-99 --reason fan").await.code(2).get_output().clone();
    assert!(said(&output).contains("no host node-99"), "{}", said(&output));
    assert!(cluster.world().cordons.is_empty(), "not even the one that is known");
    // Who may only look is not even heard.
    let viewer = cluster.inventory("viewer-dashboard");
    let output = cluster.vmferry(&format!("cordon node-28 --reason fan --inventory {viewer}")).await.code(7);
    assert!(said(output.get_output()).contains("may only look"), "{}", said(output.get_output()));
}

#[tokio::test]
async fn a_clock_that_is_not_ours_is_told_and_stops_nothing() {
    let cluster = Cluster::new().await;
    let quiet = said(cluster.vmferry("hypervisors").await.success().get_output());
    assert!(!quiet.contains("the clock of"), "{quiet}");
    for (ahead, words) in [(3600, "s ahead of ours"), (-3600, "s behind ours")] {
        cluster.world().clock_ahead = ahead;
        let told = said(cluster.vmferry("hypervisors").await.success().get_output());
        assert!(told.contains("warning: the clock of node-31 is 3") && told.contains(words), "{told}");
        assert!(!told.contains("the clock of node-28"), "{told}");
    }
    cluster.vmferry("migrate web --to node-31").await.success();
}
