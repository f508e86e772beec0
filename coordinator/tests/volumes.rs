//! `vmferry volumes` and `vmferry doctor`, as users see them.

use vmferry_core::leftovers::{Kind, Leftover, Level};

use crate::cluster::{Cluster, INSTANCE, said};

const SET: &str = "volumes set web vdb --id 5a27 --name data --bootable --iscsi-target iqn.2026-11.org.example:san \
    --lun 3 --portal 192.0.2.1:3260 --user web --secret san-web";

#[tokio::test]
async fn a_volume_is_listed_once_somebody_has_said_what_the_disk_is() {
    let cluster = Cluster::new().await;
    let (code, none) = cluster.json("volumes").await;
    assert_eq!((code, none["volumes"].as_array().map(Vec::len)), (0, Some(0)));
    let output = cluster.vmferry(SET).await.success().get_output().clone();
    assert!(said(&output).contains("vdb /dev/sdb; volume 5a27 (data), 1.0 GiB, bootable, iscsi:"), "{}", said(&output));

    for arguments in ["volumes", "volumes --host node-28"] {
        let (code, listed) = cluster.json(arguments).await;
        let volume = &listed["volumes"][0];
        assert_eq!((code, volume["id"].as_str(), volume["status"].as_str()), (0, Some("5a27"), Some("in-use")));
        assert_eq!((volume["instance_id"].as_str(), volume["target"].as_str()), (Some(INSTANCE), Some("vdb")));
        assert_eq!((&volume["size_bytes"], &volume["bootable"]), (&(1_u64 << 30).into(), &true.into()));
        assert_eq!(volume["connection"]["login"]["secret"]["usage"], "san-web");
    }
    let (_, elsewhere) = cluster.json("volumes --host node-31").await;
    assert_eq!(elsewhere["volumes"].as_array().map(Vec::len), Some(0));
    let (_, shown) = cluster.json("instance show web").await;
    assert_eq!(shown["disks"][0]["volume"]["connection"]["lun"], 3);

    cluster.vmferry("volumes unset web vda").await.code(2);
    cluster.vmferry("volumes unset web vdb").await.success();
    assert!(cluster.world().label.is_none());
    cluster.vmferry("volumes unset web --all").await.code(2);
}

#[tokio::test]
async fn what_cannot_be_meant_is_told_before_anything_is_asked() {
    let cluster = Cluster::new().await;
    for arguments in [
        "volumes set web vdb",
        "volumes set web vdb --id 1 --iscsi-target iqn.a --lun 1",
        "volumes set web vdb --id 1 --portal 192.0.2.1",
        "volumes set web vdb --id 1 --rbd vms/a --user web",
        "volumes set web vdb --id 1 --rbd vms/a --iscsi-target iqn.a --lun 1 --portal 192.0.2.1",
        "volumes unset web",
        "volumes unset web vdb --all",
        "volumes --host node-99",
        "doctor node-99",
    ] {
        cluster.vmferry(arguments).await.code(2);
    }
    let inventory = cluster.inventory("viewer-dashboard");
    for arguments in [SET, "volumes unset web vdb"] {
        cluster.vmferry(&format!("--inventory {inventory} {arguments}")).await.code(7);
    }
    cluster.vmferry(&format!("--inventory {inventory} volumes")).await.success();
    assert!(cluster.world().label.is_none());
}

fn leftover(level: Level) -> Leftover {
    let (subject, problem) = ("4711".into(), "made by VMFerry (san-web); no domain needs it".into());
    Leftover {
        kind: Kind::Secret,
        level,
        subject,
        problem,
        remedy: "virsh secret-undefine 4711".into(),
        removable: level == Level::Problem,
    }
}

