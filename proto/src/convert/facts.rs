use vmferry_core::resolution::{
    DestinationFacts, DestinationMark, Domain, End, Job, Seen, SourceFacts, SourceMark, Way,
};

use super::{Invalid, required};
use crate::v1::{self, get_facts_response::Journal};

impl From<Seen> for v1::Shown {
    // QEMU's own word is asked by nobody from another host.
    fn from(Seen { domain, job, qemu: _ }: Seen) -> Self {
        let domain = match domain {
            Domain::Absent => v1::ShownDomain::Absent,
            Domain::Off => v1::ShownDomain::Off,
            Domain::Running => v1::ShownDomain::Running,
            Domain::RunningPostcopy => v1::ShownDomain::RunningPostcopy,
            Domain::PausedToMove => v1::ShownDomain::PausedToMove,
            Domain::PausedPostcopy => v1::ShownDomain::PausedPostcopy,
            Domain::Paused => v1::ShownDomain::Paused,
        };
        let job = match job {
            Job::None => v1::ShownJob::None,
            Job::Outgoing => v1::ShownJob::Outgoing,
            Job::Incoming => v1::ShownJob::Incoming,
            Job::Other => v1::ShownJob::Other,
            Job::Unknown => v1::ShownJob::Unknown,
        };
        Self { domain: domain.into(), job: job.into() }
    }
}

impl TryFrom<v1::Shown> for Seen {
    type Error = Invalid;

    fn try_from(shown: v1::Shown) -> Result<Self, Invalid> {
        let domain = match shown.domain() {
            v1::ShownDomain::Unspecified => return Err(Invalid { field: "shown.domain" }),
            v1::ShownDomain::Absent => Domain::Absent,
            v1::ShownDomain::Off => Domain::Off,
            v1::ShownDomain::Running => Domain::Running,
            v1::ShownDomain::RunningPostcopy => Domain::RunningPostcopy,
            v1::ShownDomain::PausedToMove => Domain::PausedToMove,
            v1::ShownDomain::PausedPostcopy => Domain::PausedPostcopy,
            v1::ShownDomain::Paused => Domain::Paused,
        };
        let job = match shown.job() {
            v1::ShownJob::Unspecified => return Err(Invalid { field: "shown.job" }),
            v1::ShownJob::None => Job::None,
            v1::ShownJob::Outgoing => Job::Outgoing,
            v1::ShownJob::Incoming => Job::Incoming,
            v1::ShownJob::Other => Job::Other,
            v1::ShownJob::Unknown => Job::Unknown,
        };
        Ok(Self { domain, job, qemu: None })
    }
}

impl From<SourceMark> for v1::SourceMark {
    fn from(mark: SourceMark) -> Self {
        match mark {
            SourceMark::Nothing => Self::Nothing,
            SourceMark::Ready => Self::Ready,
            SourceMark::Moving => Self::Moving,
            SourceMark::Stayed => Self::Stayed,
            SourceMark::Released => Self::Released,
            SourceMark::Switched => Self::Switched,
            SourceMark::Moved => Self::Moved,
            SourceMark::Ending(End::Forward) => Self::Completing,
            SourceMark::Ending(End::Back) => Self::GoingBack,
            SourceMark::Ended(End::Forward) => Self::Completed,
            SourceMark::Ended(End::Back) => Self::WentBack,
        }
    }
}

impl TryFrom<v1::SourceMark> for SourceMark {
    type Error = Invalid;

    fn try_from(mark: v1::SourceMark) -> Result<Self, Invalid> {
        Ok(match mark {
            v1::SourceMark::Unspecified => return Err(Invalid { field: "source" }),
            v1::SourceMark::Nothing => Self::Nothing,
            v1::SourceMark::Ready => Self::Ready,
            v1::SourceMark::Moving => Self::Moving,
            v1::SourceMark::Stayed => Self::Stayed,
            v1::SourceMark::Released => Self::Released,
            v1::SourceMark::Switched => Self::Switched,
            v1::SourceMark::Moved => Self::Moved,
            v1::SourceMark::Completing => Self::Ending(End::Forward),
            v1::SourceMark::GoingBack => Self::Ending(End::Back),
            v1::SourceMark::Completed => Self::Ended(End::Forward),
            v1::SourceMark::WentBack => Self::Ended(End::Back),
        })
    }
}

impl From<DestinationMark> for v1::DestinationMark {
    fn from(mark: DestinationMark) -> Self {
        match mark {
            DestinationMark::Nothing => Self::Nothing,
            DestinationMark::Ready => Self::Ready,
            DestinationMark::Resuming => Self::Resuming,
            DestinationMark::Ending(End::Forward) => Self::Completing,
            DestinationMark::Ending(End::Back) => Self::GoingBack,
            DestinationMark::Ended(End::Forward) => Self::Completed,
            DestinationMark::Ended(End::Back) => Self::WentBack,
        }
    }
}

impl TryFrom<v1::DestinationMark> for DestinationMark {
    type Error = Invalid;

