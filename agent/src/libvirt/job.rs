//! The migration itself: one call to libvirt that takes as long as the migration does, watched and abortable.
//!
//! ```text
//!  migrate() ── task ──┬─ thread: subscribe ─▶ virDomainMigrateToURI3 ────────────▶ Call
//!                      ├─ sampler: virDomainGetJobStats, 4 a second ──▶ Sampled       │
//!                      ├─ steersman: the policy's steps as samples come, and what is said by hand
//!                      ├─ aborter: after cancel, virDomainAbortJob until it took      │
//!                      └─ watch: Sampled, Lifecycle, JobCompleted ──▶ Observed ──▶ Statistics or JobError
//! ```

mod attend;
mod helm;
mod steer;
mod watch;

use std::{
    convert::Infallible,
    fmt::Write as _,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use bytesize::ByteSize;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;
use virt_sys as sys;
use vmferry_core::{
    convergence::{Action, Foresight, Ladder, Throttle},
    disk::{Sharing, Transfer},
    id::InstanceId,
    migration::{Limits, Progress, Statistics},
};

pub use self::helm::{Helm, SteeringError};
use self::{
    steer::{Reports, Steersman, whole_mib},
    watch::Observed,
};
use super::{
    Error, Fault, Libvirt,
    connection::is_alive,
    event::{self, Event},
    ffi::{self, Parameter},
    reading::lookup,
};

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
    /// Where the destination's QEMU takes the guest's memory. It has the same path there, so it must be used once only.
    pub memory_socket: PathBuf,
    /// Where the destination's QEMU takes its disks, likewise.
    pub disk_socket: PathBuf,
    /// What becomes of its disks.
    pub transfer: Transfer,
    /// How much memory it has: libvirt does not say before it sends any.
    pub memory: ByteSize,
    /// What it is on the destination, where that differs.
    pub definitions: Option<Definitions>,
    /// What the move may cost.
    pub limits: Limits,
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
}

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
        FLAGS | sharing | copying | throttling
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

/// How the one call ended.
enum Call {
    /// It was not made.
    Unasked(Fault),
    Succeeded,
    Failed(Fault),
    /// Its connection broke: no answer.
    Lost(Fault),
}

