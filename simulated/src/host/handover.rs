//! The strict hand-over: the agents' part of it is real. A simulated guest runs where its file is, and that moves at once, so that it never
//! waits paused.

use std::time::Duration;

use tokio::time::timeout;
use vmferry_agent::hypervisor::{Fault, HandingOver, Hypervisor as _};
use vmferry_core::{agent::Sighting, id::InstanceId, migration::Order, reason::Reason};

use super::SimulatedHost;

/// How long the destination may take to answer.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

impl HandingOver for SimulatedHost {
    async fn open_release(&self, order: &Order) -> Result<(), Fault> {
        let opened = self.listeners.open_release(order).await;
        opened.map_err(|error| Fault::new(Reason::HandoverUnsupported, error))
    }

    async fn release(&self, order: &Order) -> Result<(), Fault> {
        let told = timeout(RELEASE_LIMIT, self.listeners.release(order)).await;
        told.unwrap_or_else(|_| Err(format!("no answer within {RELEASE_LIMIT:?}")))
            .map_err(|error| Fault::new(Reason::ResumeUnanswered, error))
    }

    async fn let_go_on(&self, _: InstanceId) -> Result<(), Fault> {
        // It is never left stopped.
        Ok(())
    }

    async fn resume_arrived(&self, instance: InstanceId) -> Result<(), Fault> {
        match self.sighting(instance).await? {
            Sighting::Running => Ok(()),
            seen => Err(Fault::new(Reason::LibvirtFailed, format!("{instance} is on {} ({seen:?})", self.name))),
        }
    }

    async fn destroy_arrived(&self, instance: InstanceId) -> Result<(), Fault> {
        match self.sighting(instance).await? {
            Sighting::Absent => Ok(()),
            seen => Err(Fault::new(Reason::PhaseOutOfOrder, format!("{instance} is on {} ({seen:?})", self.name))),
        }
    }
}
