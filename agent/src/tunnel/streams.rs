use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// What cuts a migration's streams: those that are open, or all for good. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    closed: CancellationToken,
    open: Arc<Mutex<CancellationToken>>,
}

impl Streams {
    pub(super) fn new() -> Self {
        let closed = CancellationToken::new();
        Self { open: Arc::new(Mutex::new(closed.child_token())), closed }
    }

    /// Cancelled when no more streams are to come.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// For a stream that opens now: cancelled when it is to end.
    pub(super) fn one_more(&self) -> CancellationToken {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cuts those that are open. Others may open.
    pub(super) fn cut(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.cancel();
        *open = self.closed.child_token();
    }

    /// Cuts all for good.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_cut_and_what_comes_is_not() {
        let streams = Streams::new();
        let first = streams.one_more();
        streams.clone().cut();
        let second = streams.one_more();
        assert!(first.is_cancelled() && !second.is_cancelled() && !streams.closed().is_cancelled());
        streams.close();
        assert!(second.is_cancelled() && streams.closed().is_cancelled() && streams.one_more().is_cancelled());
    }
}
