//! How a job was foreseen to go, how it went, and what was done to it: for people and for programs.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use vmferry_core::{
    convergence::{Course, End, Forecast, Foreseen, RateFrom},
    migration::{Author, Deed, Event, Order, Point, Steering, Story, Timeline},
};

use super::{
    forecast::CourseDocument,
    table::{facts, indented},
    units::{bytes, count, milliseconds, rate, time},
};
use crate::history::Migration;

/// What a job came to, as far as it got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Actual {
    /// From the beginning of libvirt's job.
    pub(crate) total: Duration,
    /// Memory and disks.
    pub(crate) sent: bytesize::ByteSize,
    pub(crate) rounds: u32,
    /// By QEMU; `None`: the guest stayed where it was.
    pub(crate) downtime: Option<Duration>,
}

impl Actual {
    /// What the job measured; of one that did not end well, how far its samples got. `None` while it goes on, or if it never sent anything.
    pub(crate) fn of(migration: &Migration) -> Option<Self> {
        if let Some(statistics) = migration.statistics() {
            return Some(Self {
                total: statistics.total_time,
                sent: statistics.transferred,
                rounds: statistics.rounds,
                downtime: Some(statistics.downtime),
            });
        }
        let last = migration.story().and_then(|story| story.timeline.as_ref()).and_then(|line| line.points.last())?;
        Some(Self { total: last.elapsed, sent: last.transferred, rounds: last.round, downtime: None })
    }
}

/// One figure, as it was foreseen and as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) what: &'static str,
    /// As likely, and between what else.
    pub(crate) foreseen: String,
    /// `-`: it is not known.
    pub(crate) actual: String,
    /// How many times as much as foreseen it came to; `None`: nothing to compare.
    pub(crate) factor: Option<f64>,
}

impl Comparison {
    /// `× 1.08`
    pub(crate) fn factor_text(&self) -> String {
        match self.factor {
            None => "-".into(),
            Some(factor @ ..0.1) => format!("× {factor:.4}"),
            Some(factor) => format!("× {factor:.2}"),
        }
    }
}

/// Total time, bytes, downtime and rounds.
pub(crate) fn comparisons(foreseen: &Foreseen, actual: Option<Actual>) -> Vec<Comparison> {
    let forecast = foreseen.forecast;
    let row = |what, size: fn(&Course) -> u128, text: fn(&Course) -> String, actual: Option<String>, factor| {
        let Forecast { likely, best, worst, .. } = &forecast;
        // A guest that likely does not arrive may send less on a bad day than on a good one.
        let (least, most) = if size(best) <= size(worst) { (best, worst) } else { (worst, best) };
        let [likely, least, most] = [likely, least, most].map(text);
        let foreseen = if least == most { likely } else { format!("{likely} ({least} to {most})") };
        Comparison { what, foreseen, actual: actual.unwrap_or("-".into()), factor }
    };
    let Factors { total_time, transferred, downtime, rounds } = Factors::of(&forecast.likely, actual);
    let total = actual.map(|actual| time(actual.total));
    let sent = actual.map(|actual| bytes(actual.sent));
    let stood = actual.and_then(|actual| actual.downtime).map(time);
    let went = actual.map(|actual| actual.rounds.to_string());
    vec![
        row("total time", |course| course.total.as_millis(), |course| time(course.total), total, total_time),
        row("transferred", |course| course.sent.as_u64().into(), |course| bytes(course.sent), sent, transferred),
        row("downtime", |course| course.downtime.as_millis(), still, stood, downtime),
        row("rounds", |course| course.rounds.into(), |course| course.rounds.to_string(), went, rounds),
    ]
}

fn still(course: &Course) -> String {
    match course.end {
        Some(End::Abort) => "none: it stays".into(),
        Some(End::Postcopy | End::Suspend) | None => time(course.downtime),
    }
}

/// How many times as much as foreseen each figure came to.
#[derive(Debug, Clone, Copy, Serialize)]
struct Factors {
    total_time: Option<f64>,
    transferred: Option<f64>,
    downtime: Option<f64>,
    rounds: Option<f64>,
}

impl Factors {
    fn of(likely: &Course, actual: Option<Actual>) -> Self {
        let factor =
            |actual: Option<f64>, foreseen: f64| actual.filter(|_| foreseen > 0.0).map(|actual| actual / foreseen);
        Self {
            total_time: factor(actual.map(|actual| actual.total.as_secs_f64()), likely.total.as_secs_f64()),
            transferred: factor(actual.map(|actual| actual.sent.as_u64() as f64), likely.sent.as_u64() as f64),
            downtime: factor(
                actual.and_then(|actual| actual.downtime).map(|downtime| downtime.as_secs_f64()),
                likely.downtime.as_secs_f64(),
            ),
            rounds: factor(actual.map(|actual| f64::from(actual.rounds)), f64::from(likely.rounds)),
        }
    }

