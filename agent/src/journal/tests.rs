use std::{fs::OpenOptions, io::Write as _, thread};

use bytesize::ByteSize;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use vmferry_core::{
    agent::Sighting,
    migration::{Author, Deed, Endpoint, Progress, Record, Steering, Story},
    reason::Reason,
};

use super::*;

pub(super) fn order() -> Order {
    let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
    Order {
        kind: vmferry_core::migration::Kind::Live,
        limits: vmferry_core::migration::Limits::default(),
        priority: Default::default(),
        id: "0197a000-0000-7000-8000-000000000001".parse().expect("valid"),
        instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("valid"),
        instance_name: "web".into(),
        source: endpoint("node-28"),
        destination: endpoint("node-31"),
    }
}

fn open(directory: &Path) -> Journal {
    Journal::open(directory, order(), Side::Source, "vmferry://t/coordinator/me".into()).expect("writable")
}

#[test]
fn reads_back_what_was_written_and_drops_a_torn_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    journal.append(Entry::Begun { phase: Phase::Pre, at: Timestamp::UNIX_EPOCH }).expect("written");
    journal.append(Entry::Step(Undo::RemoveSockets)).expect("written");
    journal.append(Entry::Done { took: Duration::from_millis(3) }).expect("written");
    let state = journal.state().clone();
    let mut file = OpenOptions::new().append(true).open(journal.lines().path()).expect("there");
    file.write_all("{\"warning\":\"\u{e4}".as_bytes().split_last().expect("not empty").1).expect("torn");

    let mut again = Journal::read(journal.lines().path()).expect("readable");
    assert_eq!(*again.state(), state);
    assert_eq!(again.state().pending, [Undo::RemoveSockets]);
    again.append(Entry::Struck(Undo::RemoveSockets)).expect("written after the repair");
    assert!(Journal::read(journal.lines().path()).expect("readable").state().pending.is_empty());
}

#[test]
fn a_journal_without_a_story_is_read_and_one_with_it_is_small() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    assert_eq!(*Journal::read(journal.lines().path()).expect("readable").state().story(), Story::default());
    let sample = |millis| Progress {
        elapsed: Duration::from_millis(millis),
        remaining: ByteSize::b(123_456_789_012),
        rate: ByteSize::b(1_234_567_890),
        round: 3,
        ..Progress::default()
    };
    let mut timeline = Timeline::begin(Timestamp::UNIX_EPOCH, &sample(0));
    (1..50_000).for_each(|number| timeline.push(&sample(250 * number)));
    let bandwidth = Steering::Bandwidth(Some(ByteSize::b(1_234_567)));
    let event = Event { at: Timestamp::UNIX_EPOCH, by: Author::Policy, deed: Deed::Told(bandwidth) };
    for entry in [Entry::Event(event), Entry::Timeline(timeline.thinned())] {
        journal.append(entry).expect("written");
    }
    assert_eq!(*Journal::read(journal.lines().path()).expect("readable").state(), *journal.state());
    assert_eq!(journal.state().whole_record().story.events.len(), 1);
    let size = fs::metadata(journal.lines().path()).expect("there").len();
    assert!(size < 64 << 10, "{size}");
}

#[test]
fn a_second_journal_of_the_same_migration_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let _first = open(directory.path());
    let second = Journal::open(directory.path(), order(), Side::Source, String::new());
    assert!(matches!(second, Err(Error::Io { action: "create", .. })));
}

