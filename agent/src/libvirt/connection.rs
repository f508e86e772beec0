//! Connections to libvirt: opened when needed, kept for the next question, dropped when they break.
//!
//! A connection serves one call at a time. libvirt allows more, but in libvirt 9.0 (Debian 12) two calls on one
//! connection can corrupt the caller's stack: if keep-alive closes it, the first call to return leaves pointers into
//! its stack behind for the second to follow (seen as SIGSEGV, whenever libvirtd hung for longer than keep-alive
//! allows). It also means that a question about a guest that hangs holds up nobody.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::Semaphore;
use virt::connect::Connect;
use virt_sys as sys;

use super::{Error, Fault, event};

/// The most that any answer is waited for, a reconnection and a repeat included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Questions at the same time. The next waits, within its own [`CALL_LIMIT`].
const CONNECTIONS: usize = 8;
/// Seconds between keep-alive messages, and how many may stay unanswered: a hung libvirt is noticed within 20 s, and
/// the threads that wait for it come free.
const KEEP_ALIVE: (i32, u32) = (5, 3);
/// Between two attempts to connect, at first and at most. With [`CONNECT_RETRIES`] about 5 s in all: a restarted
/// libvirt is back within one, with systemd's socket activation or without.
const CONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// See [`CONNECT_DELAY`].
const CONNECT_RETRIES: usize = 12;

/// This host's libvirt. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Libvirt(Arc<Pool>);

struct Pool {
    uri: String,
    idle: Mutex<Vec<Connect>>,
    opened: AtomicU64,
    free: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    /// No connection could be had, so nothing was asked.
    Unreachable(Fault),
    /// There was one. It broke, so what was asked may have happened.
    Lost(Fault),
    /// libvirt said no.
    Refused(Fault),
}

/// Whether a question may be asked again when the connection broke before the answer.
#[derive(Clone, Copy)]
enum Repeat {
    Once,
    Never,
}

impl Libvirt {
    /// A handle on the libvirt at `uri`, `qemu:///system`. Starts libvirt's event loop on the process's first call;
    /// connects when it is first asked.
    pub fn new(uri: &str) -> Self {
        event::set_up();
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        Self(Arc::new(Pool { uri: uri.to_owned(), idle: Mutex::default(), opened: AtomicU64::new(0), free }))
    }

    /// How many connections have been opened so far. What libvirt said before the last of them it may not say any more.
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Asks what changes nothing. Asked again, once, if the connection breaks.
    pub(super) async fn read<T, F>(&self, asked: impl Into<String>, question: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        self.ask(asked.into(), Repeat::Once, CALL_LIMIT, Arc::new(question)).await
    }

    /// Changes something. Never done twice: after a broken connection the caller must look what has happened.
    pub(super) async fn change<T, F>(&self, asked: impl Into<String>, step: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        self.ask(asked.into(), Repeat::Never, CALL_LIMIT, Arc::new(step)).await
    }

    /// The same, of what takes its time.
    pub(super) async fn change_within<T, F>(
        &self,
        limit: Duration,
        asked: impl Into<String>,
        step: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        self.ask(asked.into(), Repeat::Never, limit, Arc::new(step)).await
    }

    /// A connection that is not one of the shared ones.
    pub(super) async fn connect(&self, asked: &str) -> Result<Connect, Error> {
        let open = || {
            let pool = Arc::clone(&self.0);
            on_blocking_thread(move || pool.open())
        };
        let answer = patiently(open);
        self.bounded(asked.to_owned(), CALL_LIMIT, answer).await
    }

    async fn ask<T, F>(&self, asked: String, repeat: Repeat, limit: Duration, question: Arc<F>) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        let attempt = || self.attempt(Arc::clone(&question));
        let answer = async {
            match (patiently(attempt).await, repeat) {
                (Err(Failure::Lost(_)), Repeat::Once) => patiently(attempt).await,
                (answer, _) => answer,
            }
        };
        self.bounded(asked, limit, answer).await
    }

    async fn bounded<T>(
        &self,
        asked: String,
        limit: Duration,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Refused(source))) => Err(Error::Refused { asked, source }),
            Ok(Err(Failure::Unreachable(source) | Failure::Lost(source))) => Err(self.disconnected(asked, source)),
            Err(_) => Err(Error::Timeout { asked, limit }),
        }
    }

    async fn attempt<T, F>(&self, question: Arc<F>) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        // Closing the semaphore is the only way to fail, and nobody does.
        let permit = Arc::clone(&self.0.free).acquire_owned().await;
        let pool = Arc::clone(&self.0);
        on_blocking_thread(move || {
            // Held until the call is over, not until we have lost patience with it.
            let _permit = permit;
            let connection = pool.take().map_or_else(|| pool.open(), Ok)?;
            match question(&connection) {
                // A broken connection has no error code of its own.
                Err(fault) if !is_alive(&connection) => Err(Failure::Lost(fault)),
                answer => {
                    pool.idle().push(connection);
                    answer.map_err(Failure::Refused)
                }
            }
        })
        .await
    }

    pub(super) fn disconnected(&self, asked: String, source: Fault) -> Error {
        Error::Disconnected { uri: self.0.uri.clone(), asked, source }
    }
}

impl fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libvirt").field("uri", &self.0.uri).finish_non_exhaustive()
    }
}

impl Pool {
    /// A connection that was alive a moment ago.
    fn take(&self) -> Option<Connect> {
        loop {
            // The lock is free again before a dead connection is dropped: that takes its time.
            let connection = self.idle().pop()?;
            if is_alive(&connection) {
                return Some(connection);
            }
        }
    }

    fn open(&self) -> Result<Connect, Failure> {
        let open = || {
            let connection = Connect::open(Some(&self.uri))?;
            let (interval, count) = KEEP_ALIVE;
            match connection.set_keep_alive(interval, count).map_err(Fault::from) {
                // A driver within this process cannot hang up.
                Err(fault) if !fault.is(&[sys::VIR_ERR_NO_SUPPORT]) => Err(fault),
                _ => Ok(connection),
            }
        };
        let opened = open().map_err(Failure::Unreachable)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(opened)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connect>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries again for a while as long as there is no libvirt that could be asked.
async fn patiently<T, F>(attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let (first, longest) = CONNECT_DELAY;
    let patience =
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_max_times(CONNECT_RETRIES);
    attempt.retry(patience).when(|failure| matches!(failure, Failure::Unreachable(fault) if may_pass(fault))).await
}

/// Whether it is what a libvirt looks like that is just being restarted: no socket yet, or one that was closed.
fn may_pass(fault: &Fault) -> bool {
    fault.is(&[sys::VIR_ERR_SYSTEM_ERROR, sys::VIR_ERR_RPC, sys::VIR_ERR_INTERNAL_ERROR])
}

/// Asks nobody: the connection knows. Must not come between a failed call and the look at its error.
pub(super) fn is_alive(connection: &Connect) -> bool {
    connection.is_alive().unwrap_or(false)
}

/// libvirt's calls block, and keep their last error per thread: a call and the look at its error go in one `work`.
async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