    fn rounded(self) -> Self {
        let round = |factor: Option<f64>| factor.map(|factor| (factor * 1_000.0).round() / 1_000.0);
        Self {
            total_time: round(self.total_time),
            transferred: round(self.transferred),
            downtime: round(self.downtime),
            rounds: round(self.rounds),
        }
    }
}

/// From what a forecast was made, a sentence.
pub(crate) fn basis(order: &Order, foreseen: &Foreseen) -> String {
    let Foreseen { after, resident, dirty_rate, rate: sent, rate_from, .. } = foreseen;
    let name = &order.instance_name;
    let written = match dirty_rate {
        Some(dirty_rate) => format!("{name} writes to {}", rate(*dirty_rate)),
        None => format!("what {name} writes to was not measured in time"),
    };
    let from = match rate_from {
        RateFrom::FormerMoves => "as former moves were",
        RateFrom::ThisMove => "as this one was at first",
    };
    format!("made after {}: {} ever written to, {written}, sent {} {from}", time(*after), bytes(*resident), rate(*sent))
}

/// What a policy was foreseen to have to do; `None`: nothing.
pub(crate) fn foreseen_end(foreseen: &Foreseen) -> Option<&'static str> {
    foreseen.forecast.likely.end.map(|end| match end {
        End::Postcopy => "foreseen: its policy switches it to postcopy",
        End::Suspend => "foreseen: it does not converge, and its policy stops the guest until the rest is sent",
        End::Abort => "foreseen: it does not converge, and its policy gives it up",
    })
}

/// The word of a deed in documents, and a sentence.
pub(crate) fn deed(deed: &Deed) -> (&'static str, String) {
    match deed {
        Deed::Told(Steering::Downtime(downtime)) => {
            ("max_downtime", format!("the guest may stand still for {}", time(*downtime)))
        }
        Deed::Told(Steering::Bandwidth(Some(bandwidth))) => {
            ("bandwidth", format!("{} of memory may be sent", rate(*bandwidth)))
        }
        Deed::Told(Steering::Bandwidth(None)) => ("bandwidth", "as much of memory is sent as goes".into()),
        Deed::Told(Steering::Deadline(deadline)) => {
            ("deadline", format!("the policy takes its last step {} after the job began", time(*deadline)))
        }
        Deed::Told(Steering::Pause) => ("pause", "paused: as little is sent as can be".into()),
        Deed::Told(Steering::Resume) => ("resume", "sent as before".into()),
        Deed::Told(Steering::Postcopy) => {
            ("postcopy", "switched to postcopy: the guest goes on where it arrives, its memory follows".into())
        }
        Deed::Told(Steering::Suspend) => ("suspend", "the guest is stopped, so that the rest can be sent".into()),
        Deed::Abort => ("abort", "given up: the guest stays where it is".into()),
    }
}

/// Who did it.
pub(crate) fn author(by: &Author) -> &str {
    match by {
        Author::Policy => "policy",
        Author::Hand(identity) => identity,
    }
}

/// Since the migration began; clocks that were set back meanwhile are not made up for.
pub(crate) fn since(started: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(started)).unwrap_or_default()
}

/// The forecast beside what came of it, and the events, below the figures of the migration. Empty if there is nothing to tell.
pub(crate) fn text(migration: &Migration) -> String {
    let Some(Story { foreseen, events, timeline }) = migration.story() else { return String::new() };
    let mut text = String::new();
    if let Some(foreseen) = foreseen {
        text += &format!("\nforecast: {}\n", basis(&migration.order, foreseen));
        let rows = comparisons(foreseen, Actual::of(migration));
        let rows =
            rows.into_iter().map(|row| [row.what.into(), row.foreseen.clone(), row.actual.clone(), row.factor_text()]);
        text += &indented(["", "FORECAST", "ACTUAL", "FACTOR"], rows);
        text += &foreseen_end(foreseen).map(|end| format!("  {end}\n")).unwrap_or_default();
    }
    if !events.is_empty() {
        let started = migration.started();
        let rows = events.iter().map(|event| {
            let by = author(&event.by).to_owned();
            [time(since(started, event.at)), by, deed(&event.deed).1]
        });
        text += "\nevents\n";
        text += &indented(["AFTER", "BY", "WHAT"], rows);
    }
    if let Some(timeline) = timeline {
        let samples = u32::try_from(timeline.points.len()).unwrap_or(u32::MAX);
        let id = migration.order.id;
        let timeline = format!("{}; its picture: vmferry report {id} --html --file FILE", count(samples, "sample"));
        text += &(String::from("\n") + &facts([("timeline", timeline)]));
    }
    text
}

/// The same for programs, with all samples. `null`: there is none.
#[derive(Serialize)]
pub(crate) struct StoryDocument {
    forecast: Option<ForeseenDocument>,
    events: Vec<EventDocument>,
    /// Of the source's clock; `null`: no samples.
    timeline: Option<TimelineDocument>,
}

