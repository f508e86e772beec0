//! The migration itself: one call to libvirt that takes as long as the migration does, watched and abortable.
//!
//! ```text
//!  migrate() ── task ──┬─ thread: subscribe ─▶ virDomainMigrateToURI3 ────────────▶ Call
//!                      ├─ sampler: virDomainGetJobStats, 4 a second ──▶ Sampled       │
//!                      ├─ steersman: the policy's steps as samples come, and what is said by hand
//!                      ├─ aborter: after cancel, virDomainAbortJob until it took      │
//!                      ├─ crossing: a postcopy whose way broke is taken up again ─────┘
//!                      └─ watch: Sampled, Lifecycle, JobCompleted ──▶ Observed ──▶ Statistics or JobError
//! ```

mod attend;
mod call;
mod crossing;
mod helm;
mod steer;
mod watch;

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use bytesize::ByteSize;
use tokio::{
    sync::{mpsc, oneshot, watch as latest},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use virt_sys as sys;
use vmferry_core::{
    convergence::{Action, Foresight, Ladder},
    direct::DirectEnd,
    disk::{Sharing, Transfer},
    id::InstanceId,
    migration::{Limits, Progress, Statistics},
};

pub(super) use self::call::socket_uri;
use self::{
    call::{Begin, Call},
    crossing::Crossing,
    steer::{Ending, Reports, Steersman},
    watch::Observed,
};
pub use self::{
    crossing::{Lifeline, OnSwitch, Standing, Switch},
    helm::{Helm, SteeringError},
};
use super::{Error, Libvirt};

/// How long after the call the last events may come. libvirt sends them before its reply, but on another thread.
const LAST_EVENTS: Duration = Duration::from_millis(500);
/// Live: the guest runs on. Peer to peer: libvirt talks to libvirt, and our death does not stop it. The definition
/// moves with the guest, in libvirt's own handshake: stored there before the guest may run there, removed here
/// once the guest has stopped here for good. So whatever dies, and however late, it is not left without one.
const FLAGS: sys::virDomainMigrateFlags = sys::VIR_MIGRATE_LIVE
    | sys::VIR_MIGRATE_PEER2PEER
    | sys::VIR_MIGRATE_PERSIST_DEST
    | sys::VIR_MIGRATE_UNDEFINE_SOURCE;

/// A guest and the way it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOrder {
    /// The guest.
    pub instance: InstanceId,
    /// Where the destination's libvirt answers.
    pub libvirt_socket: PathBuf,
    /// Where the destination's QEMU takes the guest.
    pub way: Way,
    /// What becomes of its disks.
    pub transfer: Transfer,
    /// How much memory it has: libvirt does not say before it sends any.
    pub memory: ByteSize,
    /// What it is on the destination, where that differs.
    pub definitions: Option<Definitions>,
    /// What the move may cost.
    pub limits: Limits,
    /// Whether it arrives paused, and stays so until somebody lets it run there.
    pub paused: bool,
}

/// How QEMU gets to the destination's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Through sockets that have the same paths there, so they must be used once only.
    Tunnel {
        /// For memory.
        memory_socket: PathBuf,
        /// For disks that are copied.
        disk_socket: PathBuf,
    },
    /// By TCP, at ports that the destination's libvirt chooses, and by QEMU's own TLS.
    Direct(DirectEnd),
}

/// What a job that runs tells, and what it is told.
pub struct Control {
    /// What its policy does, and when.
    pub ladder: Ladder,
    /// Called four times a second, and as each round begins.
    pub progress: OnProgress,
    /// Called when its policy has done something.
    pub deed: OnDeed,
    /// Where the policy is shown, as it is being carried out.
    pub foresight: Foresight,
    /// Where it is told something else.
    pub helm: Helm,
    /// Ends it, as long as libvirt can.
    pub cancel: CancellationToken,
    /// Remembers whether it was switched to postcopy.
    pub remember: OnSwitch,
    /// With a strict hand-over: is told when the guest can never run here again, and since when it runs nowhere. Dropped if that never comes.
    pub released: Option<oneshot::Sender<Instant>>,
}

/// When the guest was stopped for its hand-over; `None` as long as it has not been.
pub type Stopped = latest::Sender<Option<Instant>>;

/// Takes samples of a running job.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;
/// Takes what a policy has done.
pub type OnDeed = Arc<dyn Fn(Action) + Send + Sync>;

