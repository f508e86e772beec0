//! What the source refuses alone.

use super::*;

#[test]
fn what_the_definition_rules_out_is_refused_wherever_it_should_go() {
    let block_below =
        OVERLAY.replace("type='file'><format type='raw'/><source file='/srv/base'", "type='block'><source dev='/b'");
    let cases = [
        (WRITTEN.replace("</disk>", "<transient/></disk>"), &["/srv/a", "transient"], "permanent"),
        (READ_ONLY.replace("</disk>", "<transient/></disk>"), &["/srv/iso", "transient"], "permanent"),
        (BLOCK.to_owned(), &["/dev/disk/by-id/b", "a block device"], "vmferry volumes set web vda"),
        (RBD.replace("rbd", "nbd"), &["nbd:vms/web", "network storage"], "RBD and iSCSI"),
        ("<disk type='nvme'><source/><target dev='vda'/></disk>".into(), &["(nvme)", "another kind"], "RBD and iSCSI"),
        (block_below, &["/srv/a", "needs an image, /b, that lies on a block device"], "RBD and iSCSI"),
        (
            RBD.replace("</disk>", "<backingStore type='file'><source file='/srv/base'/></backingStore></disk>"),
            &["rbd:vms/web", "needs another image, /srv/base"],
            "blockpull",
        ),
    ];
    for (xml, words, remedy) in cases {
        for world in [World::apart(&xml), World::sharing(&xml)] {
            let refusal = world.refused_here(Reason::DiskKindUnsupported, words);
            assert!(refusal.remedy.contains(remedy), "{}", refusal.remedy);
        }
    }
}

#[test]
fn a_file_that_another_disk_of_the_guest_writes_to_cannot_move() {
    let shareable = |xml: &str| xml.replace("</disk>", "<shareable/></disk>");
    let b = another(WRITTEN);
    let at_base = b.replace("/srv/a", "/srv/base");
    let cases = [
        (format!("{WRITTEN}{b}"), "/srv/a"),
        // The other path leads to the same file.
        (format!("{WRITTEN}{}", b.replace("/srv/a", "/srv/link")), "/srv/a"),
        // Only one of them is meant to be shared.
        (format!("{}{b}", shareable(WRITTEN)), "/srv/a"),
        (format!("{WRITTEN}{}", shareable(&b)), "/srv/a"),
        // What one only reads, the other writes.
        (format!("{READ_ONLY}{}", b.replace("/srv/a", "/srv/iso")), "/srv/iso"),
        (format!("{OVERLAY}{at_base}"), "/srv/base"),
    ];
    for (xml, path) in cases {
        let mut world = World::sharing(&xml);
        world.shown.files.push(file("/srv/link", 7));
        world.refused_here(Reason::DiskUsedTwice, &[path, "vdb"]);
    }
    let unseen = World { shown: Shown::default(), ..World::sharing(&format!("{WRITTEN}{b}")) };
    unseen.refused_here(Reason::DiskUsedTwice, &["/srv/a", "vdb"]);
}

#[test]
fn two_disks_of_different_files_or_that_only_read_one_file_are_no_rivals() {
    let b = another(WRITTEN).replace("/srv/a", "/srv/mid");
    for xml in [
        format!("{WRITTEN}{b}"),
        format!("{READ_ONLY}{}", another(READ_ONLY)),
        format!("{OVERLAY}{}", another(READ_ONLY)),
    ] {
        assert!(World::sharing(&xml).leaving().is_ok(), "{xml}");
    }
    let mut elsewhere = World::sharing(&format!("{WRITTEN}{b}"));
    let same_number = |file: &mut File| (file.inode, file.device) = (7, HERE + 1);
    elsewhere.shown.files.iter_mut().filter(|file| file.path == "/srv/mid").for_each(same_number);
    assert!(elsewhere.leaving().is_ok(), "an inode number says nothing on another file system");
}

#[test]
fn a_file_that_the_source_cannot_look_at_is_refused_by_it() {
    for (xml, path) in [(WRITTEN, "/srv/a"), (OVERLAY, "/srv/base"), (READ_ONLY, "/srv/iso")] {
        let mut world = World::apart(xml);
        world.shown.files.retain(|file| file.path != path);
        world.shown.problems.push(Problem { place: path.into(), why: "Permission denied".into() });
        world.refused_here(Reason::ProbeFailed, &[path, "node-28", "Permission denied"]);
    }
}

#[test]
fn an_image_whose_header_the_source_cannot_read_is_not_copied() {
    let mut world = World::apart(WRITTEN);
    world.shown.images.clear();
    world.shown.problems.push(Problem { place: "/srv/a".into(), why: "not in qcow2 format".into() });
    world.refused_there(Reason::ProbeFailed, &["/srv/a", "node-28", "not in qcow2 format"]);
    let mut shared = World::sharing(WRITTEN);
    shared.shown.images.clear();
    assert!(matches!(shared.way(), Resolution::Shared { .. }), "nobody needs to know its size");
}
