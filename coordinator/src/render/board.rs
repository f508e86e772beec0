//! Several moves as they go on, on stderr: a line each and one for all of them on a terminal, a line per event elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use vmferry_core::{
    flow::Watch,
    migration::{FLOOR, Order, Phase, Progress},
};

use super::{
    Terminal,
    convoy::Ended,
    progress::{heading, moving_bar, moving_line, running},
    survey::{Verdict, turned_away},
    units::about,
};

/// How often a move is told of where lines stay.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// What a move's line has beside its heading.
const ROOM: usize = 60;

/// All moves.
#[derive(Debug)]
pub(crate) struct Board {
    terminal: Terminal,
    /// What all of it is: `drain of node-28`.
    what: String,
    guests: usize,
    foreseen: Duration,
    began: Instant,
    lines: Option<(MultiProgress, ProgressBar)>,
    trail: Mutex<Trail>,
}

#[derive(Debug, Default)]
struct Trail {
    /// Why guests wait, by name, as it was told.
    waits: HashMap<String, String>,
    total: String,
}

impl Board {
    /// Says what is begun: so many guests, in about that time.
    pub(crate) fn begin(terminal: Terminal, what: String, guests: usize, foreseen: Duration) -> Self {
        let lines = terminal.live.then(|| {
            let all = MultiProgress::new();
            let total = all.add(line());
            (all, total)
        });
        let board = Self { terminal, what, guests, foreseen, began: Instant::now(), lines, trail: Mutex::default() };
        board.say(&format!("{}: {guests} to move, about {} in all", board.what, about(foreseen)));
        board
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.lines {
            // A terminal that went away must not end a migration.
            Some((all, _)) => all.suspend(|| self.terminal.note(text)),
            None => self.terminal.note(text),
        }
    }

    /// A move begins.
    pub(crate) fn lane(&self, order: &Order) -> Lane {
        let bar = self.lines.as_ref().map(|(all, total)| all.insert_before(total, line()));
        self.trail().waits.remove(&order.instance_name);
        if bar.is_none() {
            self.say(&format!("{}  begins", heading(order)));
        }
        Lane(Arc::new(Inner {
            terminal: self.terminal,
            heading: heading(order),
            bar,
            state: Mutex::new(State { share: order.limits.bandwidth, ..State::default() }),
        }))
    }

    /// A guest waits, and why.
    pub(crate) fn waits(&self, name: &str, why: &str) {
        self.trail().waits.insert(name.to_owned(), why.to_owned());
    }

    /// A destination does not take it; another is looked for.
    pub(crate) fn refused(&self, order: &Order, verdict: &Verdict) {
        self.say(&format!("{}: {}", order.instance_name, turned_away(&order.destination.host, verdict)));
    }

    /// A guest moves no more.
    pub(crate) fn ended(&self, ended: &Ended) {
        self.say(&ended.line());
    }

    /// How far all of it is.
    pub(crate) fn tell(&self, running: usize, waiting: usize, ended: &[Ended]) {
        let moved = ended.iter().filter(|ended| ended.has_moved()).count();
        let others = ended.len() - moved;
        let mut text = format!("{}: {moved} of {} moved", self.what, self.guests);
        for (number, word) in [(others, "did not"), (running, "move")] {
            if number > 0 {
                text += &format!(", {number} {word}");
            }
        }
        let mut trail = self.trail();
        if waiting > 0 {
            let why = trail.waits.values().max_by_key(|why| trail.waits.values().filter(|other| other == why).count());
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            text += &format!(", {waiting} wait{why}");
        }
        // What only time changes is no news.
        let is_news = trail.total != text;
        trail.total.clone_from(&text);
        drop(trail);
        if let Some(left) = self.foreseen.checked_sub(self.began.elapsed()).filter(|_| running + waiting > 0) {
            text += &format!(", about {} left", about(left));
        }
        match &self.lines {
            Some((_, total)) => total.set_message(text),
            None if is_news => self.terminal.note(&text),
            None => {}
        }
    }

    /// Clears what changes.
    pub(crate) fn leave(&self) {
        if let Some((all, total)) = &self.lines {
            total.finish_and_clear();
            let _ = all.clear();
        }
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// One move. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    terminal: Terminal,
    heading: String,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Option<Phase>,
    /// It shall not begin any more.
    stopped: bool,
    percent: u8,
    told: Option<Instant>,
    /// What it may send per second, as it was told last.
    share: Option<ByteSize>,
}

impl Lane {
    /// Whether both hosts are ready: the destination's facts count it.
    pub(crate) fn is_ready(&self) -> bool {
        self.state().phase.is_some_and(|phase| phase >= Phase::Migrate)
    }

    /// What it may send per second if `running` divide `whole`; `None`: it has been told that, or cannot be told.
    pub(crate) fn share(&self, whole: ByteSize, running: usize) -> Option<ByteSize> {
        let share = ByteSize::b(whole.as_u64() / running.max(1) as u64).max(FLOOR);
        let state = self.state();
        (state.phase == Some(Phase::Migrate) && state.share != Some(share)).then_some(share)
    }

    /// It has been told.
    pub(crate) fn has_share(&self, share: ByteSize) {
        self.state().share = Some(share);
    }

    /// It shall not begin any more, if it has not.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
    }

    /// It is over.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.0.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&self, text: &str) {
        if let Some(bar) = &self.0.bar {
            bar.set_message(format!("{}  {text}", self.0.heading));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Lane {
    fn phase(&self, phase: Phase) {
        self.state().phase = Some(phase);
        self.draw(&running(phase));
    }

    fn progress(&self, sample: Progress) {
        let (percent, is_due) = {
            let mut state = self.state();
            state.percent = sample.after(state.percent).percent;
            let is_due = state.told.is_none_or(|told| told.elapsed() >= LINE_INTERVAL);
            if is_due {
                state.told = Some(Instant::now());
            }
            (state.percent, is_due)
        };
        self.draw(&moving_bar(percent, &sample, ROOM));
        if self.0.bar.is_none() && is_due {
            self.0.terminal.note(&format!("{}  {}", self.0.heading, moving_line(percent, &sample)));
        }
    }

    /// A drain that is ended begins no further move; it ends none for which anything was changed.
    fn is_cancelled(&self) -> bool {
        let state = self.state();
        state.stopped && state.phase.is_none_or(|phase| phase < Phase::Pre)
    }
}
