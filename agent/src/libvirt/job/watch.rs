//! What was seen of a job while it ran.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use virt_sys as sys;
use vmferry_core::migration::{Mode, Progress, Statistics};

use super::Stopped;
use crate::libvirt::event::Event;

/// A job's events so far.
pub(super) struct Observed<F> {
    events: mpsc::UnboundedReceiver<Event>,
    progress: F,
    stopped: Arc<Stopped>,
    round: Arc<Notify>,
    samples: Option<mpsc::UnboundedSender<Progress>>,
    began: Instant,
    last: Option<Progress>,
    handed_over: bool,
    mode: Mode,
    switched: CancellationToken,
    completed: Option<Statistics>,
}

impl<F: Fn(Progress)> Observed<F> {
    /// `switched` is cancelled when the guest is switched to postcopy, or was before.
    pub(super) fn new(
        events: mpsc::UnboundedReceiver<Event>,
        progress: F,
        stopped: Arc<Stopped>,
        switched: CancellationToken,
    ) -> Self {
        Self {
            events,
            progress,
            stopped,
            round: Arc::default(),
            samples: None,
            began: Instant::now(),
            last: None,
            handed_over: switched.is_cancelled(),
            mode: if switched.is_cancelled() { Mode::Broken } else { Mode::Precopy },
            switched,
            completed: None,
        }
    }

    /// Notified as a round begins.
    pub(super) fn rounds(&self) -> Arc<Notify> {
        Arc::clone(&self.round)
    }

    /// Every sample, also of a job that has not begun to send anything.
    pub(super) fn samples(&mut self) -> mpsc::UnboundedReceiver<Progress> {
        let (sender, samples) = mpsc::unbounded_channel();
        self.samples = Some(sender);
        samples
    }

    /// The newest sample of a job that has begun to send.
    pub(super) fn last(&self) -> Progress {
        self.last.unwrap_or_default()
    }

    /// Takes the next event. Never returns when there can be none any more.
    pub(super) async fn next(&mut self) {
        match self.events.recv().await {
            Some(event) => self.note(event),
            None => std::future::pending().await,
        }
    }

    /// Takes events until enough was seen, at most for `limit`.
    pub(super) async fn until(&mut self, limit: Duration, enough: impl Fn(&Self) -> bool) {
        let seen = async {
            while !enough(self) {
                self.next().await;
            }
        };
        // Nothing is lost with what did not come: there is an answer without it.
        let _ = tokio::time::timeout(limit, seen).await;
    }

    /// Whether the guest was stopped for the hand-over. Stays so when it was resumed afterwards.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    pub(super) fn is_completed(&self) -> bool {
        self.completed.is_some()
    }

    /// The completed job's measurements; without them, what the last sample had.
    pub(super) fn statistics(&self) -> Statistics {
        self.completed.unwrap_or_else(|| {
            let last = self.last();
            Statistics {
                total_time: self.began.elapsed(),
                downtime: Duration::ZERO,
                transferred: last.transferred,
                total: last.total,
                rounds: last.round,
            }
        })
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Round => self.round.notify_one(),
            Event::Sampled(sample) => {
                // A guest that was switched to postcopy goes on where it is by now.
                let stopped = self.handed_over && self.mode == Mode::Precopy;
                let sample = Progress { stopped, mode: self.mode, ..sample };
                if let Some(samples) = &self.samples {
                    // Nobody steers a job that is over.
                    let _ = samples.send(sample);
                }
                // Until QEMU has begun libvirt knows the time and nothing else.
                if sample.total > ByteSize::b(0) {
                    (self.progress)(sample);
                    self.last = Some(sample);
                }
            }
            Event::NotRunning => self.handed_over = true,
            Event::Broken(broken) => {
                self.handed_over = true;
                self.mode = if broken { Mode::Broken } else { Mode::Postcopy };
                (self.progress)(Progress { mode: self.mode, stopped: false, ..self.last() });
            }
            Event::Lifecycle { event: sys::VIR_DOMAIN_EVENT_SUSPENDED, detail } if is_handover(detail) => {
                if detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY {
                    self.mode = Mode::Postcopy;
                    self.switched.cancel();
                }
                self.handed_over = true;
                // Stopped and let go on before, for an I/O error say, it ran until now.
                self.stopped.send_replace(Some(Instant::now()));
            }
            Event::JobCompleted(params) if params.is_migration_out() => self.completed = Some(params.statistics()),
            Event::Lifecycle { .. } | Event::JobCompleted(_) => {}
        }
    }
}

/// While an outgoing job runs libvirt gives "migrated" as the reason for every stop, an I/O error's too: a hand-over
/// too many, never one too few.
fn is_handover(detail: u32) -> bool {
    matches!(
        detail,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED
            | sys::VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY
            | sys::VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED
    )
}
