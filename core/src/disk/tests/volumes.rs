//! Volumes: both hosts must find the same one, and nobody else may have it.

use super::*;
use crate::volume::{Connection, Iscsi, Login, Rbd, SecretName};

/// A guest whose disk is a volume that both hosts find.
pub(super) fn world(xml: &str) -> World {
    let mut world = World::apart(xml);
    let disk = &mut world.disks[0];
    if disk.volume.is_none() {
        let volume = Volume { target: "vda".into(), attachment: Attachment::ByHost, connection: lun() };
        disk.volume = Some(volume);
    }
    let sight = VolumeSight { target: "vda".into(), found: Ok(found()) };
    world.shown.volumes = vec![sight.clone()];
    world.sight.volumes = vec![sight];
    world
}

fn found() -> Found {
    Found { size: ByteSize::b((10 << 30) + 1), identity: "6001405abc".into() }
}

fn lun() -> Connection {
    let (portals, target) = (vec!["192.0.2.1:3260".into(), "192.0.2.2:3260".into()], "iqn.a:b".into());
    Connection::Iscsi(Iscsi { portals, target, lun: 3, initiator: None, login: None })
}

fn connection(world: &World) -> Connection {
    world.disks[0].volume.clone().expect("it is a volume").connection
}

#[test]
fn a_volume_that_both_hosts_find_stays_where_it_is() {
    for (xml, leaves, words) in [
        (RBD, "rbd:vms/web, 10.0 GiB", "rbd:vms/web, a volume of 10.0 GiB, 6001405abc: QEMU opens it"),
        (BLOCK, "iscsi:iqn.a:b/3, 10.0 GiB", "iscsi:iqn.a:b/3, a volume of 10.0 GiB, 6001405abc: the host attaches it"),
    ] {
        let world = world(xml);
        assert_eq!(world.leaving(), Ok(leaves.into()));
        let volume = world.disks[0].volume.clone().expect("it is a volume");
        assert_eq!(world.way(), Resolution::Volume { volume, found: found() });
        assert_eq!(world.way().to_string(), words);
        assert_eq!(world.to_copy(), ByteSize::b(0));
    }
}

#[test]
fn the_hosts_cache_matters_only_for_what_the_host_attaches_and_the_guest_writes() {
    for mode in ["writeback", "writethrough", "unsafe", "default"] {
        let by_host = BLOCK.replace("none", mode);
        world(&by_host).refused_here(Reason::DiskCacheUnsafe, &["iscsi:iqn.a:b/3", mode, "node-28"]);
        let read_only = by_host.replace("</disk>", "<readonly/></disk>");
        assert!(matches!(world(&read_only).way(), Resolution::Volume { .. }), "{mode}");
        let by_qemu = RBD.replace("<source", &format!("<driver cache='{mode}'/><source"));
        assert!(matches!(world(&by_qemu).way(), Resolution::Volume { .. }), "{mode}");
    }
    assert!(world(&BLOCK.replace("none", "directsync")).leaving().is_ok());
}

#[test]
fn another_volume_under_the_same_name_is_refused() {
    for xml in [RBD, BLOCK] {
        let mut world = world(xml);
        let name = connection(&world).to_string();
        world.sight.volumes[0].found = Ok(Found { identity: "6001405def".into(), ..found() });
        let words = [name.as_str(), "6001405abc on node-28", "6001405def on node-31"];
        let refusal = world.refused_there(Reason::VolumeDiffers, &words);
        assert!(refusal.remedy.contains(&connection(&world).addresses()), "{}", refusal.remedy);
    }
}

#[test]
fn a_volume_of_another_size_is_refused() {
    let mut world = world(RBD);
    world.sight.volumes[0].found = Ok(Found { size: ByteSize::gib(10), ..found() });
    let words = ["rbd:vms/web", "10737418241 bytes on node-28", "10737418240 on node-31"];
    world.refused_there(Reason::VolumeDiffers, &words);
}

#[test]
fn a_volume_that_another_domain_has_is_refused_unless_both_share_it() {
    let shareable = RBD.replace("</disk>", "<shareable/></disk>");
    for (xml, theirs, allowed) in
        [(RBD, false, false), (RBD, true, false), (&*shareable, false, false), (&*shareable, true, true)]
    {
        let mut world = world(xml);
        let (guest, target) = ("db".to_owned(), "vdq".to_owned());
        world.sight.used.push(VolumeUse { guest, target, connection: connection(&world), shareable: theirs });
        if allowed {
            assert!(matches!(world.way(), Resolution::Volume { .. }));
        } else {
            world.refused_there(Reason::VolumeInUse, &["rbd:vms/web", "vdq of db", "node-31"]);
        }
        world.sight.used[0].connection = lun();
        assert!(matches!(world.way(), Resolution::Volume { .. }), "another volume is no matter");
    }
}

