//! A file that the destination has, and that is not known to be the source's.

use super::*;

type Change = fn(&mut World);

/// Each makes `/srv/a`, which both hosts share, uncertain; the words, and whether the file there may be moved away.
const DOUBTS: [(Change, &[&str], bool); 7] = [
    (|world| world.seen("/srv/a").probe = None, &["the probe file that node-28 wrote is not in /srv there"], true),
    (|world| probe(world).token = "other".into(), &["the probe file in /srv is another"], true),
    (|world| probe(world).device = THERE + 1, &["the file there is a mount of its own"], false),
    (|world| world.seen("/srv/a").file.inode = 99, &["inode 99, not 7"], false),
    (|world| world.seen("/srv/a").file.size -= 1, &["smaller", "2147483647 bytes, not 2147483648"], false),
    (|world| world.shown.files[0].device = HERE + 1, &["a mount of its own on node-28"], false),
    (
        |world| {
            world.shown.probes.clear();
            world.shown.problems.push(Problem { place: "/srv".into(), why: "Read-only file system".into() });
        },
        &["nothing proves it", "node-28 cannot write a probe file to /srv", "Read-only file system"],
        false,
    ),
];

fn probe(world: &mut World) -> &mut SeenProbe {
    world.seen("/srv/a").probe.as_mut().expect("it is seen")
}

#[test]
fn a_written_file_that_is_there_and_not_proved_is_refused() {
    for (change, words, movable) in DOUBTS {
        let mut world = World::sharing(WRITTEN);
        change(&mut world);
        let refusal = world.refused_there(Reason::DiskNotShared, &[&["/srv/a", "node-31"], words].concat());
        // Whoever follows the remedy must not put away the disk of a running guest.
        assert_eq!(refusal.remedy.contains("move it away"), movable, "{}", refusal.remedy);
    }
}

#[test]
fn the_same_doubts_make_a_medium_one_to_compare() {
    for (change, words, _) in DOUBTS {
        let mut world = World::sharing(&WRITTEN.replace("</disk>", "<readonly/></disk>"));
        change(&mut world);
        world.seen("/srv/a").digest = Some("d1".into());
        let smaller = words[0] == "smaller";
        if smaller {
            world.refused_there(
                Reason::DiskDiffers,
                &["/srv/a", "2147483648 bytes on node-28", "2147483647 on node-31"],
            );
        } else {
            assert_eq!(world.way(), Resolution::Medium { layers: vec![layer("/srv/a", "raw", present("d1"))] });
        }
    }
}

#[test]
fn a_running_guest_makes_its_image_larger_meanwhile() {
    let mut world = World::sharing(WRITTEN);
    world.seen("/srv/a").file.size += 1;
    assert!(matches!(world.way(), Resolution::Shared { .. }));
}

#[test]
fn a_file_that_several_guests_write_to_is_never_copied() {
    let shareable = WRITTEN.replace("</disk>", "<shareable/></disk>");
    World::apart(&shareable).refused_there(Reason::DiskNotShared, &["/srv/a", "several guests", "node-31"]);
    let mut doubtful = World::sharing(&shareable);
    doubtful.seen("/srv/a").probe = None;
    let refusal = doubtful.refused_there(Reason::DiskNotShared, &["/srv/a"]);
    assert!(!refusal.remedy.contains("copied"), "{}", refusal.remedy);
}

#[test]
fn an_image_below_that_differs_is_refused() {
    for (path, mut world) in [("/srv/mid", World::sharing(OVERLAY)), ("/srv/base", World::apart(OVERLAY))] {
        world.forget(path);
        world.see(path, false, Some("d"));
        world.seen(path).file.size = 5;
        world.refused_there(Reason::DiskDiffers, &[path, "2147483648 bytes on node-28", "5 on node-31"]);
    }
}

#[test]
fn an_image_of_equal_size_whose_contents_are_unknown_is_refused() {
    let mut world = World::apart(READ_ONLY);
    world.see("/srv/iso", false, None);
    world.refused_there(Reason::DiskDiffers, &["/srv/iso", "node-28", "node-31", "does not say what is in them"]);
}
