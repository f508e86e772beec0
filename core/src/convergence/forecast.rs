//! What a live migration will be like, by what was measured before it: the rounds are played through with the policy's own ladder.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Action, DOWNTIME, Ladder, Policy};
use crate::migration::{Kind, Order, Progress, Record, Side};

/// What was measured of a guest that runs, and of the way to where it shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What it may have of memory.
    pub memory: ByteSize,
    /// What it has written to at some time, as far as its host knows (not of what is in huge pages): the rest is empty, and not sent.
    pub resident: ByteSize,
    /// What it writes to per second; what it writes to twice counts once.
    pub dirty_rate: ByteSize,
    /// What the way carries per second.
    pub path: ByteSize,
    /// What was sent per second in former migrations, which QEMU had a part in as well: see [`usual`].
    pub usual: Option<ByteSize>,
}

/// What was sent per second in a host's newest live migrations that took the same way as this one, if there were any from which that can be told:
/// in the middle one, so that one that was paused, or ran beside others, says nothing of the rest.
pub fn usual<'a>(newest_first: impl IntoIterator<Item = &'a Record>, order: &Order) -> Option<ByteSize> {
    let way = |order: &Order| (order.destination.host.clone(), order.limits.path, order.limits.streams);
    let told = |record: &'a Record| {
        let statistics = record.statistics.filter(|statistics| statistics.transferred >= TELLING)?;
        let Order { kind, limits, .. } = &record.order;
        let sending = statistics.total_time.checked_sub(START)?;
        let counts = *kind == Kind::Live && limits.bandwidth.is_none() && record.side == Side::Source;
        (counts && way(&record.order) == way(order) && !sending.is_zero())
            .then(|| (statistics.transferred.as_u64() as f64 / sending.as_secs_f64()) as u64)
    };
    let mut rates: Vec<_> = newest_first.into_iter().filter_map(told).take(NEWEST).collect();
    rates.sort_unstable();
    rates.get(rates.len() / 2).copied().map(ByteSize::b)
}

/// What libvirt's job sends besides memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Of disks that are copied while the guest runs.
    pub disks: ByteSize,
    /// What its policy's times count by: [`load`](super::load).
    pub load: ByteSize,
}

/// What will be, as one number is likely and as two others are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// By what was measured.
    pub likely: Course,
    /// The guest writes less, and more is sent.
    pub best: Course,
    /// The other way round.
    pub worst: Course,
    /// What it would take, if the guest does not arrive without being stopped.
    pub needed: Option<Needed>,
}

/// A migration as it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// What the policy does in the end; `None`: it does not have to.
    pub end: Option<End>,
    /// Rounds over the guest's memory.
    pub rounds: u32,
    /// Memory and disks.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub sent: ByteSize,
    /// From the beginning of libvirt's job to its end.
    pub total: Duration,
    /// For how long the guest stands still. None if it stays where it is.
    pub downtime: Duration,
}

/// How the policy ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It goes on where it arrives, and its memory follows.
    Postcopy,
    /// The guest is stopped until the rest is sent.
    Suspend,
    /// It stays where it is.
    Abort,
}

/// Either of them would do, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// What must be sent per second.
    #[serde(serialize_with = "crate::bytes::exact_if_known")]
    pub bandwidth: Option<ByteSize>,
    /// For how long the guest must be allowed to stand still.
    pub downtime: Option<Duration>,
}

/// libvirt starts QEMU on the destination before anything is sent.
pub(super) const START: Duration = Duration::from_millis(300);
/// Beside what is left of memory: devices' state, and the two libvirts' hand-over.
pub(super) const HANDOVER: Duration = Duration::from_millis(60);
/// Of what the way carries and of what the guest writes, in percent: on a bad day, and on a good one.
const BAD: (u64, u64) = (50, 150);
const GOOD: (u64, u64) = (150, 70);
/// What a guest still writes that is slowed down as far as can be borne, in percent.
const SLOWED: u64 = 20;
/// Nobody plays more rounds than that through: whatever has not ended by then, does so at its deadline.
const MOST_ROUNDS: u32 = 10_000;
/// A migration that sent less tells more of its beginning and its end than of its speed.
const TELLING: ByteSize = ByteSize::mib(32);
/// How many former migrations count.
const NEWEST: usize = 20;
/// How many times as much bandwidth is looked at.
const FURTHEST: u64 = 1_000;

