//! Whose turn it is on this host: [`vmferry_core::turns`] for both sides, by this process's clock. In memory only.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use vmferry_core::{
    id::{HostName, MigrationId},
    migration::{Order, Side},
    turns::{Answer, Open, Turns, Waiter},
};

/// How many migrations may be under way here at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// That come.
    pub incoming: u32,
    /// That leave.
    pub outgoing: u32,
}

/// Those that wait on this host, and those that have their turn.
#[derive(Debug)]
pub struct Queue {
    began: Instant,
    sides: Mutex<HashMap<Side, Turns>>,
}

impl Queue {
    /// Nobody waits.
    pub fn new(host: &HostName, Concurrency { incoming, outgoing }: Concurrency) -> Self {
        let turns = |(side, limit)| (side, Turns::new(host.clone(), side, limit));
        let sides = [(Side::Source, outgoing), (Side::Destination, incoming)].map(turns);
        Self { began: Instant::now(), sides: Mutex::new(sides.into()) }
    }

    /// As [`Turns::ask`].
    pub fn ask(&self, side: Side, order: &Order, requested_by: &str, open: &[Open]) -> Answer {
        self.on(side, |turns, now| turns.ask(order, requested_by, open, now))
    }

    /// As [`Turns::ask_again`].
    pub fn ask_again(&self, side: Side, id: MigrationId, open: &[Open]) -> Option<Answer> {
        self.on(side, |turns, now| turns.ask_again(id, open, now))
    }

    /// As [`Turns::take`].
    pub fn take(&self, side: Side, order: &Order, open: &[Open]) -> Answer {
        self.on(side, |turns, now| turns.take(order, open, now))
    }

    /// As [`Turns::withdraw`], whichever half it is.
    pub fn withdraw(&self, id: MigrationId) {
        self.lock().values_mut().for_each(|turns| turns.withdraw(id));
    }

    /// As [`Turns::abort`], whichever half it is.
    pub fn abort(&self, id: MigrationId) -> bool {
        let now = self.now();
        self.lock().values_mut().any(|turns| turns.abort(id, now))
    }

    /// As [`Turns::waiters`].
    pub fn waiters(&self, side: Side, open: &[Open]) -> Vec<Waiter> {
        self.on(side, |turns, now| turns.waiters(open, now))
    }

    /// As [`Turns::queued`].
    pub fn queued(&self, side: Side, open: &[Open]) -> Vec<Waiter> {
        self.on(side, |turns, now| turns.queued(open, now))
    }

    fn on<T>(&self, side: Side, act: impl FnOnce(&mut Turns, Duration) -> T) -> T {
        let now = self.now();
        act(self.lock().get_mut(&side).expect("both sides are there"), now)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Side, Turns>> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use vmferry_core::{
        migration::{Endpoint, Kind, Limits},
        turns::{KEPT, WAITS},
    };

    use super::*;

    fn order(number: u8) -> Order {
        let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
        Order {
            id: format!("0197a000-0000-7000-8000-00000000000{number}").parse().expect("valid"),
            instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("valid"),
            instance_name: format!("web-{number}"),
            source: endpoint("node-28"),
            destination: endpoint("node-31"),
            kind: Kind::Live,
            limits: Limits::default(),
            priority: Default::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_by_tokios_clock_and_each_side_has_places_of_its_own() {
        let host = "node-28".parse().expect("valid");
        let queue = Queue::new(&host, Concurrency { incoming: 2, outgoing: 1 });
        let ask = |side, number| queue.ask(side, &order(number), "", &[]) == Answer::Turn;
        assert_eq!([1, 2].map(|number| ask(Side::Source, number)), [true, false]);
        assert_eq!([3, 4, 5].map(|number| ask(Side::Destination, number)), [true, true, false]);
        let waiters = |side| queue.waiters(side, &[]).len();
        assert_eq!([waiters(Side::Source), waiters(Side::Destination)], [1, 1]);
        advance(WAITS).await;
        assert_eq!([waiters(Side::Source), waiters(Side::Destination)], [0, 0], "nobody asks any more");
        assert!(!ask(Side::Source, 2), "a turn is kept for longer");
        advance(KEPT - WAITS).await;
        assert!(ask(Side::Source, 2), "but not forever");
    }
}
