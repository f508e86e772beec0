//! What goes on without a caller: taking up what another process left behind, and trying again what could not be done.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};
use vmferry_core::{
    agent::{CallError, Rollback, Sighting},
    migration::{Cause, Order, Phase, Side, Statistics},
    reason::Reason,
};

use super::{AGAIN, Task};
use crate::{
    hypervisor::Hypervisor,
    journal::Entry,
    phase::{self, Steps},
};

/// How long libvirt may take to decide whether a guest that arrives goes on here, and how often that is looked at.
const UNDECIDED: Duration = Duration::from_secs(10);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl<H: Hypervisor> Task<H> {
    /// Takes up a journal that another process of this agent left behind.
    ///
    /// What carries the tunnel has outlived that process, as libvirt's job has, and so the guest moves on; unless that has died, too.
    pub(super) async fn recover(&mut self) {
        let state = self.journal.state();
        if state.outcome().is_some() {
            self.unwind_again().await;
            return;
        }
        let (order, side, moving) = (state.order().clone(), state.side(), state.has_begun(Phase::Migrate));
        info!("{}: taking up again what was left behind", order.instance_name);
        if self.unfinished().is_some() {
            return self.finish().await;
        }
        let recovered = match side {
            // What sent its disks died with that process. It comes up again, unless all of it had been sent.
            Side::Source if moving && order.kind.is_cold() && state.statistics().is_some() => Ok(()),
            Side::Source if moving && !order.kind.is_cold() => self.recover_job(&order).await,
            Side::Source => self.give_up().await,
            // It was to run here; whether it did for a moment cannot be told any more.
            Side::Destination if moving && !state.has_done(Phase::Migrate) && state.cause().is_none() => {
                self.recover_start(&order).await
            }
            Side::Destination => self.recover_arrival(&order).await,
        };
        if let Err(error) = recovered {
            error!("left as it is, for the coordinator or `vmferry migrations resolve {}`: {error}", order.id);
        }
    }

    /// Where the guest ended up is for the flow to find out, from both hosts.
    async fn recover_job(&mut self, order: &Order) -> Result<(), CallError> {
        if self.journal.state().statistics().is_some() {
            return Ok(());
        }
        if self.is_unheard() {
            self.tell_again().await;
        }
        let has_failed = self.journal.state().cause().is_some();
        if self.journal.state().switched {
            match self.seen(order).await {
                Sighting::Departing => return self.resume(order).await.map(drop),
                Sighting::Running | Sighting::Paused if !has_failed => {
                    if self.is_leaving(order).await {
                        return self.join_job(order).await;
                    }
                    // QEMU was told to, and the job broke before it did. After a failure somebody may have started it here by hand.
                    self.append(Entry::Stayed)?;
                }
                _ => {}
            }
        }
        if has_failed {
            return Ok(());
        }
        if self.is_leaving(order).await {
            return self.join_job(order).await;
        }
        self.host.await_job_end(order.instance).await.map_err(|fault| self.call_error(fault))?;
        let is_gone = order.is_strict() && matches!(self.seen(order).await, Sighting::Absent | Sighting::Shutoff);
        if is_gone && !self.journal.state().released {
            // It was handed over while nobody watched; or went off, and then its destination has nothing that could run.
            self.append(Entry::Released)?;
        }
        self.append(Entry::Failed(self.restarted()))?;
        if self.is_unheard() {
            self.tell_again().await;
        }
        Ok(())
    }

    /// Goes on with a job that runs.
    async fn join_job(&mut self, order: &Order) -> Result<(), CallError> {
        info!("{}: its job goes on, and is joined", order.instance_name);
        let (host, begun) = (Arc::clone(&self.host), Instant::now());
        let (reports, steering, remembers) = self.steering();
        let state = self.journal.state().clone();
        let left = phase::migrate::Left {
            resolved: &state.resolved,
            relocations: &state.relocations,
            events: &state.story().events,
            begun: state.switched,
        };
        let joined = phase::migrate::join_job(&*host, order, left, reports, steering);
        let moved = self.accompany(joined, remembers).await;
        self.measured(moved, begun).map(drop)
    }

    /// Whether the guest is still being moved away. What libvirt does not say is waited for.
    async fn is_leaving(&mut self, order: &Order) -> bool {
        loop {
            match self.host.is_leaving(order.instance).await {
                Ok(leaving) => return leaving,
                Err(fault) => warn!("{}: whether its job goes on cannot be told yet: {fault}", order.instance_name),
            }
            sleep(AGAIN).await;
        }
    }

    /// What is to be seen of the guest here. What libvirt does not say is waited for: nothing can be done before.
    async fn seen(&mut self, order: &Order) -> Sighting {
        loop {
            match self.host.sighting(order.instance).await {
                Ok(seen) => return seen,
                Err(fault) => warn!("{}: how far its postcopy is cannot be told yet: {fault}", order.instance_name),
            }
            sleep(AGAIN).await;
        }
    }

    /// Sends what is left of a guest that was switched to postcopy. What fails of that is tried again for as long as anything is left.
    pub(super) async fn resume(&mut self, order: &Order) -> Result<Statistics, CallError> {
        info!("{}: its postcopy is taken up again", order.instance_name);
        let (host, begun) = (Arc::clone(&self.host), Instant::now());
        loop {
            let (reports, steering, remembers) = self.steering();
            let resumed = phase::migrate::resume(&*host, order, reports, steering);
            let resumed = self.accompany(resumed, remembers).await;
            if let Err(fault) = &resumed
                && matches!(fault.reason, Reason::LibvirtFailed | Reason::TunnelFailed)
                && self.seen(order).await == Sighting::Departing
            {
                warn!("{}: its postcopy could not be taken up again yet: {fault}", order.instance_name);
                sleep(AGAIN).await;
                continue;
            }
            return self.measured(resumed, begun);
        }
    }

    /// It was told to let the guest run.
    async fn recover_start(&mut self, order: &Order) -> Result<(), CallError> {
        if order.is_strict() {
            // Its source may not have heard that it does.
            let granted = self.host.grant_tunnel(order, self.on_release()).await;
            granted.map_err(|fault| self.call_error(fault))?;
        }
        self.start_guest().await.map(drop)
    }

    async fn recover_arrival(&mut self, order: &Order) -> Result<(), CallError> {
        let is_ready = !order.kind.is_cold() && self.journal.state().has_done(Phase::Pre);
        let mut seen = self.host.sighting(order.instance).await.map_err(|fault| self.call_error(fault))?;
        if is_ready {
            // The source asks how far the guest is here, and sends the rest.
            let granted = self.host.grant_tunnel(order, self.on_release()).await;
            granted.map_err(|fault| self.call_error(fault))?;
            let begun = Instant::now();
            // It may have been switched just now: libvirt decides whether it goes on here.
            while order.limits.policy.may_postcopy() && seen == Sighting::Arriving && begun.elapsed() < UNDECIDED {
                sleep(LOOK_AGAIN).await;
                seen = self.host.sighting(order.instance).await.map_err(|fault| self.call_error(fault))?;
            }
        }
        match seen {
            // Its way in is still there: whether it arrives, its source knows.
            Sighting::Arriving if is_ready => Ok(()),
            // It moved, or moves: post is still to come.
            Sighting::Running | Sighting::Paused | Sighting::Shutoff | Sighting::Incomplete | Sighting::Departing => {
                Ok(())
            }
            Sighting::Absent | Sighting::Arriving if order.kind.is_cold() => self.give_up().await,
            Sighting::Absent | Sighting::Arriving => self.give_up_what_came(order).await,
        }
    }

    /// First nothing can come any more; only then is it true that nothing has.
    async fn give_up_what_came(&mut self, order: &Order) -> Result<(), CallError> {
        self.host.revoke_tunnel(order.id).await.map_err(|fault| self.call_error(fault))?;
        match self.host.sighting(order.instance).await.map_err(|fault| self.call_error(fault))? {
            Sighting::Absent | Sighting::Arriving => self.give_up().await,
            // It came in the last moment: its source may want to say that it is released.
            _ => {
                let granted = self.host.grant_tunnel(order, self.on_release()).await;
                granted.map_err(|fault| self.call_error(fault))
            }
        }
    }

    /// The phase that was decided and is not over.
    pub(super) fn unfinished(&self) -> Option<Phase> {
        let state = self.journal.state();
        state.outcome().is_none().then(|| state.record().phase()).filter(|phase| *phase >= Phase::Post)
    }

    /// Tries it again.
    pub(super) async fn finish(&mut self) {
        let finished = match (self.unfinished(), self.journal.state().cause().cloned()) {
            (Some(Phase::Post), _) => self.post().await,
            // It was begun because it might be.
            (Some(Phase::Cleanup), cause) => {
                let cause = cause.unwrap_or_else(|| self.restarted());
                self.cleanup(Rollback { released: true, ..self.own_rollback(cause) }).await
            }
            _ => return,
        };
        if let Err(error) = finished {
            warn!("{}: still not over: {error}", self.journal.state().order().instance_name);
        }
    }

    pub(super) fn has_leftovers(&self) -> bool {
        let state = self.journal.state();
        state.outcome().is_some() && !state.pending.is_empty()
    }

    /// After the end: what could not be taken back then is tried again until it can.
    pub(super) async fn unwind_again(&mut self) -> Vec<String> {
        if !self.has_leftovers() {
            return Vec::new();
        }
        let leftovers = Steps::new(&mut self.journal).unwind(&*self.host).await;
        for leftover in &leftovers {
            warn!("{leftover}");
        }
        self.note_that_it_runs().await;
        self.publish();
        leftovers
    }

    /// A guest that was off at the end may have been started again only now.
    async fn note_that_it_runs(&mut self) {
        let state = self.journal.state();
        if state.side() != Side::Source || !state.has_begun(Phase::Cleanup) || state.guest().is_some() {
            return;
        }
        let runs = self.look().await.filter(|seen| *seen == Sighting::Running);
        if let Err(error) = self.note_guest(runs) {
            warn!("{}: {error}", self.journal.state().order().instance_name);
        }
    }

    async fn give_up(&mut self) -> Result<(), CallError> {
        self.cleanup(self.own_rollback(self.restarted())).await.map(drop)
    }

    fn restarted(&self) -> Cause {
        Cause {
            reason: Reason::AgentRestarted,
            host: self.host.name().clone(),
            message: format!("the agent of {} was restarted during the migration", self.host.name()),
        }
    }
}
