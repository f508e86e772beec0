//! All migrations that this host has a half of: the lock on instances, the claims, the records; and those that wait.

mod admission;
mod facts;
mod leftovers;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tracing::warn;
use vmferry_core::{
    agent::{CallError, CheckReport, Leaving, Sighting},
    compatibility::may_be_told,
    convergence::usual,
    id::{HostName, InstanceId, MigrationId},
    leftovers::{Half, HeldProbes},
    migration::{Order, Record, Side, Steering},
    reason::Reason,
    undo::Undo,
};

use crate::{
    durable,
    gate::Gate,
    hypervisor::{Fault, Hypervisor},
    journal::{self, Journal, State},
    migration::Migration,
    phase,
    probes::Probes,
    turns::{Concurrency, Queue},
};

/// This host's halves of migrations, running and ended.
#[derive(Debug)]
pub struct Migrations<H> {
    host: Arc<H>,
    directory: PathBuf,
    probes: Arc<Probes<H>>,
    gate: Arc<Gate>,
    halves: Mutex<HashMap<MigrationId, Migration>>,
    /// Locked only by who has the halves, or needs nothing of them.
    turns: Queue,
}

impl<H: Hypervisor> Migrations<H> {
    /// Takes up what the journals tell; forgets what ended before `oldest`. Probe files live no longer than `probe_life`. What is taken up
    /// counts among the `concurrency` that there may be, but is never too much.
    ///
    /// A journal that cannot be read is an error: its guest may be in flight, and its lock would be lost.
    pub fn start(
        host: Arc<H>,
        state_directory: &Path,
        oldest: Timestamp,
        probe_life: Duration,
        concurrency: Concurrency,
    ) -> Result<Self, journal::Error> {
        let probes = Probes::start(Arc::clone(&host), state_directory, probe_life)
            .map_err(|source| journal::Error::Io { action: "read", path: state_directory.join("probes"), source })?;
        let gate = Arc::new(Gate::load(state_directory));
        let directory = state_directory.join("journal");
        let mut halves = HashMap::new();
        for journal in durable::in_place(|| journal::read_all(&directory, oldest))? {
            let id = journal.state().order().id;
            halves.insert(id, Migration::take_up(Arc::clone(&host), Arc::clone(&gate), journal));
        }
        let turns = Queue::new(host.name(), concurrency);
        Ok(Self { host, directory, probes, gate, halves: Mutex::new(halves), turns })
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// What lets guests in.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Asks this host's half of the checks.
    pub async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        self.judge_address(order, side)?;
        let other = self.active_of(order.instance).filter(|id| *id != order.id);
        let checked = match (side, leaving) {
            (Side::Source, _) => phase::check::source(&*self.host, &self.probes, order, other).await,
            (Side::Destination, Some(leaving)) => {
                let (claims, cordon) = (self.gate.claims(Some(order.id)), self.gate.cordon());
                phase::check::destination(&*self.host, order, leaving, other, &claims, cordon).await
            }
            (Side::Destination, None) => Err(Fault::new(
                Reason::InvalidRequest,
                "check on the destination needs what the source said of the guest",
            )),
        };
        checked.map_err(|fault| self.call_error(fault))
    }

