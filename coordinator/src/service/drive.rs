//! A migration that this process drives: what is known of it by the time somebody listens is told first.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    flow::{Plan, Watch},
    id::MigrationId,
    identity::Identity,
    migration::{Order, Phase, Progress},
    reason::Reason,
    turns::Waiting,
};
use vmferry_proto::{
    fleet::{
        self,
        migrate_response::{Checked, Event},
    },
    v1,
};

use super::wish::patience;
use crate::{exit::Failed, history::is_beginning};

/// What is told of one that has ended; the error: it was never begun.
pub(super) type Told = Result<fleet::Ended, Failed>;

/// One migration.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) id: MigrationId,
    /// `None`: its order is on the hosts.
    pub(super) wish: Option<fleet::Wish>,
    pub(super) asker: Identity,
    pub(super) cancelled: CancellationToken,
    /// Since when it waits for its turn.
    waits: Mutex<Option<Instant>>,
    pub(super) seen: watch::Sender<Seen>,
}

/// What is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// What is carried out, of the last host that was tried.
    pub(super) order: Option<Order>,
    /// All that was told of it but samples.
    pub(super) told: Vec<Event>,
    /// How many samples there were, and the newest of them.
    pub(super) samples: (u64, Option<Progress>),
    /// How it ended.
    pub(super) end: Option<Told>,
}

impl Drive {
    pub(super) fn new(id: MigrationId, wish: Option<fleet::Wish>, asker: Identity) -> Self {
        let (cancelled, waits) = (CancellationToken::new(), Mutex::default());
        Self { id, wish, asker, cancelled, waits, seen: watch::Sender::default() }
    }

    /// Whether `wanted` is its id or the beginning of it, or its instance.
    pub(super) fn is_meant(&self, wanted: &str) -> bool {
        is_beginning(wanted, self.id)
            || match (&self.seen.borrow().order, &self.wish) {
                (Some(order), _) => order.instance_name == wanted || is_beginning(wanted, order.id),
                (None, Some(wish)) => wish.instance == wanted,
                (None, None) => false,
            }
    }

    /// What it is about from now on.
    pub(super) fn carries_out(&self, order: &Order) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.change(|seen| seen.order = Some(order.clone()));
        self.tell(Event::Order(order.clone().into()));
    }

    /// Something that happens.
    pub(super) fn tell(&self, event: Event) {
        self.change(|seen| seen.told.push(event));
    }

    /// What is known of it from now on, and so far.
    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Returns when it has ended.
    pub(super) async fn end(&self) -> Told {
        let mut seen = self.watch();
        let ended = seen.wait_for(|seen| seen.end.is_some()).await.ok().and_then(|seen| seen.end.clone());
        ended.unwrap_or_else(|| Err(Failed::because(Reason::Internal, "the migration is no longer driven here")))
    }

    /// Tells what is known now.
    pub(super) fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }
}

impl Watch for Drive {
    fn phase(&self, phase: Phase) {
        self.tell(Event::Phase(v1::Phase::from(phase).into()));
    }

    fn checked(&self, plan: &Plan) {
        self.tell(Event::Checked(Checked { checks: plan.checks.iter().cloned().map(Into::into).collect() }));
    }

    fn waiting(&self, waiting: &Waiting) -> Duration {
        let event = Event::Waiting(waiting.clone().into());
        if self.seen.borrow().told.last() != Some(&event) {
            self.tell(event);
        }
        let since = *self.waits.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        let patience = self.wish.as_ref().and_then(patience);
        patience.map_or(Duration::MAX, |patience| patience.saturating_sub(since.elapsed()))
    }

    fn progress(&self, progress: Progress) {
        self.change(|seen| {
            let (count, before) = seen.samples;
            // Two who tell of it may not tell the same.
            seen.samples = (count + 1, Some(progress.after(before.map_or(0, |before| before.percent))));
        });
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}
