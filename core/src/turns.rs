//! Who may begin to migrate now, and what the others wait for: one host's turns on one side.
//!
//! ```text
//!             ask            a place is free, and nobody is before it          pre
//!   nobody ────────▶ waits ──────────────────────────────────────▶ its turn ───────▶ open
//!     ▲                │ nobody asks for it any more, withdrawn, aborted │
//!     └────────────────┴─────────────────────────────────────────────────┘
//! ```
//!
//! A place is taken by a migration that is open here, and by one that has its turn and has not been opened yet. Nothing of this is on
//! disk: nothing was changed for one that waits, and it asks again after a restart.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration};

use crate::{
    id::{HostName, MigrationId},
    migration::{Order, Priority, Side},
};

/// A migration that waits and for which nobody has asked for so long is forgotten: its coordinator is gone.
pub const WAITS: Duration = Duration::from_secs(15);
/// A turn that was not used for so long after it was asked for last is given to another.
pub const KEPT: Duration = Duration::from_secs(30);
/// How long it is remembered that one was aborted which waited, so that its coordinator hears of it.
pub const REMEMBERED: Duration = Duration::from_secs(60);

/// What a host says to one that wants to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is its turn: `pre` may follow.
    Turn,
    /// It has to wait.
    Waiting(Waiting),
}

/// What a migration waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The host that lets it wait.
    pub host: HostName,
    /// As which half.
    pub side: Side,
    /// How many that host sends or takes at the same time.
    pub limit: u32,
    /// The instances that have the places, those that move longest first.
    pub busy: Vec<String>,
    /// The instances that wait, too, and come before it, the next one first.
    pub before: Vec<String>,
}

/// One that waits or is about to begin, for those who look on.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiter {
    /// What was asked for.
    pub order: Order,
    /// Identity of who asks.
    pub requested_by: String,
    /// For how long it has been waiting on this host.
    pub waited: Duration,
    /// Whether it has its turn on this host, and has not been opened here yet: it may wait for the other one.
    pub has_turn: bool,
    /// What for.
    pub waiting: Waiting,
}

/// A migration that is open on this host: its place is taken until its outcome is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub id: MigrationId,
    /// The name of its instance.
    pub instance_name: String,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is its turn.
    Turn,
    /// It waits.
    Waits(Waiting),
    /// Somebody has aborted it while it waited.
    Aborted,
}

/// One host's turns on one side. Times are those of the caller's clock, since whenever it began.
#[derive(Debug)]
pub struct Turns {
    host: HostName,
    side: Side,
    limit: u32,
    entries: BTreeMap<MigrationId, Entry>,
    aborted: BTreeMap<MigrationId, Duration>,
}

#[derive(Debug)]
struct Entry {
    order: Order,
    requested_by: String,
    since: Duration,
    asked: Duration,
    has_turn: bool,
}

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.order.priority), self.since, self.order.id)
    }
}

/// The smaller comes first.
type Rank = (Reverse<Priority>, Duration, MigrationId);

impl Turns {
    /// Nobody waits. At most `limit` may be under way at the same time.
    pub fn new(host: HostName, side: Side, limit: u32) -> Self {
        Self { host, side, limit, entries: BTreeMap::new(), aborted: BTreeMap::new() }
    }

    /// May it begin? If not, it waits from now on, for as long as it is asked for. `open` are those that are under way.
    pub fn ask(&mut self, order: &Order, requested_by: &str, open: &[Open], now: Duration) -> Answer {
        self.forget(open, now);
        if let Some(answer) = self.known(order.id, open) {
            return answer;
        }
        let entry = self.entries.entry(order.id).or_insert_with(|| Entry {
            order: order.clone(),
            requested_by: requested_by.to_owned(),
            since: now,
            asked: now,
            has_turn: false,
        });
        let rank = entry.rank();
        self.admit(order.id, rank, open, now)
    }

    /// The same for one that waits already. `None`: it does not any more.
    pub fn ask_again(&mut self, id: MigrationId, open: &[Open], now: Duration) -> Option<Answer> {
        self.forget(open, now);
        if let Some(answer) = self.known(id, open) {
            return Some(answer);
        }
        let rank = self.entries.get(&id)?.rank();
        Some(self.admit(id, rank, open, now))
    }

    /// May it begin here and now? Whoever did not ask before and is not let in does not wait either.
    pub fn take(&mut self, order: &Order, open: &[Open], now: Duration) -> Answer {
        self.forget(open, now);
        if let Some(answer) = self.known(order.id, open) {
            return answer;
        }
        let (rank, has_turn) = match self.entries.get(&order.id) {
            Some(entry) => (entry.rank(), entry.has_turn),
            None => ((Reverse(order.priority), now, order.id), false),
        };
        match self.waits_for(rank, open).filter(|_| !has_turn) {
            Some(waiting) => Answer::Waits(waiting),
            None => Answer::Turn,
        }
    }

