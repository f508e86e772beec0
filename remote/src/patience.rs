//! How long silence is borne.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use vmferry_core::{agent::CallError, reason::Reason};

/// Counts from the first silence, not from the first call: what went well before it costs nothing.
pub(super) struct Patience {
    lasts: Duration,
    since: Option<Instant>,
    pauses: ExponentialBackoff,
}

impl Patience {
    pub(super) fn new(lasts: Duration) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times()
            .with_jitter()
            .build();
        Self { lasts, since: None, pauses }
    }

    /// Waits a little if another try may help, else returns the error. Answers are final, and so is distrust.
    pub(super) async fn bear(&mut self, error: CallError) -> Result<(), CallError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !may_pass(&error) || since.elapsed() >= self.lasts {
            return Err(error);
        }
        let pause = self.pauses.next().unwrap_or(self.lasts);
        tracing::debug!(host = %error.host, ?pause, %error, "asking again");
        sleep(pause.min(self.lasts)).await;
        Ok(())
    }
}

/// Whether nobody answered, and somebody may soon.
pub(super) fn may_pass(error: &CallError) -> bool {
    matches!(error.reason, Reason::AgentUnreachable | Reason::CoordinatorUnreachable | Reason::CoordinatorStopping)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(reason: Reason) -> CallError {
        CallError { host: "node-28".parse().expect("valid"), reason, message: "why".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_a_while() {
        let began = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(15));
        let mut tries = 0;
        while patience.bear(error(Reason::AgentUnreachable)).await.is_ok() {
            tries += 1;
        }
        let waited = began.elapsed().as_secs();
        assert!((15..19).contains(&waited), "{waited} s");
        assert!((8..60).contains(&tries), "{tries} tries");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_final() {
        for reason in [Reason::MemoryShort, Reason::AgentUntrusted, Reason::CoordinatorUntrusted] {
            let mut patience = Patience::new(Duration::from_secs(15));
            assert_eq!(patience.bear(error(reason)).await, Err(error(reason)));
        }
    }
}
