//! How a job went: what was foreseen of it, what was done to it, and its course, to be looked at afterwards.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Progress, Steering};
use crate::convergence::{Action, Foreseen};

/// What the source tells of its job besides what every half's record has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Story {
    /// The forecast; `None`: it was not live, or could not be measured before it was over.
    pub foreseen: Option<Foreseen>,
    /// What was done to it while it ran, in order.
    pub events: Vec<Event>,
    /// Its samples; `None` until it is over, and if it never told any.
    pub timeline: Option<Timeline>,
}

/// Something that its policy or somebody did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the source's clock.
    pub at: Timestamp,
    /// Who.
    pub by: Author,
    /// What.
    pub deed: Deed,
}

/// Who does something to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// A step of its policy.
    Policy,
    /// By hand: the identity of who asked.
    Hand(String),
}

/// What is done to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It goes on otherwise.
    Told(Steering),
    /// It is to end; the guest stays where it is.
    Abort,
}

impl From<Action> for Deed {
    fn from(action: Action) -> Self {
        match action {
            Action::Downtime(downtime) => Self::Told(Steering::Downtime(downtime)),
            Action::Postcopy => Self::Told(Steering::Postcopy),
            Action::Suspend => Self::Told(Steering::Suspend),
            Action::Abort => Self::Abort,
        }
    }
}

/// How many events a record keeps: a program that tells a job something all day long must not fill the disk.
pub const MOST_EVENTS: usize = 256;

/// A job's samples, thinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// When its first sample would have been taken at 0 s, by the source's clock.
    pub began: Timestamp,
    /// In order.
    pub points: Vec<Point>,
}

/// A sample, as far as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Point {
    /// Since the job began; whole milliseconds.
    #[serde(rename = "ms", with = "millis")]
    pub elapsed: Duration,
    /// Still to be sent.
    #[serde(rename = "left", serialize_with = "crate::bytes::exact")]
    pub remaining: ByteSize,
    /// Sent so far.
    #[serde(rename = "sent", serialize_with = "crate::bytes::exact")]
    pub transferred: ByteSize,
    /// Sent per second.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub rate: ByteSize,
    /// Written to by the guest per second, in the last round.
    #[serde(rename = "dirty", serialize_with = "crate::bytes::exact")]
    pub dirty_rate: ByteSize,
    /// Over the guest's memory, the first is 1.
    pub round: u32,
    /// How much of their time the guest's CPUs were held back, in percent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub throttle: u8,
    /// Whether the guest was stopped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stopped: bool,
}

impl From<&Progress> for Point {
    fn from(sample: &Progress) -> Self {
        Self {
            elapsed: Duration::from_millis(u64::try_from(sample.elapsed.as_millis()).unwrap_or(u64::MAX)),
            remaining: sample.remaining,
            transferred: sample.transferred,
            rate: sample.rate,
            dirty_rate: sample.dirty_rate,
            round: sample.round,
            throttle: sample.throttle,
            stopped: sample.stopped,
        }
    }
}

impl Timeline {
    /// How many points it has at most.
    pub const MOST: usize = 240;

    /// With its first sample, taken now.
    pub fn begin(now: Timestamp, sample: &Progress) -> Self {
        // A clock that stands before the job's beginning is wrong by decades.
        let began = now.checked_sub(sample.elapsed).unwrap_or(now);
        Self { began, points: vec![sample.into()] }
    }

    /// The next sample. Thinned now and then, so that a job may take as long as it likes.
    pub fn push(&mut self, sample: &Progress) {
        self.points.push(sample.into());
        if self.points.len() > 4 * Self::MOST {
            self.points = thinned(&self.points, 2 * Self::MOST);
        }
    }

    /// As it is kept.
    pub fn thinned(self) -> Self {
        Self { points: thinned(&self.points, Self::MOST), ..self }
    }
}

/// At most `most` of the points, and all if they are fewer: the first and the last, those with which the guest is stopped or goes on, those
/// with which rounds begin, and of the rest as many as there is room for, evenly over time. Rounds too many for that are thinned as well.
pub fn thinned(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let last = points.len() - 1;
    let ends = |index: &usize| [0, last].contains(index);
    let turns = |index: &usize| *index > 0 && points[*index].stopped != points[*index - 1].stopped;
    let begins_round = |index: &usize| *index > 0 && points[*index].round != points[*index - 1].round;
    let mut kept: Vec<usize> = Vec::new();
    let all = |_: &usize| true;
    let wanted: [&dyn Fn(&usize) -> bool; 4] = [&ends, &turns, &begins_round, &all];
    for is_wanted in wanted {
        let more: Vec<usize> = (0..points.len()).filter(|index| !kept.contains(index) && is_wanted(index)).collect();
        let chosen = evenly(points, &more, most.saturating_sub(kept.len()));
        kept.extend(chosen);
        kept.sort_unstable();
    }
    kept.into_iter().map(|index| points[index]).collect()
}

