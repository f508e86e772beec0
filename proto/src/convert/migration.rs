use bytesize::ByteSize;
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{Check, Finding},
    domain_xml::Definition,
    migration::{
        Cause, Driver, Endpoint, Fallback, Kind, Mode, Order, Outcome, Phase, PhaseSpan, Progress, Record, Shutdown,
        ShuttingDown, Side, Statistics, Story,
    },
};

use super::{
    Invalid, all, disk, duration, group, invalid, network, required, timestamp, wire_duration, wire_timestamp,
};
use crate::v1::{self, check, order, progress, shutdown};

impl From<Order> for v1::Order {
    fn from(order: Order) -> Self {
        Self {
            migration_id: order.id.to_string(),
            instance_id: order.instance.to_string(),
            instance_name: order.instance_name,
            source: Some(order.source.into()),
            destination: Some(order.destination.into()),
            cold: match order.kind {
                Kind::Live => None,
                Kind::Cold { shutdown } => Some(order::Cold { shutdown: shutdown.map(Into::into) }),
            },
            limits: Some(order.limits.into()),
            priority: v1::Priority::from(order.priority).into(),
        }
    }
}

impl TryFrom<v1::Order> for Order {
    type Error = Invalid;

    fn try_from(order: v1::Order) -> Result<Self, Invalid> {
        Ok(Self {
            priority: order.priority().into(),
            id: order.migration_id.parse().map_err(invalid("order.migration_id"))?,
            instance: order.instance_id.parse().map_err(invalid("order.instance_id"))?,
            instance_name: order.instance_name,
            source: required(order.source, "order.source")?,
            destination: required(order.destination, "order.destination")?,
            kind: match order.cold {
                None => Kind::Live,
                Some(order::Cold { shutdown }) => Kind::Cold { shutdown: shutdown.map(TryInto::try_into).transpose()? },
            },
            limits: order.limits.map(TryInto::try_into).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<Shutdown> for v1::Shutdown {
    fn from(shutdown: Shutdown) -> Self {
        let fallback = match shutdown.fallback {
            Fallback::PowerOff => shutdown::Fallback::PowerOff,
            Fallback::GiveUp => shutdown::Fallback::GiveUp,
        };
        Self { deadline: Some(wire_duration(shutdown.deadline)), fallback: fallback.into() }
    }
}

impl TryFrom<v1::Shutdown> for Shutdown {
    type Error = Invalid;

    fn try_from(shutdown: v1::Shutdown) -> Result<Self, Invalid> {
        let fallback = match shutdown.fallback() {
            // Nobody loses what a guest has not written because a field was forgotten.
            shutdown::Fallback::Unspecified => return Err(Invalid { field: "order.cold.shutdown.fallback" }),
            shutdown::Fallback::PowerOff => Fallback::PowerOff,
            shutdown::Fallback::GiveUp => Fallback::GiveUp,
        };
        Ok(Self { deadline: duration(shutdown.deadline, "order.cold.shutdown.deadline")?, fallback })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self { host: endpoint.host.to_string(), address: endpoint.address }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = Invalid;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, Invalid> {
        Ok(Self { host: endpoint.host.parse().map_err(invalid("endpoint.host"))?, address: endpoint.address })
    }
}

impl From<Side> for v1::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Destination => Self::Destination,
        }
    }
}

impl TryFrom<v1::Side> for Side {
    type Error = Invalid;

    fn try_from(side: v1::Side) -> Result<Self, Invalid> {
        match side {
            v1::Side::Unspecified => Err(Invalid { field: "side" }),
            v1::Side::Source => Ok(Self::Source),
            v1::Side::Destination => Ok(Self::Destination),
        }
    }
}

impl From<Leaving> for v1::Leaving {
    fn from(leaving: Leaving) -> Self {
        let mut wire = Self {
            backing: disk::backing(&leaving.definition.disks),
            vifs: leaving.definition.vifs.into_iter().map(Into::into).collect(),
            groups: group::wire_told(leaving.members),
            libvirt_filters: network::wire_filters(&leaving.filters),
            instance: Some(leaving.instance.into()),
            domain_xml: leaving.domain_xml,
            qemu_version: leaving.qemu_version,
            autostart: leaving.autostart,
            ..Self::default()
        };
        disk::wire_shown(&mut wire, leaving.shown);
        wire
    }
}

impl TryFrom<v1::Leaving> for Leaving {
    type Error = Invalid;

    fn try_from(mut leaving: v1::Leaving) -> Result<Self, Invalid> {
        let mut definition = Definition::parse(&leaving.domain_xml).map_err(invalid("leaving.domain_xml"))?;
        let shown = disk::shown(&mut leaving)?;
        disk::set_backing(&mut definition.disks, leaving.backing);
        network::complete(&mut definition.vifs, all(leaving.vifs)?);
        Ok(Self {
            instance: required(leaving.instance, "leaving.instance")?,
            definition,
            domain_xml: leaving.domain_xml,
            qemu_version: leaving.qemu_version,
            autostart: leaving.autostart,
            members: group::told(leaving.groups)?,
            filters: network::filters(&leaving.libvirt_filters)?,
            shown,
        })
    }
}

impl From<Check> for v1::Check {
    fn from(check: Check) -> Self {
        let finding = match check.finding {
            Finding::Passed { detail } => check::Finding::Passed(detail),
            Finding::Refused(refusal) => check::Finding::Refused(refusal.into()),
        };
        Self { host: check.host.to_string(), subject: check.subject, finding: Some(finding) }
    }
}

impl TryFrom<v1::Check> for Check {
    type Error = Invalid;

    fn try_from(check: v1::Check) -> Result<Self, Invalid> {
        let finding = match check.finding.ok_or(Invalid { field: "check.finding" })? {
            check::Finding::Passed(detail) => Finding::Passed { detail },
            check::Finding::Refused(refusal) => Finding::Refused(refusal.try_into()?),
        };
        Ok(Self { host: check.host.parse().map_err(invalid("check.host"))?, subject: check.subject, finding })
    }
}

impl From<Progress> for v1::Progress {
    fn from(progress: Progress) -> Self {
        Self {
            elapsed: Some(wire_duration(progress.elapsed)),
            total_bytes: progress.total.as_u64(),
            remaining_bytes: progress.remaining.as_u64(),
            transferred_bytes: progress.transferred.as_u64(),
            rate_bytes_per_second: progress.rate.as_u64(),
            dirty_rate_bytes_per_second: progress.dirty_rate.as_u64(),
            round: progress.round,
            throttle_percent: progress.throttle.into(),
            stopped: progress.stopped,
            mode: v1::progress::Mode::from(progress.mode).into(),
            percent: progress.percent.into(),
            forecast: progress.forecast.map(Into::into),
            shutting_down: progress.shutting_down.map(|ShuttingDown { elapsed, deadline }| progress::ShuttingDown {
                elapsed: Some(wire_duration(elapsed)),
                deadline: Some(wire_duration(deadline)),
            }),
        }
    }
}

impl TryFrom<v1::Progress> for Progress {
    type Error = Invalid;

    fn try_from(progress: v1::Progress) -> Result<Self, Invalid> {
        Ok(Self {
            elapsed: duration(progress.elapsed, "progress.elapsed")?,
            total: ByteSize::b(progress.total_bytes),
            remaining: ByteSize::b(progress.remaining_bytes),
            transferred: ByteSize::b(progress.transferred_bytes),
            rate: ByteSize::b(progress.rate_bytes_per_second),
            dirty_rate: ByteSize::b(progress.dirty_rate_bytes_per_second),
            round: progress.round,
            throttle: progress.throttle_percent.try_into().map_err(invalid("progress.throttle_percent"))?,
            stopped: progress.stopped,
            mode: progress.mode().into(),
            percent: progress.percent.try_into().map_err(invalid("progress.percent"))?,
            // Whoever looks on sees the rest of a sample, too, if a newer agent foretells what this version does not know.
            forecast: progress.forecast.and_then(|forecast| forecast.try_into().ok()),
            shutting_down: match progress.shutting_down {
                None => None,
                Some(progress::ShuttingDown { elapsed, deadline }) => Some(ShuttingDown {
                    elapsed: duration(elapsed, "progress.shutting_down.elapsed")?,
                    deadline: duration(deadline, "progress.shutting_down.deadline")?,
                }),
            },
        })
    }
}

impl From<Mode> for progress::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Precopy => Self::Precopy,
            Mode::Postcopy => Self::Postcopy,
            Mode::Broken => Self::Broken,
        }
    }
}