    /// Removes the probe files of the source's check.
    pub async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        self.judge_address(order, Side::Source)?;
        self.probes.remove(order.id).await.map_err(|fault| self.call_error(fault))
    }

    /// The migration with the order's id: opened here, journaled, the only one of its instance, and one of as many as there may be.
    pub fn open(&self, order: &Order, side: Side, requested_by: String) -> Result<Migration, CallError> {
        self.judge_address(order, side)?;
        let mut halves = self.lock();
        if let Some(migration) = halves.get(&order.id) {
            let state = migration.state();
            if state.order() == order && state.side() == side {
                return Ok(migration.clone());
            }
            let message = format!("migration {} exists with another order; choose a new id", order.id);
            return Err(self.call_error(Fault::new(Reason::InvalidRequest, message)));
        }
        if let Some(id) = active_of(&halves, order.instance) {
            let message = format!(
                "instance {} is already being moved by migration {id}; wait for it, or end it with `vmferry migrations resolve {id}`",
                order.instance_name
            );
            return Err(self.call_error(Fault::new(Reason::InstanceMigrating, message)));
        }
        self.may_begin(&halves, order, side)?;
        let foretold = side == Side::Source && !order.kind.is_cold();
        let usual = foretold.then(|| usual(&records(&halves), order)).flatten();
        let journal = durable::in_place(|| Journal::open(&self.directory, order.clone(), side, requested_by))
            .map_err(|error| self.call_error(error.into()))?;
        let migration = Migration::start(Arc::clone(&self.host), Arc::clone(&self.gate), journal, usual);
        halves.insert(order.id, migration.clone());
        self.turns.withdraw(order.id);
        Ok(migration)
    }

    /// The migration with this id.
    pub fn get(&self, id: MigrationId) -> Result<Migration, CallError> {
        self.lock().get(&id).cloned().ok_or_else(|| {
            let message = format!("{} has no migration {id}; `vmferry migrations` lists them", self.host.name());
            self.call_error(Fault::new(Reason::MigrationNotFound, message))
        })
    }

    /// The migration of this order.
    pub fn of(&self, order: &Order) -> Result<Migration, CallError> {
        let migration = self.get(order.id)?;
        if is_same(&migration, order) {
            return Ok(migration);
        }
        let message = format!("migration {} exists with another order", order.id);
        Err(self.call_error(Fault::new(Reason::InvalidRequest, message)))
    }

    /// Tells the running job of a migration something else than its order says, if the guest's own limits allow it.
    /// `by` is the identity of who wants it.
    pub async fn steer(&self, id: MigrationId, steering: Steering, by: &str) -> Result<(), CallError> {
        let migration = self.get(id)?;
        let told = async {
            // What makes it gentler needs no look at the guest.
            if matches!(steering, Steering::Downtime(_) | Steering::Postcopy | Steering::Suspend) {
                let definition = self.host.definition(migration.state().order()).await?;
                // Of a guest that is gone its migration tells.
                definition.map_or(Ok(()), |guest| may_be_told(self.host.name(), &guest, &steering))?;
            }
            migration.steer(steering, by).await
        };
        told.await.map_err(|fault: Fault| self.call_error(fault))
    }

    /// Forgets what ended before `oldest` and left nothing behind.
    pub fn forget(&self, oldest: Timestamp) {
        self.lock().retain(|id, migration| {
            let state = migration.state();
            let keep = !state.pending.is_empty() || state.record().ended.is_none_or(|ended| ended >= oldest);
            if !keep && let Err(error) = durable::in_place(|| journal::remove(&self.directory, *id)) {
                warn!("{error}");
            }
            keep
        });
    }

    /// What this host sees of the instance.
    pub async fn locate(&self, instance: InstanceId) -> Result<Sighting, CallError> {
        self.host.sighting(instance).await.map_err(|fault| self.call_error(fault))
    }

    /// Every record, newest first, without the stories of their jobs.
    pub fn records(&self, active_only: bool) -> Vec<Record> {
        let mut records = records(&self.lock());
        records.retain(|record| !active_only || record.outcome.is_none());
        records
    }

    /// Those that have not ended.
    pub fn open_halves(&self) -> Vec<Migration> {
        self.lock().values().filter(|migration| migration.state().outcome().is_none()).cloned().collect()
    }

    /// Every half, as far as leftovers matter.
    pub fn halves(&self) -> Vec<Half> {
        let half = |migration: &Migration| {
            let state = migration.state();
            let (order, started, outcome) = (state.order().clone(), state.started(), state.outcome());
            Half { order, started, outcome, pending: state.pending }
        };
        self.lock().values().map(half).collect()
    }

    /// The lists of probe files that are on disk.
    pub fn probe_lists(&self) -> io::Result<Vec<HeldProbes>> {
        self.probes.lists()
    }

    /// The migration of this instance that has not ended.
    pub fn active_of(&self, instance: InstanceId) -> Option<MigrationId> {
        active_of(&self.lock(), instance)
    }

    /// An error of this host's.
    pub fn call_error(&self, Fault { reason, message }: Fault) -> CallError {
        CallError { host: self.host.name().clone(), reason, message }
    }

    /// An order that names another host must not be carried out here.
    fn judge_address(&self, order: &Order, side: Side) -> Result<(), CallError> {
        let named: &HostName = match side {
            Side::Source => &order.source.host,
            Side::Destination => &order.destination.host,
        };
        if named == self.host.name() {
            return Ok(());
        }
        let message = format!("this is {}, but the order's {side} is {named}; look at the inventory", self.host.name());
        Err(self.call_error(Fault::new(Reason::InvalidRequest, message)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MigrationId, Migration>> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest first.
fn records(halves: &HashMap<MigrationId, Migration>) -> Vec<Record> {
    let mut records: Vec<_> = halves.values().map(Migration::record).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.started));
    records
}

fn active_of(halves: &HashMap<MigrationId, Migration>, instance: InstanceId) -> Option<MigrationId> {
    let is_active = |state: &State| state.outcome().is_none() || state.pending.iter().any(Undo::bars_its_return);
    let mut states = halves.values().map(Migration::state).filter(|state| state.order().instance == instance);
    states.find(is_active).map(|state| state.order().id)
}

/// Whether a repeat means this migration. Of an order that names no policy each agent has taken its own default: what the source has
/// taken counts, and the destination has no use for it.
fn is_same(migration: &Migration, order: &Order) -> bool {
    let state = migration.state();
    let mut known = state.order().clone();
    if state.side() == Side::Destination {
        known.limits.policy.clone_from(&order.limits.policy);
    }
    known == *order
}
