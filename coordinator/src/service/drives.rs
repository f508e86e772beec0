//! The migrations that this process drives right now. They go on whoever listens.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    select,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span};
use vmferry_core::{
    agent::{CallError, Pair},
    flow::{Completed, Failure, Watch as _},
    id::{HostName, MigrationId},
    identity::Identity,
    migration::{Order, Phase},
    reason::Reason,
};
use vmferry_proto::fleet;

use super::{
    attempts::turned_away_before,
    drive::{Drive, Told},
    wire,
    wish::fits,
};
use crate::{
    client::{PREPARED, RemoteAgent},
    command::drive::insist,
    exit::Failed,
    fleet::{Fleet, Newest},
    history::Migration,
    journey::{Turned, statistics, turned_away},
    lease,
};

/// How long a migration that another coordinator has begun may stay before its job, until it is taken for left behind, and taken back. And
/// how often it is looked at meanwhile.
const PREPARING: Duration = PREPARED;
const LOOK: Duration = Duration::from_millis(250);

/// How long one that waited may be neither waiting nor begun, until it is taken for given up: it has its turn, and is checked again.
const BETWEEN: Duration = Duration::from_secs(5);

/// The migrations that are driven here.
#[derive(Debug)]
pub(crate) struct Drives {
    fleet: Newest,
    running: Mutex<HashMap<MigrationId, Arc<Drive>>>,
    tasks: TaskTracker,
}

/// How a migration ended that the hosts know.
pub(super) struct Known {
    pub(super) ended: Told,
    /// What its destination said, if another may take the guest.
    pub(super) turned: Option<Turned>,
}

impl Drives {
    pub(crate) fn new(fleet: Newest) -> Arc<Self> {
        Arc::new(Self { fleet, running: Mutex::default(), tasks: TaskTracker::new() })
    }

    /// Begins the migration of this id, joins it, or ends it: whatever is left to do.
    pub(super) fn migrate(
        self: &Arc<Self>,
        id: MigrationId,
        wish: fleet::Wish,
        asker: Identity,
    ) -> Result<Arc<Drive>, Failed> {
        let mut running = self.running();
        if let Some(drive) = running.get(&id) {
            let is_same = match (&drive.wish, &drive.seen.borrow().order) {
                (Some(begun), _) => *begun == wish,
                (None, Some(order)) => fits(&wish, order),
                (None, None) => false,
            };
            return if is_same { Ok(Arc::clone(drive)) } else { Err(another(id)) };
        }
        let drive = Arc::new(Drive::new(id, Some(wish.clone()), asker));
        running.insert(id, Arc::clone(&drive));
        drop(running);
        let (drives, task) = (Arc::clone(self), Arc::clone(&drive));
        self.start(Arc::clone(&drive), async move { Box::pin(drives.wished(&task, &wish)).await });
        Ok(drive)
    }

    /// Brings a migration to its end that the hosts know.
    pub(super) fn resolve(self: &Arc<Self>, order: Order, asker: Identity) -> Arc<Drive> {
        let mut running = self.running();
        if let Some(drive) = running.get(&order.id) {
            return Arc::clone(drive);
        }
        let drive = Arc::new(Drive::new(order.id, None, asker));
        drive.carries_out(&order);
        running.insert(order.id, Arc::clone(&drive));
        drop(running);
        let (drives, task) = (Arc::clone(self), Arc::clone(&drive));
        self.start(Arc::clone(&drive), async move { drives.left_behind(&task, &order).await });
        drive
    }

    /// The migration that is driven here and meant by `wanted`: its id or the beginning of it, or its instance.
    pub(super) fn meant(&self, wanted: &str) -> Result<Option<Arc<Drive>>, Failed> {
        let mut meant: Vec<_> = self.running().values().filter(|drive| drive.is_meant(wanted)).cloned().collect();
        match (meant.len(), meant.pop()) {
            (2.., _) => Err(Failed::usage(format!("{wanted} may mean several migrations; name one by its whole id"))),
            (_, drive) => Ok(drive),
        }
    }

