//! Of a cold migration: where the guest is, by what the two hosts see. Live ones are resolved by facts ([`crate::resolution`]).

use crate::{
    agent::{CallError, Sighting},
    migration::Order,
    reason::Reason,
};

/// Where the guest runs, or would if it were on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Runner {
    /// On the source; the destination's copy, if any, has not run.
    Source,
    /// On the destination.
    Destination,
    /// It cannot be told, or nowhere, or twice.
    Unknown {
        /// Which of these.
        reason: Reason,
        /// One sentence.
        message: String,
    },
}

/// Where the guest runs, by what the two hosts see.
pub(super) fn runner(
    order: &Order,
    source: &Result<Sighting, CallError>,
    destination: &Result<Sighting, CallError>,
) -> Runner {
    use Sighting::{Absent, Arriving, Paused, Running, Shutoff};
    let name = &order.instance_name;
    let (from, to) = (&order.source.host, &order.destination.host);
    match (source, destination) {
        // It is off on the way, and defined on both: what the destination did with it, it says when asked to give it up.
        (Ok(Running | Shutoff | Paused), Ok(Absent | Shutoff | Paused) | Err(_)) => Runner::Source,
        (Ok(Running), Ok(Running)) => Runner::Unknown {
            reason: Reason::RunsTwice,
            message: format!("{name} runs on {from} and on {to}: stop one of them at once (virsh destroy {name})"),
        },
        (_, Ok(Running)) => Runner::Destination,
        (Ok(Running), Ok(Arriving)) => Runner::Source,
        (Ok(Absent), Ok(Shutoff)) => Runner::Destination,
        (Err(error), Ok(_)) => Runner::Unknown {
            reason: Reason::RunnerUnknown,
            message: format!("{name} does not run on {to}, and {from} could not be asked: {error}"),
        },
        (Err(error), Err(other)) => Runner::Unknown {
            reason: Reason::RunnerUnknown,
            message: format!("neither host could be asked where {name} runs: {from}: {error}; {to}: {other}"),
        },
        (Ok(_), Ok(_)) => Runner::Unknown {
            reason: Reason::NotRunning,
            message: format!(
                "{name} runs neither on {from} nor on {to}: see why (virsh domstate --reason {name}), let it run on one of them"
            ),
        },
        (Ok(_), Err(error)) => Runner::Unknown {
            reason: Reason::RunnerUnknown,
            message: format!("{name} does not run on {from}, and {to} could not be asked: {error}"),
        },
    }
}

/// Whether the job had certainly not begun to hand the guest over when it failed.
pub fn is_before_the_handover(failure: Reason) -> bool {
    matches!(
        failure,
        Reason::MigrationFailed | Reason::MigrationAborted | Reason::NotConverging | Reason::CoordinatorLost
    )
}
