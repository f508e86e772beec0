//! The flow's way to an agent in this process.

use std::time::Duration;

use vmferry_agent::{hypervisor::Hypervisor as _, migrations::Migrations};
use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Finished, Half, Leaving, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    id::HostName,
    migration::{Order, Progress, Record, Side, Statistics},
    reason::Reason,
    resolution::{DestinationFacts, SourceFacts},
    turns::Admission,
};

use super::{
    host::Fake,
    world::{Place, Trouble, World},
};

const COORDINATOR: &str = "vmferry://test/coordinator/flow";

/// An agent as the coordinator reaches it, with calls that can be lost on the way.
pub(crate) struct Local<'a> {
    pub(crate) migrations: &'a Migrations<Fake>,
    pub(crate) world: &'a World,
}

impl Local<'_> {
    /// As an agent of an earlier version would answer, if it is one.
    fn aged(&self, finished: Finished) -> Finished {
        let guest = finished.guest.filter(|_| !self.world.facts().is_older);
        Finished { guest, ..finished }
    }

    async fn call<T>(&self, what: &str, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let struck = {
            let mut facts = self.world.facts();
            let here = facts.faults.place == Place::Call(facts.calls);
            facts.calls += 1;
            here.then(|| {
                facts.struck = Some(format!("{}: {what}", self.host()));
                facts.faults.trouble
            })
        };
        let is_silent = self.world.facts().silent == self.migrations.host().name().as_str();
        let silence = || CallError {
            host: self.host().clone(),
            reason: Reason::AgentUnreachable,
            message: format!("{} did not answer, as asked for", self.host()),
        };
        match struck {
            None if is_silent => Err(silence()),
            None => call.await,
            Some(Trouble::LosesItsAnswer) => {
                _ = call.await;
                Err(silence())
            }
            Some(_) => Err(silence()),
        }
    }
}

impl Agent for Local<'_> {
    fn host(&self) -> &HostName {
        self.migrations.host().name()
    }

    async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        self.call("check", self.migrations.check(order, side, leaving)).await
    }

    async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        self.call("end_check", self.migrations.end_check(order)).await
    }

    async fn admit(&self, order: &Order, side: Side, hold: Duration) -> Result<Admission, CallError> {
        self.call("admit", self.migrations.admit(order, side, COORDINATOR, hold)).await
    }

    async fn withdraw(&self, order: &Order) -> Result<(), CallError> {
        let withdraw = async {
            self.migrations.withdraw(order.id);
            Ok(())
        };
        self.call("withdraw", withdraw).await
    }

    async fn pre(&self, order: &Order, half: &Half) -> Result<Vec<Relocation>, CallError> {
        let pre = async { self.migrations.open(order, half.side(), COORDINATOR.to_owned())?.pre(half).await };
        self.call("pre", pre).await
    }

    async fn migrate(
        &self,
        order: &Order,
        relocations: &[Relocation],
        _: &(dyn Fn(Progress) + Sync),
    ) -> Result<Statistics, CallError> {
        self.call("migrate", async { self.migrations.of(order)?.migrate(relocations.to_vec()).await }).await
    }

    async fn start(&self, order: &Order) -> Result<Duration, CallError> {
        self.call("start", async { self.migrations.of(order)?.start_guest().await }).await
    }

    async fn post(&self, order: &Order, _: Side) -> Result<Finished, CallError> {
        self.call("post", async { self.migrations.of(order)?.post().await }).await.map(|finished| self.aged(finished))
    }

    async fn cleanup(&self, order: &Order, rollback: &Rollback) -> Result<Finished, CallError> {
        self.call("cleanup", async {
            let migration = self.migrations.to_clean_up(order, rollback, COORDINATOR).await?;
            migration.cleanup(rollback.clone()).await
        })
        .await
        .map(|finished| self.aged(finished))
    }

    async fn locate(&self, order: &Order) -> Result<Sighting, CallError> {
        self.call("locate", self.migrations.locate(order.instance)).await
    }

    async fn source_facts(&self, order: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        self.call("facts", self.migrations.source_facts(order, hold)).await
    }

    async fn destination_facts(&self, order: &Order, hold: Duration) -> Result<DestinationFacts, CallError> {
        self.call("facts", self.migrations.destination_facts(order, hold)).await
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        let record = async { Ok(self.migrations.get(order.id).ok().map(|migration| migration.state().record())) };
        self.call("record", record).await
    }
}
