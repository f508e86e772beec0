//! One move of a convoy.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use vmferry_core::{
    flow::Watch,
    migration::{FLOOR, Order, Phase, Progress},
    turns::Waiting,
};

use super::{Listener, Why};

/// One move. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    order: Order,
    listener: Arc<dyn Listener>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Option<Phase>,
    /// It shall not begin any more.
    stopped: bool,
    percent: u8,
    /// What it may send per second, as it was told last.
    share: Option<ByteSize>,
}

impl Lane {
    /// It begins.
    pub(super) fn begin(order: &Order, listener: &Arc<dyn Listener>) -> Self {
        listener.begins(order);
        let state = State { share: order.limits.bandwidth, ..State::default() };
        Self(Arc::new(Inner { order: order.clone(), listener: Arc::clone(listener), state: Mutex::new(state) }))
    }

    /// Whether both hosts are ready: the destination's facts count it.
    pub(super) fn is_ready(&self) -> bool {
        self.state().phase.is_some_and(|phase| phase >= Phase::Migrate)
    }

    /// What it may send per second if `running` divide `whole`; `None`: it has been told that, or cannot be told.
    pub(super) fn share(&self, whole: ByteSize, running: usize) -> Option<ByteSize> {
        let share = ByteSize::b(whole.as_u64() / running.max(1) as u64).max(FLOOR);
        let state = self.state();
        (state.phase == Some(Phase::Migrate) && state.share != Some(share)).then_some(share)
    }

    /// It has been told.
    pub(super) fn has_share(&self, share: ByteSize) {
        self.state().share = Some(share);
    }

    /// It shall not begin any more, if it has not.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Lane {
    fn phase(&self, phase: Phase) {
        self.state().phase = Some(phase);
        self.0.listener.phase(&self.0.order, phase);
    }

    fn waiting(&self, waiting: &Waiting) -> Duration {
        let order = &self.0.order;
        self.0.listener.waits(order.instance, &order.instance_name, &Why::Turn(waiting.clone()));
        Duration::MAX
    }

    fn progress(&self, sample: Progress) {
        let sample = {
            let mut state = self.state();
            let sample = sample.after(state.percent);
            state.percent = sample.percent;
            sample
        };
        self.0.listener.progress(&self.0.order, sample);
    }

    /// A convoy that is ended begins no further move; it ends none for which anything was changed.
    fn is_cancelled(&self) -> bool {
        let state = self.state();
        state.stopped && state.phase.is_none_or(|phase| phase < Phase::Pre)
    }
}
