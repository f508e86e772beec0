//! What a picture shows, in seconds since the migration began and in bytes.

use std::time::Duration;

use jiff::Timestamp;
use vmferry_core::migration::{Event, PhaseSpan, Point, Record, Timeline};

use crate::{
    history::Migration,
    render::{
        migration::past,
        migrations::moment,
        story::{Actual, author, deed, since},
        units::{bytes, count, time},
    },
};

/// Something over time.
pub(super) type Curve = Vec<(f64, f64)>;

/// All that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// Where the time axis ends.
    pub(super) end: f64,
    pub(super) phases: Vec<Band>,
    /// The guest ran nowhere.
    pub(super) blackout: Option<Band>,
    /// Still to be sent.
    pub(super) remaining: Curve,
    /// Sent per second.
    pub(super) rate: Curve,
    /// Written to by the guest per second, from where on that is known.
    pub(super) dirty_rate: Curve,
    /// When rounds begin, the first left out.
    pub(super) rounds: Vec<(f64, u32)>,
    pub(super) marks: Vec<Mark>,
    /// What stands where curves would.
    pub(super) lacks: Option<&'static str>,
}

/// From one time to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
    /// For people.
    pub(super) took: String,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) text: String,
}

impl Chart {
    pub(super) fn of(migration: &Migration, now: Timestamp) -> Self {
        let started = migration.started();
        let at = |time: Timestamp| since(started, time).as_secs_f64();
        let end = at(migration.ended().unwrap_or(now)).max(0.001);
        let half = migration.source.as_ref().or(migration.destination.as_ref());
        let spans = half.map(|half| half.phases.as_slice()).unwrap_or_default();
        let phases: Vec<_> = spans.iter().map(|span| Band::of(span, at, end)).collect();
        let story = migration.story();
        let timeline = story.and_then(|story| story.timeline.as_ref());
        let points = timeline.map(|line| line.points.as_slice()).unwrap_or_default();
        let begun = timeline.map_or(0.0, |line| at(line.began));
        let curve = |of: fn(&Point) -> bytesize::ByteSize| -> Curve {
            let value = |point: &Point| (begun + point.elapsed.as_secs_f64(), of(point).as_u64() as f64);
            points.iter().map(value).collect()
        };
        let job_end = job_end(migration, timeline, at, &phases);
        let mut remaining = curve(|point| point.remaining);
        if let (Some(end), true, Some(_)) = (job_end, migration.statistics().is_some(), remaining.last()) {
            remaining.push((end, 0.0));
        }
        // Until QEMU has counted libvirt says 0.
        let mut dirty_rate = curve(|point| point.dirty_rate);
        let known = dirty_rate.iter().position(|(_, rate)| *rate > 0.0).unwrap_or(dirty_rate.len());
        dirty_rate.drain(..known);
        let events = story.map(|story| story.events.as_slice()).unwrap_or_default();
        Self {
            title: title(migration),
            subtitle: subtitle(migration, now),
            end,
            blackout: blackout(migration, points, begun, job_end, at),
            phases,
            remaining,
            rate: curve(|point| point.rate),
            dirty_rate,
            rounds: rounds(points, begun),
            marks: events.iter().map(|event| mark(event, at(event.at))).collect(),
            lacks: lacks(migration, points),
        }
    }
}

impl Band {
    fn of(span: &PhaseSpan, at: impl Fn(Timestamp) -> f64, end: f64) -> Self {
        let from = at(span.started);
        let (to, took) = match span.duration {
            Some(duration) => (from + duration.as_secs_f64(), time(duration)),
            None => (end, "not ended".into()),
        };
        Self { name: span.phase.to_string(), from, to, took }
    }
}

fn title(migration: &Migration) -> String {
    let order = &migration.order;
    let outcome = migration
        .outcome()
        .map_or_else(|| format!("open, in phase {}", migration.phase()), |outcome| outcome.to_string());
    format!("{}: {} → {}, {outcome}", order.instance_name, order.source.host, order.destination.host)
}

