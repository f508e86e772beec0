//! Where the guest runs, by what the two hosts see.

use crate::{
    agent::{CallError, Sighting},
    migration::Order,
    reason::Reason,
};

/// Where the guest runs, or would if it were on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// On the source; the destination's copy, if any, has not run.
    Source,
    /// On the destination.
    Destination,
    /// Nowhere yet: with a strict hand-over, the source has no copy any more that could run, and the destination's has arrived and waits.
    Released,
    /// It cannot be told, or nowhere, or twice.
    Unknown {
        /// Which of these.
        reason: Reason,
        /// One sentence.
        message: String,
    },
}

/// Where the guest runs, by what the two hosts see; `failure` is what made the flow ask.
pub fn runner(
    order: &Order,
    source: &Result<Sighting, CallError>,
    destination: &Result<Sighting, CallError>,
    failure: &CallError,
) -> Runner {
    use Sighting::{Absent, Arriving, Departing, Paused, Running, Shutoff};
    if let Some(told) = after_the_switch(order, source, destination) {
        return told;
    }
    let name = &order.instance_name;
    let (from, to) = (&order.source.host, &order.destination.host);
    match (source, destination) {
        // It is off on the way, and defined on both: what the destination did with it, it says when asked to give it up.
        (Ok(Running | Shutoff | Paused), Ok(Absent | Shutoff | Paused) | Err(_)) if order.kind.is_cold() => {
            Runner::Source
        }
        (Ok(Running), Ok(Running)) => runs_twice(order),
        (Ok(Absent | Shutoff), Ok(Paused)) if order.is_strict() => Runner::Released,
        (Ok(Paused), Ok(Paused)) if order.is_strict() => Runner::Unknown {
            reason: Reason::NotRunning,
            message: format!(
                "{name} waits, paused, on {to} until {from} releases it, and is paused on {from} as well: its copy there must go (virsh destroy \
                 {name} on {from}), then: vmferry migrations resolve {}",
                order.id
            ),
        },
        (Err(error), Ok(Paused)) if order.is_strict() => Runner::Unknown {
            reason: Reason::RunnerUnknown,
            message: format!(
                "{name} waits, paused, on {to}, and {from} could not be asked whether it runs there: {error}; when {from} answers again: \
                 vmferry migrations resolve {}; if it never will, and is without power: virsh resume {name} on {to}",
                order.id
            ),
        },
        (_, Ok(Running)) => Runner::Destination,
        (Ok(Running), Ok(Absent | Shutoff | Arriving | Paused | Departing)) => Runner::Source,
        // It was shut down on the way: it is where its only definition is.
        (Ok(Shutoff), Ok(Absent)) => Runner::Source,
        (Ok(Absent), Ok(Shutoff)) => Runner::Destination,
        // A guest that was never stopped runs where it was, whatever the destination would say.
        (Ok(Running), Err(_)) if is_before_the_handover(failure.reason) => Runner::Source,
        (Ok(Running), Err(error)) => Runner::Unknown {
            reason: Reason::RunnerUnknown,
            message: format!("{name} runs on {from}, but {to} could not be asked whether it runs there too: {error}"),
        },
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

/// Where a guest runs that was switched to postcopy, as far as its memory is on both hosts.
fn after_the_switch(
    order: &Order,
    source: &Result<Sighting, CallError>,
    destination: &Result<Sighting, CallError>,
) -> Option<Runner> {
    use Sighting::{Absent, Arriving, Departing, Incomplete, Paused, Running, Shutoff};
    let name = &order.instance_name;
    let (from, to) = (&order.source.host, &order.destination.host);
    match (source, destination) {
        (Ok(Running), Ok(Incomplete)) => Some(runs_twice(order)),
        (Ok(Departing), Ok(Incomplete | Running | Arriving | Paused | Departing)) => Some(Runner::Unknown {
            reason: Reason::PostcopyUnfinished,
            message: format!(
                "{name} runs on {to}, and a part of its memory is still on {from}, which sends it as soon as the way is there; \
                 neither copy may be stopped"
            ),
        }),
        (Ok(Departing), Err(error)) | (Err(error), Ok(Incomplete)) => Some(Runner::Unknown {
            reason: Reason::PostcopyUnfinished,
            message: format!(
                "{name} was switched to {to} with a part of its memory still on {from}, and how far that is can only be told when \
                 {} can be asked: {error}; neither copy may be stopped",
                error.host
            ),
        }),
        // No host has all of its memory, and none ever will.
        (Ok(Departing), Ok(Absent | Shutoff)) => Some(Runner::Unknown {
            reason: Reason::PostcopyLost,
            message: format!(
                "{name} stopped on {to} with a part of its memory still on {from}: what was in its memory is lost; its disks are on {to} \
                 as it left them: remove what is left of it on {from} (virsh destroy {name}), start it on {to} (virsh start {name})"
            ),
        }),
        (Ok(Paused | Arriving | Incomplete), Ok(Incomplete)) => Some(Runner::Unknown {
            reason: Reason::PostcopyUnfinished,
            message: format!(
                "{name} was switched to {to} with a part of its memory still on {from}, where it is paused (virsh domstate --reason {name}); \
                 neither copy may be stopped"
            ),
        }),
        (Ok(Absent | Shutoff), Ok(Incomplete)) => Some(Runner::Unknown {
            reason: Reason::PostcopyLost,
            message: format!(
                "{name} waits on {to} for memory that was on {from} and is gone there: what was in its memory is lost; its disks are on \
                 {to} as it left them: start it there anew (virsh destroy {name}, virsh start {name})"
            ),
        }),
        _ => None,
    }
}

fn runs_twice(order: &Order) -> Runner {
    let (name, from, to) = (&order.instance_name, &order.source.host, &order.destination.host);
    Runner::Unknown {
        reason: Reason::RunsTwice,
        message: format!("{name} runs on {from} and on {to}: stop one of them at once (virsh destroy {name})"),
    }
}

/// Whether the job had certainly not begun to hand the guest over when it failed.
pub fn is_before_the_handover(failure: Reason) -> bool {
    matches!(
        failure,
        Reason::MigrationFailed | Reason::MigrationAborted | Reason::NotConverging | Reason::CoordinatorLost
    )
}
