//! Migrations of the past and of now.

use jiff::Timestamp;
use serde::Serialize;
use vmferry_core::{
    agent::{CallError, Sighting},
    migration::{Cause, Driver, Handover, Limits, Order, Outcome, Path, Phase, Priority, Record, Side},
    turns::Waiter,
};

use super::{
    Unreachable,
    guest::Seen,
    queue::WaiterDocument,
    story::{StoryDocument, text},
    table::{facts, table},
    units::{bytes, count, milliseconds, rate, time},
};
use crate::history::Migration;

/// A row per migration.
pub(crate) fn list(migrations: &[Migration], now: Timestamp) -> String {
    table(
        ["ID", "INSTANCE", "SOURCE", "DESTINATION", "PHASE", "OUTCOME", "STARTED", "DURATION", "DOWNTIME"],
        migrations.iter().map(|migration| {
            [
                migration.order.id.to_string(),
                migration.order.instance_name.clone(),
                migration.order.source.host.to_string(),
                migration.order.destination.host.to_string(),
                migration.phase().to_string(),
                outcome(migration),
                moment(migration.started()),
                time(migration.duration(now)),
                migration.statistics().map_or("-".into(), |statistics| time(statistics.downtime)),
            ]
        }),
    )
}

/// Both halves of one.
pub(crate) fn show(migration: &Migration, now: Timestamp) -> String {
    let order = &migration.order;
    let mut rows = vec![
        ("migration", order.id.to_string()),
        ("instance", format!("{} ({})", order.instance_name, order.instance)),
        ("from", format!("{} ({})", order.source.host, order.source.address)),
        ("to", format!("{} ({})", order.destination.host, order.destination.address)),
        (
            "outcome",
            match migration.outcome() {
                Some(_) => outcome(migration),
                None => format!("open, in phase {}", migration.phase()),
            },
        ),
        ("duration", time(migration.duration(now))),
    ];
    if !order.kind.is_cold() {
        rows.push(("policy", limits(&order.limits)));
    }
    if migration.is_open() {
        rows.extend([
            ("to finish it", format!("vmferry migrations resolve {}", order.id)),
            ("to abort it", format!("vmferry abort {}", order.id)),
        ]);
    }
    if let Some(cause) = migration.cause() {
        rows.push(("cause", cause.to_string()));
    }
    if let Some(guest) = migration.guest().filter(|guest| !order.is_at_rest(*guest)) {
        let has_moved = matches!(migration.outcome(), Some(Outcome::Completed | Outcome::CompletedWithWarnings));
        let seen =
            if has_moved { Seen::on_destination(order, Some(guest)) } else { Seen::on_source(order, Some(guest)) };
        rows.push(("at the end", seen.sentence()));
    }
    if let Some(statistics) = migration.statistics() {
        rows.extend([
            ("total time", format!("{} (libvirt's job)", time(statistics.total_time))),
            ("downtime", format!("{} ({})", time(statistics.downtime), until(order))),
            ("transferred", format!("{} in {}", bytes(statistics.transferred), count(statistics.rounds, "round"))),
        ]);
    }
    let half = |side: Side, record: &Option<Record>| match record {
        Some(record) => half_text(record),
        None => format!("\n{side}: {} has no record of it, or could not be asked\n", host(migration, side)),
    };
    facts(rows)
        + &text(migration)
        + &half(Side::Source, &migration.source)
        + &half(Side::Destination, &migration.destination)
}

/// How it ended, and what was seen of the guest then unless it was as before.
fn outcome(migration: &Migration) -> String {
    let Some(outcome) = migration.outcome() else { return "(open)".into() };
    match migration.guest().filter(|guest| !migration.order.is_at_rest(*guest)) {
        Some(guest) => format!("{outcome}, {guest}"),
        None => outcome.to_string(),
    }
}

/// By whose account a guest that moved live ran nowhere.
pub(super) fn until(order: &Order) -> &'static str {
    if order.is_strict() { "until it was let run" } else { "QEMU" }
}