/// Where a migration stands that is played through. Times in seconds of the job's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) time: f64,
    /// 0: disks are copied.
    pub(super) round: u32,
    /// Of this round, in bytes.
    pub(super) left: f64,
    /// When the round began.
    pub(super) began: f64,
    /// How much longer the steps get the further away they are: where it is played often, it need not be exact.
    pub(super) grain: f64,
}

impl Forecast {
    /// What will be with this policy; `bandwidth` is per second.
    pub fn of(measured: &Measured, job: Job, policy: &Policy, bandwidth: Option<ByteSize>) -> Self {
        let with = |(path, dirty): (u64, u64)| Measured {
            path: percent(measured.speed(), path),
            usual: None,
            dirty_rate: percent(measured.dirty_rate, dirty),
            ..*measured
        };
        // A guest is slowed down only if it would not arrive without that.
        let course = |measured: &Measured| match Course::of(measured, job, policy, bandwidth) {
            stuck @ Course { end: Some(_), .. } if policy.throttle().is_some() => {
                let slowed = Measured { dirty_rate: percent(measured.dirty_rate, SLOWED), ..*measured };
                let slowed = Course::of(&slowed, job, policy, bandwidth);
                if slowed.end.is_none() { slowed } else { stuck }
            }
            course => course,
        };
        let likely = course(measured);
        let needed = likely.end.filter(|end| *end != End::Postcopy).map(|_| Needed {
            bandwidth: needed_bandwidth(measured, job, policy, bandwidth),
            downtime: needed_downtime(measured, job, policy, bandwidth),
        });
        Self { likely, best: course(&with(GOOD)), worst: course(&with(BAD)), needed }
    }
}

fn needed_bandwidth(measured: &Measured, job: Job, policy: &Policy, bandwidth: Option<ByteSize>) -> Option<ByteSize> {
    let now = limited(measured.speed(), bandwidth).as_u64();
    let with = |path| Measured { path: ByteSize::b(path), usual: None, ..*measured };
    let is_enough = |path| Course::of(&with(path), job, policy, None).end.is_none();
    least(now, now.saturating_mul(FURTHEST), is_enough).map(ByteSize::b)
}

fn needed_downtime(measured: &Measured, job: Job, policy: &Policy, bandwidth: Option<ByteSize>) -> Option<Duration> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let is_enough = |downtime| {
        let longer = policy.with_longest_downtime(Duration::from_millis(downtime));
        longer.is_ok_and(|policy| Course::of(measured, job, &policy, bandwidth).end.is_none())
    };
    least(millis(policy.longest_downtime()), millis(DOWNTIME.1), is_enough).map(Duration::from_millis)
}

impl Course {
    /// Plays the rounds through.
    pub fn of(measured: &Measured, job: Job, policy: &Policy, bandwidth: Option<ByteSize>) -> Self {
        let path = limited(measured.speed(), bandwidth);
        let dirty = |time: f64| time * per_second(measured.dirty_rate);
        Self::play(measured, job, policy, |_| per_second(path), dirty)
    }

    /// The same with a way that changes: `speed` is what it carries per second at a time. `dirty` is what the guest has written to,
    /// of all its memory, that long after it was looked at.
    pub(super) fn play(
        measured: &Measured,
        Job { disks, load }: Job,
        policy: &Policy,
        speed: impl Fn(f64) -> f64,
        dirty: impl Fn(f64) -> f64,
    ) -> Self {
        let time = START.as_secs_f64();
        // Disks come first; the guest goes on writing to its memory, all of which is still to be sent.
        let start = Start { time, round: 0, left: disks.as_u64() as f64, began: time, grain: 0.0 };
        Self::play_on(measured, start, Ladder::new(policy, load), speed, dirty)
    }

