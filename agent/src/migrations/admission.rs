//! Who may begin: as many as the configuration allows on each side, the others wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::info;
use vmferry_core::{
    agent::{CallError, Rollback, Sighting},
    flow::rolled_back,
    id::MigrationId,
    migration::{Order, Side},
    reason::Reason,
    turns::{Admission, Answer, Open, Waiter, Waiting},
};

use super::Migrations;
use crate::{
    durable::in_place,
    hypervisor::{Fault, Hypervisor},
    journal::{self, Entry, Journal},
    migration::Migration,
};

/// How long an answer is held back at most: less than those that wait are kept for, should it get lost.
const HOLD: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile whether it has changed.
const LOOK: Duration = Duration::from_millis(100);

impl<H: Hypervisor> Migrations<H> {
    /// Whether it is the migration's turn here; if not, it waits from now on for as long as somebody asks. An answer that it has to wait
    /// is held back for as long as `hold`, unless it changes.
    pub async fn admit(
        &self,
        order: &Order,
        side: Side,
        requested_by: &str,
        hold: Duration,
    ) -> Result<Admission, CallError> {
        self.judge_address(order, side)?;
        let begun = Instant::now();
        let first = self.turns.ask(side, order, requested_by, &open(&self.lock(), side));
        let mut answer = first.clone();
        while matches!(answer, Answer::Waits(_)) && answer == first && begun.elapsed() < hold.min(HOLD) {
            sleep(LOOK).await;
            answer = match self.turns.ask_again(side, order.id, &open(&self.lock(), side)) {
                Some(answer) => answer,
                // It was withdrawn, or this process has slept for long. Who still wants it asks again.
                None => break,
            };
        }
        match answer {
            Answer::Turn => Ok(Admission::Turn),
            Answer::Waits(waiting) => Ok(Admission::Waiting(waiting)),
            Answer::Aborted => Err(self.call_error(aborted(order))),
        }
    }

    /// It does not wait any more, and its turn is another's, unless it is open here.
    pub fn withdraw(&self, id: MigrationId) {
        self.turns.withdraw(id);
    }

    /// Those that wait here, the next ones first.
    pub fn waiters(&self) -> Vec<Waiter> {
        let halves = self.lock();
        let of = |side| self.turns.waiters(side, &open(&halves, side));
        [Side::Source, Side::Destination].into_iter().flat_map(of).collect()
    }

    /// Those that have their turn here and have not begun, and those that wait, the next ones first.
    pub fn queued(&self) -> Vec<Waiter> {
        let halves = self.lock();
        let of = |side| self.turns.queued(side, &open(&halves, side));
        [Side::Source, Side::Destination].into_iter().flat_map(of).collect()
    }

    /// Ends the migration, or its wait. `by` is the identity of who wants it.
    pub fn abort(&self, id: MigrationId, by: &str) -> Result<(), CallError> {
        let halves = self.lock();
        if !halves.contains_key(&id) && self.turns.abort(id) {
            info!(%id, by, "aborted while it waited");
            return Ok(());
        }
        drop(halves);
        self.get(id)?.abort(by).map_err(|fault| self.call_error(fault))
    }

    /// The migration of this order, to be taken back. One that was never opened here gives back its turn.
    ///
    /// If whoever asks does not know whether it was, because it was not answered or comes later than who began, it is opened and has ended:
    /// a first phase that is still on its way to this host is refused, and what was told as rolled back stays so.
    pub async fn to_clean_up(
        &self,
        order: &Order,
        rollback: &Rollback,
        requested_by: &str,
    ) -> Result<Migration, CallError> {
        let unknown = match self.of(order) {
            Err(error) if error.reason == Reason::MigrationNotFound => error,
            known => return known.inspect_err(|_| self.turns.withdraw(order.id)),
        };
        self.turns.withdraw(order.id);
        let may_come = rollback.cause.reason.is_silence() || rollback.cause.reason == Reason::CoordinatorLost;
        // Of a guest that is here nobody knows what this migration had to do with it, which may have ended long ago.
        if !may_come || rollback.side == Side::Destination && self.locate(order.instance).await? != Sighting::Absent {
            return Err(unknown);
        }
        self.judge_address(order, rollback.side)?;
        let mut halves = self.lock();
        if halves.contains_key(&order.id) {
            drop(halves);
            return self.of(order);
        }
        let (cause, at) = (rollback.cause.clone(), Timestamp::now());
        let ended = Entry::Ended { outcome: rolled_back(&cause), at };
        let journal = in_place(|| {
            let mut journal = Journal::open(&self.directory, order.clone(), rollback.side, requested_by.to_owned())?;
            journal.append(Entry::Failed(cause))?;
            journal.append(ended)?;
            Ok(journal)
        });
        let journal = journal.map_err(|error: journal::Error| self.call_error(error.into()))?;
        let migration = Migration::take_up(Arc::clone(&self.host), Arc::clone(&self.gate), journal);
        halves.insert(order.id, migration.clone());
        Ok(migration)
    }

    /// Whether it may be opened now.
    pub(super) fn may_begin(
        &self,
        halves: &HashMap<MigrationId, Migration>,
        order: &Order,
        side: Side,
    ) -> Result<(), CallError> {
        match self.turns.take(side, order, &open(halves, side)) {
            Answer::Turn => Ok(()),
            Answer::Waits(waiting) => Err(self.call_error(full(order, &waiting))),
            Answer::Aborted => Err(self.call_error(aborted(order))),
        }
    }
}

/// Those that are under way here, the oldest first. One whose coordinator is gone, or that is held, may go on at any time.
fn open(halves: &HashMap<MigrationId, Migration>, side: Side) -> Vec<Open> {
    let mut open: Vec<_> = halves.values().filter_map(|half| half.under_way(side)).collect();
    open.sort_by_key(|(started, open)| (*started, open.id));
    open.into_iter().map(|(_, open)| open).collect()
}

fn aborted(order: &Order) -> Fault {
    Fault::new(
        Reason::MigrationAborted,
        format!("the migration of {} was aborted while it waited", order.instance_name),
    )
}

fn full(order: &Order, waiting: &Waiting) -> Fault {
    let message = format!("{waiting}; let {} wait for its turn (Admit), or try again later", order.instance_name);
    Fault::new(Reason::TooManyMigrations, message)
}
