//! Many agents at once: those that are dead cost their own answer only, of time as well.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};
use vmferry_core::agent::CallError;

use super::Answer;
use crate::client::RemoteAgent;

/// How many agents are asked at the same time. Dead ones must not keep many others waiting; each may cost a connection.
const CONCURRENCY: usize = 512;

/// How long an agent that cannot be reached is waited for at least: one packet may be lost, and sent again after a second.
const GRACE: Duration = Duration::from_millis(1500);

/// How long nothing must have come from any other before it is not waited for any more.
const QUIET: Duration = Duration::from_millis(400);

/// Asks them all; answers come in the same order. An agent that has not even answered to its name is given up before its time once
/// most others have answered and no more come: then it is not the network or ourselves that are slow. One that has is waited for, as
/// what it says may be why it is slow.
pub(super) async fn each<'a, T>(
    agents: impl Iterator<Item = &'a RemoteAgent>,
    call: impl AsyncFn(&RemoteAgent) -> Result<T, CallError>,
) -> Vec<Answer<T>> {
    let agents: Vec<_> = agents.collect();
    let pace = &Pace::new(agents.len());
    let call = &call;
    let asked = stream::iter(agents.into_iter().enumerate())
        .map(|(number, agent)| async move { (number, pace.keep(agent, call(agent)).await) });
    in_order(asked.buffer_unordered(CONCURRENCY)).await
}

/// The same where the calls may go on in any thread: each has its agent for itself.
pub(super) async fn each_alone<'a, T, F>(
    agents: impl Iterator<Item = &'a RemoteAgent>,
    call: impl Fn(RemoteAgent) -> F,
) -> Vec<Answer<T>>
where
    F: Future<Output = Result<T, CallError>>,
{
    let agents: Vec<_> = agents.cloned().collect();
    let pace = &Pace::new(agents.len());
    let asked = stream::iter(agents.into_iter().enumerate()).map(|(number, agent)| {
        let called = call(agent.clone());
        async move { (number, pace.keep(&agent, called).await) }
    });
    in_order(asked.buffer_unordered(CONCURRENCY)).await
}

async fn in_order<T>(answers: impl Stream<Item = (usize, Answer<T>)>) -> Vec<Answer<T>> {
    let mut answers: Vec<_> = answers.collect().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// How quickly those who are asked together answer.
struct Pace {
    asked: usize,
    heard: Mutex<Heard>,
}

#[derive(Clone, Copy)]
struct Heard {
    answers: usize,
    last: Instant,
}

impl Pace {
    fn new(asked: usize) -> Self {
        Self { asked, heard: Mutex::new(Heard { answers: 0, last: Instant::now() }) }
    }

    /// What one says, unless it is given up before.
    async fn keep<T>(&self, agent: &RemoteAgent, call: impl Future<Output = Result<T, CallError>>) -> Answer<T> {
        let began = Instant::now();
        let result = tokio::select! {
            biased;
            result = call => {
                self.answered();
                result
            }
            () = self.is_over(began, || agent.is_reached()) => Err(agent.overdue(began.elapsed())),
        };
        Answer { endpoint: agent.endpoint().clone(), result }
    }

    /// One has: with its data, or with an error of its own.
    fn answered(&self) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = Heard { answers: heard.answers + 1, last: Instant::now() };
    }

    /// Returns when one who is asked since `began` has had its time, unless it was reached.
    async fn is_over(&self, began: Instant, is_reached: impl Fn() -> bool) {
        loop {
            let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let due = (began + GRACE).max(heard.last + QUIET);
            if now >= due && heard.answers * 2 >= self.asked && !is_reached() {
                return;
            }
            sleep_until(due.max(now + QUIET / 4)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn waited(pace: &Pace, is_reached: bool) -> Option<Duration> {
        let began = Instant::now();
        timeout(LONG, pace.is_over(began, || is_reached)).await.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_reached_is_waited_for_and_who_is_not_has_its_time() {
        let pace = Pace::new(3);
        pace.answered();
        assert_eq!(waited(&pace, false).await, None, "one of three is not most");
        pace.answered();
        assert_eq!(waited(&pace, false).await, Some(GRACE));
        assert_eq!(waited(&pace, true).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_given_up_while_others_still_answer() {
        let pace = Pace::new(20);
        let others = async {
            for _ in 0..19 {
                sleep(Duration::from_millis(300)).await;
                pace.answered();
            }
        };
        let (waited, ()) = tokio::join!(waited(&pace, false), others);
        let (waited, least) = (waited.expect("given up"), Duration::from_millis(19 * 300) + QUIET);
        assert!(waited >= least && waited < least + QUIET, "{waited:?}");
    }
}