/// By which policy, and how much may be sent.
pub(super) fn limits(limits: &Limits) -> String {
    let policy = limits.policy.name();
    let bandwidth = limits.bandwidth.map(|bandwidth| format!("at most {}", rate(bandwidth)));
    let streams = limits.streams.are_several().then(|| format!("{} streams", limits.streams));
    let path = (limits.path != Path::default()).then(|| format!("{} path", limits.path));
    let handover = Some(format!("{} hand-over", limits.handover));
    [Some(policy.to_owned()), bandwidth, streams, path, handover].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn host(migration: &Migration, side: Side) -> &str {
    match side {
        Side::Source => migration.order.source.host.as_str(),
        Side::Destination => migration.order.destination.host.as_str(),
    }
}

fn half_text(record: &Record) -> String {
    let host = match record.side {
        Side::Source => &record.order.source.host,
        Side::Destination => &record.order.destination.host,
    };
    let mut rows = vec![
        ("  asked by", record.requested_by.clone()),
        ("  started", moment(record.started)),
        ("  ended", record.ended.map_or("not yet".into(), moment)),
        ("  outcome", record.outcome.map_or("open".into(), |outcome| outcome.to_string())),
    ];
    rows.extend(record.driver.iter().map(|known| ("  driver", driver(known))));
    rows.extend(record.phases.iter().map(|span| {
        let took = span.duration.map_or("goes on".into(), time);
        ("  phase", format!("{:<8} {} {took}", span.phase, span.started.strftime("%H:%M:%S%.3f")))
    }));
    rows.extend(record.cause.iter().map(|cause| ("  cause", cause.to_string())));
    rows.extend(record.guest.map(|guest| ("  guest", guest.to_string())));
    rows.extend(record.pending.iter().map(|step| ("  to take back", step.clone())));
    rows.extend(record.warnings.iter().map(|warning| ("  warning", warning.clone())));
    format!("\n{}: {host}\n{}", record.side, facts(rows))
}

/// Who drives it, since when, and what keeps it from the end.
fn driver(driver: &Driver) -> String {
    let Driver { epoch, holder, since, trouble } = driver;
    let trouble = trouble.as_ref().map(|trouble| format!("; it cannot be ended yet: {trouble}")).unwrap_or_default();
    format!("{holder} since {} (epoch {epoch}){trouble}", moment(*since))
}

/// UTC, to the second.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a list and a single migration both say of it.
#[derive(Serialize)]
struct Summary<'a> {
    instance: &'a str,
    instance_id: String,
    /// By which it comes to its end, if it is live.
    policy: &'a str,
    /// `null`: as much as goes.
    bandwidth_bytes_per_second: Option<u64>,
    /// Before whom it came while it waited for its turn.
    priority: Priority,
    /// Over how many memory is sent at once, if it is live.
    streams: u8,
    /// `tunnel` or `direct`, if it is live.
    path: Path,
    /// `strict` or `fast`, if it is live.
    handover: Handover,
    phase: Phase,
    /// `null`: open.
    outcome: Option<Outcome>,
    started: Timestamp,
    ended: Option<Timestamp>,
    duration_ms: u64,
    /// By QEMU, like all down to `rounds`, but for the downtime of a strict hand-over; `null`: no job finished.
    total_time_ms: Option<u64>,
    downtime_ms: Option<u64>,
    transferred_bytes: Option<u64>,
    total_bytes: Option<u64>,
    rounds: Option<u32>,
    cause: Option<&'a Cause>,
    /// What was to be seen of the guest at the end, on the host that had it then: `running`, `shutoff`, …; `null`: open, held, or not seen.
    guest: Option<Sighting>,
    warnings: Vec<String>,
}

impl<'a> Summary<'a> {
    fn new(migration: &'a Migration, now: Timestamp) -> Self {
        let statistics = migration.statistics();
        Self {
            instance: &migration.order.instance_name,
            instance_id: migration.order.instance.to_string(),
            policy: migration.order.limits.policy.name(),
            bandwidth_bytes_per_second: migration.order.limits.bandwidth.map(|bandwidth| bandwidth.as_u64()),
            priority: migration.order.priority,
            streams: migration.order.limits.streams.get(),
            path: migration.order.limits.path,
            handover: migration.order.limits.handover,
            phase: migration.phase(),
            outcome: migration.outcome(),
            started: migration.started(),
            ended: migration.ended(),
            duration_ms: milliseconds(migration.duration(now)),
            total_time_ms: statistics.map(|statistics| milliseconds(statistics.total_time)),
            downtime_ms: statistics.map(|statistics| milliseconds(statistics.downtime)),
            transferred_bytes: statistics.map(|statistics| statistics.transferred.as_u64()),
            total_bytes: statistics.map(|statistics| statistics.total.as_u64()),
            rounds: statistics.map(|statistics| statistics.rounds),
            cause: migration.cause(),
            guest: migration.guest(),
            warnings: migration.warnings(),
        }
    }
}

