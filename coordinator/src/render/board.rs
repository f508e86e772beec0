//! Several moves as they go on, on stderr: a line each and one for all of them on a terminal, a line per event elsewhere.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use vmferry_core::{
    id::InstanceId,
    migration::{Order, Phase, Progress},
};

use super::{
    Terminal,
    convoy::line as ended_line,
    progress::{heading, moving_bar, moving_line, running},
    queue::waiting_line,
    survey::turned_away,
    units::about,
};
use crate::{
    convoy::{Ended, Listener, Why},
    journey::Turned,
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
    /// Why guests wait, as it was told.
    waits: HashMap<InstanceId, String>,
    moves: HashMap<InstanceId, Move>,
    total: String,
}

/// One move.
#[derive(Debug)]
struct Move {
    heading: String,
    bar: Option<ProgressBar>,
    told: Option<Instant>,
}

impl Move {
    fn draw(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}  {text}", self.heading));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
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
    fn say(&self, text: &str) {
        match &self.lines {
            // A terminal that went away must not end a migration.
            Some((all, _)) => all.suspend(|| self.terminal.note(text)),
            None => self.terminal.note(text),
        }
    }

    /// Clears what changes.
    pub(crate) fn leave(&self) {
        if let Some((all, total)) = &self.lines {
            total.finish_and_clear();
            let _ = all.clear();
        }
    }

    /// It moves and waits no more, or not for now.
    fn over(&self, instance: InstanceId) {
        let mut trail = self.trail();
        trail.waits.remove(&instance);
        if let Some(run) = trail.moves.remove(&instance) {
            run.end();
        }
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Board {
    fn waits(&self, instance: InstanceId, name: &str, why: &Why) {
        let (told, is_news) = {
            let mut trail = self.trail();
            if let (Why::Turn(waiting), Some(run)) = (why, trail.moves.get(&instance)) {
                return run.draw(&waiting_line(waiting));
            }
            let why = why.to_string();
            let is_news = trail.waits.insert(instance, why.clone()).is_none_or(|before| before != why);
            (why, is_news)
        };
        // The others' reasons are in the line of all.
        if is_news && matches!(why, Why::Silence(_) | Why::MovedByOthers) {
            self.say(&format!("{name} waits: {told}"));
        }
    }

    fn begins(&self, order: &Order) {
        let bar = self.lines.as_ref().map(|(all, total)| all.insert_before(total, line()));
        if bar.is_none() {
            self.say(&format!("{}  begins", heading(order)));
        }
        let mut trail = self.trail();
        trail.waits.remove(&order.instance);
        trail.moves.insert(order.instance, Move { heading: heading(order), bar, told: None });
    }

    fn phase(&self, order: &Order, phase: Phase) {
        if let Some(run) = self.trail().moves.get(&order.instance) {
            run.draw(&running(phase));
        }
    }

    fn progress(&self, order: &Order, sample: Progress) {
        let mut trail = self.trail();
        let Some(run) = trail.moves.get_mut(&order.instance) else { return };
        run.draw(&moving_bar(sample.percent, &sample, ROOM));
        if run.bar.is_none() && run.told.is_none_or(|told| told.elapsed() >= LINE_INTERVAL) {
            run.told = Some(Instant::now());
            self.terminal.note(&format!("{}  {}", run.heading, moving_line(sample.percent, &sample)));
        }
    }

    fn refused(&self, order: &Order, turned: &Turned) {
        self.over(order.instance);
        self.say(&format!("{}: {}", order.instance_name, turned_away(turned)));
    }

    fn ended(&self, ended: &Ended) {
        self.over(ended.instance);
        self.say(&ended_line(ended));
    }

    fn stops(&self, running: usize) {
        self.say(&format!(
            "no further move is begun; {running} that run go on to their end: press Ctrl-C again to leave them to their agents"
        ));
    }

    fn standing(&self, running: usize, waiting: usize, ended: &[Ended]) {
        let moved = ended.iter().filter(|ended| ended.has_moved()).count();
        let by_others = ended.iter().filter(|ended| ended.is_there()).count() - moved;
        let others = ended.len() - moved - by_others;
        let mut text = format!("{}: {moved} of {} moved", self.what, self.guests);
        for (number, word) in [(by_others, "by somebody else"), (others, "did not"), (running, "move")] {
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
}

fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}
