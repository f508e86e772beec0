//! Runs the flow while the user may interrupt it.

use std::{pin::pin, time::Duration};

use tokio::{select, time::sleep};
use vmferry_core::{
    agent::{Agent as _, CallError, Pair},
    flow::{Completed, Failure},
    id::MigrationId,
    migration::Order,
    reason::Reason,
};

use super::cannot_watch_signals;
use crate::{
    client::RemoteAgent,
    exit::{Exit, Failed},
    interrupt::Interrupts,
    render::{live::Live, unnamed},
};

/// How often the source is asked to end a job that has not begun yet.
const INSIST: Duration = Duration::from_millis(300);

/// What the flow came to; the error: the user left it alone.
pub(super) type Driven = Result<Result<Completed, Failure>, Failed>;

/// The first interrupt aborts the migration, the second leaves it alone.
pub(super) async fn abortable(
    flow: impl Future<Output = Result<Completed, Failure>>,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    live: &Live,
    interrupts: &mut Interrupts,
) -> Driven {
    let mut flow = pin!(flow);
    select! {
        result = &mut flow => return Ok(result),
        () = interrupts.next() => {}
    }
    live.cancel();
    live.clear();
    let (name, source) = (&order.instance_name, &order.source.host);
    live.say(&format!(
        "aborting: {name} stays on {source}; press Ctrl-C again to leave at once, the agents then go on without you"
    ));
    let aborted = async {
        // It may wait there, and the source may not know it any more.
        let (_, insisted) = tokio::join!(hosts.destination.withdraw(order), insist(&hosts.source, order.id));
        if let Err(error) = insisted {
            live.say(&format!("{source} cannot abort: {}", unnamed(&error)));
        }
        std::future::pending().await
    };
    select! {
        result = flow => Ok(result),
        () = interrupts.next() => Err(left(order, live)),
        never = aborted => never,
    }
}

/// An interrupt leaves the migration alone: it had been left before.
pub(super) async fn leavable(
    flow: impl Future<Output = Result<Completed, Failure>>,
    order: &Order,
    live: &Live,
) -> Driven {
    let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
    select! {
        result = flow => Ok(result),
        () = interrupts.next() => Err(left(order, live)),
    }
}

fn left(order: &Order, live: &Live) -> Failed {
    let Order { id, instance_name: name, .. } = order;
    live.leave();
    let message = format!(
        "interrupted: the migration of {name} goes on without a coordinator; vmferry migrations show {id} shows it, \
         vmferry abort {id} aborts it, vmferry migrations resolve {id} waits for its end"
    );
    Failed { exit: Exit::Interrupted, ..Failed::usage(message) }
}

/// Asks the source to end the job until it did or it is too late. Before the job begins there is nothing to end, and
/// the flow ends itself; but it may just begin.
pub(crate) async fn insist(source: &RemoteAgent, id: MigrationId) -> Result<(), CallError> {
    loop {
        match source.abort(id).await {
            Err(error) if matches!(error.reason, Reason::TooLateToAbort | Reason::PermissionDenied) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, "nothing to abort yet");
                sleep(INSIST).await;
            }
            Ok(()) => return Ok(()),
        }
    }
}