impl Libvirt {
    /// Moves a running guest. Returns when libvirt's job is over, well or not.
    ///
    /// `stopped` is notified when the guest was stopped for its hand-over. Dropping the future changes nothing: the job runs to
    /// its end and is watched until then.
    pub async fn migrate(
        &self,
        order: &JobOrder,
        control: Control,
        stopped: Arc<Notify>,
    ) -> Result<Statistics, JobError> {
        if control.cancel.is_cancelled() {
            return Err(JobError::Aborted);
        }
        let job = run(self.clone(), order.clone(), control, stopped);
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

async fn run(
    libvirt: Libvirt,
    order: JobOrder,
    Control { ladder, progress, deed, foresight, helm, cancel }: Control,
    stopped: Arc<Notify>,
) -> Result<Statistics, JobError> {
    let id = order.instance;
    // Cancelled with `cancel`, or when the policy gives the job up.
    let (end, over) = (cancel.child_token(), CancellationToken::new());
    let asked = format!("migrate domain {id}");
    // A connection of its own: this call takes one for minutes, and the others are few.
    let connection = Arc::new(libvirt.connect(&asked).await.map_err(JobError::Libvirt)?);
    let reports = Reports { deed, foresight };
    let mut steersman =
        Steersman::embark(&libvirt, id, ladder, order.limits.bandwidth, reports, end.clone(), over.clone()).await;
    let (sender, events) = mpsc::unbounded_channel();
    let mut observed = Observed::new(events, move |sample| progress(sample), stopped);
    let (rounds, samples) = (observed.rounds(), observed.samples());
    let (returned, call) = oneshot::channel();
    // Dropped last: until then the thread keeps the subscription.
    let (_watching, watched) = oneshot::channel::<Infallible>();

    let call_thread = {
        let (order, sender) = (order.clone(), sender.clone());
        move || in_thread(&connection, &order, &sender, returned, watched)
    };
    // A thread, not the blocking pool: when the process exits the runtime waits for the pool, and so for the
    // migration, which needs neither of them to go on.
    if let Err(error) = thread::Builder::new().name(format!("migrate-{id}")).spawn(call_thread) {
        let source = Fault { code: sys::VIR_ERR_SYSTEM_ERROR, message: error.to_string() };
        steersman.restore().await;
        return Err(JobError::Libvirt(Error::Refused { asked, source }));
    }

    let mut call = pin!(async {
        let call = call.await.unwrap_or_else(|_| {
            Call::Lost(Fault { code: sys::VIR_ERR_INTERNAL_ERROR, message: "the call's thread died".to_owned() })
        });
        // The job does not need the call: it may go on. Whoever asks next where the guest is must not ask too soon.
        if let Call::Lost(_) = call {
            let over = attend::job_is_over(&libvirt, id).await;
            tracing::warn!(%id, over, "libvirt broke off in the middle of the migration");
        }
        call
    });
    let call = {
        let mut steering = pin!(steersman.steer(samples, helm.hold()));
        let call = {
            let mut sampler = pin!(attend::sample(&libvirt, &order, &rounds, &sender));
            let mut aborter = pin!(attend::abort(&libvirt, id, &end));
            loop {
                tokio::select! {
                    call = &mut call => break call,
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
    if !matches!(call, Call::Succeeded) {
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
        Call::Unasked(source) => Err(JobError::Libvirt(Error::Refused { asked, source })),
        Call::Lost(source) => Err(JobError::Libvirt(libvirt.disconnected(asked, source))),
    }
}

/// The call, and around it what must be there before and after. Everything here blocks.
fn in_thread(
    connection: &Arc<Connect>,
    order: &JobOrder,
    sender: &event::Sender,
    returned: oneshot::Sender<Call>,
    watched: oneshot::Receiver<Infallible>,
) {
    let begin = || {
        let id = order.instance;
        let no_domain = || Fault { code: sys::VIR_ERR_NO_DOMAIN, message: format!("there is no domain {id}") };
        let domain = lookup(connection, id)?.ok_or_else(no_domain)?;
        // Before the job: no event of it may be missed.
        let subscription = ffi::Subscription::new(connection, &domain, sender)?;
        let (state, _) = ffi::state(&domain)?;
        if state != sys::VIR_DOMAIN_RUNNING {
            let _ = sender.send(Event::NotRunning);
        }
        Ok((domain, subscription))
    };
    let (domain, _subscription) = match begin() {
        Ok(begun) => begun,
        Err(fault) => {
            let _ = returned.send(Call::Unasked(fault));
            return;
        }
    };
    let libvirt_uri = format!("qemu+unix:///system?socket={}", socket_uri(&order.libvirt_socket));
    let memory_uri = format!("unix://{}", socket_uri(&order.memory_socket));
    let disk_uri = format!("unix://{}", socket_uri(&order.disk_socket));
    let mut parameters = vec![(sys::VIR_MIGRATE_PARAM_URI, Parameter::Text(&memory_uri))];
    if !order.transfer.copied.is_empty() {
        parameters.push((sys::VIR_MIGRATE_PARAM_DISKS_URI, Parameter::Text(&disk_uri)));
    }
    let copied = order.transfer.copied.iter();
    parameters.extend(copied.map(|disk| (sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, Parameter::Text(disk))));
    if let Some(Definitions { live, persistent }) = &order.definitions {
        parameters.push((sys::VIR_MIGRATE_PARAM_DEST_XML, Parameter::Text(live)));
        parameters.push((sys::VIR_MIGRATE_PARAM_PERSIST_XML, Parameter::Text(persistent)));
    }
    if let Some(bandwidth) = order.limits.bandwidth {
        parameters.push((sys::VIR_MIGRATE_PARAM_BANDWIDTH, Parameter::Number(whole_mib(bandwidth))));
    }
    if let Some(Throttle { initial, increment }) = order.limits.policy.throttle() {
        parameters.push((sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, Parameter::Percent(initial)));
        parameters.push((sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, Parameter::Percent(increment)));
    }
    let call = match ffi::migrate(&domain, &libvirt_uri, &parameters, order.flags()) {
        Ok(()) => Call::Succeeded,
        Err(fault) if is_alive(connection) => Call::Failed(fault),
        Err(fault) => Call::Lost(fault),
    };
    let _ = returned.send(call);
    // The last events are still under way. Ends with an error when the watcher is done.
    let _ = watched.blocking_recv();
}

/// A path as it stands in a URI: libvirt decodes it.
pub(super) fn socket_uri(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_break_out_of_its_uri() {
        assert_eq!(socket_uri(Path::new("/run/vmferry/0192-a/libvirt.sock")), "/run/vmferry/0192-a/libvirt.sock");
        assert_eq!(socket_uri(Path::new("/run/a b&mode=x?#%")), "/run/a%20b%26mode%3Dx%3F%23%25");
    }
}
