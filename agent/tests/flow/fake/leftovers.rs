//! What is left on a host: of all kinds, the directories with the migrations' sockets.

use vmferry_agent::hypervisor::{Examining, Fault};
use vmferry_core::leftovers::{Fix, HeldDirectory, Holdings, Needs};

use super::Fake;

impl Examining for Fake {
    async fn holdings(&self) -> Result<Holdings, Fault> {
        let facts = self.world.facts();
        let own = facts.directories.iter().filter(|(host, _)| *host == self.name);
        let held = own.map(|(_, id)| HeldDirectory { path: format!("/run/{id}"), migration: Some(*id) });
        Ok(Holdings { directories: held.collect(), ..Holdings::default() })
    }

    async fn debris(&self) -> Result<Holdings, Fault> {
        self.holdings().await
    }

    async fn remove(&self, fix: &Fix) -> Result<(), Fault> {
        let Fix::RemoveDirectory { migration } = fix else { panic!("nothing else is here: {fix}") };
        self.world.facts().directories.remove(&(self.name, *migration));
        Ok(())
    }

    async fn needs(&self) -> Result<Needs, Fault> {
        Ok(Needs::default())
    }
}