    /// Has it end on its source, as soon as that can be. Returns when it has ended; the error: it was never begun.
    pub(super) async fn abort(&self, drive: &Drive, asker: &Identity) -> Result<fleet::Ended, Failed> {
        drive.cancelled.cancel();
        let insisting = async {
            let mut seen = drive.watch();
            // Until it is known where it is nothing was begun, and its driver hears us.
            let order = seen.wait_for(|seen| seen.order.is_some()).await.ok().and_then(|seen| seen.order.clone());
            if let Some(order) = order {
                let source = self.hosts(&order, asker).source;
                let insisted = async {
                    if let Err(error) = insist(&source, order.id).await {
                        info!(migration = %order.id, "cannot be aborted: {error}");
                    }
                };
                // Another coordinator may let it wait, at either host.
                tokio::join!(insisted, self.end_waits(&order, asker));
            }
            std::future::pending().await
        };
        select! {
            ended = drive.end() => ended,
            never = insisting => never,
        }
    }

    /// Returns when none is left.
    pub(crate) async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Those that still go on.
    pub(crate) fn ids(&self) -> Vec<MigrationId> {
        self.running().keys().copied().collect()
    }

    fn start(
        self: &Arc<Self>,
        drive: Arc<Drive>,
        flow: impl Future<Output = Result<fleet::Ended, Failed>> + Send + 'static,
    ) {
        let drives = Arc::clone(self);
        let span = info_span!("migration", id = %drive.id, by = %drive.asker);
        let driven = async move {
            // Whoever waits for it must hear of its end, whatever that is.
            let end = AssertUnwindSafe(flow).catch_unwind().await.unwrap_or_else(|_| {
                let message = format!(
                    "a fault in the coordinator ended its work on migration {}; ask again with its id",
                    drive.id
                );
                Err(Failed::because(Reason::Internal, message))
            });
            match &end {
                Ok(ended) => info!("{}", ended.message),
                Err(failed) => info!("not begun: {failed}"),
            }
            // Whoever asks from now on asks the hosts.
            drives.running().remove(&drive.id);
            drive.change(|seen| seen.end = Some(end));
        };
        self.tasks.spawn(driven.instrument(span));
    }

    /// How the migration of that id ends if the hosts know it already, because another coordinator drives it, or did. `None`: they know
    /// none.
    pub(super) async fn joined(
        &self,
        drive: &Drive,
        wish: &fleet::Wish,
        id: MigrationId,
    ) -> Result<Option<Known>, Failed> {
        // The first look is at all hosts: where it is, one of them has to say.
        let (known, waiter) = tokio::join!(self.recorded(id), self.waiting(id));
        if let Some((migration, silent)) = known {
            return self.rest(drive, wish, &migration, &silent).await.map(Some);
        }
        let Some(order) = waiter else { return Ok(None) };
        if !fits(wish, &order) {
            return Err(another(drive.id));
        }
        info!("it waits, by another coordinator");
        drive.carries_out(&order);
        let mut seen = Instant::now();
        while seen.elapsed() < BETWEEN && !drive.is_cancelled() {
            sleep(LOOK).await;
            let fleet = self.fleet.get();
            if let Ok((Some(migration), silent)) = fleet.recorded_by(&order).await {
                return self.rest(drive, wish, &migration, &silent).await.map(Some);
            }
            if !fleet.waits_at(&order).await.is_empty() {
                seen = Instant::now();
            }
        }
        // Who drove it has given up, or was told to end it; either is told to who asks the hosts for its turn.
        Ok(None)
    }