#[test]
fn a_later_format_is_refused_and_left_alone_whatever_else_is_in_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("later.jsonl");
    let later = "{\"opened\":{\"format\":99,\"wish\":\"what is to come\"}}\n{\"unheard_of\":[]}\n{\"tor";
    fs::write(&path, later).expect("writable");
    let error = read_all(directory.path(), Timestamp::UNIX_EPOCH).expect_err("not guessed at");
    assert!(matches!(error, Error::Format { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("format 99, and this version of the agent knows those up to"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("readable"), later);
}

#[test]
fn an_earlier_format_is_read_and_rewritten_so_that_an_earlier_version_refuses_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    journal.append(Entry::Step(Undo::RemoveSockets)).expect("written");
    let path = &journal.lines().path().to_owned();
    let now = format!("\"format\":{FORMAT}");
    let earlier = fs::read_to_string(path).expect("readable").replace(&now, "\"format\":0");
    fs::write(path, earlier).expect("writable");
    assert_eq!(Journal::read(path).expect("readable").state(), journal.state());
    assert!(fs::read_to_string(path).expect("readable").contains(&now));
}

#[test]
fn what_somebody_else_wrote_is_told_with_its_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    let mut file = OpenOptions::new().append(true).open(journal.lines().path()).expect("there");
    file.write_all(b"{\"step\":\"remove_everything\"}\n").expect("written");
    let error = Journal::read(journal.lines().path()).expect_err("nobody guesses");
    assert!(matches!(error, Error::Garbled { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("from line 2 on"), "{error}");
    // The process that has it open knows what it wrote.
    journal.append(Entry::Step(Undo::RemoveSockets)).expect("written in its place");
    assert_eq!(Journal::read(journal.lines().path()).expect("readable").state(), journal.state());
}

#[test]
fn a_journal_that_lost_what_was_written_is_not_written_to() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    fs::write(journal.lines().path(), "").expect("writable");
    assert!(matches!(journal.append(Entry::Switching), Err(Error::Io { action: "write", .. })));
    assert!(!journal.state().switched);
}

#[test]
fn what_is_over_is_left_out_when_it_is_taken_up() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    let undo = |number| Undo::RemoveImage { path: format!("/srv/{number}.img") };
    for number in 0..100 {
        journal.append(Entry::Step(undo(number))).expect("written");
    }
    let cause =
        Cause { reason: Reason::MigrationFailed, host: "node-28".parse().expect("valid"), message: "why".into() };
    let at = Timestamp::UNIX_EPOCH;
    let rest = [
        Entry::Begun { phase: Phase::Pre, at },
        Entry::Done { took: Duration::from_millis(3) },
        Entry::Begun { phase: Phase::Migrate, at },
        Entry::Switching,
        Entry::Autostart(true),
        Entry::Filters(vec!["clean-traffic".into()]),
        Entry::Event(Event { at, by: Author::Policy, deed: Deed::Told(Steering::Bandwidth(None)) }),
        Entry::Measured(Statistics::default()),
        Entry::Failed(cause),
        Entry::Warning("look".into()),
        Entry::Seen(Sighting::Shutoff),
        Entry::Begun { phase: Phase::Cleanup, at },
    ];
    for entry in rest.into_iter().chain((1..100).map(|number| Entry::Struck(undo(number)))) {
        journal.append(entry).expect("written");
    }
    let before = journal.lines().length();
    let mut again = Journal::read(journal.lines().path()).expect("readable");
    assert_eq!(again.state(), journal.state());
    assert!(again.lines().length() < before / 4, "{} of {before}", again.lines().length());
    again.append(Entry::Ended { outcome: Outcome::FailedRolledBack, at }).expect("written");
    assert_eq!(Journal::read(journal.lines().path()).expect("readable").state(), again.state());
}

/// Has `test` see a disk of one MiB.
fn on_a_small_disk(test: impl FnOnce(&Path) + Send + 'static) {
    let in_thread = || {
        let directory = tempfile::tempdir().expect("temporary directory");
        // Nobody else sees it, and it is gone with this thread.
        unshare(CloneFlags::CLONE_NEWNS).expect("tests run as root");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("a mount namespace");
        let options = Some("size=1m");
        mount(Some("small"), directory.path(), Some("tmpfs"), MsFlags::empty(), options).expect("mountable");
        test(directory.path());
        nix::mount::umount(directory.path()).expect("mounted");
    };
    thread::spawn(in_thread).join().expect("no failure");
}