fn subtitle(migration: &Migration, now: Timestamp) -> String {
    let mut facts = vec![
        format!("migration {}", migration.order.id),
        moment(migration.started()),
        format!("{} in all", time(migration.duration(now))),
    ];
    if let Some(Actual { total, sent, rounds, downtime }) = Actual::of(migration) {
        facts.push(format!("job {}", time(total)));
        facts.push(format!("{} in {}", bytes(sent), count(rounds, "round")));
        facts.extend(downtime.map(|downtime| format!("downtime {}", time(downtime))));
    }
    facts.join("  ·  ")
}

/// The end of libvirt's job, as near as it is known: by its own account, or when its phase ended.
fn job_end(
    migration: &Migration,
    timeline: Option<&Timeline>,
    at: impl Fn(Timestamp) -> f64,
    phases: &[Band],
) -> Option<f64> {
    let phase = phases.iter().find(|band| band.name == "migrate")?;
    let told = migration.statistics().zip(timeline).map(|(statistics, line)| {
        let last = line.points.last().map(|point| point.elapsed).unwrap_or_default();
        at(line.began) + statistics.total_time.max(last).as_secs_f64()
    });
    // What was sent ahead of the job is in the samples' times, and not in the job's.
    Some(told.filter(|_| !migration.order.kind.is_cold()).map_or(phase.to, |told| told.min(phase.to)))
}

/// When the guest ran nowhere: by QEMU's account before the job's end; of a guest that was shut down, until the destination had
/// started it; of one that did not arrive, for as long as it was seen stopped.
fn blackout(
    migration: &Migration,
    points: &[Point],
    begun: f64,
    job_end: Option<f64>,
    at: impl Fn(Timestamp) -> f64,
) -> Option<Band> {
    let band = |from: f64, to: f64, took: Duration| Band {
        name: "blackout".into(),
        from: from.max(0.0),
        to,
        took: time(took),
    };
    if let Some(downtime) = migration.statistics().map(|statistics| statistics.downtime) {
        let started = migration
            .destination
            .as_ref()
            .filter(|_| migration.order.kind.is_cold())
            .and_then(|half| arrival(half, at));
        let to = started.or(job_end)?;
        return Some(downtime)
            .filter(|downtime| !downtime.is_zero())
            .map(|took| band(to - took.as_secs_f64(), to, took));
    }
    let first = points.iter().find(|point| point.stopped)?.elapsed;
    let last = points.iter().rfind(|point| point.stopped)?.elapsed;
    Some(band(begun + first.as_secs_f64(), begun + last.as_secs_f64(), last.saturating_sub(first)))
}

fn arrival(destination: &Record, at: impl Fn(Timestamp) -> f64) -> Option<f64> {
    let is_start = |span: &&PhaseSpan| span.phase == vmferry_core::migration::Phase::Migrate;
    let span = destination.phases.iter().find(is_start)?;
    Some(at(span.started) + span.duration?.as_secs_f64())
}

fn rounds(points: &[Point], begun: f64) -> Vec<(f64, u32)> {
    let begins = |pair: &[Point]| (pair[1].round > pair[0].round.max(1)).then_some(pair[1]);
    let round = |point: Point| (begun + point.elapsed.as_secs_f64(), point.round);
    points.windows(2).filter_map(begins).map(round).collect()
}

fn mark(event: &Event, at: f64) -> Mark {
    let (_, what) = deed(&event.deed);
    // Of an identity the role and the name are enough here: the record has it whole.
    let by = author(&event.by);
    let by = by.strip_prefix("vmferry://").and_then(|rest| rest.split_once('/')).map_or(by, |(_, who)| who);
    Mark { at, text: format!("+ {}  {what} ({by})", time(Duration::from_secs_f64(at))) }
}

fn lacks(migration: &Migration, points: &[Point]) -> Option<&'static str> {
    match (&migration.source, points.is_empty()) {
        (_, false) => None,
        (None, true) => Some("the source has no record of it, or could not be asked"),
        (Some(source), true) if source.ended.is_none() => Some("its samples are in the record once its job is over"),
        (Some(_), true) => Some("no samples: its job was over before it told any, or never began"),
    }
}

/// How it ended, a sentence.
pub(super) fn ending(migration: &Migration) -> String {
    match migration.outcome() {
        Some(_) => format!("It ended {}.", past(migration)),
        None => format!("It goes on, in phase {}.", migration.phase()),
    }
}