impl From<progress::Mode> for Mode {
    fn from(mode: progress::Mode) -> Self {
        match mode {
            progress::Mode::Unspecified | progress::Mode::Precopy => Self::Precopy,
            progress::Mode::Postcopy => Self::Postcopy,
            progress::Mode::Broken => Self::Broken,
        }
    }
}

impl From<Statistics> for v1::Statistics {
    fn from(statistics: Statistics) -> Self {
        Self {
            total_time: Some(wire_duration(statistics.total_time)),
            downtime: Some(wire_duration(statistics.downtime)),
            transferred_bytes: statistics.transferred.as_u64(),
            total_bytes: statistics.total.as_u64(),
            rounds: statistics.rounds,
        }
    }
}

impl TryFrom<v1::Statistics> for Statistics {
    type Error = Invalid;

    fn try_from(statistics: v1::Statistics) -> Result<Self, Invalid> {
        Ok(Self {
            total_time: duration(statistics.total_time, "statistics.total_time")?,
            downtime: duration(statistics.downtime, "statistics.downtime")?,
            transferred: ByteSize::b(statistics.transferred_bytes),
            total: ByteSize::b(statistics.total_bytes),
            rounds: statistics.rounds,
        })
    }
}

impl From<Cause> for v1::Cause {
    fn from(cause: Cause) -> Self {
        Self { reason: cause.reason.to_string(), host: cause.host.to_string(), message: cause.message }
    }
}

