use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What cuts a migration's streams: those that are open, or all for good. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct OpenStreams {
    closed: CancellationToken,
    open: Arc<Mutex<Open>>,
    all: Arc<watch::Sender<usize>>,
    memory: Arc<AtomicUsize>,
}

impl OpenStreams {
    pub(super) fn new() -> Self {
        let closed = CancellationToken::new();
        Self { open: Arc::new(Mutex::new(Open::within(&closed))), closed, all: Arc::default(), memory: Arc::default() }
    }

    /// Cancelled when no more streams are to come.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// For a stream that opens now: cancelled when it is to end.
    pub(super) fn one_more(&self) -> CancellationToken {
        self.lock().all.clone()
    }

    /// The same, and what tells of the stream as long as it is open.
    pub(super) fn counted(&self, is_memory: bool) -> (CancellationToken, Counted) {
        let memory = is_memory.then(|| Arc::clone(&self.memory));
        memory.as_ref().map(|memory| memory.fetch_add(1, Ordering::Relaxed));
        self.all.send_modify(|all| *all += 1);
        let open = self.lock();
        let cut = if is_memory { open.memory.clone() } else { open.all.clone() };
        (cut, Counted { all: Arc::clone(&self.all), memory })
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        *self.all.borrow()
    }

    /// How many of those carry memory.
    pub(super) fn count_of_memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Returns when none is open.
    pub(super) async fn ended(&self) {
        // Its sender is here.
        _ = self.all.subscribe().wait_for(|all| *all == 0).await;
    }

    /// Cuts those that are open. Others may open.
    pub(super) fn cut(&self) {
        let mut open = self.lock();
        open.all.cancel();
        *open = Open::within(&self.closed);
    }

    /// Cuts those of memory that are open, and nothing else.
    pub(super) fn cut_memory(&self) {
        let mut open = self.lock();
        open.memory.cancel();
        open.memory = open.all.child_token();
    }

    /// Cuts all for good.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cuts the streams that are open now.
#[derive(Debug)]
struct Open {
    all: CancellationToken,
    memory: CancellationToken,
}

impl Open {
    fn within(closed: &CancellationToken) -> Self {
        let all = closed.child_token();
        Self { memory: all.child_token(), all }
    }
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Counted {
    all: Arc<watch::Sender<usize>>,
    memory: Option<Arc<AtomicUsize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.memory.as_ref().map(|memory| memory.fetch_sub(1, Ordering::Relaxed));
        self.all.send_modify(|all| *all -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_open_is_cut_and_what_comes_is_not() {
        let streams = OpenStreams::new();
        let first = streams.one_more();
        streams.clone().cut();
        let second = streams.one_more();
        assert!(first.is_cancelled() && !second.is_cancelled() && !streams.closed().is_cancelled());
        streams.close();
        assert!(second.is_cancelled() && streams.closed().is_cancelled() && streams.one_more().is_cancelled());
    }

    #[test]
    fn memory_has_a_way_for_as_long_as_a_stream_of_it_is_open() {
        let streams = OpenStreams::new();
        assert_eq!((streams.count(), streams.count_of_memory()), (0, 0));
        assert!(streams.ended().now_or_never().is_some());
        let ((cut, one), (_, other)) = (streams.counted(true), streams.clone().counted(true));
        let (libvirts, libvirt) = streams.counted(false);
        assert_eq!((streams.count(), streams.count_of_memory()), (3, 2));
        drop(one);
        assert_eq!((streams.count(), streams.count_of_memory()), (2, 1));
        streams.cut_memory();
        assert!(cut.is_cancelled() && !libvirts.is_cancelled() && !streams.counted(true).0.is_cancelled());
        drop(other);
        assert_eq!(streams.count_of_memory(), 0);
        assert!(streams.ended().now_or_never().is_none());
        drop(libvirt);
        assert!(streams.ended().now_or_never().is_some());
    }
}