    /// What is left to do of a migration that the hosts know.
    async fn rest(
        &self,
        drive: &Drive,
        wish: &fleet::Wish,
        migration: &Migration,
        silent: &[CallError],
    ) -> Result<Known, Failed> {
        let order = &migration.order;
        if !fits(wish, order) {
            return Err(another(drive.id));
        }
        drive.carries_out(order);
        if self.fleet().is_settled(migration, silent) {
            return Ok(Known { ended: Ok(wire::past_end(migration)), turned: turned_away_before(migration) });
        }
        let (ended, result) = self.resolved(drive, order).await;
        Ok(Known { ended, turned: result.err().and_then(|failure| turned_away(order, &failure)) })
    }

    /// The rest of what the hosts know.
    async fn left_behind(&self, drive: &Drive, order: &Order) -> Told {
        self.resolved(drive, order).await.0
    }

    /// The same, and what came of it.
    async fn resolved(&self, drive: &Drive, order: &Order) -> (Told, Result<Completed, Failure>) {
        let hosts = self.hosts(order, &drive.asker);
        self.wait_for_job(drive, order.id, &hosts.source).await;
        let result = Box::pin(lease::resolve(&hosts, order, drive)).await;
        let statistics = statistics(&hosts, order, &result).await;
        (wire::ended(order, &result, statistics).map_err(Failed::from), result)
    }

    /// Its coordinator may be at work: until the job runs, ending what was begun would take it back.
    async fn wait_for_job(&self, drive: &Drive, id: MigrationId, source: &RemoteAgent) {
        let waiting = async {
            while !drive.is_cancelled() {
                match source.whole_record(id).await {
                    Ok(half) if half.outcome.is_some() || half.phase() >= Phase::Migrate => return,
                    Err(error) if !error.is_silence() => return,
                    // An agent may just be restarted.
                    Ok(_) | Err(_) => sleep(LOOK).await,
                }
            }
        };
        if tokio::time::timeout(PREPARING, waiting).await.is_err() {
            info!("nobody goes on with it");
        }
    }

    /// What the hosts know of a migration with this id, and those that did not say.
    async fn recorded(&self, id: MigrationId) -> Option<(Migration, Vec<CallError>)> {
        let (known, silent) = self.fleet.get().recorded(id).await.ok()?;
        Some((known?, silent))
    }

    /// The order of the migration of this id, if it waits.
    async fn waiting(&self, id: MigrationId) -> Option<Order> {
        self.fleet.get().waiter(&id.to_string()).await.ok().flatten().map(|waiter| waiter.order)
    }

    /// Ends its wait wherever it waits, again and again.
    async fn end_waits(&self, order: &Order, asker: &Identity) {
        loop {
            for agent in self.fleet.get().waits_at(order).await {
                _ = agent.on_behalf_of(asker).abort(order.id).await;
            }
            sleep(LOOK).await;
        }
    }

    /// Both hosts of a migration that was begun, called as somebody's wish.
    fn hosts(&self, order: &Order, asker: &Identity) -> Pair<RemoteAgent, RemoteAgent> {
        let Pair { source, destination } = self.fleet.get().pair_of(order);
        Pair { source: source.on_behalf_of(asker), destination: destination.on_behalf_of(asker) }
    }

    /// Work beside migrations that is waited for when the process is to end.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    pub(super) fn fleet(&self) -> Arc<Fleet> {
        self.fleet.get()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<MigrationId, Arc<Drive>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn another(id: MigrationId) -> Failed {
    let message = format!(
        "migration {id} is another one, of another instance, to another host or in another way; choose a new id"
    );
    Failed::because(Reason::InvalidRequest, message)
}

/// Who is stopped says that the migration is not.
pub(super) fn stopping(ours: &HostName, id: MigrationId) -> CallError {
    CallError {
        host: ours.clone(),
        reason: Reason::CoordinatorStopping,
        message: format!(
            "the coordinator {ours} is being stopped, and migration {id} goes on without it: ask another one with the same id, \
             or run vmferry migrations resolve {id}"
        ),
    }
}