#[test]
fn one_user_who_shares_does_not_hide_another_who_does_not() {
    let mut world = world(&RBD.replace("</disk>", "<shareable/></disk>"));
    for (guest, shareable) in [("db", true), ("log", false)] {
        let connection = connection(&world);
        world.sight.used.push(VolumeUse { guest: guest.into(), target: "vdq".into(), connection, shareable });
    }
    world.refused_there(Reason::VolumeInUse, &["vdq of log"]);
}

#[test]
fn a_volume_that_is_two_disks_of_the_guest_is_refused_unless_both_share_it_or_neither_writes() {
    let (share, read) = ("<shareable/></disk>", "<readonly/></disk>");
    for (first, second, allowed) in [
        ("</disk>", "</disk>", false),
        (share, "</disk>", false),
        (read, "</disk>", false),
        (share, share, true),
        (read, read, true),
    ] {
        for xml in [RBD, BLOCK] {
            let mut world = world(&xml.replace("</disk>", first));
            let mut twin = disks(&xml.replace("</disk>", second).replace("vda", "vdb")).remove(0);
            twin.volume = world.disks[0].volume.clone().map(|volume| Volume { target: "vdb".into(), ..volume });
            world.disks.push(twin);
            let sight = VolumeSight { target: "vdb".into(), found: Ok(found()) };
            world.shown.volumes.push(sight.clone());
            world.sight.volumes.push(sight);
            if allowed {
                assert!(world.leaving().is_ok(), "{first} {second}");
                continue;
            }
            let name = connection(&world).to_string();
            let refusal = world.refused_here(Reason::DiskUsedTwice, &["vda", &name, "its disk vdb, too"]);
            assert!(refusal.remedy.contains("detach one"), "{}", refusal.remedy);
            world.shown.volumes[1].found = Ok(Found { identity: "of another system".into(), ..found() });
            assert!(world.leaving().is_ok(), "another volume of the same name");
        }
    }
}

#[test]
fn what_a_host_says_of_a_volume_that_it_cannot_reach_is_passed_on() {
    for reason in [Reason::VolumeUnreachable, Reason::VolumeMissing, Reason::VolumeSecretMissing] {
        let said = Refusal { reason, message: "disk vda of web: as it happens".into(), remedy: "mend it".into() };
        let (mut here, mut there) = (world(RBD), world(RBD));
        here.shown.volumes[0].found = Err(said.clone());
        assert_eq!(here.refused_here(reason, &[]), said);
        there.sight.volumes[0].found = Err(said.clone());
        assert_eq!(there.refused_there(reason, &[]), said);
    }
}

#[test]
fn a_volume_that_a_host_did_not_look_for_is_refused() {
    let (mut here, mut there) = (world(BLOCK), world(BLOCK));
    here.shown.volumes[0].target = "vdb".into();
    here.refused_here(Reason::Internal, &["node-28 has not looked"]);
    there.sight.volumes.clear();
    there.refused_there(Reason::Internal, &["node-31 has not looked"]);
}

#[test]
fn a_volume_is_the_same_by_whatever_way_and_as_whomever() {
    let rbd = Rbd { monitors: vec![], configuration: None, image: "vms/web".into(), snapshot: None, login: None };
    let iscsi = |target: &str, lun| Iscsi {
        portals: vec!["a:1".into()],
        target: target.into(),
        lun,
        initiator: None,
        login: None,
    };
    let login = Some(Login { user: "u".into(), secret: SecretName::Usage("s".into()) });
    let image = Connection::Rbd(rbd.clone());
    let unlike = [
        Connection::Rbd(Rbd { image: "vms/other".into(), ..rbd.clone() }),
        Connection::Rbd(Rbd { snapshot: Some("s".into()), ..rbd.clone() }),
        Connection::Iscsi(iscsi("vms/web", 0)),
        Connection::Iscsi(iscsi("vms/web", 1)),
        Connection::Iscsi(iscsi("vms/other", 0)),
        image.clone(),
    ];
    for (index, one) in unlike.iter().enumerate() {
        for (other_index, other) in unlike.iter().enumerate() {
            assert_eq!(one.is_same_volume(other), index == other_index, "{one} and {other}");
        }
    }
    let configuration = Some("/etc/ceph/b.conf".into());
    let other_way = Rbd { monitors: vec!["m:1".into()], configuration, login: login.clone(), ..rbd };
    assert!(image.is_same_volume(&Connection::Rbd(other_way)));
    let other_way = Iscsi { portals: vec!["b:2".into()], initiator: Some("i".into()), login, ..iscsi("vms/web", 1) };
    assert!(unlike[3].is_same_volume(&Connection::Iscsi(other_way)));
}

#[test]
fn the_journal_keeps_every_byte_of_a_volume() {
    let resolved = Resolved { target: "vda".into(), resolution: world(BLOCK).way() };
    let text = serde_json::to_string(&resolved).expect("it has a form");
    assert_eq!(serde_json::from_str::<Resolved>(&text).expect("it reads back"), resolved, "{text}");
}