impl TryFrom<v1::Cause> for Cause {
    type Error = Invalid;

    fn try_from(cause: v1::Cause) -> Result<Self, Invalid> {
        Ok(Self {
            reason: cause.reason.parse().map_err(invalid("cause.reason"))?,
            host: cause.host.parse().map_err(invalid("cause.host"))?,
            message: cause.message,
        })
    }
}

impl From<Sighting> for v1::Sighting {
    fn from(sighting: Sighting) -> Self {
        match sighting {
            Sighting::Absent => Self::Absent,
            Sighting::Shutoff => Self::Shutoff,
            Sighting::Running => Self::Running,
            Sighting::Arriving => Self::Arriving,
            Sighting::Paused => Self::Paused,
            Sighting::Departing => Self::Departing,
            Sighting::Incomplete => Self::Incomplete,
        }
    }
}

impl TryFrom<v1::Sighting> for Sighting {
    type Error = Invalid;

    fn try_from(sighting: v1::Sighting) -> Result<Self, Invalid> {
        Ok(match sighting {
            v1::Sighting::Unspecified => return Err(Invalid { field: "sighting" }),
            v1::Sighting::Absent => Self::Absent,
            v1::Sighting::Shutoff => Self::Shutoff,
            v1::Sighting::Running => Self::Running,
            v1::Sighting::Arriving => Self::Arriving,
            v1::Sighting::Paused => Self::Paused,
            v1::Sighting::Departing => Self::Departing,
            v1::Sighting::Incomplete => Self::Incomplete,
        })
    }
}

/// What was seen of a guest; unspecified: nothing.
pub fn wire_guest(guest: Option<Sighting>) -> v1::Sighting {
    guest.map_or(v1::Sighting::Unspecified, Into::into)
}

/// The same from the wire. Agents of earlier versions do not say it.
pub fn guest(sighting: v1::Sighting) -> Option<Sighting> {
    sighting.try_into().ok()
}

impl From<Record> for v1::Migration {
    fn from(record: Record) -> Self {
        Self {
            order: Some(record.order.into()),
            side: v1::Side::from(record.side).into(),
            requested_by: record.requested_by,
            started: Some(wire_timestamp(record.started)),
            ended: record.ended.map(wire_timestamp),
            phases: record.phases.into_iter().map(Into::into).collect(),
            outcome: record.outcome.map_or(v1::Outcome::Unspecified, Into::into).into(),
            cause: record.cause.map(Into::into),
            statistics: record.statistics.map(Into::into),
            pending: record.pending,
            warnings: record.warnings,
            driver: record.driver.map(Into::into),
            guest: wire_guest(record.guest).into(),
            story: (record.story != Story::default()).then(|| record.story.into()),
        }
    }
}