    fn try_from(mark: v1::DestinationMark) -> Result<Self, Invalid> {
        Ok(match mark {
            v1::DestinationMark::Unspecified => return Err(Invalid { field: "destination.mark" }),
            v1::DestinationMark::Nothing => Self::Nothing,
            v1::DestinationMark::Ready => Self::Ready,
            v1::DestinationMark::Resuming => Self::Resuming,
            v1::DestinationMark::Completing => Self::Ending(End::Forward),
            v1::DestinationMark::GoingBack => Self::Ending(End::Back),
            v1::DestinationMark::Completed => Self::Ended(End::Forward),
            v1::DestinationMark::WentBack => Self::Ended(End::Back),
        })
    }
}

impl From<SourceFacts> for v1::GetFactsResponse {
    fn from(SourceFacts { seen, mark }: SourceFacts) -> Self {
        let journal = Journal::Source(v1::SourceMark::from(mark).into());
        Self { shown: Some(seen.into()), journal: Some(journal) }
    }
}

impl TryFrom<v1::GetFactsResponse> for SourceFacts {
    type Error = Invalid;

    fn try_from(facts: v1::GetFactsResponse) -> Result<Self, Invalid> {
        let Some(Journal::Source(mark)) = facts.journal else { return Err(Invalid { field: "source" }) };
        let mark = v1::SourceMark::try_from(mark).unwrap_or_default();
        Ok(Self { mark: mark.try_into()?, seen: required(facts.shown, "shown")? })
    }
}

impl From<DestinationFacts> for v1::GetFactsResponse {
    fn from(DestinationFacts { seen, mark, way }: DestinationFacts) -> Self {
        let mark = v1::DestinationMark::from(mark).into();
        let journal = Journal::Destination(v1::DestinationJournal { mark, is_open: way == Way::Open });
        Self { shown: Some(seen.into()), journal: Some(journal) }
    }
}

impl TryFrom<v1::GetFactsResponse> for DestinationFacts {
    type Error = Invalid;

    fn try_from(facts: v1::GetFactsResponse) -> Result<Self, Invalid> {
        let Some(Journal::Destination(journal)) = facts.journal else { return Err(Invalid { field: "destination" }) };
        let way = if journal.is_open { Way::Open } else { Way::Cut };
        Ok(Self { mark: journal.mark().try_into()?, seen: required(facts.shown, "shown")?, way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_travel_as_they_are_and_nothing_is_taken_for_another_hosts() {
        let seen = |domain, job| Seen { domain, job, qemu: None };
        let domains = [
            Domain::Absent,
            Domain::Off,
            Domain::Running,
            Domain::RunningPostcopy,
            Domain::PausedToMove,
            Domain::PausedPostcopy,
            Domain::Paused,
        ];
        let jobs = [Job::None, Job::Outgoing, Job::Incoming, Job::Other, Job::Unknown];
        let shown: Vec<_> = domains.into_iter().flat_map(|domain| jobs.map(|job| seen(domain, job))).collect();
        let ends = [End::Forward, End::Back];
        let alone = [
            SourceMark::Nothing,
            SourceMark::Ready,
            SourceMark::Moving,
            SourceMark::Stayed,
            SourceMark::Released,
            SourceMark::Switched,
            SourceMark::Moved,
        ];
        let marks = alone.into_iter().chain(ends.map(SourceMark::Ending)).chain(ends.map(SourceMark::Ended));
        for (mark, seen) in marks.flat_map(|mark| shown.iter().map(move |seen| (mark, *seen))) {
            let wire = v1::GetFactsResponse::from(SourceFacts { seen, mark });
            assert_eq!(DestinationFacts::try_from(wire), Err(Invalid { field: "destination" }));
            assert_eq!(SourceFacts::try_from(wire), Ok(SourceFacts { seen, mark }));
        }
        let alone = [DestinationMark::Nothing, DestinationMark::Ready, DestinationMark::Resuming];
        let marks = alone.into_iter().chain(ends.map(DestinationMark::Ending)).chain(ends.map(DestinationMark::Ended));
        for (mark, seen) in marks.flat_map(|mark| shown.iter().map(move |seen| (mark, *seen))) {
            for way in [Way::Open, Way::Cut] {
                let wire = v1::GetFactsResponse::from(DestinationFacts { seen, mark, way });
                assert_eq!(SourceFacts::try_from(wire), Err(Invalid { field: "source" }));
                assert_eq!(DestinationFacts::try_from(wire), Ok(DestinationFacts { seen, mark, way }));
            }
        }
    }

    #[test]
    fn what_a_later_agent_says_and_nobody_here_understands_is_no_fact() {
        let whole =
            SourceFacts { seen: Seen { domain: Domain::Off, job: Job::None, qemu: None }, mark: SourceMark::Ready };
        let whole = v1::GetFactsResponse::from(whole);
        let unknown = v1::GetFactsResponse { journal: Some(Journal::Source(99)), ..whole };
        assert_eq!(SourceFacts::try_from(unknown), Err(Invalid { field: "source" }));
        let shown = Some(v1::Shown { domain: 99, ..whole.shown.expect("it has") });
        let unknown = v1::GetFactsResponse { shown, ..whole };
        assert_eq!(SourceFacts::try_from(unknown), Err(Invalid { field: "shown.domain" }));
    }
}
