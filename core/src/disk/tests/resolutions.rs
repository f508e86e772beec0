//! Every way that a disk can take, and how people read it.

use super::*;

#[test]
fn a_drive_without_a_medium_needs_nothing() {
    let world = World::apart("<disk device='cdrom'><target dev='vda'/><readonly/></disk>");
    assert_eq!(world.leaving(), Ok("no medium".into()));
    assert_eq!(world.way(), Resolution::Empty);
}

#[test]
fn a_written_file_is_shared_if_proved_and_copied_if_absent() {
    let shared = Resolution::Shared { path: "/srv/a".into(), below: vec![] };
    let copied = Resolution::Copied { image: image("/srv/a"), below: vec![] };
    let shareable = WRITTEN.replace("</disk>", "<shareable/></disk>");
    assert_eq!(World::sharing(WRITTEN).leaving(), Ok("/srv/a, written to".into()));
    assert_eq!(World::sharing(WRITTEN).way(), shared);
    assert_eq!(World::apart(WRITTEN).way(), copied);
    assert_eq!(World::sharing(&shareable).way(), shared);
    assert_eq!(World::sharing(&format!("{shareable}{}", another(&shareable))).way(), shared, "both are meant to");
}

#[test]
fn of_a_guest_that_is_off_the_file_is_sent_as_it_is_and_a_shared_one_may_be_cached() {
    let cached = WRITTEN.replace("none", "writeback");
    assert!(matches!(World::sharing(&cached).cold().way(), Resolution::Shared { .. }));
    let world = World::apart(OVERLAY).cold();
    let Resolution::Moved { layers } = world.way() else { panic!("{:?}", world.way()) };
    let paths: Vec<_> = layers.iter().map(|layer| layer.path.as_str()).collect();
    assert_eq!(paths, ["/srv/a", "/srv/mid", "/srv/base"]);
    assert!(layers.iter().all(|layer| layer.presence == Presence::Absent));
    assert!(world.way().to_string().starts_with("/srv/a, local: "), "{}", world.way());
    assert!(world.way().to_string().contains("while the guest is off; below it /srv/mid"), "{}", world.way());
}

#[test]
fn a_probe_that_the_source_cannot_write_does_not_hinder_a_copy() {
    let world = World::apart(WRITTEN).without_probes();
    assert_eq!(world.way(), Resolution::Copied { image: image("/srv/a"), below: vec![] });
}

#[test]
fn only_a_file_that_is_handed_over_must_not_be_cached() {
    for (mode, safe) in
        [("none", true), ("directsync", true), ("writeback", false), ("unsafe", false), ("default", false)]
    {
        let xml = WRITTEN.replace("none", mode);
        assert!(matches!(World::apart(&xml).way(), Resolution::Copied { .. }), "{mode}");
        if safe {
            assert!(matches!(World::sharing(&xml).way(), Resolution::Shared { .. }), "{mode}");
        } else {
            World::sharing(&xml).refused_there(Reason::DiskCacheUnsafe, &["/srv/a", mode, "node-28", "node-31"]);
        }
        let medium = READ_ONLY.replace("<source", &format!("<driver cache='{mode}'/><source"));
        assert!(matches!(World::sharing(&medium).way(), Resolution::Medium { .. }), "{mode}");
    }
    let unnamed = WRITTEN.replace("<driver cache='none'/>", "");
    World::sharing(&unnamed).refused_there(Reason::DiskCacheUnsafe, &["cache mode default"]);
}

#[test]
fn what_nobody_writes_to_is_shared_present_or_sent() {
    type Change = fn(&mut World);
    let cases: [(Change, Presence); 3] = [
        (|world| world.see("/srv/iso", true, None), Presence::Shared),
        (|world| world.see("/srv/iso", false, Some("d1")), present("d1")),
        (|_| {}, Presence::Absent),
    ];
    for (change, presence) in cases {
        let mut world = World::apart(READ_ONLY);
        change(&mut world);
        assert_eq!(world.leaving(), Ok("/srv/iso, read-only".into()));
        assert_eq!(world.way(), Resolution::Medium { layers: vec![layer("/srv/iso", "raw", presence)] });
    }
}

