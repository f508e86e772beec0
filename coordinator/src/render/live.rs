//! A migration as it goes on, on stderr: one line that changes on a terminal, a line per event elsewhere.

use std::{
    io::{self, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use vmferry_core::{
    agent::CallError,
    compatibility::Check,
    flow::{Completed, Failure, Plan, Planned, Watch},
    id::HostName,
    migration::{Order, Phase, Progress},
    reason::Reason,
    turns::Waiting,
};

use super::{
    Paint, Terminal,
    progress::{Verdict, checked, finished, forewarning, heading, known_as, moving_bar, moving_line, running},
    queue::waiting_line,
    unnamed,
};

/// How often a line is written where lines stay.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The same while it waits for its turn, however often the reason changes.
const WAITING_INTERVAL: Duration = Duration::from_secs(10);
/// What the line that changes leaves free at its right: the terminal writes `^C` there, and must not begin a new line.
const MARGIN: usize = 4;
/// Of a terminal that does not tell its width.
const USUAL_WIDTH: usize = 80;

/// Watches the flow for the user. Also where the user's wish to end it is kept.
#[derive(Debug)]
pub(crate) struct Live {
    terminal: Terminal,
    /// What is to be said when pre begins, and not before.
    name: Option<String>,
    cancelled: AtomicBool,
    /// What the user insists on.
    planned: Option<Planned>,
    /// How long it may wait for its turn; `None`: for as long as it takes.
    patience: Option<Duration>,
    began: Instant,
    trail: Mutex<Trail>,
}

#[derive(Debug, Default)]
struct Trail {
    current: Option<(Phase, Instant)>,
    detail: String,
    /// What led to cleanup. Only the flow's end tells whether it failed or was aborted.
    unsaid: Option<Ended>,
    /// The line that changes, while it stands there.
    drawn: Option<String>,
    percent: u8,
    last_line: Option<Instant>,
    wait: Option<Wait>,
    phases: Vec<(Phase, Duration)>,
}

/// It waits for its turn.
#[derive(Debug)]
struct Wait {
    since: Instant,
    /// What was said, and when.
    why: Waiting,
    told: Instant,
}

impl Trail {
    /// It waits at this time. Since how long, and whether that is to be said where lines stay.
    fn wait(&mut self, why: &Waiting, now: Instant) -> (Duration, bool) {
        let wait = self.wait.as_ref();
        let is_due = wait.is_none_or(|wait| wait.why != *why && now - wait.told >= WAITING_INTERVAL);
        let since = wait.map_or(now, |wait| wait.since);
        if is_due {
            self.wait = Some(Wait { since, why: why.clone(), told: now });
        }
        (now - since, is_due)
    }
}

/// A phase that is over.
#[derive(Debug)]
struct Ended {
    phase: Phase,
    detail: String,
    took: Duration,
}

impl Live {
    /// Says what moves where, of a migration that is to be: its id is told once the hosts know it.
    pub(crate) fn begin(terminal: Terminal, order: &Order) -> Self {
        let live = Self { name: Some(known_as(order)), ..Self::quiet(terminal) };
        live.say(&heading(order));
        if let Some(warning) = forewarning(order) {
            live.say(&warning);
        }
        live
    }

    /// The same of a migration that the hosts know.
    pub(crate) fn resume(terminal: Terminal, order: &Order) -> Self {
        let live = Self::quiet(terminal);
        live.say(&format!("{}  {}", heading(order), known_as(order)));
        live
    }

    /// For what is no migration yet.
    pub(crate) fn quiet(terminal: Terminal) -> Self {
        Self {
            terminal,
            name: None,
            cancelled: AtomicBool::new(false),
            planned: None,
            patience: None,
            began: Instant::now(),
            trail: Mutex::default(),
        }
    }

    /// The same, with somebody who insists on a plan.
    pub(crate) fn insisting(self, planned: Option<Planned>) -> Self {
        Self { planned, ..self }
    }

    /// The same, with somebody who waits no longer than that for its turn.
    pub(crate) fn with_patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// A line that stays, above the one that changes.
    pub(crate) fn say(&self, line: &str) {
        let trail = self.trail();
        self.terminal.note(&staying(trail.drawn.as_deref(), line));
        if let Some(drawn) = &trail.drawn {
            write(drawn);
        }
    }

    /// From now on the user wants it to end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The flow is over: ends the last phase's line and clears what changes.
    pub(crate) fn finish(&self, result: &Result<Completed, Failure>) {
        let is_abort =
            matches!(result, Err(Failure::RolledBack { cause, .. }) if cause.reason == Reason::MigrationAborted);
        self.conclude(result);
        self.own_up(is_abort);
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

    /// Who looks on while somebody else drives may not have seen that it was taken back.
    fn conclude(&self, result: &Result<Completed, Failure>) {
        let is_unfinished = self.current().is_some_and(|phase| phase != Phase::Cleanup);
        if is_unfinished && matches!(result, Err(Failure::RolledBack { .. })) {
            let ended = self.over();
            self.trail().unsaid = ended;
        }
    }

    /// Clears what changes, without a word on how it ended.
    pub(crate) fn leave(&self) {
        self.own_up(self.is_cancelled());
        self.clear();
    }

    /// Clears what changes, until it changes again.
    pub(crate) fn clear(&self) {
        if self.trail().drawn.take().is_some() {
            write(CLEAR);
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

    fn current(&self) -> Option<Phase> {
        self.trail().current.map(|(phase, _)| phase)
    }

    fn end(&self, verdict: Verdict) {
        if let Some(ended) = self.over() {
            self.tell(&ended, verdict);
        }
    }

    /// Ends the phase without a word.
    fn over(&self) -> Option<Ended> {
        let mut trail = self.trail();
        let (phase, began) = trail.current.take()?;
        let took = began.elapsed();
        trail.phases.push((phase, took));
        Some(Ended { phase, detail: std::mem::take(&mut trail.detail), took })
    }

    /// Tells of the phase that led to cleanup.
    fn own_up(&self, is_abort: bool) {
        let unsaid = self.trail().unsaid.take();
        if let Some(ended) = unsaid {
            self.tell(&ended, if is_abort { Verdict::Aborted } else { Verdict::Failed });
        }
    }

    fn tell(&self, Ended { phase, detail, took }: &Ended, verdict: Verdict) {
        let paint = match verdict {
            Verdict::Ok => Paint::Green,
            Verdict::Warnings | Verdict::Aborted => Paint::Yellow,
            Verdict::Refused | Verdict::Failed => Paint::Red,
        };
        self.say(&finished(*phase, verdict, detail, *took, |word| self.terminal.paint(paint, word)));
    }

    /// Draws the line that changes, where there is one.
    fn draw(&self, line: impl FnOnce(usize) -> String) {
        if !self.terminal.live {
            return;
        }
        let width = terminal_size::terminal_size_of(io::stderr()).map_or(USUAL_WIDTH, |(width, _)| width.0.into());
        let room = width.saturating_sub(MARGIN);
        let line: String = line(room).chars().take(room).collect();
        let drawn = format!("{CLEAR}{line}");
        let mut trail = self.trail();
        write(&drawn);
        trail.drawn = Some(drawn);
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Live {
    fn phase(&self, phase: Phase) {
        // Who drove, and looks on now, is told where it stands.
        if self.current() == Some(phase) {
            return;
        }
        // The flow turns to cleanup only if what came before did not succeed.
        match phase {
            Phase::Cleanup => {
                let ended = self.over();
                self.trail().unsaid = ended;
            }
            _ => self.end(Verdict::Ok),
        }
        if let Some(name) = self.name.as_ref().filter(|_| phase == Phase::Pre) {
            self.say(name);
        }
        self.trail().current = Some((phase, Instant::now()));
        self.draw(|_| running(phase));
    }

    fn objections(&self, order: &Order, plan: &Plan) -> Vec<Check> {
        self.planned.as_ref().map(|planned| planned.deviations(order, plan)).unwrap_or_default()
    }

    fn checked(&self, plan: &Plan) {
        self.trail().detail = checked(plan);
    }

    fn waiting(&self, waiting: &Waiting) -> Duration {
        // The checks are over.
        self.end(Verdict::Ok);
        let (waited, is_due) = self.trail().wait(waiting, Instant::now());
        let rest = self.patience.map_or(Duration::MAX, |patience| patience.saturating_sub(waited));
        if !rest.is_zero() {
            match self.terminal.live {
                true => self.draw(|_| waiting_line(waiting)),
                false if is_due => self.terminal.note(&waiting_line(waiting)),
                false => {}
            }
        }
        rest
    }

    fn progress(&self, sample: Progress) {
        let (percent, is_due) = {
            let mut trail = self.trail();
            trail.percent = sample.after(trail.percent).percent;
            let is_due = trail.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
            if is_due {
                trail.last_line = Some(Instant::now());
            }
            (trail.percent, is_due)
        };
        match self.terminal.live {
            true => self.draw(|room| moving_bar(percent, &sample, room)),
            false if is_due => self.terminal.note(&moving_line(percent, &sample)),
            false => {}
        }
    }

    fn unheard(&self, why: &CallError) {
        self.say(&format!("{} is not heard, and asked again: {}", why.host, unnamed(why)));
    }

    fn heard(&self, host: &HostName) {
        self.say(&format!("{host} is heard again"));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Back to the line's beginning, and the line is empty.
const CLEAR: &str = "\r\x1b[K";

/// A line that stays, in the place of the one that changes.
fn staying(drawn: Option<&str>, line: &str) -> String {
    format!("{}{line}", drawn.map_or("", |_| CLEAR))
}

/// To stderr, without an end of line. A terminal that went away must not end a migration.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use vmferry_core::migration::{Cause, Side};

    use super::*;
    use crate::render::Output;

    fn live() -> Live {
        Live::quiet(Terminal { output: Output::Text, color: false, live: false })
    }

    fn unsaid(live: &Live) -> Option<Phase> {
        live.trail().unsaid.as_ref().map(|ended| ended.phase)
    }

    #[test]
    fn what_led_to_cleanup_is_told_when_it_is_known_why() {
        let live = live();
        live.phase(Phase::Migrate);
        live.phase(Phase::Cleanup);
        assert_eq!(unsaid(&live), Some(Phase::Migrate));
        live.own_up(true);
        assert_eq!(unsaid(&live), None);
        assert_eq!(live.phases().iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), [Phase::Migrate]);

        // Nothing comes before the cleanup of what was left behind.
        let live = self::live();
        live.phase(Phase::Cleanup);
        assert_eq!(unsaid(&live), None);
    }

    /// Somebody else drives: the phase that it knows is told again, and the cleanup was over before anybody looked.
    #[test]
    fn who_looks_on_tells_of_no_phase_twice_and_of_no_success_that_was_none() {
        let live = live();
        live.phase(Phase::Migrate);
        live.phase(Phase::Migrate);
        let cause =
            Cause { reason: Reason::MigrationAborted, host: "node-28".parse().expect("valid"), message: "why".into() };
        live.conclude(&Err(Failure::RolledBack { cause, guest: None, leftovers: vec![] }));
        assert_eq!(unsaid(&live), Some(Phase::Migrate), "aborted, not ok");
        assert_eq!(live.phases().iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), [Phase::Migrate]);
    }

    #[test]
    fn why_it_waits_is_said_at_once_and_again_when_it_has_changed_but_not_too_often() {
        let because = |busy: &str| Waiting {
            host: "node-28".parse().expect("valid"),
            side: Side::Source,
            limit: 1,
            busy: vec![busy.into()],
            before: vec![],
        };
        let (mut trail, begun) = (Trail::default(), Instant::now());
        let mut told = |seconds, busy| trail.wait(&because(busy), begun + Duration::from_secs(seconds));
        assert_eq!(told(0, "db"), (Duration::ZERO, true));
        assert_eq!(told(30, "db"), (Duration::from_secs(30), false), "it is known");
        assert_eq!(told(31, "mail"), (Duration::from_secs(31), true));
        assert_eq!(told(35, "web"), (Duration::from_secs(35), false), "too early");
        assert_eq!(told(41, "web"), (Duration::from_secs(41), true), "but not forgotten");
    }

    #[test]
    fn whoever_has_waited_for_long_enough_does_not_wait_any_longer() {
        let waiting = Waiting {
            host: "node-28".parse().expect("valid"),
            side: Side::Source,
            limit: 1,
            busy: vec![],
            before: vec!["db".into()],
        };
        let rest = |patience| live().with_patience(patience).waiting(&waiting);
        assert_eq!([rest(None), rest(Some(Duration::ZERO))], [Duration::MAX, Duration::ZERO]);
        let rest = rest(Some(Duration::from_secs(60)));
        assert!(rest > Duration::from_secs(50) && rest <= Duration::from_secs(60), "{rest:?}");
    }

    #[test]
    fn what_stays_takes_the_place_of_what_changes() {
        assert_eq!(staying(None, "aborting"), "aborting");
        assert_eq!(staying(Some("migrate  61 %"), "aborting"), "\r\x1b[Kaborting");
    }
}
