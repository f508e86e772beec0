use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{getgid, getuid};

use super::*;

const MIB: u64 = 1 << 20;

fn qcow2() -> Qcow2 {
    Qcow2 {
        cluster_size: 128 * 1024,
        compat: "1.1".into(),
        lazy_refcounts: true,
        extended_l2: true,
        refcount_bits: 16,
        compression_type: "zstd".into(),
    }
}

fn image(layout: Layout, virtual_size: u64) -> NewImage {
    // Nobody but root may give files to root.
    let ownership = Ownership { user: getuid().as_raw(), group: getgid().as_raw(), ..Ownership::default() };
    NewImage { layout, virtual_size: ByteSize(virtual_size), ownership }
}

#[tokio::test]
async fn an_image_created_is_the_image_asked_for() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("layer, one.qcow2");
    let backing = ("base,v1.qcow2".to_owned(), "qcow2".to_owned());
    create(&path, &image(Layout::Qcow2 { qcow2: qcow2(), backing: Some(backing) }, 5_000_192)).await.expect("created");
    let created = info(&path, "qcow2").await.expect("readable though its backing image is not there");
    assert_eq!(created.virtual_size, ByteSize(5_000_192));
    assert_eq!(created.qcow2, Some(qcow2()));
    assert_eq!(created.backing, Some(BackingName { file: "base,v1.qcow2".into(), format: Some("qcow2".into()) }));
    assert_eq!(created.length, ByteSize(fs::metadata(&path).expect("there").len()));

    let old = Qcow2 {
        cluster_size: 65536,
        compat: "0.10".into(),
        lazy_refcounts: false,
        extended_l2: false,
        compression_type: "zlib".into(),
        ..qcow2()
    };
    let path = directory.path().join("old.qcow2");
    create(&path, &image(Layout::Qcow2 { qcow2: old.clone(), backing: None }, MIB)).await.expect("created");
    assert_eq!(info(&path, "qcow2").await.expect("readable").qcow2, Some(old));
}

#[tokio::test]
async fn a_raw_image_has_the_length_asked_for_and_takes_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("disk.raw");
    create(&path, &image(Layout::Raw, 8 * MIB + 1)).await.expect("created");
    let metadata = fs::metadata(&path).expect("there");
    assert_eq!((metadata.len(), metadata.blocks(), metadata.mode() & 0o7777), (8 * MIB + 1, 0, 0o600));
    let info = info(&path, "raw").await.expect("readable");
    assert_eq!((info.length, info.virtual_size), (ByteSize(8 * MIB + 1), ByteSize(8 * MIB + 512)));
}

#[tokio::test]
async fn what_is_there_is_not_overwritten() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("disk");
    fs::write(&path, "precious").expect("writable");
    for layout in [Layout::Raw, Layout::Qcow2 { qcow2: qcow2(), backing: None }] {
        let error = create(&path, &image(layout, MIB)).await.expect_err("it is there");
        assert!(matches!(error, Error::Exists(_)), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), b"precious");
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_created_leaves_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("disk");
    let odd = Qcow2 { cluster_size: 12345, ..qcow2() };
    let error =
        create(&path, &image(Layout::Qcow2 { qcow2: odd, backing: None }, MIB)).await.expect_err("no such size");
    assert!(matches!(&error, Error::Tool { source, .. } if source.how.contains("luster size")), "{error:?}");
    assert!(!path.exists());
    remove(&path).await.expect("it is not there, as it should be");
}

#[tokio::test]
async fn the_owner_is_the_one_asked_for() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("disk");
    let metadata = fs::metadata(directory.path()).expect("there");
    // Nobody but root may give files away.
    let (user, group) = if metadata.uid() == 0 { (65534, 65534) } else { (metadata.uid(), metadata.gid()) };
    let ownership = Ownership { user, group, mode: 0o660 };
    create(&path, &NewImage { ownership, ..image(Layout::Qcow2 { qcow2: qcow2(), backing: None }, MIB) })
        .await
        .expect("created");
    let metadata = fs::metadata(&path).expect("there");
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (user, group, 0o660));
    remove(&path).await.expect("removed");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_raw_disk_on_which_a_guest_wrote_a_qcow2_image_stays_raw() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("disk");
    let backing = Some(("/etc/passwd".to_owned(), "raw".to_owned()));
    create(&path, &image(Layout::Qcow2 { qcow2: qcow2(), backing }, 64 * MIB)).await.expect("created");
    let info = info(&path, "raw").await.expect("readable");
    assert_eq!((info.backing, info.qcow2), (None, None));
    assert!(info.virtual_size < ByteSize(MIB), "{}", info.virtual_size);
    let error = super::info(Path::new("json:{}"), "raw").await.expect_err("no path");
    assert!(matches!(error, Error::Path(_)), "{error}");
}
