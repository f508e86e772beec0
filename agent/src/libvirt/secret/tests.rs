//! The test driver keeps no secrets, so what changes them is tried on a libvirtd of its own: `LIBVIRT_DEFAULT_URI` says where.

use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x2a5b_08e4_3bf0_4db2_8e5b_7c1c_0000_0000 + number)
}

fn usage(usage: &str) -> SecretName {
    SecretName::Usage(usage.to_owned())
}

#[tokio::test]
#[ignore = "needs a libvirtd that may be changed, named by LIBVIRT_DEFAULT_URI"]
async fn secrets_of_ours_come_and_go_and_those_of_others_stay() {
    let libvirt = Libvirt::new(&std::env::var("LIBVIRT_DEFAULT_URI").expect("a libvirtd that may be changed"));
    let (ceph, iscsi) = (SecretKind::Ceph, SecretKind::Iscsi);
    let name = SecretName::Uuid(uuid(1));
    assert_eq!(libvirt.secret(ceph, &name).await.expect("an answer"), None);
    assert_eq!(libvirt.secret(ceph, &usage("no\0ne")).await.expect("an answer"), None);

    // Ours.
    let ensure = async |value: &[u8]| {
        libvirt.ensure_secret(ceph, Some(uuid(1)), Some("a & b"), value.to_vec().into()).await.expect("there")
    };
    assert_eq!(ensure(b"\x00key").await, Ensured::Made);
    assert_eq!(ensure(b"other").await, Ensured::Renewed);
    let ours = SecretReading { uuid: uuid(1), kind: Some(ceph), usage: "a & b".into(), ours: true, has_value: None };
    for name in [&name, &usage("a & b")] {
        assert_eq!(libvirt.secret(ceph, name).await.expect("an answer").as_ref(), Some(&ours));
        assert!(libvirt.secret_value(ceph, name).await.expect("an answer").is_none(), "it is private");
    }
    assert_eq!(libvirt.secret(iscsi, &usage("a & b")).await.expect("an answer"), None);
    let unnamed = libvirt.ensure_secret(iscsi, Some(uuid(2)), None, b"p".to_vec().into()).await;
    assert_eq!(unnamed.expect("made"), Ensured::Made);
    let chosen = libvirt.ensure_secret(iscsi, None, Some("san"), b"p".to_vec().into()).await;
    assert_eq!(chosen.expect("made"), Ensured::Made);

    // In the place of another.
    for (kind, uuid, usage) in [(ceph, uuid(3), "a & b"), (iscsi, uuid(1), "c")] {
        let taken = libvirt.ensure_secret(kind, Some(uuid), Some(usage), b"k".to_vec().into()).await;
        assert!(matches!(taken, Err(SecretError::Taken { .. })), "{taken:?}");
    }

    // Somebody else's.
    let foreign = SecretDefinition {
        uuid: Some(uuid(9)),
        kind: Some(iscsi),
        usage: "theirs".into(),
        description: "by the administrator".into(),
        private: false,
    };
    let xml = foreign.to_xml();
    libvirt.change("define", move |c| Ok(c.define_secret_xml(&xml, 0).map(drop)?)).await.expect("defined");
    let theirs = async || libvirt.ensure_secret(iscsi, Some(uuid(9)), Some("theirs"), b"p".to_vec().into()).await;
    assert!(matches!(theirs().await, Err(SecretError::Valueless { .. })));
    assert!(libvirt.secret_value(iscsi, &usage("theirs")).await.expect("an answer").is_none());
    let set = |c: &Connect| Ok(c.lookup_secret_by_uuid(uuid(9))?.set_value(b"their\0s", 0)?);
    libvirt.change("set", set).await.expect("set");
    assert_eq!(theirs().await.expect("there"), Ensured::Foreign);
    let value = libvirt.secret_value(iscsi, &usage("theirs")).await.expect("an answer").expect("a value");
    assert_eq!(value.expose_secret(), b"their\0s");

    // Away.
    for _ in 0..2 {
        assert_eq!(libvirt.release_secret(ceph, &name).await.expect("released"), Released::Gone);
        assert_eq!(libvirt.release_secret(iscsi, &usage("theirs")).await.expect("an answer"), Released::Foreign);
    }
    for (kind, name) in [(iscsi, SecretName::Uuid(uuid(2))), (iscsi, usage("san"))] {
        assert_eq!(libvirt.release_secret(kind, &name).await.expect("released"), Released::Gone);
    }
    assert_eq!(libvirt.secret(ceph, &name).await.expect("an answer"), None);
    let reading = libvirt.secret(iscsi, &usage("theirs")).await.expect("an answer").expect("there");
    assert_eq!((reading.ours, reading.has_value), (false, Some(true)));
    let undefine = |c: &Connect| Ok(c.lookup_secret_by_uuid(uuid(9))?.undefine()?);
    libvirt.change("undefine", undefine).await.expect("undefined");
}

#[tokio::test]
async fn the_secrets_that_domains_need_are_told() {
    let mut file = NamedTempFile::new().expect("a temporary file");
    let disk = |target: &str, secret: &str| {
        format!(
            "<disk type='network' device='disk'><source protocol='rbd' name='vms/{target}'>
             <auth username='u'><secret type='ceph' {secret}/></auth></source><target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let domain = |name: &str, disk: &str| {
        format!(
            "<domain type='test'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
             <os><type arch='x86_64'>hvm</type></os><devices>{disk}</devices></domain>"
        )
    };
    let web = domain("web", &disk("vda", &format!("uuid='{}'", uuid(1))));
    let database = domain("database", &disk("vdb", "usage='san'"));
    write!(file, "<node>{web}{database}{}</node>", domain("bare", "")).expect("written");
    let libvirt = Libvirt::new(&format!("test://{}", file.path().display()));
    let used = libvirt.secrets_in_use().await.expect("an answer");
    assert_eq!(used, BTreeSet::from([SecretName::Uuid(uuid(1)), usage("san")]));
    let reading = SecretReading { uuid: uuid(5), kind: None, usage: "san".into(), ours: true, has_value: None };
    assert!(reading.is_among(&used) && !SecretReading { usage: "lan".into(), ..reading }.is_among(&used));
}