/// A guest as another host shall define it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions {
    /// While it runs.
    pub live: String,
    /// When it is started again.
    pub persistent: String,
}

impl JobOrder {
    /// libvirt calls a move unsafe if a disk that is written to lies on a file system of which it does not know that hosts
    /// share it. Where that was proved, it is told not to ask; nowhere else.
    ///
    /// Of a disk that is copied, only its own image is: "incremental" in libvirt's words. Those below it are there already.
    fn flags(&self) -> sys::virDomainMigrateFlags {
        let Transfer { sharing, copied } = &self.transfer;
        let sharing = if *sharing == Sharing::Proved { sys::VIR_MIGRATE_UNSAFE } else { 0 };
        let copying = if copied.is_empty() { 0 } else { sys::VIR_MIGRATE_NON_SHARED_INC };
        let throttling = if self.limits.policy.throttle().is_some() { sys::VIR_MIGRATE_AUTO_CONVERGE } else { 0 };
        let parallel = if self.limits.streams.are_several() { sys::VIR_MIGRATE_PARALLEL } else { 0 };
        let postcopy = if self.limits.policy.may_postcopy() { sys::VIR_MIGRATE_POSTCOPY } else { 0 };
        let paused = if self.paused { sys::VIR_MIGRATE_PAUSED } else { 0 };
        FLAGS | sharing | copying | throttling | parallel | self.encrypting() | postcopy | paused
    }

    fn encrypting(&self) -> sys::virDomainMigrateFlags {
        match self.way {
            Way::Tunnel { .. } => 0,
            // Without it QEMU would send the guest's memory as it is.
            Way::Direct(_) => sys::VIR_MIGRATE_TLS,
        }
    }

    /// To send what is left of a guest that was switched to postcopy. Its disks are where they shall be.
    fn resuming_flags(&self) -> sys::virDomainMigrateFlags {
        FLAGS | self.encrypting() | sys::VIR_MIGRATE_POSTCOPY | sys::VIR_MIGRATE_POSTCOPY_RESUME
    }
}

/// A job that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Aborted as asked. The guest runs on the source.
    #[error("the migration was aborted")]
    Aborted,
    /// The guest was not stopped on the source, so it runs there.
    #[error("the migration failed: {message}")]
    BeforeHandover {
        /// What libvirt says.
        message: String,
    },
    /// Its policy gave it up. The guest runs on the source.
    #[error("the migration did not come to its end in time")]
    NotConverging {
        /// How it stood.
        last: Progress,
    },
    /// The guest was stopped on the source when it failed, or was not running in the first place. It may run on the
    /// source, on the destination or nowhere.
    #[error("the migration failed while the guest was handed over: {message}")]
    Handover {
        /// What libvirt says.
        message: String,
    },
    /// libvirt could not be asked, or broke off. The guest may be on either host.
    #[error("the migration's outcome is not known")]
    Libvirt(#[source] Error),
}

impl Libvirt {
    /// Moves a running guest. Returns when libvirt's job is over, well or not.
    ///
    /// `stopped` is told when the guest was stopped for its hand-over. Dropping the future changes nothing: the job runs to
    /// its end and is watched until then.
    pub async fn migrate(
        &self,
        order: &JobOrder,
        control: Control,
        lifeline: Arc<dyn Lifeline>,
        stopped: Arc<Stopped>,
    ) -> Result<Statistics, JobError> {
        if control.cancel.is_cancelled() {
            return Err(JobError::Aborted);
        }
        let lifeline = Beginning { lifeline, begun: false };
        self.to_its_end(order, control, lifeline, stopped, Begin::Afresh).await
    }

    /// Goes on with a move that libvirt was asked for by a process of this agent that has ended; its job runs. `begun`: that process may
    /// have switched the guest to postcopy. Returns as [`Libvirt::migrate`] does; what libvirt answers is lost, so that is told by what
    /// has become of the guest.
    pub async fn join_migration(
        &self,
        order: &JobOrder,
        begun: bool,
        control: Control,
        lifeline: Arc<dyn Lifeline>,
        stopped: Arc<Stopped>,
    ) -> Result<Statistics, JobError> {
        let lifeline = Beginning { lifeline, begun };
        self.to_its_end(order, control, lifeline, stopped, Begin::Joining).await
    }