#[tokio::test]
async fn doctor_says_what_is_left_and_ends_accordingly() {
    let mut cluster = Cluster::new().await;
    let (code, clean) = cluster.json("doctor").await;
    assert_eq!((code, clean["hosts"].as_array().map(Vec::len)), (0, Some(2)));
    cluster.world().leftovers = vec![leftover(Level::Note)];
    cluster.vmferry("doctor").await.code(0);

    cluster.world().leftovers = vec![leftover(Level::Problem)];
    for (arguments, code) in [("doctor", 9), ("doctor node-28", 1), ("doctor node-31", 0)] {
        let output = cluster.vmferry(arguments).await.code(code).get_output().clone();
        let has_command = said(&output).contains("→ virsh secret-undefine 4711");
        assert_eq!(has_command, code != 0, "{arguments}: {}", said(&output));
    }
    let (code, found) = cluster.json("doctor").await;
    assert_eq!((code, found["exit_code"].as_u64()), (9, Some(9)));
    let leftover = &found["hosts"][0]["leftovers"][0];
    assert_eq!(
        (leftover["removable"].as_bool(), &found["hosts"][0]["removals"]),
        (Some(true), &serde_json::Value::Null)
    );
    assert_eq!((leftover["kind"].as_str(), leftover["level"].as_str()), (Some("secret"), Some("problem")));

    cluster.stop(1).await;
    let (code, found) = cluster.json("doctor").await;
    assert_eq!((code, found["unreachable"][0]["host"].as_str()), (9, Some("node-31")));
    cluster.vmferry("doctor node-31").await.code(7);
    let (_, volumes) = cluster.json("volumes").await;
    assert_eq!(volumes["unreachable"][0]["host"], "node-31");
}

#[tokio::test]
async fn doctor_removes_what_it_has_shown_once_somebody_has_said_yes() {
    let cluster = Cluster::new().await;
    let by_hand =
        Leftover { kind: Kind::Migration, subject: "4712".into(), removable: false, ..leftover(Level::Problem) };
    cluster.world().leftovers = vec![leftover(Level::Problem), by_hand, leftover(Level::Note)];
    let there = || cluster.world().leftovers.len();

    // Nobody can be asked here.
    let output = cluster.vmferry("doctor --fix").await.code(2).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("add --yes"), "{output:?}");
    cluster.vmferry("doctor --yes").await.code(2);
    cluster.vmferry("doctor --dry-run").await.code(2);
    cluster.vmferry("doctor --fix --dry-run --yes").await.code(2);
    let output = cluster.vmferry("doctor --fix --dry-run node-28").await.code(1).get_output().clone();
    assert!(said(&output).contains("problem* libvirt secret 4711") && there() == 3, "{}", said(&output));

    let (code, fixed) = cluster.json("doctor --fix --yes").await;
    let host = &fixed["hosts"][0];
    assert_eq!(
        (code, &host["removals"][0]["outcome"], &host["removals"][1]),
        (9, &"removed".into(), &serde_json::Value::Null)
    );
    assert_eq!((there(), host["leftovers"][0]["kind"].as_str()), (2, Some("migration")), "{fixed:#}");
    cluster.world().leftovers.remove(0);
    // A second time there is nothing to do, and nothing to ask.
    let (code, again) = cluster.json("doctor --fix").await;
    assert_eq!((code, &again["hosts"][0]["removals"]), (0, &serde_json::json!([])));
    assert_eq!(there(), 1, "a note is nobody's to remove");
}

#[tokio::test]
async fn doctor_tells_of_a_guest_that_is_defined_on_two_hosts() {
    let cluster = Cluster::new().await;
    cluster.world().is_defined_twice = true;
    let (code, found) = cluster.json("doctor").await;
    let of_host = |name: &str| {
        let hosts = found["hosts"].as_array().expect("a list");
        hosts.iter().find(|host| host["host"] == name).expect("a row")["leftovers"].clone()
    };
    assert_eq!((code, of_host("node-28")), (0, serde_json::json!([])));
    let copy = &of_host("node-31")[0];
    assert_eq!((copy["kind"].as_str(), copy["level"].as_str()), (Some("definition"), Some("note")), "{found:#}");
    assert_eq!(copy["remedy"], "if nobody needs the definition: virsh undefine web");
    // Of which nothing is removed.
    let (code, fixed) = cluster.json("doctor --fix --yes").await;
    assert_eq!((code, &fixed["hosts"][0]["removals"]), (0, &serde_json::json!([])), "{fixed:#}");
}