impl StoryDocument {
    pub(crate) fn of(migration: &Migration) -> Self {
        let Some(Story { foreseen, events, timeline }) = migration.story() else {
            return Self { forecast: None, events: vec![], timeline: None };
        };
        let started = migration.started();
        Self {
            forecast: foreseen.as_ref().map(|foreseen| ForeseenDocument::new(foreseen, Actual::of(migration))),
            events: events.iter().map(|event| EventDocument::new(event, started)).collect(),
            timeline: timeline.as_ref().map(|timeline| TimelineDocument::new(timeline, started)),
        }
    }
}

#[derive(Serialize)]
struct ForeseenDocument {
    /// Since the migration began.
    made_after_ms: u64,
    memory_bytes: u64,
    resident_bytes: u64,
    /// `null`: the migration was over before it was measured.
    dirty_rate_bytes_per_second: Option<u64>,
    rate_bytes_per_second: u64,
    rate_from: RateFrom,
    /// Whether the guest likely arrives without its policy having to end it.
    converges: bool,
    likely: CourseDocument,
    best: CourseDocument,
    worst: CourseDocument,
    /// `null` if it converges, or if no bandwidth would help.
    needed_bandwidth_bytes_per_second: Option<u64>,
    needed_downtime_ms: Option<u64>,
    /// How many times as much as is likely it came to; `null`: it is not over, or that is not known.
    actual_by_likely: Factors,
}

impl ForeseenDocument {
    fn new(foreseen: &Foreseen, actual: Option<Actual>) -> Self {
        let forecast = foreseen.forecast;
        Self {
            made_after_ms: milliseconds(foreseen.after),
            memory_bytes: foreseen.memory.as_u64(),
            resident_bytes: foreseen.resident.as_u64(),
            dirty_rate_bytes_per_second: foreseen.dirty_rate.map(|rate| rate.as_u64()),
            rate_bytes_per_second: foreseen.rate.as_u64(),
            rate_from: foreseen.rate_from,
            converges: forecast.likely.end.is_none(),
            likely: forecast.likely.into(),
            best: forecast.best.into(),
            worst: forecast.worst.into(),
            needed_bandwidth_bytes_per_second: forecast
                .needed
                .and_then(|needed| needed.bandwidth)
                .map(|bytes| bytes.as_u64()),
            needed_downtime_ms: forecast.needed.and_then(|needed| needed.downtime).map(milliseconds),
            actual_by_likely: Factors::of(&forecast.likely, actual).rounded(),
        }
    }
}

#[derive(Serialize)]
struct EventDocument {
    at: Timestamp,
    /// Since the migration began.
    after_ms: u64,
    /// `policy`, or the identity of who did it by hand.
    by: String,
    what: &'static str,
    max_downtime_ms: Option<u64>,
    /// `null` also if as much may be sent as goes.
    bandwidth_bytes_per_second: Option<u64>,
    deadline_ms: Option<u64>,
    message: String,
}

impl EventDocument {
    fn new(event: &Event, started: Timestamp) -> Self {
        let (what, message) = deed(&event.deed);
        let (mut max_downtime, mut bandwidth, mut deadline) = (None, None, None);
        match event.deed {
            Deed::Told(Steering::Downtime(downtime)) => max_downtime = Some(downtime),
            Deed::Told(Steering::Bandwidth(limit)) => bandwidth = limit,
            Deed::Told(Steering::Deadline(time)) => deadline = Some(time),
            Deed::Told(_) | Deed::Abort => {}
        }
        Self {
            at: event.at,
            after_ms: milliseconds(since(started, event.at)),
            by: author(&event.by).to_owned(),
            what,
            max_downtime_ms: max_downtime.map(milliseconds),
            bandwidth_bytes_per_second: bandwidth.map(|bandwidth| bandwidth.as_u64()),
            deadline_ms: deadline.map(milliseconds),
            message,
        }
    }
}

#[derive(Serialize)]
struct TimelineDocument {
    /// From when on the points' times count.
    began: Timestamp,
    /// The same, since the migration began.
    began_after_ms: u64,
    points: Vec<PointDocument>,
}

impl TimelineDocument {
    fn new(timeline: &Timeline, started: Timestamp) -> Self {
        Self {
            began: timeline.began,
            began_after_ms: milliseconds(since(started, timeline.began)),
            points: timeline.points.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Serialize)]
struct PointDocument {
    elapsed_ms: u64,
    remaining_bytes: u64,
    transferred_bytes: u64,
    rate_bytes_per_second: u64,
    dirty_rate_bytes_per_second: u64,
    round: u32,
    throttle_percent: u8,
    stopped: bool,
}

impl From<&Point> for PointDocument {
    fn from(point: &Point) -> Self {
        Self {
            elapsed_ms: milliseconds(point.elapsed),
            remaining_bytes: point.remaining.as_u64(),
            transferred_bytes: point.transferred.as_u64(),
            rate_bytes_per_second: point.rate.as_u64(),
            dirty_rate_bytes_per_second: point.dirty_rate.as_u64(),
            round: point.round,
            throttle_percent: point.throttle,
            stopped: point.stopped,
        }
    }
}
