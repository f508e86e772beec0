use vmferry_core::volume::{Found, Rbd};

use super::*;

const DEVICES: &str = "/sys/bus/rbd/devices";

fn key() -> SecretString {
    fs::read_to_string("/tmp/ceph/ferry.key").expect("ceph.sh wrote it").trim().into()
}

fn image(image: &str) -> Rbd {
    Rbd {
        monitors: vec!["127.0.0.1:6789".to_owned()],
        configuration: None,
        image: image.to_owned(),
        snapshot: None,
        login: login(),
    }
}

fn mapped() -> usize {
    fs::read_dir(DEVICES).map_or(0, Iterator::count)
}

/// An earlier test that failed must not fail this one.
async fn begin() {
    for snapshot in [None, Some("monday".to_owned())] {
        let volume = Connection::Rbd(Rbd { snapshot, ..image("volumes/web") });
        let _ = disconnect(&volume, &Settings::default()).await;
    }
}

/// By either protocol of the monitors'.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn an_image_is_mapped_once_and_told_by_its_id() {
    begin().await;
    let settings = Settings::default();
    let id = {
        let said = run("rbd", &["info", "volumes/web", "--format", "json"]).await;
        serde_json::from_str::<serde_json::Value>(&said).expect("JSON")["id"].as_str().expect("an id").to_owned()
    };
    for monitor in ["127.0.0.1:6789", "127.0.0.1:3300"] {
        let volume = Connection::Rbd(Rbd { monitors: vec![monitor.to_owned()], ..image("volumes/web") });
        let first = connect(&volume, Some(&key()), &settings).await.expect("mapped");
        assert_eq!(first.path, "/dev/rbd/volumes/web");
        let cluster = run("ceph", &["fsid"]).await;
        let found =
            Found { size: bytesize::ByteSize::mib(64), identity: format!("{id} in cluster {}", cluster.trim()) };
        assert_eq!(first.found, found);
        write_and_read(&first.path, "in the cluster");
        assert_eq!(connect(&volume, Some(&key()), &settings).await.expect("mapped already"), first);
        assert_eq!(mapped(), 1);

        let open = fs::File::open(&first.path).expect("it is there");
        let failed = disconnect(&volume, &settings).await.expect_err("it is in use");
        assert!(matches!(failed, Failed::InUse { .. }), "{failed:?}");
        drop(open);
        disconnect(&volume, &settings).await.expect("unmapped");
        assert_eq!(mapped(), 0);
        disconnect(&volume, &settings).await.expect("nothing to unmap");
    }
    assert_secret(&key(), None);
}

#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_snapshot_is_another_volume_than_its_image() {
    begin().await;
    let settings = Settings::default();
    let [web, monday] =
        [None, Some("monday".to_owned())].map(|snapshot| Connection::Rbd(Rbd { snapshot, ..image("volumes/web") }));
    connect(&web, Some(&key()), &settings).await.expect("mapped");
    let snapshot = connect(&monday, Some(&key()), &settings).await.expect("mapped");
    assert_eq!(snapshot.path, "/dev/rbd/volumes/web@monday");
    let device = fs::canonicalize(&snapshot.path).expect("it is there");
    let device = device.file_name().and_then(|name| name.to_str()).expect("a device").to_owned();
    assert_eq!(fs::read_to_string(format!("/sys/block/{device}/ro")).expect("sysfs").trim(), "1");
    disconnect(&web, &settings).await.expect("unmapped");
    assert_eq!(mapped(), 1);
    disconnect(&monday, &settings).await.expect("unmapped");
    assert_eq!(mapped(), 0);
}

#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn wrong_keys_missing_images_and_silent_clusters_are_told_apart() {
    begin().await;
    let settings = Settings::default();
    let wrong = SecretString::from("AQBUcRNn0AAAABAAy5TH9mpv3aPR1yaSv2nZ0A==");
    let volume = Connection::Rbd(image("volumes/web"));
    let failed = connect(&volume, Some(&wrong), &settings).await.expect_err("refused");
    assert!(matches!(&failed, Failed::WrongCredentials { user, .. } if user == "ferry"), "{failed:?}");
    told(&failed);
    assert_secret(&wrong, Some(&failed));
    let failed = connect(&Connection::Rbd(image("volumes/none")), Some(&key()), &settings).await.expect_err("no image");
    assert!(matches!(failed, Failed::Missing { .. }), "{failed:?}");
    told(&failed);
    let settings = Settings { device_timeout: Duration::from_secs(3), ..settings };
    let silent = Connection::Rbd(Rbd { monitors: vec!["127.0.0.1:6790".to_owned()], ..image("volumes/web") });
    let failed = connect(&silent, Some(&key()), &settings).await.expect_err("no monitor");
    assert!(matches!(failed, Failed::Unreachable { .. }), "{failed:?}");
    told(&failed);
    assert_eq!(mapped(), 0);
}