#[test]
fn without_a_probe_only_its_contents_tell_what_nobody_writes_to() {
    let mut world = World::apart(READ_ONLY).without_probes();
    world.see("/srv/iso", true, Some("d1"));
    assert_eq!(world.way(), Resolution::Medium { layers: vec![layer("/srv/iso", "raw", present("d1"))] });
}

#[test]
fn an_overlay_takes_its_own_way_and_each_image_below_takes_its_own() {
    let below = |mid, base| vec![layer("/srv/mid", "qcow2", mid), layer("/srv/base", "raw", base)];
    let mut copied = World::apart(OVERLAY);
    let way = |below| Resolution::Copied { image: image("/srv/a"), below };
    assert_eq!(copied.way(), way(below(Presence::Absent, Presence::Absent)));
    copied.see("/srv/base", true, None);
    copied.see("/srv/mid", false, Some("d2"));
    assert_eq!(copied.way(), way(below(present("d2"), Presence::Shared)));

    let mut shared = World::sharing(OVERLAY);
    let way = |below| Resolution::Shared { path: "/srv/a".into(), below };
    assert_eq!(shared.way(), way(below(Presence::Shared, Presence::Shared)));
    shared.forget("/srv/base");
    assert_eq!(shared.way(), way(below(Presence::Shared, Presence::Absent)));

    let medium = OVERLAY.replace("</disk>", "<readonly/></disk>");
    let mut layers = below(Presence::Absent, Presence::Absent);
    layers.insert(0, layer("/srv/a", "qcow2", Presence::Absent));
    assert_eq!(World::apart(&medium).way(), Resolution::Medium { layers });
}

#[test]
fn only_what_is_absent_or_the_guests_own_goes_through_the_network() {
    let mut world = World::apart(OVERLAY);
    assert_eq!(world.to_copy(), ByteSize::gib(5), "3 of its own, 1 of each image below");
    world.see("/srv/mid", false, Some("d"));
    world.see("/srv/base", true, None);
    assert_eq!(world.to_copy(), ByteSize::gib(3));
    assert_eq!(World::sharing(OVERLAY).to_copy(), ByteSize::b(0));
    assert_eq!(World::apart(READ_ONLY).to_copy(), ByteSize::gib(1));
}

#[test]
fn people_read_what_becomes_of_each_file() {
    let mut some = World::apart(OVERLAY);
    some.see("/srv/mid", false, Some("d"));
    let cases = [
        (
            some.way(),
            "/srv/a, local: 3.0 GiB of 10.0 GiB to be copied; below it /srv/mid, read-only: on both hosts; \
                      below it /srv/base, read-only: 1.0 GiB to be copied",
        ),
        (World::sharing(WRITTEN).way(), "/srv/a, shared: the probe file was seen"),
        (World::sharing(READ_ONLY).way(), "/srv/iso, read-only: shared"),
    ];
    for (resolution, words) in cases {
        assert_eq!(resolution.to_string(), words);
    }
}

#[test]
fn a_disk_without_a_way_is_not_resolved() {
    let (b, transient) = (another(WRITTEN).replace("/srv/a", "/srv/mid"), READ_ONLY.replace("vda", "vdc"));
    let transient = transient.replace("</disk>", "<transient/></disk>");
    let mut world = World::apart(&format!("{WRITTEN}{b}{transient}"));
    world.see("/srv/mid", false, None);
    let resolved = world.ask(|disks| disks.resolved());
    assert_eq!(resolved, [Resolved { target: "vda".into(), resolution: world.way() }]);
}

#[test]
fn the_journal_keeps_every_byte_of_a_resolution() {
    let mut world = World::apart(OVERLAY);
    world.shown.images[0].virtual_size = ByteSize::b((10 << 30) + 1);
    world.shown.images[0].allocated = ByteSize::b((3 << 30) + 2);
    world.shown.files.iter_mut().for_each(|file| (file.size, file.allocated) = (file.size + 3, file.allocated + 4));
    world.see("/srv/base", true, None);
    world.see("/srv/mid", false, Some("d"));
    let resolved = Resolved { target: "vda".into(), resolution: world.way() };
    let text = serde_json::to_string(&resolved).expect("it has a form");
    assert_eq!(serde_json::from_str::<Resolved>(&text).expect("it reads back"), resolved, "{text}");
}