    /// Takes up again a guest that was switched to postcopy and whose job broke, as soon as the way is there, and as often as it takes.
    /// Returns when nothing of it is here any more, or nothing there.
    pub async fn resume_migration(
        &self,
        order: &JobOrder,
        control: Control,
        lifeline: Arc<dyn Lifeline>,
    ) -> Result<Statistics, JobError> {
        let lifeline = Beginning { lifeline, begun: true };
        self.to_its_end(order, control, lifeline, Arc::new(Stopped::new(None)), Begin::Resuming).await
    }

    async fn to_its_end(
        &self,
        order: &JobOrder,
        control: Control,
        lifeline: Beginning,
        stopped: Arc<Stopped>,
        begin: Begin,
    ) -> Result<Statistics, JobError> {
        let job = run(self.clone(), order.clone(), control, lifeline, stopped, begin);
        match tokio::spawn(job).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// The way, and whether the guest may have been switched to postcopy over it.
struct Beginning {
    lifeline: Arc<dyn Lifeline>,
    begun: bool,
}

async fn run(
    libvirt: Libvirt,
    order: JobOrder,
    Control { ladder, progress, deed, foresight, helm, cancel, remember, released: _ }: Control,
    Beginning { lifeline, begun }: Beginning,
    stopped: Arc<Stopped>,
    begin: Begin,
) -> Result<Statistics, JobError> {
    let id = order.instance;
    // Cancelled with `cancel`, or when the policy gives the job up.
    let (end, over) = (cancel.child_token(), CancellationToken::new());
    let asked = format!("migrate domain {id}");
    let crossing = Crossing::new(lifeline, remember, begun, begin == Begin::Resuming);
    let ending = Ending { give_up: end.clone(), over: over.clone() };
    let reports = Reports { deed, foresight };
    let mut steersman = Steersman::embark(&libvirt, id, ladder, &order.limits, reports, ending, crossing.clone()).await;
    let (sender, events) = mpsc::unbounded_channel();
    let mut observed = Observed::new(events, move |sample| progress(sample), stopped, crossing.switched.clone());
    let (rounds, samples) = (observed.rounds(), observed.samples());

    let mut calling = pin!(crossing.cross(&libvirt, &order, &sender, begin));
    let (call, _watching) = {
        let mut steering = pin!(steersman.steer(samples, helm.hold()));
        let call = {
            let mut sampler = pin!(attend::sample(&libvirt, &order, &rounds, &sender));
            let mut aborter = pin!(attend::abort(&libvirt, id, &end, &crossing));
            loop {
                tokio::select! {
                    call = &mut calling => break call,
                    () = observed.next() => {}
                    never = &mut sampler => match never {},
                    never = &mut aborter => match never {},
                    () = &mut steering => {}
                }
            }
        };
        over.cancel();
        steering.await;
        call
    };
    if !matches!(call, Call::Succeeded) && !crossing.switched.is_cancelled() {
        steersman.restore().await;
    }
    let given_up = end.is_cancelled() && !cancel.is_cancelled();
    match call {
        Call::Succeeded => {
            observed.until(LAST_EVENTS, Observed::is_completed).await;
            Ok(observed.statistics())
        }
        Call::Failed(fault) if given_up && fault.is(&[sys::VIR_ERR_OPERATION_ABORTED]) => {
            Err(JobError::NotConverging { last: observed.last() })
        }
        Call::Failed(fault) if fault.is(&[sys::VIR_ERR_OPERATION_ABORTED]) => Err(JobError::Aborted),
        Call::Failed(fault) => {
            observed.until(LAST_EVENTS, Observed::is_handed_over).await;
            let message = fault.message;
            Err(match observed.is_handed_over() {
                true => JobError::Handover { message },
                // The abort broke what the job was just doing, a write to the socket for one, and that error was first.
                false if given_up => JobError::NotConverging { last: observed.last() },
                false if end.is_cancelled() => JobError::Aborted,
                false => JobError::BeforeHandover { message },
            })
        }
        Call::Unconnected(error) => Err(JobError::Libvirt(error)),
        Call::Unasked(source) => Err(JobError::Libvirt(Error::Refused { asked, source })),
        Call::Lost(source) => Err(JobError::Libvirt(libvirt.disconnected(asked, source))),
    }
}
