//! Which files the destination must read from end to end, and no other: they are large.

use super::*;

fn needs(world: &World, path: &str) -> bool {
    world.ask(|disks| disks.needs_digest(path))
}

#[test]
fn only_a_file_that_is_there_as_large_and_not_the_same_must_be_read() {
    let cases = [
        // Absent, same, other, other of another size.
        (READ_ONLY, "/srv/iso", [false, false, true, false]),
        (OVERLAY, "/srv/mid", [false, false, true, false]),
        (OVERLAY, "/srv/base", [false, false, true, false]),
        // The guest writes to it.
        (WRITTEN, "/srv/a", [false; 4]),
        (OVERLAY, "/srv/a", [false; 4]),
        // No disk needs it.
        (WRITTEN, "/srv/iso", [false; 4]),
        (RBD, "/srv/iso", [false; 4]),
    ];
    for (xml, path, expected) in cases {
        let mut larger = World::apart(xml);
        larger.see(path, false, None);
        larger.seen(path).file.size += 1;
        let mut other = World::apart(xml);
        other.see(path, false, None);
        let worlds = [World::apart(xml), World::sharing(xml), other, larger];
        assert_eq!(worlds.each_ref().map(|world| needs(world, path)), expected, "{path} of {xml}");
    }
}

#[test]
fn without_a_probe_even_the_same_file_must_be_read() {
    assert!(needs(&World::sharing(READ_ONLY).without_probes(), "/srv/iso"));
}

#[test]
fn a_file_that_the_source_does_not_show_is_not_read() {
    let mut world = World::apart(READ_ONLY);
    world.see("/srv/iso", false, None);
    world.shown.files.clear();
    assert!(!needs(&world, "/srv/iso"));
}
