//! A strict hand-over, between the two agents' halves.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};
use vmferry_core::{
    agent::Rollback,
    migration::{Cause, Side},
};

use super::{Command, Task};
use crate::{
    hypervisor::{Hypervisor, OnRelease},
    journal::Entry,
};

impl<H: Hypervisor> Task<H> {
    /// Destination: what is done when the source says that it has released the guest. It is asked as everybody is, so that it is done
    /// once, and not after a cleanup.
    pub(super) fn on_release(&self) -> OnRelease {
        let itself = self.itself.clone();
        Arc::new(move || {
            let itself = itself.clone();
            Box::pin(async move {
                let gone = || "the migration is gone".to_owned();
                let (reply, answer) = oneshot::channel();
                let asked = itself.upgrade().ok_or_else(gone)?;
                asked.send(Command::Start(reply)).await.map_err(|_| gone())?;
                answer.await.map_err(|_| gone())?.map(drop).map_err(|error| error.message)
            })
        })
    }

    /// Source: whether the destination may not know yet that it may let the guest run.
    pub(super) fn is_unheard(&self) -> bool {
        let state = self.journal.state();
        let is_heard = state.answered || state.statistics().is_some() || state.outcome().is_some();
        state.side() == Side::Source && state.released && !is_heard
    }

    /// Tells it.
    pub(super) async fn tell_again(&mut self) {
        let order = self.journal.state().order().clone();
        match self.host.release(&order).await {
            Ok(()) => {
                info!("{}: runs on {}", order.instance_name, order.destination.host);
                if let Err(error) = self.append(Entry::Answered) {
                    warn!("{}: {error}", order.instance_name);
                }
            }
            // Its failure was told when it was told first.
            Err(fault) => debug!("{}: {fault}", order.instance_name),
        }
    }

    /// What this agent takes back by itself. It speaks for no other host.
    pub(super) fn own_rollback(&self, cause: Cause) -> Rollback {
        Rollback { side: self.journal.state().side(), cause, released: false, kept: false }
    }
}
