//! The commands, a file each, and what they share.

pub(crate) mod abort;
pub(crate) mod affinity;
pub(crate) mod check;
pub(crate) mod cordon;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod drive;
pub(crate) mod groups;
pub(crate) mod hypervisors;
pub(crate) mod instance;
pub(crate) mod instances;
pub(crate) mod limits;
pub(crate) mod migrate;
pub(crate) mod migrations;
mod planned;
pub(crate) mod policies;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod serve;
pub(crate) mod steer;
mod strategy;
pub(crate) mod vif;
pub(crate) mod volumes;
pub(crate) mod watch;
pub(crate) mod zones;

use std::sync::Arc;

use jiff::Timestamp;
use vmferry_core::{
    agent::{CallError, Pair},
    host::Host,
    id::HostName,
    identity::{Identity, Role},
    instance::Instance,
    migration::Order,
    reason::Reason,
};
use vmferry_remote::chain::chain;

use crate::{
    client::{RemoteAgent, Which},
    exit::{Exit, Failed},
    fleet::{Answer, Fleet},
    history::Migration,
    inventory::Source,
    render::{Terminal, hosts::expiring, instances::Zones, unnamed},
};

/// Everything a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where it writes.
    pub(crate) terminal: Terminal,
    /// Whom it asks.
    pub(crate) fleet: Arc<Fleet>,
    /// As whom.
    identity: Identity,
}

impl Session {
    /// Reads the inventory and our certificate. Calls nobody but those who know the hosts: DNS and etcd, or a coordinator.
    pub(crate) async fn open(terminal: Terminal, source: &Source) -> Result<Self, Failed> {
        let loaded = source.load().await?;
        let tls = &loaded.inventory.tls;
        let credentials = vmferry_transport::load(tls).map_err(|error| Failed::usage(chain(&error)))?;
        let ours = tls.certificate.display().to_string();
        for sentence in expiring([(ours.as_str(), credentials.not_after())], Timestamp::now()) {
            terminal.warn(&sentence);
        }
        let identity = credentials.identity().clone();
        let fleet = Arc::new(Fleet::open(loaded, credentials.fixed()).await?);
        for sentence in fleet.warnings() {
            terminal.warn(&sentence);
        }
        Ok(Self { terminal, fleet, identity })
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
        self.fleet.hosts().await
    }

    /// As [`Fleet::instances`].
    async fn instances(&self) -> Result<(Vec<Instance>, Zones, Vec<CallError>), Failed> {
        self.fleet.instances().await
    }

    /// As [`Fleet::instance`].
    async fn instance(
        &self,
        wanted: &str,
        from: Option<&HostName>,
    ) -> Result<(Instance, Zones, Vec<CallError>), Failed> {
        self.fleet.instance(wanted, from).await
    }

    /// As [`Fleet::migrations`].
    async fn migrations(&self, which: Which) -> Result<(Vec<Migration>, Vec<CallError>), Failed> {
        self.fleet.migrations(which).await
    }

    /// As [`Fleet::migration`].
    async fn migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        self.fleet.migration(wanted).await
    }

    /// As [`Fleet::whole_migration`].
    async fn whole_migration(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        self.fleet.whole_migration(wanted).await
    }

    /// As [`Fleet::migration_of`].
    async fn migration_of(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        self.fleet.migration_of(wanted).await
    }

    /// As [`Fleet::moving`].
    async fn moving(&self, wanted: &str) -> Result<Order, Failed> {
        self.fleet.moving(wanted).await
    }

    /// As [`Fleet::is_settled`].
    fn is_settled(&self, migration: &Migration, silent: &[CallError]) -> bool {
        self.fleet.is_settled(migration, silent)
    }

    /// As [`Fleet::pair`].
    fn pair(&self, order: &Order) -> Result<Pair<RemoteAgent, RemoteAgent>, Failed> {
        self.fleet.pair(order)
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