/// `room` of the candidates, as evenly over the time between the first and the last of them as they allow.
fn evenly(points: &[Point], candidates: &[usize], room: usize) -> Vec<usize> {
    if candidates.len() <= room {
        return candidates.to_vec();
    }
    let time = |index: usize| points[index].elapsed.as_millis();
    let (Some(first), Some(last), 1..) = (candidates.first(), candidates.last(), room) else { return Vec::new() };
    let span = (time(*last).saturating_sub(time(*first))).max(1);
    // The first of each of as many equal parts of the time as there is room.
    let part = |index: usize| (time(index).saturating_sub(time(*first))) * (room as u128) / (span + 1);
    let mut chosen: Vec<usize> = candidates.to_vec();
    chosen.dedup_by_key(|index| part(*index));
    chosen
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(millis: u64, round: u32, stopped: bool) -> Point {
        Point { elapsed: Duration::from_millis(millis), round, stopped, ..Point::default() }
    }

    #[test]
    fn a_thinned_timeline_keeps_what_tells_something() {
        // 1,000 samples; rounds begin at 0, 700 and 703, and the guest is stopped with the last but one.
        let round = |index: u64| 1 + u32::from(index >= 700) + u32::from(index >= 703);
        let points: Vec<_> = (0..1_000).map(|index| point(250 * index, round(index), index >= 998)).collect();
        let thinned = thinned(&points, 50);
        assert!((40..=50).contains(&thinned.len()), "{}", thinned.len());
        for index in [0, 700, 703, 998, 999] {
            assert!(thinned.contains(&points[index]), "{index}: {thinned:?}");
        }
        let gap = thinned.windows(2).map(|pair| pair[1].elapsed.saturating_sub(pair[0].elapsed)).max();
        assert!(gap < Some(Duration::from_millis(250 * 1_000 / 50 * 3)), "{gap:?}");
    }

    #[test]
    fn a_job_may_take_as_long_as_it_likes() {
        let sample =
            |index: u64| Progress { elapsed: Duration::from_millis(250 * index), round: 1, ..Progress::default() };
        let now = Timestamp::from_second(1_000_000).expect("valid");
        let mut timeline = Timeline::begin(now, &sample(4));
        assert_eq!(timeline.began, Timestamp::from_second(999_999).expect("valid"));
        for index in 5..100_000 {
            timeline.push(&sample(index));
            assert!(timeline.points.len() <= 4 * Timeline::MOST);
        }
        let timeline = timeline.thinned();
        let [first, .., last] = &timeline.points[..] else { panic!("{timeline:?}") };
        assert_eq!((first.elapsed, last.elapsed), (Duration::from_secs(1), Duration::from_millis(250 * 99_999)));
        assert!((Timeline::MOST / 2..=Timeline::MOST).contains(&timeline.points.len()), "{}", timeline.points.len());
        // As it is journaled.
        let written = serde_json::to_string(&timeline).expect("serializable");
        assert!(written.len() < 30_000, "{}", written.len());
        assert_eq!(serde_json::from_str::<Timeline>(&written).expect("readable"), timeline);
    }

    #[test]
    fn what_was_told_is_read_back_to_the_byte() {
        let bandwidth = Steering::Bandwidth(Some(ByteSize::b(1_234_567_891)));
        for deed in [Deed::Told(bandwidth), Deed::Told(Steering::Pause), Deed::Abort, Action::Suspend.into()] {
            let by = Author::Hand("vmferry://t/coordinator/me".into());
            let event = Event { at: Timestamp::UNIX_EPOCH, by, deed };
            let written = serde_json::to_string(&event).expect("serializable");
            assert_eq!(serde_json::from_str::<Event>(&written).expect("readable"), event, "{written}");
        }
    }

    proptest! {
        #[test]
        fn thinning_keeps_order_the_ends_and_the_limit(
            steps in prop::collection::vec((0_u64..2_000, 0_u32..2, prop::bool::weighted(0.01)), 1..400), most in 8_usize..60,
        ) {
            let (mut time, mut round) = (0, 0);
            let points: Vec<_> = steps.iter().map(|(wait, next, stopped)| {
                (time, round) = (time + wait, round + next);
                point(time, round, *stopped)
            }).collect();
            let thinned = thinned(&points, most);
            prop_assert!(thinned.len() <= most);
            prop_assert_eq!((thinned.first(), thinned.last()), (points.first(), points.last()));
            prop_assert!(thinned.is_sorted_by_key(|point| point.elapsed));
            prop_assert!(thinned.iter().all(|point| points.contains(point)));
            if points.len() <= most {
                prop_assert_eq!(thinned, points);
            }
        }
    }
}
