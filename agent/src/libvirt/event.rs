//! libvirt's event loop, and what a job's watcher hears from it.

use std::{sync::Once, thread, time::Duration};

use tokio::sync::mpsc;
use vmferry_core::migration::Progress;

use super::{ffi, statistics::Params};

/// How often a broken event loop is tried again: it must not eat a CPU.
const BROKEN_LOOP_DELAY: Duration = Duration::from_secs(1);

/// Something that happened to the domain whose job is watched.
#[derive(Debug)]
pub(super) enum Event {
    /// The guest does not run as the job begins. libvirt will not tell when it stops it for the hand-over.
    NotRunning,
    /// QEMU begins another round over the guest's memory.
    Round,
    /// A sample of the job was taken.
    Sampled(Progress),
    /// The domain's life took a turn: `virDomainEventType` and its detail.
    Lifecycle { event: u32, detail: u32 },
    /// After the switch to postcopy the job's way broke, or is there again.
    Broken(bool),
    /// A job ended well.
    JobCompleted(Params),
}

/// Where callbacks leave events. They run on libvirt's event thread, so they may neither block nor panic.
pub(super) type Sender = mpsc::UnboundedSender<Event>;

/// Sets libvirt up for this process: its event loop, on a thread of its own, and silence on stderr.
///
/// Must come before the first connection, or that one has neither events nor keep-alive.
pub(super) fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        virt::error::clear_error_callback();
        let registered = ffi::initialize().and_then(|()| Ok(virt::event::event_register_default_impl()?));
        if let Err(error) = registered {
            tracing::error!(%error, "libvirt has no event loop: no connection will be kept alive");
            return;
        }
        let spawned = thread::Builder::new().name("libvirt-events".into()).spawn(|| {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "libvirt's event loop stumbled");
                    thread::sleep(BROKEN_LOOP_DELAY);
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "libvirt's event loop has no thread: a hung libvirt will not be noticed");
        }
    });
}
