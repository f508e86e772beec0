//! Being called on a port, by many at once.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Accepted, Credentials, accept};

/// A client that does not finish its handshake in this time is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Connections that may be in their handshake at once; later ones wait their turn. Idle ones cost little and must keep
/// nobody out, so there may be many: but far fewer than a process may have open files.
const HANDSHAKES: usize = 8192;

/// Accepts all who call until `stop`, each by the newest of the credentials, and has `serve` deal with those who are trusted.
pub async fn listen<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    credentials: watch::Receiver<Credentials>,
    stop: CancellationToken,
    serve: impl Fn(Accepted) -> F + Clone + Send + 'static,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of file descriptors, mostly: a pause lets some be closed.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let credentials = credentials.borrow().clone();
        let (serve, handshakes) = (serve.clone(), Arc::clone(&handshakes));
        tokio::spawn(async move {
            let Ok(turn) = handshakes.acquire().await else { return };
            let accepted = accept(&credentials, tcp, HANDSHAKE_LIMIT).await;
            drop(turn);
            match accepted {
                Ok(accepted) => {
                    let Accepted { peer, identity, protocol, .. } = &accepted;
                    debug!(%peer, %identity, ?protocol, "connected");
                    serve(accepted).await;
                }
                Err(error) => warn!("connection refused: {error}"),
            }
        });
    }
    info!("no longer accepting connections");
}
