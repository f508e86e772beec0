//! The destination's half, when neither a coordinator nor the source is heard any more: what one host can tell alone.

use std::time::Instant;

use tokio::time::sleep;
use vmferry_core::{
    agent::{CallError, Finished, Sighting},
    migration::{Cause, Order, Phase, Side},
    reason::Reason,
};

use super::{Task, recovery::LOOK_AGAIN};
use crate::{
    hypervisor::{Fault, Hypervisor},
    phase::LIBVIRT_LIMIT,
};

impl<H: Hypervisor> Task<H> {
    /// A guest that runs here has moved. One of which nothing is here is given up, once nothing of it can come any more. All else may be
    /// the only copy, or one too many: it is left as it is.
    pub(super) async fn forsake(&mut self, cause: Cause) -> Result<Finished, CallError> {
        let state = self.journal.state();
        let order = state.order().clone();
        // What is decided goes on by itself.
        if state.side() != Side::Destination || state.outcome().is_some() || self.unfinished().is_some() {
            return Ok(Finished::default());
        }
        match self.here(&order).await? {
            Sighting::Running => return self.post().await,
            seen if state.has_begun(Phase::Migrate) => return Err(self.undecided(&order, seen)),
            Sighting::Absent => {}
            // libvirt's own hand-over may be answered just now: without that its source would let the guest run, too.
            Sighting::Arriving if order.is_strict() => {}
            seen => return Err(self.undecided(&order, seen)),
        }
        // First nothing can come any more; only then is it true that nothing has.
        self.host.revoke_tunnel(order.id).await.map_err(|fault| self.call_error(fault))?;
        let (begun, mut seen) = (Instant::now(), self.here(&order).await?);
        while seen == Sighting::Arriving && begun.elapsed() < LIBVIRT_LIMIT {
            sleep(LOOK_AGAIN).await;
            seen = self.here(&order).await?;
        }
        match seen {
            Sighting::Absent => self.cleanup(self.own_rollback(cause)).await,
            Sighting::Arriving if order.is_strict() => self.cleanup(self.own_rollback(cause)).await,
            seen => {
                // It came in the last moment: its source may want to say that it is released.
                self.host.grant_tunnel(&order, self.on_release()).await.map_err(|fault| self.call_error(fault))?;
                Err(self.undecided(&order, seen))
            }
        }
    }

    async fn here(&self, order: &Order) -> Result<Sighting, CallError> {
        self.host.sighting(order.instance).await.map_err(|fault| self.call_error(fault))
    }

    fn undecided(&self, order: &Order, seen: Sighting) -> CallError {
        let (name, from, here, id) = (&order.instance_name, &order.source.host, self.host.name(), order.id);
        let message = format!(
            "{name} is on {here} ({seen:?}), and only {from} knows whether it runs there; it stays as it is until {from} answers, or: vmferry \
             migrations resolve {id}"
        );
        self.call_error(Fault::new(Reason::RunnerUnknown, message))
    }
}
