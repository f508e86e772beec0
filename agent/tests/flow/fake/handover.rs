//! A guest that arrives paused, and waits until its source has released it.

use vmferry_agent::hypervisor::{Fault, HandingOver};
use vmferry_core::{agent::Sighting, id::InstanceId, migration::Order, reason::Reason};

use super::host::Fake;

impl HandingOver for Fake {
    async fn open_release(&self, order: &Order) -> Result<(), Fault> {
        assert!(order.is_strict());
        self.step("opening the way of the release", || ()).await
    }

    async fn release(&self, order: &Order) -> Result<(), Fault> {
        self.assert_journaled("\"released\"");
        assert_ne!(self.world.sees("source"), Sighting::Running, "I1: nothing is released that runs");
        // The request is lost, or the answer.
        self.step("telling of the release", || ()).await?;
        let release = self.world.facts().released.get(&order.id).cloned();
        let unanswered = |message| Fault::new(Reason::ResumeUnanswered, message);
        let release = release.ok_or_else(|| unanswered("nobody was granted that".to_owned()))?;
        let mut dropped = self.world.dropped.subscribe();
        tokio::select! {
            answer = release() => answer.map_err(unanswered)?,
            _ = dropped.changed() => return Err(unanswered("it is gone".to_owned())),
        }
        self.step("hearing that it runs", || ()).await
    }

    async fn resume_arrived(&self, _: InstanceId) -> Result<(), Fault> {
        match self.world.sees(self.name) {
            Sighting::Paused => {}
            Sighting::Running => return Ok(()),
            seen => return Err(Fault::new(Reason::LibvirtFailed, format!("it is {seen:?}"))),
        }
        // Both phases that begin there.
        self.assert_journaled("\"phase\":\"migrate\"");
        self.step("letting it run", || self.world.set(self.name, Some((Sighting::Running, true)))).await
    }

    async fn destroy_arrived(&self, _: InstanceId) -> Result<(), Fault> {
        self.assert_journaled("\"kept\"");
        self.step("destroying what has arrived", || {
            assert_eq!(self.world.sees("source"), Sighting::Running, "I4: it is not the only copy");
            if self.world.sees(self.name) == Sighting::Paused {
                self.world.set(self.name, None);
            }
        })
        .await
    }
}