    /// The same from somewhere in the middle.
    pub(super) fn play_on(
        measured: &Measured,
        start: Start,
        mut ladder: Ladder,
        speed: impl Fn(f64) -> f64,
        dirty: impl Fn(f64) -> f64,
    ) -> Self {
        let most = measured.memory.as_u64() as f64;
        let Start { mut time, mut round, left: mut remaining, .. } = start;
        let mut sent = 0.0;
        let mut midway = Some(start.began).filter(|_| round > 0);
        // A guest is stopped when its memory is sent, not before; and not waited for without an end.
        let mut wanted: Option<(f64, End)> = None;
        loop {
            if round > 0 && midway.is_none() {
                let fits = speed(time) * ladder.downtime().as_secs_f64();
                if round >= MOST_ROUNDS {
                    // It goes on like that until its policy ends it.
                    time = ladder.deadline().map_or(time, |deadline| time.max(deadline.as_secs_f64() + 0.25));
                }
                let end = match ladder.see(&sample(time, round, remaining)) {
                    _ if wanted.is_some() => wanted.map(|(_, end)| end),
                    Some(Action::Postcopy) if remaining > fits => Some(End::Postcopy),
                    Some(Action::Suspend) => Some(End::Suspend),
                    Some(Action::Abort) => Some(End::Abort),
                    Some(Action::Postcopy | Action::Downtime(_)) | None => None,
                };
                if end.is_some() || remaining <= fits {
                    return Self::ended(end, round, sent, time, remaining, speed(time));
                }
            }
            // In steps in which the agent looks at it: the policy's times come in the middle of rounds.
            let begun = midway.take().unwrap_or(time);
            let mut left = remaining;
            while left >= 1.0 {
                let step = (left / speed(time)).min(((time - start.time) * start.grain).max(0.25));
                sent += step * speed(time);
                left -= step * speed(time);
                time += step;
                if left < 1.0 {
                    break;
                }
                let end = match ladder.see(&sample(time, round, left)) {
                    Some(Action::Postcopy) if round == 0 => {
                        wanted = Some((time, End::Postcopy));
                        continue;
                    }
                    Some(Action::Suspend) if round == 0 => {
                        wanted = Some((time, End::Suspend));
                        continue;
                    }
                    None if wanted.is_some_and(|(since, end)| end == End::Suspend && time > 2.0 * since) => End::Abort,
                    Some(Action::Postcopy) => End::Postcopy,
                    Some(Action::Suspend) => End::Suspend,
                    Some(Action::Abort) => End::Abort,
                    Some(Action::Downtime(_)) | None => continue,
                };
                let rest =
                    if round == 0 { left + measured.resident.as_u64() as f64 } else { left + dirty(time - begun) };
                return Self::ended(Some(end), round, sent, time, rest.min(most + left), speed(time));
            }
            remaining = match round {
                0 => measured.resident.as_u64() as f64,
                _ => dirty(time - begun).min(most),
            };
            round += 1;
        }
    }

    fn ended(end: Option<End>, rounds: u32, sent: f64, time: f64, remaining: f64, speed: f64) -> Self {
        let (rest, still) = match end {
            Some(End::Abort) => (0.0, 0.0),
            Some(End::Postcopy | End::Suspend) | None => (remaining, remaining / speed + HANDOVER.as_secs_f64()),
        };
        // What comes after the guest is not waited for.
        let downtime = if end == Some(End::Postcopy) { HANDOVER } else { seconds(still) };
        Self {
            end,
            rounds: rounds.max(1),
            sent: ByteSize::b((sent + rest) as u64),
            total: seconds(time + still),
            downtime,
        }
    }
}

fn sample(time: f64, round: u32, remaining: f64) -> Progress {
    Progress { elapsed: seconds(time), round, remaining: ByteSize::b(remaining as u64), ..Progress::default() }
}

/// Beyond what any clock counts it is all the same.
pub(super) fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or(Duration::MAX)
}

fn per_second(bytes: ByteSize) -> f64 {
    bytes.as_u64() as f64
}

impl Measured {
    /// What is likely to be sent per second. Never nothing: that would take for ever.
    fn speed(&self) -> ByteSize {
        self.usual.map_or(self.path, |usual| usual.min(self.path)).max(ByteSize::kib(1))
    }
}

fn limited(speed: ByteSize, bandwidth: Option<ByteSize>) -> ByteSize {
    bandwidth.map_or(speed, |bandwidth| bandwidth.min(speed))
}

fn percent(bytes: ByteSize, percent: u64) -> ByteSize {
    ByteSize::b(u64::try_from(u128::from(bytes.as_u64()) * u128::from(percent) / 100).unwrap_or(u64::MAX))
}

/// The least that is enough, by a hundredth, if the most is: enough stays enough, and `not` is not.
fn least(mut not: u64, mut enough: u64, is_enough: impl Fn(u64) -> bool) -> Option<u64> {
    if enough <= not || !is_enough(enough) {
        return None;
    }
    while enough - not > not / 100 + 1 {
        // What is far away is halved in its order of magnitude.
        let middle = if enough / 4 > not { (not.max(1)).saturating_mul(2) } else { not.midpoint(enough) };
        if is_enough(middle) {
            enough = middle;
        } else {
            not = middle;
        }
    }
    Some(enough)
}
