use bytesize::ByteSize;
use vmferry_core::{
    convergence::{Course, End, Forecast, Foreseen, Needed, Outlook, RateFrom},
    migration::{Author, Deed, Event, Point, Story, Timeline},
};

use super::{Invalid, all, duration, invalid, required, timestamp, wire_duration, wire_timestamp};
use crate::v1::{
    self, foreseen,
    job_event::{self, Abort},
};

impl From<Story> for v1::Story {
    fn from(Story { foreseen, events, timeline }: Story) -> Self {
        Self {
            foreseen: foreseen.map(Into::into),
            events: events.into_iter().map(Into::into).collect(),
            timeline: timeline.map(Into::into),
        }
    }
}

impl TryFrom<v1::Story> for Story {
    type Error = Invalid;

    fn try_from(story: v1::Story) -> Result<Self, Invalid> {
        Ok(Self {
            foreseen: story.foreseen.map(TryInto::try_into).transpose()?,
            events: all(story.events)?,
            timeline: story.timeline.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Foreseen> for v1::Foreseen {
    fn from(foreseen: Foreseen) -> Self {
        let Forecast { likely, best, worst, needed } = foreseen.forecast;
        let rate_from = match foreseen.rate_from {
            RateFrom::FormerMoves => foreseen::RateFrom::FormerMoves,
            RateFrom::ThisMove => foreseen::RateFrom::ThisMove,
        };
        Self {
            after: Some(wire_duration(foreseen.after)),
            memory_bytes: foreseen.memory.as_u64(),
            resident_bytes: foreseen.resident.as_u64(),
            dirty_rate_bytes_per_second: foreseen.dirty_rate.map(|rate| rate.as_u64()),
            rate_bytes_per_second: foreseen.rate.as_u64(),
            rate_from: rate_from.into(),
            likely: Some(likely.into()),
            best: Some(best.into()),
            worst: Some(worst.into()),
            needed: needed.map(|Needed { bandwidth, downtime }| foreseen::Needed {
                bandwidth_bytes_per_second: bandwidth.map(|bytes| bytes.as_u64()),
                downtime: downtime.map(wire_duration),
            }),
        }
    }
}

impl TryFrom<v1::Foreseen> for Foreseen {
    type Error = Invalid;

    fn try_from(foreseen: v1::Foreseen) -> Result<Self, Invalid> {
        let needed = |needed: foreseen::Needed| {
            let downtime = needed.downtime.map(|downtime| duration(Some(downtime), "foreseen.needed.downtime"));
            let bandwidth = needed.bandwidth_bytes_per_second.map(ByteSize::b);
            Ok::<_, Invalid>(Needed { bandwidth, downtime: downtime.transpose()? })
        };
        Ok(Self {
            after: duration(foreseen.after, "foreseen.after")?,
            memory: ByteSize::b(foreseen.memory_bytes),
            resident: ByteSize::b(foreseen.resident_bytes),
            dirty_rate: foreseen.dirty_rate_bytes_per_second.map(ByteSize::b),
            rate: ByteSize::b(foreseen.rate_bytes_per_second),
            rate_from: match foreseen.rate_from() {
                foreseen::RateFrom::Unspecified => return Err(Invalid { field: "foreseen.rate_from" }),
                foreseen::RateFrom::FormerMoves => RateFrom::FormerMoves,
                foreseen::RateFrom::ThisMove => RateFrom::ThisMove,
            },
            forecast: Forecast {
                likely: required(foreseen.likely, "foreseen.likely")?,
                best: required(foreseen.best, "foreseen.best")?,
                worst: required(foreseen.worst, "foreseen.worst")?,
                needed: foreseen.needed.map(needed).transpose()?,
            },
        })
    }
}

fn wire_end(end: Option<End>) -> i32 {
    let end = match end {
        None => v1::ForecastEnd::Unspecified,
        Some(End::Postcopy) => v1::ForecastEnd::Postcopy,
        Some(End::Suspend) => v1::ForecastEnd::Suspend,
        Some(End::Abort) => v1::ForecastEnd::Abort,
    };
    end.into()
}

/// An end that only a newer version knows is an error: it must not be taken for an arrival.
fn end(end: i32) -> Result<Option<End>, Invalid> {
    Ok(match v1::ForecastEnd::try_from(end).map_err(invalid("forecast.end"))? {
        v1::ForecastEnd::Unspecified => None,
        v1::ForecastEnd::Postcopy => Some(End::Postcopy),
        v1::ForecastEnd::Suspend => Some(End::Suspend),
        v1::ForecastEnd::Abort => Some(End::Abort),
    })
}

impl From<Course> for v1::Course {
    fn from(Course { end, rounds, sent, total, downtime }: Course) -> Self {
        Self {
            end: wire_end(end),
            rounds,
            sent_bytes: sent.as_u64(),
            total_time: Some(wire_duration(total)),
            downtime: Some(wire_duration(downtime)),
        }
    }
}

impl TryFrom<v1::Course> for Course {
    type Error = Invalid;

    fn try_from(course: v1::Course) -> Result<Self, Invalid> {
        Ok(Self {
            end: end(course.end)?,
            rounds: course.rounds,
            sent: ByteSize::b(course.sent_bytes),
            total: duration(course.total_time, "course.total_time")?,
            downtime: duration(course.downtime, "course.downtime")?,
        })
    }
}

impl From<Outlook> for v1::Outlook {
    fn from(Outlook { end, rest, downtime }: Outlook) -> Self {
        Self { end: wire_end(end), rest: Some(wire_duration(rest)), downtime: Some(wire_duration(downtime)) }
    }
}

impl TryFrom<v1::Outlook> for Outlook {
    type Error = Invalid;

    fn try_from(outlook: v1::Outlook) -> Result<Self, Invalid> {
        Ok(Self {
            end: end(outlook.end)?,
            rest: duration(outlook.rest, "outlook.rest")?,
            downtime: duration(outlook.downtime, "outlook.downtime")?,
        })
    }
}

impl From<Event> for v1::JobEvent {
    fn from(Event { at, by, deed }: Event) -> Self {
        let by = match by {
            Author::Policy => String::new(),
            Author::Hand(identity) => identity,
        };
        let deed = match deed {
            Deed::Told(steering) => job_event::Deed::Told(steering.into()),
            Deed::Abort => job_event::Deed::Abort(Abort {}),
        };
        Self { at: Some(wire_timestamp(at)), by, deed: Some(deed) }
    }
}

impl TryFrom<v1::JobEvent> for Event {
    type Error = Invalid;

    fn try_from(event: v1::JobEvent) -> Result<Self, Invalid> {
        Ok(Self {
            at: timestamp(event.at.ok_or(Invalid { field: "event.at" })?, "event.at")?,
            by: if event.by.is_empty() { Author::Policy } else { Author::Hand(event.by) },
            deed: match event.deed.ok_or(Invalid { field: "event.deed" })? {
                job_event::Deed::Told(steering) => Deed::Told(steering.try_into()?),
                job_event::Deed::Abort(Abort {}) => Deed::Abort,
            },
        })
    }
}

impl From<Timeline> for v1::Timeline {
    fn from(Timeline { began, points }: Timeline) -> Self {
        Self { began: Some(wire_timestamp(began)), points: points.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::Timeline> for Timeline {
    type Error = Invalid;

    fn try_from(timeline: v1::Timeline) -> Result<Self, Invalid> {
        Ok(Self {
            began: timestamp(timeline.began.ok_or(Invalid { field: "timeline.began" })?, "timeline.began")?,
            points: all(timeline.points)?,
        })
    }
}

impl From<Point> for v1::TimelinePoint {
    fn from(point: Point) -> Self {
        Self {
            elapsed: Some(wire_duration(point.elapsed)),
            remaining_bytes: point.remaining.as_u64(),
            transferred_bytes: point.transferred.as_u64(),
            rate_bytes_per_second: point.rate.as_u64(),
            dirty_rate_bytes_per_second: point.dirty_rate.as_u64(),
            round: point.round,
            throttle_percent: point.throttle.into(),
            stopped: point.stopped,
        }
    }
}

impl TryFrom<v1::TimelinePoint> for Point {
    type Error = Invalid;

    fn try_from(point: v1::TimelinePoint) -> Result<Self, Invalid> {
        Ok(Self {
            elapsed: duration(point.elapsed, "point.elapsed")?,
            remaining: ByteSize::b(point.remaining_bytes),
            transferred: ByteSize::b(point.transferred_bytes),
            rate: ByteSize::b(point.rate_bytes_per_second),
            dirty_rate: ByteSize::b(point.dirty_rate_bytes_per_second),
            round: point.round,
            throttle: point.throttle_percent.try_into().map_err(invalid("point.throttle_percent"))?,
            stopped: point.stopped,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use vmferry_core::{
        convergence::Foreseer,
        migration::{Limits, Progress, Steering},
    };

    use super::*;

    fn story() -> Story {
        // One that does not converge, so that there is something needed.
        let mut foreseer = Foreseer::new(Limits::default(), Default::default(), Some(ByteSize::mib(100)));
        foreseer.see_memory(ByteSize::gib(2), ByteSize::gib(1));
        foreseer.see_dirty_rate(ByteSize::b(300_000_001));
        let event = |by, deed| Event { at: Timestamp::UNIX_EPOCH, by, deed };
        let point = Point { elapsed: Duration::from_millis(1_250), throttle: 40, stopped: true, ..Point::default() };
        Story {
            foreseen: foreseer.foresee(Duration::from_millis(1_001)),
            events: vec![
                event(Author::Policy, Deed::Abort),
                event(Author::Hand("vmferry://t/coordinator/me".into()), Deed::Told(Steering::Bandwidth(None))),
            ],
            timeline: Some(Timeline { began: Timestamp::UNIX_EPOCH, points: vec![Point::default(), point] }),
        }
    }

    #[test]
    fn a_story_arrives_as_it_was_sent() {
        let story = story();
        assert!(story.foreseen.is_some_and(|foreseen| foreseen.forecast.needed.is_some()));
        assert_eq!(Story::try_from(v1::Story::from(story.clone())), Ok(story));
        assert_eq!(Story::try_from(v1::Story::default()), Ok(Story::default()));
    }

    #[test]
    fn what_only_a_newer_version_knows_is_not_taken_for_something_else() {
        let mut newer = v1::Story::from(story());
        newer.foreseen.as_mut().expect("there").likely.as_mut().expect("there").end = 99;
        assert_eq!(Story::try_from(newer), Err(Invalid { field: "forecast.end" }));
        // But whoever looks on sees the rest of the sample.
        let outlook = Outlook { end: None, rest: Duration::from_secs(3), downtime: Duration::from_millis(70) };
        let sample = Progress { round: 2, forecast: Some(outlook), ..Progress::default() };
        let mut wire = v1::Progress::from(sample);
        assert_eq!(Progress::try_from(wire), Ok(sample));
        wire.forecast.as_mut().expect("there").end = 99;
        assert_eq!(Progress::try_from(wire), Ok(Progress { forecast: None, ..sample }));
    }
}
