//! A migration as it goes on, on stderr: one line that changes on a terminal, a line per event elsewhere.

use std::{
    borrow::Cow,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmferry_core::{
    flow::{Completed, Failure, Plan, Watch},
    migration::{Order, Phase, Progress},
};

use super::{
    Paint, Terminal,
    progress::{Verdict, checked, finished, heading, moving_bar, moving_line, percent, running},
};

/// How often a line is written where lines stay.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Watches the flow for the user. Also where the user's wish to end it is kept.
#[derive(Debug)]
pub(crate) struct Live {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    cancelled: AtomicBool,
    began: Instant,
    trail: Mutex<Trail>,
}

#[derive(Debug, Default)]
struct Trail {
    current: Option<(Phase, Instant)>,
    detail: String,
    percent: u8,
    last_line: Option<Instant>,
    phases: Vec<(Phase, Duration)>,
}

impl Live {
    /// Says what moves where.
    pub(crate) fn begin(terminal: Terminal, order: &Order) -> Self {
        let live = Self::quiet(terminal);
        live.say(&heading(order));
        live
    }

    /// For what is no migration yet.
    pub(crate) fn quiet(terminal: Terminal) -> Self {
        let bar = terminal.live.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            // What does not fit the terminal is cut off, else it could not be drawn over.
            bar.with_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { terminal, bar, cancelled: AtomicBool::new(false), began: Instant::now(), trail: Mutex::default() }
    }

    /// A line that stays, above the one that changes.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.note(line)),
            None => self.terminal.note(line),
        }
    }

    /// From now on the user wants it to end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The flow is over: ends the last phase's line and clears what changes.
    pub(crate) fn finish(&self, result: &Result<Completed, Failure>) {
        self.end(match result {
            Ok(completed) if completed.warnings.is_empty() => Verdict::Ok,
            Ok(_) => Verdict::Warnings,
            Err(Failure::Refused(_)) => Verdict::Refused,
            Err(Failure::RolledBack { leftovers, .. }) if leftovers.is_empty() => Verdict::Ok,
            Err(Failure::RolledBack { .. }) => Verdict::Warnings,
            Err(Failure::NotStarted(_) | Failure::Held { .. }) => Verdict::Failed,
        });
        self.leave();
    }

    /// Clears what changes, without a word on how it ended.
    pub(crate) fn leave(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Since [`begin`](Self::begin).
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The phases that are over, as seen from here.
    pub(crate) fn phases(&self) -> Vec<(Phase, Duration)> {
        self.trail().phases.clone()
    }

    fn end(&self, verdict: Verdict) {
        let line = {
            let mut trail = self.trail();
            let Some((phase, began)) = trail.current.take() else { return };
            let took = began.elapsed();
            trail.phases.push((phase, took));
            let detail = std::mem::take(&mut trail.detail);
            finished(phase, verdict, &detail, took, |word| {
                let paint = match verdict {
                    Verdict::Ok => Paint::Green,
                    Verdict::Warnings => Paint::Yellow,
                    Verdict::Refused | Verdict::Failed => Paint::Red,
                };
                self.terminal.paint(paint, word)
            })
        };
        self.say(&line);
    }

    fn draw(&self, line: impl Into<Cow<'static, str>>) {
        if let Some(bar) = &self.bar {
            bar.set_message(line);
        }
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Live {
    fn phase(&self, phase: Phase) {
        // The flow turns to cleanup only if what came before did not succeed.
        self.end(if phase == Phase::Cleanup { Verdict::Failed } else { Verdict::Ok });
        self.trail().current = Some((phase, Instant::now()));
        self.draw(running(phase));
    }

    fn checked(&self, plan: &Plan) {
        self.trail().detail = checked(plan);
    }

    fn progress(&self, sample: Progress) {
        let (percent, is_due) = {
            let mut trail = self.trail();
            trail.percent = percent(trail.percent, &sample);
            let is_due = trail.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
            if is_due {
                trail.last_line = Some(Instant::now());
            }
            (trail.percent, is_due)
        };
        match &self.bar {
            Some(_) => self.draw(moving_bar(percent, &sample)),
            None if is_due => self.terminal.note(&moving_line(percent, &sample)),
            None => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
