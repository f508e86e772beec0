//! What agents of earlier versions know and do not say so: as far as what they say means it. What they leave open is taken for open.

use super::{DestinationFacts, DestinationMark, Domain, End, Job, Seen, SourceFacts, SourceMark, Way};
use crate::{
    agent::Sighting,
    flow::is_before_the_handover,
    migration::{Outcome, Phase, Record},
};

impl SourceFacts {
    /// By what the host sees and by its half's record, if it has one.
    pub fn of_earlier(sighting: Sighting, record: Option<&Record>) -> Self {
        let mark = |record: &Record| match end(record) {
            Some((end, true)) => SourceMark::Ended(end),
            Some((end, false)) => SourceMark::Ending(end),
            None if record.statistics.is_some() => SourceMark::Moved,
            None if record.phase() < Phase::Migrate => SourceMark::Ready,
            None if record.cause.as_ref().is_some_and(|cause| is_before_the_handover(cause.reason)) => {
                SourceMark::Stayed
            }
            None => SourceMark::Moving,
        };
        Self { seen: seen(sighting), mark: record.map_or(SourceMark::Nothing, mark) }
    }
}

impl DestinationFacts {
    /// By what the host sees and by its half's record, if it has one.
    pub fn of_earlier(sighting: Sighting, record: Option<&Record>) -> Self {
        let mark = |record: &Record| match end(record) {
            Some((end, true)) => DestinationMark::Ended(end),
            Some((end, false)) => DestinationMark::Ending(end),
            None if record.phase() == Phase::Migrate => DestinationMark::Resuming,
            None => DestinationMark::Ready,
        };
        let mark = record.map_or(DestinationMark::Nothing, mark);
        let is_shut = matches!(mark, DestinationMark::Nothing | DestinationMark::Ended(_));
        Self { seen: seen(sighting), mark, way: if is_shut { Way::Cut } else { Way::Open } }
    }
}

/// Which, and whether it is there.
fn end(record: &Record) -> Option<(End, bool)> {
    match (record.outcome, record.phase()) {
        (Some(Outcome::Completed | Outcome::CompletedWithWarnings), _) => Some((End::Forward, true)),
        (Some(Outcome::FailedRolledBack | Outcome::AbortedRolledBack), _) => Some((End::Back, true)),
        (None | Some(Outcome::Held), Phase::Post) => Some((End::Forward, false)),
        (None | Some(Outcome::Held), Phase::Cleanup) => Some((End::Back, false)),
        (None | Some(Outcome::Held), _) => None,
    }
}

fn seen(sighting: Sighting) -> Seen {
    let (domain, job) = match sighting {
        Sighting::Absent => (Domain::Absent, Job::None),
        Sighting::Shutoff => (Domain::Off, Job::None),
        Sighting::Running => (Domain::Running, Job::None),
        Sighting::Arriving => (Domain::PausedToMove, Job::Incoming),
        Sighting::Paused => (Domain::Paused, Job::None),
        Sighting::Departing => (Domain::PausedPostcopy, Job::None),
        Sighting::Incomplete => (Domain::RunningPostcopy, Job::None),
    };
    Seen { domain, job, qemu: None }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        flow::tests::order,
        migration::{Cause, PhaseSpan, Side, Statistics},
        reason::Reason,
        resolution::GuestCopy,
    };

    fn half(side: Side, phase: Phase) -> Record {
        Record {
            order: order(),
            side,
            requested_by: "vmferry://c/coordinator/ops".into(),
            driver: None,
            started: Timestamp::UNIX_EPOCH,
            ended: None,
            phases: vec![PhaseSpan { phase, started: Timestamp::UNIX_EPOCH, duration: None }],
            outcome: None,
            cause: None,
            statistics: None,
            guest: None,
            pending: vec![],
            warnings: vec![],
            story: Default::default(),
        }
    }

    fn failed(reason: Reason) -> Option<Cause> {
        Some(Cause { reason, host: order().source.host, message: "why".into() })
    }

    #[test]
    fn a_record_says_how_far_its_half_is() {
        let here = |record: &Record| SourceFacts::of_earlier(Sighting::Running, Some(record)).mark;
        let there = |record: &Record| DestinationFacts::of_earlier(Sighting::Paused, Some(record)).mark;
        let source = |phase| half(Side::Source, phase);
        assert_eq!(SourceFacts::of_earlier(Sighting::Absent, None).mark, SourceMark::Nothing);
        assert_eq!(here(&source(Phase::Pre)), SourceMark::Ready);
        let moving = source(Phase::Migrate);
        assert_eq!(here(&moving), SourceMark::Moving);
        assert_eq!(here(&Record { cause: failed(Reason::HandoverFailed), ..moving.clone() }), SourceMark::Moving);
        assert_eq!(here(&Record { cause: failed(Reason::MigrationFailed), ..moving.clone() }), SourceMark::Stayed);
        assert_eq!(here(&Record { statistics: Some(Statistics::default()), ..moving }), SourceMark::Moved);
        assert_eq!(here(&source(Phase::Post)), SourceMark::Ending(End::Forward));
        let over = Record { outcome: Some(Outcome::AbortedRolledBack), ..source(Phase::Cleanup) };
        assert_eq!(here(&over), SourceMark::Ended(End::Back));

        assert_eq!(there(&half(Side::Destination, Phase::Pre)), DestinationMark::Ready);
        assert_eq!(there(&half(Side::Destination, Phase::Migrate)), DestinationMark::Resuming);
        assert_eq!(there(&half(Side::Destination, Phase::Cleanup)), DestinationMark::Ending(End::Back));
        let way = |record: Option<&Record>| DestinationFacts::of_earlier(Sighting::Arriving, record).way;
        assert_eq!(way(None), Way::Cut);
        assert_eq!(way(Some(&half(Side::Destination, Phase::Cleanup))), Way::Open, "it may not have been closed yet");
    }

    #[test]
    fn a_sighting_is_the_copy_that_it_names() {
        let copies = [
            (Sighting::Absent, GuestCopy::None),
            (Sighting::Shutoff, GuestCopy::Off),
            (Sighting::Running, GuestCopy::Runs),
            (Sighting::Arriving, GuestCopy::Arriving),
            (Sighting::Paused, GuestCopy::Stopped),
            (Sighting::Departing, GuestCopy::Departing),
            (Sighting::Incomplete, GuestCopy::Incomplete),
        ];
        for (sighting, copy) in copies {
            assert_eq!(seen(sighting).copy(), copy);
        }
    }
}
