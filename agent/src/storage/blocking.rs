//! File systems and devices answer when they like: what asks them runs on threads that nobody waits for too long.

use std::{io, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

/// Runs what blocks; gives it up after `limit`, with an error. What it does may still happen then.
pub async fn within<T: Send + 'static>(
    limit: Duration,
    blocking: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match timeout(limit, spawn_blocking(blocking)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(io::Error::other(panic)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
    }
}