fn fill(directory: &Path) {
    let mut file = File::create(directory.join("other")).expect("writable");
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn what_was_begun_can_be_taken_back_on_a_full_disk_and_nothing_more_is_begun() {
    on_a_small_disk(|directory| {
        let mut journal = open(directory);
        fill(directory);
        let undo = |number| Undo::RemoveImage { path: format!("/srv/{number}/{}", "long".repeat(100)) };
        for number in 0..200 {
            journal.append(Entry::Step(undo(number))).expect("there is room");
        }
        for number in 0..200 {
            journal.append(Entry::Struck(undo(number))).expect("there is room");
        }
        let event =
            Event { at: Timestamp::UNIX_EPOCH, by: Author::Policy, deed: Deed::Told(Steering::Bandwidth(None)) };
        let informed =
            (0..10_000).find_map(|_| journal.append(Entry::Event(event.clone())).err()).expect("not into the reserve");
        assert!(matches!(informed, Error::Io { action: "reserve room for", .. }), "{informed}");
        let ended = Entry::Ended { outcome: Outcome::FailedRolledBack, at: Timestamp::UNIX_EPOCH };
        journal.append(ended).expect("there is room");
        assert_eq!(Journal::read(journal.lines().path()).expect("readable").state(), journal.state());

        let second = Order { id: "0197a000-0000-7000-8000-000000000002".parse().expect("valid"), ..order() };
        fill(directory);
        let refused = Journal::open(directory, second.clone(), Side::Source, String::new()).expect_err("no room");
        assert!(matches!(refused, Error::Io { action: "reserve room for", .. }), "{refused}");
        assert_eq!(read_all(directory, Timestamp::UNIX_EPOCH).expect("listable").len(), 1);
        fs::remove_file(directory.join("other")).expect("there");
        Journal::open(directory, second, Side::Source, String::new()).expect("there is room again");
    });
}

#[test]
fn half_a_line_is_not_left_where_even_the_reserve_is_used_up() {
    on_a_small_disk(|directory| {
        let mut journal = open(directory);
        fill(directory);
        let step = |number| Entry::Step(Undo::RemoveImage { path: format!("/srv/{number}/{}", "long".repeat(1_000)) });
        let refused = (0..).find_map(|number| journal.append(step(number)).err()).expect("it is a small disk");
        assert!(matches!(refused, Error::Io { action: "write", .. }), "{refused}");
        assert!(journal.state().pending.len() > 50);
        assert_eq!(Journal::read(journal.lines().path()).expect("readable").state(), journal.state());
        fs::remove_file(directory.join("other")).expect("there");
        journal.append(step(0)).expect("there is room again");
        assert_eq!(Journal::read(journal.lines().path()).expect("readable").state(), journal.state());
    });
}

#[test]
fn two_agents_do_not_share_their_journals() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let state = directory.path().join("vmferry");
    let held = hold(&state).expect("nobody has it");
    let error = hold(&state).expect_err("somebody has it");
    assert!(error.to_string().contains("vmferry/lock is held by another agent"), "{error}");
    drop(held);
    hold(&state).expect("nobody has it any more");
}

#[test]
fn only_what_ended_long_ago_is_removed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    fs::write(directory.path().join("stillborn.jsonl"), "{\"opened\"").expect("writable");
    let all = |oldest| read_all(directory.path(), oldest).expect("listable").len();
    assert_eq!(all(Timestamp::MAX), 1);
    journal.append(Entry::Ended { outcome: Outcome::Completed, at: Timestamp::UNIX_EPOCH }).expect("written");
    assert_eq!(all(Timestamp::UNIX_EPOCH), 1);
    assert_eq!(all(Timestamp::MAX), 0);
}

#[test]
fn who_drives_is_known_again_and_nobody_is_granted_an_epoch_twice() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    let lessor = journal.lessor();
    let grant = |lessor: &Lessor, epoch: u64| lessor.grant("somebody", false, |known| (epoch > known).then_some(epoch));
    for (asked, newest) in [(1, 1), (1, 1), (3, 3), (2, 3)] {
        let driver = grant(&lessor, asked).expect("written").expect("somebody drives");
        assert_eq!((driver.epoch, driver.holder.as_str()), (newest, "somebody"));
    }
    journal.append(Entry::Step(Undo::RemoveSockets)).expect("written");
    let path = journal.lines().path().to_owned();
    for _ in 0..2 {
        let again = Journal::read(&path).expect("readable");
        assert_eq!(again.state(), journal.state());
        assert_eq!(again.lessor().driver(), lessor.driver());
        // The second time from one that was rewritten.
        durable::replace(
            &path,
            &State {
                record: Record { driver: lessor.driver(), ..again.state().record.clone() },
                ..again.state().clone()
            }
            .text(),
        )
        .expect("writable");
    }

    // One that is over is told to nobody but those who ask.
    let before = fs::metadata(&path).expect("there").len();
    let late = Journal::read(&path).expect("readable").lessor();
    assert_eq!(late.grant("another", true, |known| Some(known + 1)).expect("kept").map(|driver| driver.epoch), Some(4));
    assert_eq!(fs::metadata(&path).expect("there").len(), before);
    assert_eq!(Journal::read(&path).expect("readable").lessor().driver().map(|driver| driver.epoch), Some(3));
}