    /// It does not want its turn any more, or has used it.
    pub fn withdraw(&mut self, id: MigrationId) {
        self.entries.remove(&id);
    }

    /// Ends one that waits, or has not used its turn. Whether there was one.
    pub fn abort(&mut self, id: MigrationId, now: Duration) -> bool {
        let waited = self.entries.remove(&id).is_some();
        if waited {
            self.aborted.insert(id, now);
        }
        waited || self.aborted.contains_key(&id)
    }

    /// Those that wait, the next one first.
    pub fn waiters(&mut self, open: &[Open], now: Duration) -> Vec<Waiter> {
        let mut waiters = self.queued(open, now);
        waiters.retain(|waiter| !waiter.has_turn);
        waiters
    }

    /// Those that have their turn and have not begun, then those that wait, the next one first.
    pub fn queued(&mut self, open: &[Open], now: Duration) -> Vec<Waiter> {
        self.forget(open, now);
        let mut waiting: Vec<_> = self.entries.values().collect();
        waiting.sort_by_key(|entry| (!entry.has_turn, entry.rank()));
        let waiter = |entry: &Entry| Waiter {
            order: entry.order.clone(),
            requested_by: entry.requested_by.clone(),
            waited: now.saturating_sub(entry.since),
            has_turn: entry.has_turn,
            waiting: self.standing(entry.rank(), open),
        };
        waiting.into_iter().map(waiter).collect()
    }

    fn admit(&mut self, id: MigrationId, rank: Rank, open: &[Open], now: Duration) -> Answer {
        let waiting = self.waits_for(rank, open);
        let Some(entry) = self.entries.get_mut(&id) else { return Answer::Turn };
        entry.asked = now;
        match waiting {
            Some(waiting) if !entry.has_turn => Answer::Waits(waiting),
            _ => {
                entry.has_turn = true;
                Answer::Turn
            }
        }
    }

    fn known(&self, id: MigrationId, open: &[Open]) -> Option<Answer> {
        if open.iter().any(|open| open.id == id) {
            return Some(Answer::Turn);
        }
        self.aborted.contains_key(&id).then_some(Answer::Aborted)
    }

    /// What one of this rank waits for, if it has to.
    fn waits_for(&self, rank: Rank, open: &[Open]) -> Option<Waiting> {
        let waiting = self.standing(rank, open);
        let taken = waiting.busy.len() + waiting.before.len();
        (taken >= usize::try_from(self.limit).unwrap_or(usize::MAX)).then_some(waiting)
    }

    fn standing(&self, rank: Rank, open: &[Open]) -> Waiting {
        let mut others: Vec<_> = self.entries.values().filter(|entry| entry.rank() != rank).collect();
        others.sort_by_key(|entry| entry.rank());
        let name = |entry: &&Entry| entry.order.instance_name.clone();
        let admitted = others.iter().filter(|entry| entry.has_turn).map(name);
        Waiting {
            host: self.host.clone(),
            side: self.side,
            limit: self.limit,
            busy: open.iter().map(|open| open.instance_name.clone()).chain(admitted).collect(),
            before: others.iter().filter(|entry| !entry.has_turn && entry.rank() < rank).map(name).collect(),
        }
    }

    fn forget(&mut self, open: &[Open], now: Duration) {
        let is_recent = |since: &Duration, life: Duration| now.saturating_sub(*since) < life;
        self.entries.retain(|id, entry| {
            let life = if entry.has_turn { KEPT } else { WAITS };
            is_recent(&entry.asked, life) && open.iter().all(|open| open.id != *id)
        });
        self.aborted.retain(|_, since| is_recent(since, REMEMBERED));
    }
}

/// The names that a sentence has room for.
const NAMED: usize = 4;

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = match self.side {
            Side::Source => "sends",
            Side::Destination => "takes",
        };
        let Self { host, limit, busy, before, .. } = self;
        let plural = if *limit == 1 { "" } else { "s" };
        write!(f, "{host} {does} at most {limit} migration{plural} at a time")?;
        match busy.len() {
            0 => {}
            1 => write!(f, ", now {}", busy[0])?,
            count => write!(f, ", now {count}: {}", some(busy))?,
        }
        match before.len() {
            0 => write!(f, "; it is the next"),
            1 => write!(f, "; {} is before it", before[0]),
            count => write!(f, "; {count} are before it: {}", some(before)),
        }
    }
}

fn some(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    names[..names.len().min(NAMED)].join(", ") + more
}

#[cfg(test)]
mod tests;
