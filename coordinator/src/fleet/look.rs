//! What all hosts together know of instances and migrations.

use std::collections::HashMap;

use tokio::try_join;
use vmferry_core::{
    agent::{CallError, Pair},
    id::{HostName, MigrationId},
    instance::Instance,
    migration::Order,
};

use super::{Fleet, heard};
use crate::{
    client::{RemoteAgent, Which},
    exit::Failed,
    find,
    history::{self, Migration},
    render::instances::Zones,
};

impl Fleet {
    /// The instances of all hosts, their zones, and the hosts that did not answer.
    pub(crate) async fn instances(&self) -> Result<(Vec<Instance>, Zones, Vec<CallError>), Failed> {
        let answers =
            self.gather(|agent: RemoteAgent| async move { try_join!(agent.facts(), agent.instances()) }).await;
        let (given, silent) = heard(answers)?;
        let mut zones = HashMap::new();
        let mut instances = Vec::new();
        for (host, more) in given {
            zones.insert(host.name, host.zone);
            instances.extend(more);
        }
        Ok((instances, zones, silent))
    }

    /// The instance that is meant by `wanted`, and the hosts that did not answer.
    pub(crate) async fn instance(
        &self,
        wanted: &str,
        from: Option<&HostName>,
    ) -> Result<(Instance, Zones, Vec<CallError>), Failed> {
        if let Some(from) = from {
            self.agent(from)?;
        }
        let (instances, zones, silent) = self.instances().await?;
        Ok((find::instance(instances, &silent, wanted, from)?, zones, silent))
    }

    /// The migrations that the hosts know of, and the hosts that did not answer.
    pub(crate) async fn migrations(&self, which: Which) -> Result<(Vec<Migration>, Vec<CallError>), Failed> {
        let answers = self.gather(move |agent: RemoteAgent| async move { agent.migrations(which).await }).await;
        let (given, silent) = heard(answers)?;
        Ok((history::merge(given.into_iter().flatten()), silent))
    }

    /// The migration that is meant by `wanted`, and the hosts that did not answer. One that is named by its whole id is the only one asked for.
    pub(crate) async fn migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (migrations, silent) = match wanted.parse() {
            Ok(id) => {
                let (migration, silent) = self.recorded(id).await?;
                (migration.into_iter().collect(), silent)
            }
            Err(_) => self.migrations(Which::All).await?,
        };
        Ok((history::find(migrations, &silent, wanted)?, silent))
    }

    /// The migration that is meant, or that of the instance that is meant, and the hosts that did not answer.
    pub(crate) async fn migration_of(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        if wanted.parse::<MigrationId>().is_ok() {
            return self.migration(wanted).await;
        }
        // Few go on, and of all others there may be a long history.
        let (active, silent) = self.migrations(Which::Active).await?;
        if active.iter().any(|migration| migration.order.instance_name == wanted) {
            let active = history::newest(active, &silent, wanted)?;
            // It may have ended on one of its hosts.
            let (whole, unheard) = self.recorded_by(&active.order).await?;
            return Ok((whole.unwrap_or(active), unheard));
        }
        let (migrations, silent) = self.migrations(Which::All).await?;
        Ok((history::newest(migrations, &silent, wanted)?, silent))
    }

    /// The migration that is meant, with the story of its job; and those of its two hosts that did not answer.
    pub(crate) async fn whole_migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (migration, silent) = self.migration_of(wanted).await?;
        if wanted.parse::<MigrationId>().is_err() {
            let (whole, silent) = self.recorded_by(&migration.order).await?;
            return Ok((whole.unwrap_or(migration), silent));
        }
        let Order { source, destination, .. } = &migration.order;
        let is_of_it = |error: &CallError| [&source.host, &destination.host].contains(&&error.host);
        let silent = silent.into_iter().filter(is_of_it).collect();
        Ok((migration, silent))
    }

    /// The order of the migration that goes on and that is meant.
    pub(crate) async fn moving(&self, wanted: &str) -> Result<Order, Failed> {
        let (migrations, silent) = self.migrations(Which::Active).await?;
        Ok(history::moving(migrations, &silent, wanted)?.order)
    }

    /// Whether neither host has anything left to do for it. `silent` did not answer.
    pub(crate) fn is_settled(&self, migration: &Migration, silent: &[CallError]) -> bool {
        migration.is_settled(|host| self.has(host) && silent.iter().all(|error| error.host != *host))
    }

    /// Both hosts of a migration that is to begin.
    pub(crate) fn pair(&self, order: &Order) -> Result<Pair<RemoteAgent, RemoteAgent>, Failed> {
        Ok(Pair {
            source: self.agent(&order.source.host)?.clone(),
            destination: self.agent(&order.destination.host)?.clone(),
        })
    }

    /// Both hosts of a migration that was begun: also those that the inventory has no more.
    pub(crate) fn pair_of(&self, order: &Order) -> Pair<RemoteAgent, RemoteAgent> {
        Pair { source: self.agent_at(&order.source), destination: self.agent_at(&order.destination) }
    }
}
