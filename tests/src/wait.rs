//! Waiting for a condition, with a deadline and a reason.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Far longer than anything takes that takes a second on a quiet machine: a limit that costs nothing, for machines that are not.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks `condition` every 20 ms until it answers, and returns the answer. After `timeout`: an error that names `what`.
pub fn until<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = condition()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}
