use bytesize::ByteSize;
use vmferry_core::migration::{Author, Deed, Endpoint, Progress, Steering};

use super::*;

fn order() -> Order {
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
    let mut file = OpenOptions::new().append(true).open(&journal.path).expect("there");
    file.write_all("{\"warning\":\"\u{e4}".as_bytes().split_last().expect("not empty").1).expect("torn");

    let mut again = Journal::read(&journal.path).expect("readable");
    assert_eq!(*again.state(), state);
    assert_eq!(again.state().pending, [Undo::RemoveSockets]);
    again.append(Entry::Struck(Undo::RemoveSockets)).expect("written after the repair");
    assert!(Journal::read(&journal.path).expect("readable").state().pending.is_empty());
}

#[test]
fn a_journal_without_a_story_is_read_and_one_with_it_is_small() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut journal = open(directory.path());
    assert_eq!(*Journal::read(&journal.path).expect("readable").state().story(), Story::default());
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
    assert_eq!(*Journal::read(&journal.path).expect("readable").state(), *journal.state());
    assert_eq!(journal.state().whole_record().story.events.len(), 1);
    let size = fs::metadata(&journal.path).expect("there").len();
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
fn another_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let journal = open(directory.path());
    let newer = fs::read_to_string(&journal.path).expect("readable").replace("\"format\":1", "\"format\":2");
    fs::write(&journal.path, &newer).expect("writable");
    assert!(matches!(Journal::read(&journal.path), Err(Error::Format { .. })));
    assert_eq!(fs::read_to_string(&journal.path).expect("readable"), newer);
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
