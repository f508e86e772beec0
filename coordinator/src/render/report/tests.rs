use std::time::Duration;

use bytesize::ByteSize;
use vmferry_core::{
    convergence::Foreseer,
    migration::{Author, Deed, Event, Limits, Outcome, Point, Side, Steering, Story, Timeline},
};

use super::{chart::Chart, *};
use crate::history::{Migration, merge, tests::half};

const ID: &str = "0190f5fe-7c00-7a00-8abc-012345678901";

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One of 2 s with two rounds, a forecast and two events.
pub(crate) fn told() -> Migration {
    let completed = Some((2, Outcome::Completed));
    let mut source = half(Side::Source, ID, 0, completed);
    let point = |millis, left: u64, round, stopped| Point {
        elapsed: ms(millis),
        remaining: ByteSize::mib(left),
        transferred: ByteSize::mib(256 - left),
        rate: ByteSize::mib(120),
        dirty_rate: ByteSize::mib(if round > 1 { 25 } else { 0 }),
        round,
        throttle: 0,
        stopped,
    };
    let points = (1..=7)
        .map(|index| point(250 * index, 256 - 30 * index, 1 + u32::try_from(index).unwrap_or(0) / 5, index == 7));
    let mut foreseer = Foreseer::new(Limits::default(), Default::default(), Some(ByteSize::mib(150)));
    foreseer.see_memory(ByteSize::mib(272), ByteSize::mib(200));
    foreseer.see_dirty_rate(ByteSize::mib(25));
    let event =
        |millis: i64, by, deed| Event { at: source.started + jiff::SignedDuration::from_millis(millis), by, deed };
    let ops = Author::Hand("vmferry://example/coordinator/<ops>".into());
    let events = vec![
        event(700, Author::Policy, Deed::Told(Steering::Downtime(ms(100)))),
        event(1_200, ops, Deed::Told(Steering::Bandwidth(Some(ByteSize::gib(1))))),
    ];
    let began = source.started + jiff::SignedDuration::from_millis(20);
    source.story = Story {
        foreseen: foreseer.foresee(ms(1_050)),
        events,
        timeline: Some(Timeline { began, points: points.collect() }),
    };
    merge([source, half(Side::Destination, ID, 0, completed)]).remove(0)
}

#[test]
fn a_picture_has_what_the_record_has_where_it_was() {
    let migration = told();
    let chart = Chart::of(&migration, migration.started());
    assert_eq!(chart.end, 2.0);
    assert_eq!(chart.remaining.len(), 8, "all samples, and the end");
    assert_eq!((chart.remaining[0].0, chart.remaining[7]), (0.27, (1.94, 0.0)));
    assert_eq!(chart.dirty_rate.len(), 3, "what the first round does not tell is not drawn");
    assert_eq!(chart.rounds, [(1.27, 2)]);
    let blackout = chart.blackout.expect("it arrived");
    assert!((blackout.to - 1.94).abs() < 1e-9 && (blackout.from - 1.866).abs() < 1e-9, "{blackout:?}");
    let marks: Vec<_> = chart.marks.iter().map(|mark| (mark.at, mark.text.as_str())).collect();
    assert_eq!(
        marks,
        [
            (0.7, "+ 700 ms  the guest may stand still for 100 ms (policy)"),
            (1.2, "+ 1.20 s  1.0 GiB/s of memory may be sent (coordinator/<ops>)"),
        ]
    );
}

#[test]
fn a_page_is_one_file_that_needs_nothing_and_takes_names_for_what_they_are() {
    let migration = told();
    let page = page(&migration, migration.started());
    for text in
        ["web: node-28 → node-31, completed", "Forecast and what came of it", "× ", "coordinator/&lt;ops&gt;", "<svg"]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    for foreign in ["<script", "<ops>", "href=", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let svg = picture(&migration, migration.started());
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("<ops>"), "{svg}");
}

#[test]
fn one_without_samples_has_a_truthful_picture() {
    let failed = merge([half(Side::Source, ID, 0, Some((3, Outcome::FailedRolledBack)))]).remove(0);
    let chart = Chart::of(&failed, failed.started());
    assert_eq!((chart.blackout.as_ref(), chart.remaining.len(), chart.phases.len()), (None, 0, 2));
    let svg = picture(&failed, failed.started());
    for text in ["no samples: its job was over before it told any, or never began", "cleanup", "failed_rolled_back"] {
        assert!(svg.contains(text), "{text}: {svg}");
    }
    let there_only = merge([half(Side::Destination, ID, 0, None)]).remove(0);
    let now = there_only.started() + jiff::SignedDuration::from_secs(9);
    assert!(picture(&there_only, now).contains("the source has no record of it"));
    assert!(super::page(&there_only, now).contains("It goes on, in phase migrate."));
}

#[test]
fn hundreds_of_events_and_rounds_still_make_a_picture() {
    let mut migration = told();
    let story = &mut migration.source.as_mut().expect("there").story;
    let event = story.events[0].clone();
    story.events = vec![event; 256];
    for (index, point) in story.timeline.as_mut().expect("there").points.iter_mut().enumerate() {
        point.round = 1_000 * u32::try_from(index).expect("few");
    }
    assert!(picture(&migration, migration.started()).contains("and 232 more"));
}
