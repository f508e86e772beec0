//! Who may let a guest run that is off while it moves (I1).
//!
//! The source may start it again by itself as long as it has not answered that the guest has moved: nobody has asked the
//! destination to start it then, and nobody will, since the source has noted the failure. After that, only once the
//! destination has given up its copy, which it does only if that has never run.
//!
//! With a strict hand-over, which is resolved by facts, the source refuses from the moment on in which it has released the guest.

use super::{Completed, Failure, Watch, finish, taken_back};
use crate::{
    agent::{Agent, CallError, Finished, Pair, Rollback, Sighting},
    migration::{Cause, Kind, Order, Outcome, Side},
    reason::Reason,
};

/// The source would not take its half back: the destination may have started the guest.
pub(super) async fn ask_back<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: Cause,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    let rollback = |side, released| Rollback { side, cause: cause.clone(), released, kept: false };
    match hosts.source.record(order).await {
        Ok(Some(record)) if matches!(record.outcome, Some(Outcome::Completed | Outcome::CompletedWithWarnings)) => {
            return finish(hosts, order, None, watch).await;
        }
        Ok(_) => {}
        Err(error) => return Err(undecided(order, cause, &error)),
    }
    let destination = hosts.destination.cleanup(order, &rollback(Side::Destination, false)).await;
    match &destination {
        Ok(_) => {}
        // It is at rest there for good.
        Err(error) if error.reason == Reason::PhaseOutOfOrder && order.kind == (Kind::Cold { shutdown: None }) => {
            return finish(hosts, order, None, watch).await;
        }
        // It has run there, or may have: then it shall.
        Err(error) if error.reason == Reason::PhaseOutOfOrder => {
            return match hosts.destination.start(order).await {
                Ok(_) => finish(hosts, order, None, watch).await,
                Err(error) => Err(undecided(order, cause, &error)),
            };
        }
        // It forgets what has ended long ago: only a host that does not have the guest has given it up.
        Err(error) if error.reason == Reason::MigrationNotFound => match hosts.destination.locate(order).await {
            Ok(Sighting::Absent) => {}
            Ok(_) => return Err(undecided(order, cause, error)),
            Err(error) => return Err(undecided(order, cause, &error)),
        },
        Err(error) => return Err(undecided(order, cause, error)),
    }
    let source = hosts.source.cleanup(order, &rollback(Side::Source, true)).await;
    confirm(hosts, order, &cause, &source).await?;
    Err(taken_back(hosts, order, cause, [source, destination]).await)
}

/// That a guest which was shut down runs again on the source, if anything suggests that it does not.
pub(super) async fn confirm<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: &Cause,
    source: &Result<Finished, CallError>,
) -> Result<(), Failure> {
    if source.as_ref().is_ok_and(|finished| finished.complaints.is_empty())
        || order.kind.shutdown().is_none()
        || hosts.source.locate(order).await.is_ok_and(|seen| seen == Sighting::Running)
    {
        return Ok(());
    }
    let (name, host, id) = (&order.instance_name, &order.source.host, order.id);
    let (reason, message) = match source {
        Ok(Finished { complaints, .. }) => (
            Reason::NotRunning,
            format!(
                "{name} was shut down on {host} and does not run there again: {}; its disks are whole; {host} goes on trying, \
                 vmferry migrations show {id} tells",
                complaints.join("; ")
            ),
        ),
        Err(error) => (
            Reason::RunnerUnknown,
            format!(
                "{name} was shut down on {host}, which could not be told to start it again: {error}; when it answers: \
                 vmferry migrations resolve {id}"
            ),
        ),
    };
    Err(Failure::Held { reason, message, cause: cause.clone() })
}

/// The other host knows, and does not say.
pub(super) fn undecided(order: &Order, cause: Cause, error: &CallError) -> Failure {
    let (name, from, to, id) = (&order.instance_name, &order.source.host, &order.destination.host, order.id);
    let silent = &error.host;
    let message = format!(
        "{name} is off on {from} and may have been started on {to}, which could not be asked: {error}; when {silent} answers again: vmferry \
         migrations resolve {id}"
    );
    Failure::Held { reason: Reason::RunnerUnknown, message, cause }
}
