//! What the source's record tells of its job.

use bytesize::ByteSize;
use vmferry_core::{
    convergence::RateFrom,
    migration::{Author, Deed, Event, Record, Steering, Story},
};

use super::*;

impl Rig {
    fn whole_record(&self) -> Record {
        self.source.get(self.order.id).expect("it has one").state().whole_record()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_has_the_forecast_what_was_done_and_the_samples_and_keeps_them() {
    let mut rig = Rig::new(Faults::none());
    rig.run().await.expect("nothing fails");
    let record = rig.whole_record();
    let Story { foreseen, events, timeline } = record.story.clone();
    let foreseen = foreseen.expect("it was measured");
    assert_eq!((foreseen.memory, foreseen.resident), (ByteSize::mib(256), ByteSize::mib(100)));
    assert_eq!((foreseen.dirty_rate, foreseen.rate_from), (Some(ByteSize::mib(7)), RateFrom::ThisMove));
    assert!(foreseen.forecast.likely.total > Duration::from_secs(1), "100 MiB at 100 MiB/s: {foreseen:?}");
    let [Event { by: Author::Policy, deed: Deed::Told(Steering::Downtime(downtime)), at }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*downtime, Duration::from_millis(100));
    assert!(*at >= record.started && Some(*at) <= record.ended, "{record:?}");
    let points = timeline.expect("it was sampled").points;
    // What was sent ahead of the job took its time, too.
    assert_eq!(points.iter().map(|point| point.round).filter(|round| *round > 0).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(points.last().is_some_and(|point| point.stopped), "{points:?}");

    assert_eq!(rig.source.records(false)[0].story, Story::default(), "lists are short");
    rig.restart(Side::Source);
    assert_eq!(rig.whole_record(), record);
    let destination = rig.destination.get(rig.order.id).expect("it has one").state().whole_record();
    assert_eq!(destination.story, Story::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_be_measured_moves_without_a_forecast() {
    let rig = Rig::new(Faults::none());
    rig.world.hide_load();
    rig.run().await.expect("nothing fails");
    let Story { foreseen, timeline, .. } = rig.whole_record().story;
    assert_eq!(foreseen, None);
    assert!(timeline.is_some());
    rig.assert_invariants("without a forecast");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_moves_while_it_is_off_is_not_measured() {
    let rig = Rig::of(Kind::Cold { shutdown: Some(SHUTDOWN) }, Faults::none());
    rig.run().await.expect("nothing fails");
    let Story { foreseen, timeline, .. } = rig.whole_record().story;
    assert_eq!(foreseen, None);
    assert!(timeline.is_some_and(|timeline| !timeline.points.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_aborted_is_told_even_if_there_was_no_job_yet() {
    let rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let migration = rig.source.get(rig.order.id).expect("open");
    for _ in 0..2 {
        migration.abort("vmferry://test/coordinator/other").expect("not too late");
    }
    _ = rig.resolve().await.expect_err("it was aborted");
    let Story { events, timeline, .. } = rig.whole_record().story;
    let [Event { by: Author::Hand(by), deed: Deed::Abort, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((by.as_str(), timeline), ("vmferry://test/coordinator/other", None));
}
