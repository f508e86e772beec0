use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

/// What cuts a migration's streams: those that are open, or all for good. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct OpenStreams {
    closed: CancellationToken,
    open: Arc<Mutex<Open>>,
    memory: Arc<AtomicUsize>,
}

impl OpenStreams {
    pub(super) fn new() -> Self {
        let closed = CancellationToken::new();
        Self { open: Arc::new(Mutex::new(Open::within(&closed))), closed, memory: Arc::default() }
    }

    /// Cancelled when no more streams are to come.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// For a stream that opens now: cancelled when it is to end.
    pub(super) fn one_more(&self) -> CancellationToken {
        self.lock().all.clone()
    }

    /// The same for a stream of memory, and what tells of it as long as it is open.
    pub(super) fn memory(&self) -> (CancellationToken, Memory) {
        self.memory.fetch_add(1, Ordering::Relaxed);
        (self.lock().memory.clone(), Memory(Arc::clone(&self.memory)))
    }

    /// Whether one is.
    pub(super) fn carry_memory(&self) -> bool {
        self.memory.load(Ordering::Relaxed) > 0
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

/// An open stream of memory.
#[derive(Debug)]
pub(super) struct Memory(Arc<AtomicUsize>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!streams.carry_memory());
        let ((cut, one), (_, other)) = (streams.memory(), streams.clone().memory());
        drop(one);
        assert!(streams.carry_memory());
        let libvirts = streams.one_more();
        streams.cut_memory();
        assert!(cut.is_cancelled() && !libvirts.is_cancelled() && !streams.memory().0.is_cancelled());
        drop(other);
        assert!(!streams.carry_memory());
    }
}