impl TryFrom<v1::Migration> for Record {
    type Error = Invalid;

    fn try_from(migration: v1::Migration) -> Result<Self, Invalid> {
        Ok(Self {
            side: migration.side().try_into()?,
            outcome: outcome(migration.outcome()),
            guest: guest(migration.guest()),
            order: required(migration.order, "migration.order")?,
            requested_by: migration.requested_by,
            started: timestamp(migration.started.ok_or(Invalid { field: "migration.started" })?, "migration.started")?,
            ended: migration.ended.map(|ended| timestamp(ended, "migration.ended")).transpose()?,
            phases: migration.phases.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            cause: migration.cause.map(TryInto::try_into).transpose()?,
            statistics: migration.statistics.map(TryInto::try_into).transpose()?,
            pending: migration.pending,
            warnings: migration.warnings,
            driver: migration.driver.map(TryInto::try_into).transpose()?,
            // What only a newer version can tell of how it went must not keep anybody from what became of it.
            story: migration.story.and_then(|story| story.try_into().ok()).unwrap_or_default(),
        })
    }
}

impl From<Driver> for v1::Driver {
    fn from(driver: Driver) -> Self {
        Self {
            epoch: driver.epoch,
            holder: driver.holder,
            since: Some(wire_timestamp(driver.since)),
            trouble: driver.trouble.map(Into::into),
        }
    }
}

impl TryFrom<v1::Driver> for Driver {
    type Error = Invalid;

    fn try_from(driver: v1::Driver) -> Result<Self, Invalid> {
        Ok(Self {
            epoch: driver.epoch,
            holder: driver.holder,
            since: timestamp(driver.since.ok_or(Invalid { field: "driver.since" })?, "driver.since")?,
            trouble: driver.trouble.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Check => Self::Check,
            Phase::Pre => Self::Pre,
            Phase::Migrate => Self::Migrate,
            Phase::Post => Self::Post,
            Phase::Cleanup => Self::Cleanup,
        }
    }
}

impl From<PhaseSpan> for v1::PhaseSpan {
    fn from(span: PhaseSpan) -> Self {
        Self {
            phase: v1::Phase::from(span.phase).into(),
            started: Some(wire_timestamp(span.started)),
            duration: span.duration.map(wire_duration),
        }
    }
}

impl TryFrom<v1::PhaseSpan> for PhaseSpan {
    type Error = Invalid;

    fn try_from(span: v1::PhaseSpan) -> Result<Self, Invalid> {
        Ok(Self {
            phase: match span.phase() {
                v1::Phase::Unspecified => return Err(Invalid { field: "phase" }),
                v1::Phase::Check => Phase::Check,
                v1::Phase::Pre => Phase::Pre,
                v1::Phase::Migrate => Phase::Migrate,
                v1::Phase::Post => Phase::Post,
                v1::Phase::Cleanup => Phase::Cleanup,
            },
            started: timestamp(span.started.ok_or(Invalid { field: "phase.started" })?, "phase.started")?,
            duration: span.duration.map(|value| duration(Some(value), "phase.duration")).transpose()?,
        })
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::CompletedWithWarnings => Self::CompletedWithWarnings,
            Outcome::FailedRolledBack => Self::FailedRolledBack,
            Outcome::AbortedRolledBack => Self::AbortedRolledBack,
            Outcome::Held => Self::Held,
        }
    }
}

fn outcome(outcome: v1::Outcome) -> Option<Outcome> {
    Some(match outcome {
        v1::Outcome::Unspecified => return None,
        v1::Outcome::Completed => Outcome::Completed,
        v1::Outcome::CompletedWithWarnings => Outcome::CompletedWithWarnings,
        v1::Outcome::FailedRolledBack => Outcome::FailedRolledBack,
        v1::Outcome::AbortedRolledBack => Outcome::AbortedRolledBack,
        v1::Outcome::Held => Outcome::Held,
    })
}
