//! One connection for all questions, opened when first needed and again when it broke.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use virt::connect::Connect;
use virt_sys as sys;

use super::{Error, Fault, event};

/// The most that any answer is waited for, a reconnection and a repeat included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Seconds between keep-alive messages, and how many may stay unanswered: a hung libvirt is noticed within 20 s, and
/// the threads that wait for it come free.
const KEEP_ALIVE: (i32, u32) = (5, 3);
/// Between two attempts to connect, at first and at most. With [`CONNECT_RETRIES`] about 5 s in all: a restarted
/// libvirt is back within one, with systemd's socket activation or without.
const CONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// See [`CONNECT_DELAY`].
const CONNECT_RETRIES: usize = 12;

/// This host's libvirt. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Libvirt(Arc<State>);

struct State {
    uri: String,
    /// Shared, so that all who need a connection at the same time wait for the same one, and so that one which
    /// never opens holds up one thread, not one per question.
    opening: Mutex<Option<Opening>>,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Connect>, Fault>>>;

/// Why there is no answer.
enum Failure {
    /// No connection could be had.
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
        Self(Arc::new(State { uri: uri.to_owned(), opening: Mutex::new(None) }))
    }

    /// Asks what changes nothing. Asked again, once, if the connection breaks.
    pub(super) async fn read<T, F>(&self, asked: impl Into<String>, question: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        self.ask(asked.into(), Repeat::Once, Arc::new(question)).await
    }

    /// Changes something. Never done twice: after a broken connection the caller must look what has happened.
    pub(super) async fn change<T, F>(&self, asked: impl Into<String>, step: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        self.ask(asked.into(), Repeat::Never, Arc::new(step)).await
    }

    async fn ask<T, F>(&self, asked: String, repeat: Repeat, question: Arc<F>) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        let answer = async {
            match (self.attempt(&question).await, repeat) {
                (Err(Failure::Lost(_)), Repeat::Once) => self.attempt(&question).await,
                (answer, _) => answer,
            }
        };
        match tokio::time::timeout(CALL_LIMIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Refused(source))) => Err(Error::Refused { asked, source }),
            Ok(Err(Failure::Unreachable(source) | Failure::Lost(source))) => Err(self.disconnected(asked, source)),
            Err(_) => Err(Error::Timeout { asked, limit: CALL_LIMIT }),
        }
    }

    async fn attempt<T, F>(&self, question: &Arc<F>) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        let connection = self.connection().await.map_err(Failure::Unreachable)?;
        let question = Arc::clone(question);
        on_blocking_thread(move || question(&connection).map_err(|fault| judge(&connection, fault))).await
    }

    /// A connection that was alive a moment ago.
    fn connection(&self) -> Opening {
        let mut slot = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = slot.as_ref().filter(|opening| match opening.peek() {
            None => true,
            Some(Ok(connection)) => is_alive(connection),
            Some(Err(_)) => false,
        });
        usable.cloned().unwrap_or_else(|| {
            let uri = self.0.uri.clone();
            let opening = async move { open(&uri).await }.boxed().shared();
            *slot = Some(opening.clone());
            opening
        })
    }

    /// A connection for one purpose, not shared.
    pub(super) async fn connect(&self, asked: &str) -> Result<Arc<Connect>, Error> {
        match tokio::time::timeout(CALL_LIMIT, open(&self.0.uri)).await {
            Ok(opened) => opened.map_err(|fault| self.disconnected(asked.to_owned(), fault)),
            Err(_) => Err(Error::Timeout { asked: asked.to_owned(), limit: CALL_LIMIT }),
        }
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

async fn open(uri: &str) -> Result<Arc<Connect>, Fault> {
    let (first, longest) = CONNECT_DELAY;
    let patience =
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_max_times(CONNECT_RETRIES);
    let open_once = || {
        let uri = uri.to_owned();
        on_blocking_thread(move || open_now(&uri))
    };
    open_once.retry(patience).when(may_pass).await.map(Arc::new)
}

fn open_now(uri: &str) -> Result<Connect, Fault> {
    let connection = Connect::open(Some(uri))?;
    let (interval, count) = KEEP_ALIVE;
    match connection.set_keep_alive(interval, count).map_err(Fault::from) {
        // A driver within this process cannot hang up.
        Err(fault) if !fault.is(&[sys::VIR_ERR_NO_SUPPORT]) => Err(fault),
        _ => Ok(connection),
    }
}

/// Whether it is what a libvirt looks like that is just being restarted: no socket yet, or one that was closed.
fn may_pass(fault: &Fault) -> bool {
    fault.is(&[sys::VIR_ERR_SYSTEM_ERROR, sys::VIR_ERR_RPC, sys::VIR_ERR_INTERNAL_ERROR])
}

/// A broken connection has no error code of its own.
fn judge(connection: &Connect, fault: Fault) -> Failure {
    if is_alive(connection) { Failure::Refused(fault) } else { Failure::Lost(fault) }
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
