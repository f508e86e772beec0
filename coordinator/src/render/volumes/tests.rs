use bytesize::ByteSize;
use vmferry_core::{
    instance::{DiskDevice, DiskSource, InstanceState},
    volume::{Iscsi, Login, Rbd, SecretName},
};

use super::*;

fn disk(target: &str, volume: Option<VolumeAttachment>) -> Disk {
    let source = DiskSource::Block { path: format!("/dev/{target}") };
    Disk { target: target.into(), device: DiskDevice::Disk, source, read_only: false, volume }
}

fn guest() -> Instance {
    let labelled = VolumeAttachment {
        id: Some("5a272756-ab0c-4311-a1ce-3f1736d167df".into()),
        name: Some("admin_vol01".into()),
        bootable: Some(true),
        size: Some(ByteSize::gib(1)),
        attachment: Some(Attachment::ByHost),
        connection: Some(Connection::Iscsi(Iscsi {
            portals: vec!["192.0.2.1:3260".into(), "192.0.2.2:3260".into()],
            target: "iqn.2026-11.org.example:san".into(),
            lun: 3,
            initiator: None,
            login: Some(Login { user: "web".into(), secret: SecretName::Usage("san-web".into()) }),
        })),
    };
    let image = "vms/archive".into();
    let unlabelled = VolumeAttachment {
        attachment: Some(Attachment::ByQemu),
        connection: Some(Connection::Rbd(Rbd {
            monitors: vec![],
            configuration: None,
            image,
            snapshot: None,
            login: None,
        })),
        ..VolumeAttachment::default()
    };
    Instance {
        id: "8e6a33c1-1564-4d63-8964-f10a6d66e2c2".parse().expect("valid"),
        name: "admin_vm01".into(),
        state: InstanceState::Active,
        host: "node-28".parse().expect("valid"),
        memory: ByteSize::mib(256),
        vcpus: 1,
        persistent: true,
        disks: vec![disk("vda", Some(labelled)), disk("vdb", Some(unlabelled)), disk("vdc", None)],
        vifs: vec![],
        migration: None,
        problems: vec![],
        affinity: vec![],
        limits: Default::default(),
    }
}

#[test]
fn volumes_are_listed_as_cinder_does() {
    insta::assert_snapshot!(list(&[guest()]), @"
    ID                                    STATUS  DISPLAY NAME  SIZE     PROTOCOL  BOOTABLE  ATTACHED TO  TARGET  HOST     INSTANCE
    5a272756-ab0c-4311-a1ce-3f1736d167df  in-use  admin_vol01   1.0 GiB  iscsi     true      admin_vm01   vda     node-28  8e6a33c1-1564-4d63-8964-f10a6d66e2c2
    -                                     in-use  -             -        rbd       -         admin_vm01   vdb     node-28  8e6a33c1-1564-4d63-8964-f10a6d66e2c2
    ");
}

#[test]
fn a_disk_says_all_that_is_known_of_its_volume() {
    let texts: Vec<_> = guest().disks.iter().filter_map(|disk| disk.volume.as_ref().map(text)).collect();
    insta::assert_snapshot!(texts.join("\n"), @"
    volume 5a272756-ab0c-4311-a1ce-3f1736d167df (admin_vol01), 1.0 GiB, bootable, iscsi:iqn.2026-11.org.example:san/3 attached by the host, at 192.0.2.1:3260, 192.0.2.2:3260 as web
    volume, rbd:vms/archive opened by QEMU, at the monitors that Ceph's configuration names
    ");
}

#[test]
fn the_document_has_everything_and_no_secret() {
    insta::assert_snapshot!(crate::render::json(&list_document(&[guest()], &[])), @r#"
    {
      "volumes": [
        {
          "id": "5a272756-ab0c-4311-a1ce-3f1736d167df",
          "status": "in-use",
          "name": "admin_vol01",
          "size_bytes": 1073741824,
          "protocol": "iscsi",
          "bootable": true,
          "instance_id": "8e6a33c1-1564-4d63-8964-f10a6d66e2c2",
          "instance_name": "admin_vm01",
          "target": "vda",
          "host": "node-28",
          "attachment": "by_host",
          "connection": {
            "protocol": "iscsi",
            "portals": [
              "192.0.2.1:3260",
              "192.0.2.2:3260"
            ],
            "target": "iqn.2026-11.org.example:san",
            "lun": 3,
            "initiator": null,
            "login": {
              "user": "web",
              "secret": {
                "usage": "san-web"
              }
            }
          }
        },
        {
          "id": null,
          "status": "in-use",
          "name": null,
          "size_bytes": null,
          "protocol": "rbd",
          "bootable": null,
          "instance_id": "8e6a33c1-1564-4d63-8964-f10a6d66e2c2",
          "instance_name": "admin_vm01",
          "target": "vdb",
          "host": "node-28",
          "attachment": "by_qemu",
          "connection": {
            "protocol": "rbd",
            "monitors": [],
            "configuration": null,
            "image": "vms/archive",
            "snapshot": null,
            "login": null
          }
        }
      ],
      "unreachable": []
    }
    "#);
}
