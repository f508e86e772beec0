//! A migration that this process drives: what is known of it by the time somebody listens is told first.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    compatibility::Check,
    flow::{Plan, Watch},
    id::MigrationId,
    identity::Identity,
    migration::{Order, Phase, Progress},
    reason::Reason,
};
use vmferry_proto::fleet;

use crate::{exit::Failed, history::SHORTEST_PREFIX};

/// One migration.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) id: MigrationId,
    /// `None`: its order is on the hosts.
    pub(super) wish: Option<fleet::Wish>,
    pub(super) asker: Identity,
    pub(super) cancelled: CancellationToken,
    pub(super) seen: watch::Sender<Seen>,
}

/// What is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) order: Option<Order>,
    pub(super) phases: Vec<Phase>,
    pub(super) checks: Option<Vec<Check>>,
    /// The newest sample, and how many there were.
    pub(super) progress: Option<(u64, Progress)>,
    /// The error: it was never begun.
    pub(super) end: Option<Result<fleet::Ended, Failed>>,
}

impl Drive {
    pub(super) fn new(id: MigrationId, wish: Option<fleet::Wish>, asker: Identity) -> Self {
        Self { id, wish, asker, cancelled: CancellationToken::new(), seen: watch::Sender::default() }
    }

    /// Whether `wanted` is its id or the beginning of it, or its instance.
    pub(super) fn is_meant(&self, wanted: &str) -> bool {
        let prefix = wanted.to_ascii_lowercase();
        let is_instance = match (&self.seen.borrow().order, &self.wish) {
            (Some(order), _) => order.instance_name == wanted,
            (None, Some(wish)) => wish.instance == wanted,
            (None, None) => false,
        };
        is_instance || (prefix.len() >= SHORTEST_PREFIX && self.id.to_string().starts_with(&prefix))
    }

    /// What is known of it from now on, and so far.
    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Returns when it has ended.
    pub(super) async fn end(&self) -> Result<fleet::Ended, Failed> {
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
        self.change(|seen| seen.phases.push(phase));
    }

    fn checked(&self, plan: &Plan) {
        self.change(|seen| seen.checks = Some(plan.checks.clone()));
    }

    fn progress(&self, progress: Progress) {
        self.change(|seen| {
            let (count, percent) = seen.progress.map_or((0, 0), |(count, before)| (count, before.percent));
            // Two who tell of it may not tell the same.
            seen.progress = Some((count + 1, progress.after(percent)));
        });
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Sees the checks by which a policy is chosen, and tells nobody.
pub(super) struct Unheard;

impl Watch for Unheard {
    fn phase(&self, _phase: Phase) {}

    fn progress(&self, _progress: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
