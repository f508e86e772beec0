//! What a job needs that may be switched to postcopy: a way that is there when it is, and is made anew when it breaks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use virt_sys as sys;
use vmferry_core::{agent::Sighting, id::InstanceId};

use super::{
    JobOrder, attend,
    call::{self, Begin, Call, Watching},
};
use crate::libvirt::{
    Fault, Libvirt,
    event::{Event, Sender},
};

/// Between two tries of a way that is broken, at most.
const MOST: Duration = Duration::from_secs(5);
/// And from one to the next.
const TRY_AGAIN: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(250)).with_max_delay(MOST).without_max_times();
/// How long the destination may take to know what the source knows.
const BEHIND: Duration = Duration::from_secs(60);
/// How often it is said that it still is.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How far a guest is on its destination that was switched to postcopy, by that host's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A part of its memory is still on the source.
    Incomplete,
    /// It runs, and all of its memory is there.
    Complete,
    /// It does not run there any more.
    Gone,
    /// That host knows nothing of the migration, or nothing any more.
    Unknown,
}

/// The way to the destination. Errors are sentences.
pub trait Lifeline: Send + Sync {
    /// Whether it is there just now.
    fn is_there(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Whether memory still has the way that it had: what is sent over it arrives, however late.
    fn carries_memory(&self) -> BoxFuture<'_, bool>;
    /// How far the guest is there.
    fn standing(&self) -> BoxFuture<'_, Result<Standing, String>>;
    /// Makes it anew: what is left of it is cut at both ends.
    fn renew(&self) -> BoxFuture<'_, Result<Standing, String>>;
}

/// Whether the guest may run on the source, for those who remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// From now on it may not.
    Begins,
    /// It does after all.
    Stayed,
    /// Not switched, but handed over strictly: it never will again.
    Released,
}

/// Remembers it. It is on disk when this returns; an error is a sentence.
pub type OnSwitch = Arc<dyn Fn(Switch) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What a job needs for its switch to postcopy.
#[derive(Clone)]
pub(super) struct Crossing {
    pub(super) lifeline: Arc<dyn Lifeline>,
    remember: OnSwitch,
    /// It was remembered that the guest may be switched.
    begun: Arc<AtomicBool>,
    /// The guest has been switched.
    pub(super) switched: CancellationToken,
}

impl fmt::Debug for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crossing").field("switched", &self.switched.is_cancelled()).finish_non_exhaustive()
    }
}

/// What is to be done after a call that did not succeed.
enum Mended {
    /// The job is over, however it ended.
    Over,
    /// The way is there again: what is left can be sent.
    Renewed,
    /// All had been sent, and the reply was lost.
    Complete,
}

impl Crossing {
    /// `switched`: the guest has been, by another process of this agent; `begun`: it may have been.
    pub(super) fn new(lifeline: Arc<dyn Lifeline>, remember: OnSwitch, begun: bool, switched: bool) -> Self {
        let begun = Arc::new(AtomicBool::new(begun || switched));
        let crossing = Self { lifeline, remember, begun, switched: CancellationToken::new() };
        if switched {
            crossing.switched.cancel();
        }
        crossing
    }

