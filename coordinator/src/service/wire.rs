//! From what a coordinator knows to messages, and from what went wrong to a status.

use tonic::Status;
use vmferry_core::{
    agent::CallError,
    convergence::{Forecast, Needed},
    flow::{Completed, Failure, Plan},
    host::Host,
    id::HostName,
    migration::{Cause, Order, Statistics},
    reason::Reason,
};
use vmferry_proto::{
    convert::{wire_duration, wire_guest},
    fleet::{self, fleet_host::State},
    status::from_call_error,
    v1,
};

use crate::{
    exit::{Exit, Failed},
    fleet::Answer,
    history::Migration,
    render::{
        checks::Foreseen,
        migration::{past, sentence},
    },
};

/// The status of a call that could not do its work; `ours` is this coordinator's name.
pub(super) fn status(failed: Failed, ours: &HostName) -> Status {
    let reason = match (failed.reason, failed.exit) {
        // It may well be on a host that did not answer.
        (Some(Reason::InstanceNotFound | Reason::MigrationNotFound), Exit::Unreachable) => Reason::AgentUnreachable,
        (Some(reason), _) => reason,
        (None, Exit::Usage) => Reason::InvalidRequest,
        (None, _) => Reason::Internal,
    };
    from_call_error(&CallError { host: failed.host.unwrap_or_else(|| ours.clone()), reason, message: failed.message })
}

/// A host, and what came of asking it.
pub(super) fn host(Answer { endpoint, result }: Answer<Host>) -> fleet::FleetHost {
    let state = match result {
        Ok(host) => State::Up(host.into()),
        Err(error) => State::Unreachable(Cause::from(error).into()),
    };
    fleet::FleetHost { endpoint: Some(endpoint.into()), state: Some(state) }
}

/// Why hosts are missing in an answer.
pub(super) fn unreachable(silent: Vec<CallError>) -> Vec<v1::Cause> {
    silent.into_iter().map(|error| Cause::from(error).into()).collect()
}

pub(super) fn migration(migration: Migration) -> fleet::FleetMigration {
    let outcome = migration.outcome().map_or(v1::Outcome::Unspecified, Into::into);
    fleet::FleetMigration {
        outcome: outcome.into(),
        order: Some(migration.order.into()),
        source: migration.source.map(Into::into),
        destination: migration.destination.map(Into::into),
    }
}

pub(super) fn forecast((measured, forecast): Foreseen) -> fleet::Forecast {
    let Forecast { likely, best, worst, needed } = forecast;
    fleet::Forecast {
        measured: Some(measured.into()),
        likely: Some(likely.into()),
        best: Some(best.into()),
        worst: Some(worst.into()),
        needed: needed.map(|Needed { bandwidth, downtime }| v1::foreseen::Needed {
            bandwidth_bytes_per_second: bandwidth.map(|bytes| bytes.as_u64()),
            downtime: downtime.map(wire_duration),
        }),
    }
}

/// How a migration ended that was driven here; the error: it was never begun.
pub(super) fn ended(
    order: &Order,
    result: &Result<Completed, Failure>,
    statistics: Option<Statistics>,
) -> Result<fleet::Ended, CallError> {
    let message = sentence(order, result);
    let (cause, guest, warnings) = match result {
        Ok(completed) => (None, completed.guest, completed.warnings.clone()),
        Err(Failure::NotStarted(error)) => return Err(CallError { message, ..error.clone() }),
        Err(Failure::Refused(plan)) => return Err(refused(order, plan, message)),
        Err(Failure::RolledBack { cause, guest, leftovers }) => (Some(cause.clone()), *guest, leftovers.clone()),
        Err(Failure::Held { reason, message, cause }) => {
            let held = Cause { reason: *reason, host: cause.host.clone(), message: message.clone() };
            (Some(held), None, vec![])
        }
    };
    let outcome = match result {
        Ok(completed) => Some(completed.outcome()),
        Err(failure) => failure.outcome(),
    };
    Ok(fleet::Ended {
        outcome: outcome.map_or(v1::Outcome::Unspecified, Into::into).into(),
        message,
        cause: cause.map(Into::into),
        statistics: statistics.map(Into::into),
        warnings,
        guest: wire_guest(guest).into(),
    })
}

/// How a migration ended that was aborted before it was begun.
pub(super) fn not_begun(failed: Failed, ours: &HostName) -> fleet::Ended {
    let host = failed.host.unwrap_or_else(|| ours.clone());
    let cause = Cause { reason: Reason::MigrationAborted, host, message: failed.message.clone() };
    fleet::Ended { message: failed.message, cause: Some(cause.into()), ..fleet::Ended::default() }
}

/// The first refusal, and how many there are.
fn refused(order: &Order, plan: &Plan, message: String) -> CallError {
    let first = plan.checks.iter().find_map(|check| Some((&check.host, check.refusal()?)));
    match first {
        Some((host, refusal)) => CallError {
            host: host.clone(),
            reason: refusal.reason,
            message: format!("{message}; the first: {}; {}", refusal.message, refusal.remedy),
        },
        None => CallError { host: order.source.host.clone(), reason: Reason::Internal, message },
    }
}

/// How a migration ended some time ago, as the records have it.
pub(super) fn past_end(migration: &Migration) -> fleet::Ended {
    fleet::Ended {
        outcome: migration.outcome().map_or(v1::Outcome::Unspecified, Into::into).into(),
        message: format!("migration {} ended {}", migration.order.id, past(migration)),
        cause: migration.cause().cloned().map(Into::into),
        statistics: migration.statistics().map(Into::into),
        warnings: migration.warnings(),
        guest: wire_guest(migration.guest()).into(),
    }
}
