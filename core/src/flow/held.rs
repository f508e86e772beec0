//! What people are told of a live migration that cannot be decided: what is known, of whom it is not, and what to do.

use super::{Failure, decide::Told};
use crate::{
    agent::CallError,
    migration::{Cause, Order},
    reason::Reason,
    resolution::{GuestCopy, Handover, Hold},
};

/// The facts allow no step.
pub(super) fn held(order: &Order, hold: Hold, told: &Told, refusal: Option<&CallError>, cause: Cause) -> Failure {
    Failure::Held { reason: hold.reason(), message: message(order, hold, told, refusal), cause }
}

fn message(order: &Order, hold: Hold, told: &Told, refusal: Option<&CallError>) -> String {
    let (name, from, to, id) = (&order.instance_name, &order.source.host, &order.destination.host, order.id);
    let silence = [told.source.as_ref().err(), told.destination.as_ref().err()];
    if let (Hold::SourceSilent, Handover::Strict, Some(GuestCopy::Stopped), [Some(error), _]) =
        (hold, Handover::of(order), told.theirs(), silence)
    {
        return format!(
            "{name} waits, paused, on {to}, and {from} could not be asked whether it runs there: {error}; when {from} answers again: \
             vmferry migrations resolve {id}; if it never will, and is without power: virsh resume {name} on {to}"
        );
    }
    let mut sentences = vec![hold.message(order)];
    // Who was asked and refused has said more than the facts.
    let said = silence.into_iter().flatten().chain(refusal.filter(|_| silence == [None, None]));
    sentences.extend(said.map(CallError::to_string));
    sentences.push(hold.command(order));
    sentences.join("; ")
}

/// A host would not do what the facts said it may: somebody else is at it, or the facts are not what they seem.
pub(super) fn refused(order: &Order, refusal: Option<&CallError>, cause: Cause) -> Failure {
    let id = order.id;
    let message = match refusal {
        Some(error) => format!("{error}; look again with: vmferry migrations resolve {id}"),
        None => {
            format!("{} does not come to an end; look again with: vmferry migrations resolve {id}", order.instance_name)
        }
    };
    Failure::Held { reason: Reason::RunnerUnknown, message, cause }
}

/// libvirt has not decided yet.
pub(super) fn waiting(order: &Order, cause: Cause) -> Failure {
    let (name, from, to) = (&order.instance_name, &order.source.host, &order.destination.host);
    let message = format!(
        "libvirt is still busy with {name} on {from} or on {to}, and what becomes of it is not decided (virsh domjobinfo {name}); when that \
         is over: vmferry migrations resolve {}",
        order.id
    );
    Failure::Held { reason: Reason::RunnerUnknown, message, cause }
}

/// The destination of a strict hand-over could not be told that the guest may run there.
pub(super) fn unheard(order: &Order, error: &CallError, cause: Cause) -> Failure {
    let (name, from, to, id) = (&order.instance_name, &order.source.host, &order.destination.host, order.id);
    let message = format!(
        "{name} was released by {from} and waits, paused, on {to}, which was told to let it run and has not: {error}; {from} goes on telling it; \
         or: vmferry migrations resolve {id}"
    );
    Failure::Held { reason: Reason::RunnerUnknown, message, cause }
}