    /// Before QEMU is told to switch: from now on it may at any moment.
    pub(super) async fn begins(&self) -> Result<(), String> {
        (self.remember)(Switch::Begins).await?;
        self.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether QEMU was told to, or may have been.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// It did not, and will not.
    pub(super) async fn stayed(&self) -> Result<(), String> {
        (self.remember)(Switch::Stayed).await?;
        self.begun.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the call, and after a postcopy's way broke, makes it again until the job is over. What is returned with it keeps the
    /// events coming until it is dropped.
    pub(super) async fn cross(
        &self,
        libvirt: &Libvirt,
        order: &JobOrder,
        events: &Sender,
        begin: Begin,
    ) -> (Call, Option<Watching>) {
        let id = order.instance;
        let mut delays = TRY_AGAIN.build();
        let (mut call, mut watching) = match begin {
            Begin::Afresh | Begin::Joining => call::make(libvirt, order, events, begin).await,
            Begin::Resuming => (Call::Failed(not_resumed()), None),
        };
        while !matches!(call, Call::Succeeded) {
            if let Call::Failed(fault) | Call::Lost(fault) | Call::Unasked(fault) = &call
                && self.switched.is_cancelled()
            {
                tracing::warn!(%id, "the rest of the guest could not be sent: {}", fault.message);
            }
            match self.mend(libvirt, id, events, &mut delays).await {
                Mended::Over => break,
                Mended::Renewed => (call, watching) = call::make(libvirt, order, events, Begin::Resuming).await,
                Mended::Complete => {
                    tracing::info!(%id, "all of the guest is on its destination; what is left here goes");
                    match libvirt.destroy_if_departing(id).await {
                        Ok(()) => call = Call::Succeeded,
                        Err(error) => tracing::warn!(%id, %error, "what is left of the guest here is still there"),
                    }
                }
            }
        }
        // The job does not need the call: it may go on. Whoever asks next where the guest is must not ask too soon.
        if let Call::Lost(_) = call {
            let over = attend::job_is_over(libvirt, id).await;
            tracing::warn!(%id, over, "libvirt broke off in the middle of the migration");
        }
        (call, watching)
    }

    /// Waits until what is left of a guest that was switched to postcopy can be sent. Both halves are kept for as long as that takes.
    async fn mend(
        &self,
        libvirt: &Libvirt,
        id: InstanceId,
        events: &Sender,
        delays: &mut impl Iterator<Item = Duration>,
    ) -> Mended {
        let mut said: Option<Instant> = None;
        // Since when the destination has said that there is nothing for us to do.
        let mut nothing: Option<Instant> = None;
        loop {
            let seen = libvirt.sighting(id).await;
            match seen {
                Ok(Sighting::Departing) => self.switched.cancel(),
                // All was sent, or all is gone: the destination says which.
                Ok(Sighting::Absent | Sighting::Shutoff) if self.switched.is_cancelled() => {}
                Ok(_) => {
                    // QEMU may have been told to, and the job broke before it did.
                    if self.has_begun()
                        && !self.switched.is_cancelled()
                        && let Err(error) = self.stayed().await
                    {
                        tracing::warn!(%id, "it is not remembered that the guest stayed: {error}");
                    }
                    return Mended::Over;
                }
                // A libvirt that does not answer has not let go of the guest.
                Err(_) if self.has_begun() => {}
                Err(_) => return Mended::Over,
            }
            let carries = self.lifeline.carries_memory().await;
            let _ = events.send(Event::Broken(!carries));
            sleep(delays.next().unwrap_or(MOST)).await;
            // A way that was only silent for a while carries on by itself, and libvirt sees to the end. What is cut has to be taken up
            // again, which a QEMU cannot do that waits for memory itself.
            let standing = match self.lifeline.standing().await {
                Ok(Standing::Incomplete) if carries => continue,
                Ok(Standing::Incomplete) if matches!(seen, Ok(Sighting::Departing)) => self.lifeline.renew().await,
                other => other,
            };
            match standing {
                Ok(Standing::Incomplete) if matches!(seen, Ok(Sighting::Departing)) => return Mended::Renewed,
                Ok(Standing::Complete) => return Mended::Complete,
                Ok(Standing::Gone) => return Mended::Over,
                // There is nothing to be sent any more, or nobody who takes it; its libvirt, or its agent, may be a bit behind.
                Ok(Standing::Incomplete | Standing::Unknown) => {
                    if nothing.get_or_insert_with(Instant::now).elapsed() > BEHIND {
                        return Mended::Over;
                    }
                }
                Err(error) => {
                    nothing = None;
                    if said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
                        tracing::warn!(%id, "the way of a postcopy is broken; both halves are kept, and it is tried again: {error}");
                        said = Some(Instant::now());
                    }
                }
            }
        }
    }
}

fn not_resumed() -> Fault {
    let message = "what was left of the guest could not be sent: it is not on its destination any more".to_owned();
    Fault { code: sys::VIR_ERR_OPERATION_FAILED, message }
}
