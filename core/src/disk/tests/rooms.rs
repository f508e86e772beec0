//! Whether what is copied fits.

use super::*;

type Answers = Vec<(String, Result<String, Refusal>)>;

/// The answers, each with its directory.
fn answers(world: &World) -> Answers {
    world.ask(|disks| space(disks, &disks.resolved()))
}

/// The one answer of a world with one file system.
fn answer(world: &World) -> Result<String, Refusal> {
    let mut answers = answers(world);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0).1
}

fn with(mut world: World, available: u64) -> World {
    world.sight.rooms.iter_mut().for_each(|room| room.available = ByteSize::b(available));
    world
}

const GIB: u64 = 1 << 30;

#[test]
fn what_is_not_copied_needs_no_room() {
    assert_eq!(answers(&World::sharing(OVERLAY)), []);
    assert_eq!(answers(&World::apart(RBD)), []);
}

#[test]
fn room_on_a_file_system_that_cannot_be_written_to_is_none() {
    let mut world = World::apart(OVERLAY);
    world.sight.rooms.iter_mut().for_each(|room| room.read_only = true);
    let refusal = answer(&world).expect_err("read-only");
    assert_eq!(refusal.reason, Reason::DiskSpaceShort);
    assert!(refusal.message.contains("to /srv on node-31, a read-only file system"), "{}", refusal.message);
}

#[test]
fn every_image_must_fit_in_its_full_size() {
    // 3 of 10 of its own, 1 of 2 of each of the two below.
    let fits = with(World::apart(OVERLAY), 14 * GIB);
    assert_eq!(answer(&fits), Ok("5.0 GiB to be copied, at most 14.0 GiB; 14.0 GiB available".into()));
    let refusal = answer(&with(World::apart(OVERLAY), 14 * GIB - 1)).expect_err("too little");
    assert_eq!(refusal.reason, Reason::DiskSpaceShort);
    for word in ["web", "may grow to 14.0 GiB", "/srv on node-31"] {
        assert!(refusal.message.contains(word), "{}", refusal.message);
    }
    assert!(refusal.remedy.contains("storage.disk_overcommit = true"), "{}", refusal.remedy);
}

#[test]
fn a_host_that_overcommits_has_room_for_what_is_taken_up_now_and_no_less() {
    let overcommit = |available| {
        let mut world = with(World::apart(OVERLAY), available);
        world.sight.overcommit = true;
        answer(&world)
    };
    assert!(overcommit(5 * GIB).is_ok());
    let refusal = overcommit(4 * GIB).expect_err("too little");
    assert_eq!(refusal.reason, Reason::DiskSpaceShort);
    for word in ["web", "take up 5.0 GiB", "/srv on node-31 has 4.0 GiB"] {
        assert!(refusal.message.contains(word), "{}", refusal.message);
    }
    assert!(!refusal.remedy.contains("overcommit"), "it would not help: {}", refusal.remedy);
    assert!(overcommit(5 * GIB - 1).is_err());
}

#[test]
fn an_image_that_takes_up_more_than_it_promises_counts_with_what_it_takes_up() {
    let mut world = World::apart(WRITTEN);
    world.shown.images[0].allocated = ByteSize::gib(11);
    assert_eq!(answer(&world), Ok("11.0 GiB to be copied, at most 11.0 GiB; 100.0 GiB available".into()));
}

#[test]
fn a_base_that_two_disks_have_is_made_once() {
    let b = another(OVERLAY).replace("/srv/a", "/srv/b");
    let mut world = World::apart(&format!("{OVERLAY}{b}"));
    world.shown.files.push(file("/srv/b", 20));
    world.shown.images.push(image("/srv/b"));
    let room = Room { path: "/srv/b".into(), ..world.sight.rooms[0].clone() };
    world.sight.rooms.push(room);
    assert_eq!(world.ask(|disks| disks.resolved()).len(), 2);
    assert_eq!(answer(&world), Ok("8.0 GiB to be copied, at most 24.0 GiB; 100.0 GiB available".into()));
    assert_eq!(world.to_copy(), ByteSize::gib(8));
}

#[test]
fn each_file_system_has_its_own_room() {
    let mut world = World::apart(OVERLAY);
    let base = world.sight.rooms.iter_mut().find(|room| room.path == "/srv/base").expect("there is room");
    *base = Room { directory: "/images".into(), device: THERE + 1, available: ByteSize::gib(1), ..base.clone() };
    let answers = answers(&world);
    assert_eq!(answers.iter().map(|(directory, _)| directory.as_str()).collect::<Vec<_>>(), ["/srv", "/images"]);
    assert_eq!(answers[0].1, Ok("4.0 GiB to be copied, at most 12.0 GiB; 100.0 GiB available".into()));
    let refusal = answers[1].1.as_ref().expect_err("too little");
    assert!(refusal.message.contains("2.0 GiB, /images on node-31 has 1.0 GiB"), "{}", refusal.message);
}

#[test]
fn room_that_nobody_measured_is_no_room() {
    let mut world = World::apart(WRITTEN);
    world.sight.rooms.clear();
    let refusal = answer(&world).expect_err("unknown");
    assert_eq!(refusal.reason, Reason::Internal);
    assert!(refusal.message.contains("node-31") && refusal.message.contains("/srv/a"), "{}", refusal.message);
}
