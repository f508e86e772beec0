//! The commands, a file each, and what they share.

pub(crate) mod abort;
pub(crate) mod affinity;
pub(crate) mod check;
mod choose;
mod convoy;
pub(crate) mod cordon;
pub(crate) mod doctor;
pub(crate) mod drain;
mod drive;
pub(crate) mod groups;
pub(crate) mod hypervisors;
pub(crate) mod instance;
pub(crate) mod instances;
pub(crate) mod limits;
pub(crate) mod migrate;
pub(crate) mod migrations;
mod planned;
pub(crate) mod policies;
mod queue;
pub(crate) mod report;
pub(crate) mod resolve;
mod search;
pub(crate) mod steer;
mod strategy;
mod trip;
pub(crate) mod vif;
pub(crate) mod volumes;
pub(crate) mod watch;
pub(crate) mod zones;

use std::collections::HashMap;

use jiff::Timestamp;
use tokio::try_join;
use vmferry_core::{
    agent::{CallError, Pair},
    host::{Alike, Host},
    id::HostName,
    identity::{Identity, Role},
    instance::Instance,
    migration::Order,
    reason::Reason,
};

use crate::{
    chain::chain,
    client::{RemoteAgent, Which},
    exit::{Exit, Failed},
    find,
    fleet::{Answer, Fleet, heard},
    history::{self, Migration},
    inventory::{Loaded, Source},
    render::{Terminal, hosts::expiring, instances::Zones, unnamed},
};

/// Everything a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where it writes.
    pub(crate) terminal: Terminal,
    /// Whom it asks.
    pub(crate) fleet: Fleet,
    /// As whom.
    identity: Identity,
}

impl Session {
    /// Reads the inventory and our certificate. Calls no agent.
    pub(crate) async fn open(terminal: Terminal, source: &Source) -> Result<Self, Failed> {
        let Loaded { inventory, warnings } = source.load().await?;
        for sentence in warnings {
            terminal.warn(&sentence);
        }
        let credentials = vmferry_transport::load(&inventory.tls).map_err(|error| Failed::usage(chain(&error)))?;
        let ours = inventory.tls.certificate.display().to_string();
        for sentence in expiring([(ours.as_str(), credentials.not_after())], Timestamp::now()) {
            terminal.warn(&sentence);
        }
        Ok(Self { terminal, identity: credentials.identity().clone(), fleet: Fleet::new(inventory, credentials) })
    }

    /// Agents refuse those who are no coordinators, but an end that nobody may carry out must not even be announced.
    fn may_coordinate(&self) -> Result<(), Failed> {
        if self.identity.role == Role::Coordinator {
            return Ok(());
        }
        let message = format!(
            "{} may only look; use a certificate of role coordinator (`vmferry pki issue coordinator NAME`)",
            self.identity
        );
        Err(Failed::because(Reason::PermissionDenied, message))
    }

    /// Facts of all hosts.
    async fn hosts(&self) -> Vec<Answer<Host>> {
        let mut answers = self.fleet.ask(RemoteAgent::facts).await;
        // Of thousands of hosts most say the same.
        let mut alike = Alike::default();
        answers.iter_mut().filter_map(|answer| answer.result.as_mut().ok()).for_each(|host| alike.share(host));
        answers
    }

    /// The instances of all hosts, their zones, and the hosts that did not answer.
    async fn instances(&self) -> Result<(Vec<Instance>, Zones, Vec<CallError>), Failed> {
        let answers = self.fleet.ask(async |agent: &RemoteAgent| try_join!(agent.facts(), agent.instances())).await;
        let (given, silent) = heard(answers)?;
        let mut zones = HashMap::new();
        let mut instances = Vec::new();
        for (host, more) in given {
            zones.insert(host.name, host.zone);
            instances.extend(more);
        }
        Ok((instances, zones, silent))
    }

    /// The instance that the user means, and the hosts that did not answer.
    async fn instance(
        &self,
        wanted: &str,
        from: Option<&HostName>,
    ) -> Result<(Instance, Zones, Vec<CallError>), Failed> {
        if let Some(from) = from {
            self.fleet.agent(from)?;
        }
        let (instances, zones, silent) = self.instances().await?;
        Ok((find::instance(instances, &silent, wanted, from)?, zones, silent))
    }

    /// The migrations that the hosts know of, and the hosts that did not answer.
    async fn migrations(&self, which: Which) -> Result<(Vec<Migration>, Vec<CallError>), Failed> {
        let answers = self.fleet.ask(async |agent: &RemoteAgent| agent.migrations(which).await).await;
        let (given, silent) = heard(answers)?;
        Ok((history::merge(given.into_iter().flatten()), silent))
    }

    /// The migration that the user means, and the hosts that did not answer.
    async fn migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (migrations, silent) = self.migrations(Which::All).await?;
        Ok((history::find(migrations, &silent, wanted)?, silent))
    }

    /// The migration that the user means, with the story of its job; and those of its two hosts that did not answer.
    async fn whole_migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (mut migration, mut silent) = self.migration_of(wanted).await?;
        let Order { id, source, destination, .. } = &migration.order;
        silent.retain(|error| [&source.host, &destination.host].contains(&&error.host));
        if migration.source.is_some() {
            match self.fleet.agent(&source.host)?.whole_record(*id).await {
                Ok(whole) => migration.source = Some(whole),
                Err(error) => silent.push(error),
            }
        }
        Ok((migration, silent))
    }

    /// The migration that the user means, or that of the instance that the user means, and the hosts that did not answer.
    async fn migration_of(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (migrations, silent) = self.migrations(Which::All).await?;
        Ok((history::newest(migrations, &silent, wanted)?, silent))
    }

    /// The order of the migration that goes on and that the user means.
    async fn moving(&self, wanted: &str) -> Result<Order, Failed> {
        let (migrations, silent) = self.migrations(Which::Active).await?;
        Ok(history::moving(migrations, &silent, wanted)?.order)
    }

    /// Whether neither host has anything left to do for it. `silent` did not answer.
    fn is_settled(&self, migration: &Migration, silent: &[CallError]) -> bool {
        migration.is_settled(|host| self.fleet.has(host) && silent.iter().all(|error| error.host != *host))
    }

    /// Both hosts of a migration.
    fn pair(&self, order: &Order) -> Result<Pair<RemoteAgent, RemoteAgent>, Failed> {
        Ok(Pair {
            source: self.fleet.agent(&order.source.host)?.clone(),
            destination: self.fleet.agent(&order.destination.host)?.clone(),
        })
    }

    /// Says which hosts are missing in what is shown.
    fn warn_of(&self, silent: &[CallError]) {
        for error in silent {
            self.terminal.warn(&format!("{} is not in it: {}", error.host, unnamed(error)));
        }
    }
}

/// An end of the program for which there is no result.
fn cannot_watch_signals(error: std::io::Error) -> Failed {
    Failed { exit: Exit::Failed, ..Failed::usage(format!("cannot watch for signals: {error}")) }
}
