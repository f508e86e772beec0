//! Storage as its own libraries show it. They run in a process of its own, which is this program once more: should one hang, or
//! abort as C++ does, the agent and the tunnels of its migrations go on. One such process looks at all volumes that it can reach
//! together: programs of the storage's would be some for each volume, and spend most of their time on their start and login.
//!
//! ```text
//!  agent: ask ── question (with the secrets), by a pipe ─▶ answer: the same program ─▶ a library of the storage
//!             ◀─ of each volume what it is, or why not ──
//! ```

pub(super) mod library;

use std::{
    io::{self, Write as _},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::storage::tool::{self, Tool};

/// Of each volume, in the order of the question; or why none could be looked at.
pub(super) type Answer<Found, Trouble> = Result<Vec<Result<Found, Trouble>>, Trouble>;

/// What a trouble says of a volume, whichever of the storage's programs and libraries tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The storage does not answer.
    Unreachable,
    /// It lets this user do nothing, or wants a secret and got none.
    Denied,
    /// It has no such volume.
    Gone,
    /// Something else.
    Other,
}

/// Why there is no answer about any volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence<Trouble> {
    /// The storage could not be asked.
    Trouble(Trouble),
    /// The process that asks did not do it.
    Failed(tool::Failed),
    /// What it said makes no sense.
    Unreadable(String),
}

/// Of how long somebody who waits for `limit` lets the other process wait: that shall give up by itself, for then it says for
/// what it waited, and what others answered.
pub(super) fn patience(limit: Duration) -> Duration {
    limit.saturating_sub(Duration::from_secs(1)).max(Duration::from_secs(1))
}

/// Asks about `volumes` volumes. The question goes through a pipe and nowhere else: it holds secrets (I6).
pub(super) async fn ask<Found: DeserializeOwned, Trouble: DeserializeOwned>(
    argument: &str,
    question: &impl Serialize,
    volumes: usize,
    limit: Duration,
) -> Result<Vec<Result<Found, Trouble>>, Silence<Trouble>> {
    let unreadable = |error: serde_json::Error| Silence::Unreadable(error.to_string());
    let input = serde_json::to_string(question).map_err(unreadable)?;
    // By this name it is the program that runs, also after an update has put another in its place.
    let tool = Tool::new("/proc/self/exe").args([argument]).secret_input(input.into()).limit(limit);
    let said = tool.run().await.map_err(Silence::Failed)?;
    let answers: Answer<Found, Trouble> = serde_json::from_str(&said).map_err(unreadable)?;
    let answers = answers.map_err(Silence::Trouble)?;
    if answers.len() != volumes {
        return Err(Silence::Unreadable(format!("{} answers about {volumes} volumes", answers.len())));
    }
    Ok(answers)
}

/// In the process that looks: answers the question on standard input, on standard output, and ends the process.
pub(super) fn answer<Question: DeserializeOwned, Answer: Serialize>(look: fn(Question) -> Answer) -> io::Result<()> {
    let answer = look(serde_json::from_reader(io::stdin().lock())?);
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.flush()?;
    // Threads that still wait for the storage would meet C++'s destructors.
    library::exit()
}

/// Looks at all at once, so that one that does not answer holds up no other: after the deadline it has `silent` for an answer.
pub(super) fn all<Volume: Send + 'static, Answer: Clone + Send + 'static>(
    volumes: Vec<Volume>,
    deadline: Instant,
    silent: Answer,
    look: impl Fn(Volume) -> Answer + Send + Sync + 'static,
) -> Vec<Answer> {
    let mut answers = vec![silent; volumes.len()];
    let (look, (send, receive)) = (Arc::new(look), mpsc::channel());
    for (index, volume) in volumes.into_iter().enumerate() {
        let (look, send) = (Arc::clone(&look), send.clone());
        thread::spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = send.send((index, look(volume)));
        });
    }
    drop(send);
    while let Ok((index, answer)) = receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        answers[index] = answer;
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_answer_holds_up_no_other() {
        let look = |millis| {
            thread::sleep(Duration::from_millis(millis));
            "seen"
        };
        let deadline = Instant::now() + Duration::from_millis(500);
        assert_eq!(all(vec![60_000, 0, 1], deadline, "silent", look), ["silent", "seen", "seen"]);
    }

    #[test]
    fn who_looks_gives_up_before_who_asks() {
        assert_eq!(patience(Duration::from_secs(10)), Duration::from_secs(9));
        assert_eq!(patience(Duration::ZERO), Duration::from_secs(1));
    }
}
