//! The flow's way to the agent of this process.

use std::time::Duration;

use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Finished, Half, Leaving, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    id::HostName,
    migration::{Order, Progress, Record, Side, Statistics},
    resolution::{DestinationFacts, SourceFacts},
    turns::Admission,
};

use crate::{hypervisor::Hypervisor, migrations::Migrations};

/// This host's agent, called by itself.
#[derive(Debug)]
pub struct Own<'a, H> {
    /// Its migrations.
    pub migrations: &'a Migrations<H>,
    /// The identity of who calls.
    pub by: &'a str,
}

impl<H: Hypervisor> Agent for Own<'_, H> {
    fn host(&self) -> &HostName {
        self.migrations.host().name()
    }

    async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        self.migrations.check(order, side, leaving).await
    }

    async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        self.migrations.end_check(order).await
    }

    async fn admit(&self, order: &Order, side: Side, hold: Duration) -> Result<Admission, CallError> {
        self.migrations.admit(order, side, self.by, hold).await
    }

    async fn withdraw(&self, order: &Order) -> Result<(), CallError> {
        self.migrations.withdraw(order.id);
        Ok(())
    }

    async fn pre(&self, order: &Order, half: &Half) -> Result<Vec<Relocation>, CallError> {
        self.migrations.open(order, half.side(), self.by.to_owned())?.pre(half).await
    }

    async fn migrate(
        &self,
        order: &Order,
        relocations: &[Relocation],
        _: &(dyn Fn(Progress) + Sync),
    ) -> Result<Statistics, CallError> {
        self.migrations.of(order)?.migrate(relocations.to_vec()).await
    }

    async fn start(&self, order: &Order) -> Result<Duration, CallError> {
        self.migrations.of(order)?.start_guest().await
    }

    async fn post(&self, order: &Order, _: Side) -> Result<Finished, CallError> {
        self.migrations.of(order)?.post().await
    }

    async fn cleanup(&self, order: &Order, rollback: &Rollback) -> Result<Finished, CallError> {
        let migration = self.migrations.to_clean_up(order, rollback, self.by).await?;
        migration.cleanup(rollback.clone()).await
    }

    async fn locate(&self, order: &Order) -> Result<Sighting, CallError> {
        self.migrations.locate(order.instance).await
    }

    async fn source_facts(&self, order: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        self.migrations.source_facts(order, hold).await
    }

    async fn destination_facts(&self, order: &Order, hold: Duration) -> Result<DestinationFacts, CallError> {
        self.migrations.destination_facts(order, hold).await
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        Ok(self.migrations.get(order.id).ok().map(|migration| migration.record()))
    }
}
