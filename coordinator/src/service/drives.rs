//! The migrations that this process drives right now. They go on whoever listens; what is known of them by the time somebody
//! does is told first.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span};
use vmferry_core::{
    agent::{CallError, Pair},
    compatibility::Check,
    flow::{self, Plan, Watch},
    id::{HostName, MigrationId},
    identity::Identity,
    migration::{Order, Phase, Progress},
    reason::Reason,
};
use vmferry_proto::fleet;

use super::{
    wire,
    wish::{Settled, fits, settle},
};
use crate::{
    client::{PREPARED, RemoteAgent},
    command::{drive::insist, migrate::statistics},
    exit::Failed,
    fleet::Newest,
    history::{self, Migration},
};

/// How long a migration that another coordinator has begun may stay before its job, until it is taken for left behind, and taken back. And
/// how often it is looked at meanwhile.
const PREPARING: Duration = PREPARED;
const LOOK: Duration = Duration::from_millis(250);

/// The migrations that are driven here.
#[derive(Debug)]
pub(crate) struct Drives {
    fleet: Newest,
    running: Mutex<HashMap<MigrationId, Arc<Drive>>>,
    tasks: TaskTracker,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Drive {
    id: MigrationId,
    /// `None`: its order is on the hosts.
    wish: Option<fleet::Wish>,
    asker: Identity,
    is_cancelled: AtomicBool,
    seen: watch::Sender<Seen>,
}

/// What is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) order: Option<Order>,
    pub(super) phases: Vec<Phase>,
    pub(super) checks: Option<Vec<Check>>,
    /// The newest sample, and how many there were.
    pub(super) progress: Option<(u64, Progress)>,
    /// The error: it was never begun.
    pub(super) end: Option<Result<fleet::Ended, Failed>>,
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
        self.start(Arc::clone(&drive), async move { drives.wished(&task, &wish).await });
        Ok(drive)
    }

    /// Brings a migration to its end that the hosts know.
    pub(super) fn resolve(self: &Arc<Self>, order: Order, asker: Identity) -> Arc<Drive> {
        let mut running = self.running();
        if let Some(drive) = running.get(&order.id) {
            return Arc::clone(drive);
        }
        let drive = Arc::new(Drive::new(order.id, None, asker));
        drive.change(|seen| seen.order = Some(order.clone()));
        running.insert(order.id, Arc::clone(&drive));
        drop(running);
        let (drives, task) = (Arc::clone(self), Arc::clone(&drive));
        self.start(Arc::clone(&drive), async move { drives.left_behind(&task, &order).await });
        drive
    }

    /// Has it end on its source, as soon as that can be. Returns when it has ended.
    pub(super) async fn abort(&self, drive: &Drive, order: &Order, asker: &Identity) -> Result<fleet::Ended, Failed> {
        drive.is_cancelled.store(true, Ordering::Relaxed);
        let source = self.fleet.get().agent(&order.source.host)?.on_behalf_of(asker);
        let insisting = async {
            if let Err(error) = insist(&source, order.id).await {
                info!(migration = %order.id, "cannot be aborted: {error}");
            }
            std::future::pending().await
        };
        tokio::select! {
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

    async fn wished(&self, drive: &Drive, wish: &fleet::Wish) -> Result<fleet::Ended, Failed> {
        if let (Some(migration), silent) = self.recorded(drive.id).await {
            let order = &migration.order;
            if !fits(wish, order) {
                return Err(another(drive.id));
            }
            drive.change(|seen| seen.order = Some(order.clone()));
            return match self.fleet.get().is_settled(&migration, &silent) {
                true => Ok(wire::past_end(&migration)),
                false => self.left_behind(drive, order).await,
            };
        }
        let as_asker = |agent: &RemoteAgent| agent.on_behalf_of(&drive.asker);
        let settled = Box::pin(settle(&self.fleet.get(), as_asker, drive.id, wish, &Unheard)).await?;
        let Settled { order, hosts, warnings } = settled;
        for warning in warnings {
            info!("{warning}");
        }
        info!("moving {} from {} to {}", order.instance_name, order.source.host, order.destination.host);
        drive.change(|seen| seen.order = Some(order.clone()));
        let result = Box::pin(flow::run(&hosts, &order, drive)).await;
        let statistics = statistics(&hosts, &order, &result).await;
        Ok(wire::ended(&order, &result, statistics)?)
    }

    /// The rest of what the hosts know.
    async fn left_behind(&self, drive: &Drive, order: &Order) -> Result<fleet::Ended, Failed> {
        let Pair { source, destination } = self.fleet.get().pair(order)?;
        let hosts =
            Pair { source: source.on_behalf_of(&drive.asker), destination: destination.on_behalf_of(&drive.asker) };
        self.wait_for_job(drive, &hosts.source).await;
        let result = Box::pin(flow::resolve(&hosts, order, drive)).await;
        let statistics = statistics(&hosts, order, &result).await;
        Ok(wire::ended(order, &result, statistics)?)
    }

    /// Its coordinator may be at work: until the job runs, ending what was begun would take it back.
    async fn wait_for_job(&self, drive: &Drive, source: &RemoteAgent) {
        let waiting = async {
            while !drive.is_cancelled() {
                match source.whole_record(drive.id).await {
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
    async fn recorded(&self, id: MigrationId) -> (Option<Migration>, Vec<CallError>) {
        let answers =
            self.fleet.get().gather(move |agent: RemoteAgent| async move { agent.whole_record(id).await }).await;
        let (mut halves, mut silent) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer.result {
                Ok(half) => halves.push(half),
                Err(error) if error.reason == Reason::MigrationNotFound => {}
                Err(error) => silent.push(error),
            }
        }
        (history::merge(halves).pop(), silent)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<MigrationId, Arc<Drive>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn another(id: MigrationId) -> Failed {
    let message = format!("migration {id} is another one, of another instance or to another host; choose a new id");
    Failed::because(Reason::InvalidRequest, message)
}

impl Drive {
    fn new(id: MigrationId, wish: Option<fleet::Wish>, asker: Identity) -> Self {
        Self { id, wish, asker, is_cancelled: AtomicBool::new(false), seen: watch::Sender::default() }
    }

    /// What is known of it from now on, and so far.
    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Returns when it has ended.
    async fn end(&self) -> Result<fleet::Ended, Failed> {
        let mut seen = self.watch();
        let ended = seen.wait_for(|seen| seen.end.is_some()).await.ok().and_then(|seen| seen.end.clone());
        ended.unwrap_or_else(|| Err(Failed::because(Reason::Internal, "the migration is no longer driven here")))
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }
}

impl Watch for Drive {
    fn phase(&self, phase: Phase) {
        self.change(|seen| seen.phases.push(phase));
    }

    fn checked(&self, plan: &Plan) {
        self.change(|seen| seen.checks = Some(plan.checks.clone()));
    }

    fn progress(&self, progress: Progress) {
        self.change(|seen| {
            let (count, percent) = seen.progress.map_or((0, 0), |(count, before)| (count, before.percent));
            // Two who tell of it may not tell the same.
            seen.progress = Some((count + 1, progress.after(percent)));
        });
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

/// Sees the checks by which a policy is chosen, and tells nobody.
pub(super) struct Unheard;

impl Watch for Unheard {
    fn phase(&self, _phase: Phase) {}

    fn progress(&self, _progress: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
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