#[derive(Serialize)]
struct Half<'a> {
    host: &'a str,
    address: &'a str,
    requested_by: &'a str,
    /// `null`: nobody has said.
    driver: Option<&'a Driver>,
    started: Timestamp,
    ended: Option<Timestamp>,
    phase: Phase,
    phases: Vec<Span>,
    outcome: Option<Outcome>,
    cause: Option<&'a Cause>,
    /// What was to be seen of the guest here as this half ended; `null`: the other host had it, or it was not seen.
    guest: Option<Sighting>,
    /// Steps that would have to be taken back, oldest first.
    pending: &'a [String],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Span {
    phase: Phase,
    started: Timestamp,
    /// `null`: it goes on.
    duration_ms: Option<u64>,
}

impl<'a> From<&'a Record> for Half<'a> {
    fn from(record: &'a Record) -> Self {
        let endpoint = match record.side {
            Side::Source => &record.order.source,
            Side::Destination => &record.order.destination,
        };
        let span = |span: &vmferry_core::migration::PhaseSpan| Span {
            phase: span.phase,
            started: span.started,
            duration_ms: span.duration.map(milliseconds),
        };
        Self {
            host: endpoint.host.as_str(),
            address: &endpoint.address,
            requested_by: &record.requested_by,
            driver: record.driver.as_ref(),
            started: record.started,
            ended: record.ended,
            phase: record.phase(),
            phases: record.phases.iter().map(span).collect(),
            outcome: record.outcome,
            cause: record.cause.as_ref(),
            guest: record.guest,
            pending: &record.pending,
            warnings: &record.warnings,
        }
    }
}

/// `{"waiting": […], "migrations": […], "unreachable": […]}`; here `source` and `destination` are names.
pub(crate) fn list_document<'a>(
    migrations: &'a [Migration],
    waiters: &'a [Waiter],
    silent: &'a [CallError],
    now: Timestamp,
) -> impl Serialize + use<'a> {
    #[derive(Serialize)]
    struct Document<'a> {
        /// Those that wait for their turn; they are no migrations yet.
        waiting: Vec<WaiterDocument<'a>>,
        migrations: Vec<Row<'a>>,
        unreachable: Vec<Unreachable<'a>>,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        id: String,
        source: &'a str,
        destination: &'a str,
        #[serde(flatten)]
        summary: Summary<'a>,
    }
    let row = |migration| Row {
        id: Migration::id(migration),
        source: host(migration, Side::Source),
        destination: host(migration, Side::Destination),
        summary: Summary::new(migration, now),
    };
    Document {
        waiting: waiters.iter().map(Into::into).collect(),
        migrations: migrations.iter().map(row).collect(),
        unreachable: silent.iter().map(Into::into).collect(),
    }
}

/// One migration; here `source` and `destination` are the two hosts' records of it, `null` if there is none.
pub(crate) fn show_document(migration: &Migration, now: Timestamp) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        id: String,
        source_host: &'a str,
        destination_host: &'a str,
        #[serde(flatten)]
        summary: Summary<'a>,
        #[serde(flatten)]
        story: StoryDocument,
        source: Option<Half<'a>>,
        destination: Option<Half<'a>>,
    }
    Document {
        id: migration.id(),
        source_host: host(migration, Side::Source),
        destination_host: host(migration, Side::Destination),
        summary: Summary::new(migration, now),
        story: StoryDocument::of(migration),
        source: migration.source.as_ref().map(Into::into),
        destination: migration.destination.as_ref().map(Into::into),
    }
}

#[cfg(test)]
mod tests;
