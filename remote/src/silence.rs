//! Whether a host that is asked again has answered, for those who want to know meanwhile.

use std::sync::Arc;

use tokio::sync::watch;
use vmferry_core::agent::CallError;

/// Why a host was not heard, for as long as it is not.
#[derive(Debug, Clone)]
pub(crate) struct Silence(Arc<watch::Sender<Option<CallError>>>);

impl Silence {
    /// Nobody has asked yet.
    pub(crate) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// It did not answer, and will be asked again.
    pub(crate) fn goes_on(&self, error: &CallError) {
        self.0.send_replace(Some(error.clone()));
    }

    /// It was heard.
    pub(crate) fn ends(&self) {
        self.0.send_if_modified(|why| why.take().is_some());
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<CallError>> {
        self.0.subscribe()
    }
}
