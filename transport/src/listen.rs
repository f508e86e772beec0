//! Being called on a port, by many at once.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Accepted, Credentials, Protocol, accept, offers};

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
    each(listener, stop, move |tcp, handshakes| {
        shake_hands(credentials.borrow().clone(), tcp, handshakes, serve.clone())
    })
    .await;
}

/// The same, but for connections that offer `apart`: `take` gets them before anything of them was read, whoever they are from, and
/// gives back what it has no use for.
pub async fn listen_but<F, G>(
    listener: TcpListener,
    credentials: watch::Receiver<Credentials>,
    stop: CancellationToken,
    serve: impl Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    apart: Protocol,
    take: impl Fn(TcpStream) -> G + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
    G: Future<Output = Option<TcpStream>> + Send + 'static,
{
    each(listener, stop, move |tcp, handshakes| {
        let (credentials, serve, take) = (credentials.borrow().clone(), serve.clone(), take.clone());
        async move {
            let offered = {
                let Ok(_turn) = handshakes.acquire().await else { return };
                timeout(HANDSHAKE_LIMIT, offers(&tcp, apart)).await
            };
            // One that says nothing is cut off here. What else is wrong with one, its handshake tells.
            let Ok(offered) = offered else {
                return warn!("connection refused: it said nothing within {HANDSHAKE_LIMIT:?}");
            };
            let left = if offered.is_ok_and(|offered| offered) { take(tcp).await } else { Some(tcp) };
            if let Some(tcp) = left {
                shake_hands(credentials, tcp, handshakes, serve).await;
            }
        }
    })
    .await;
}

/// Until `stop`, a task for each connection.
async fn each<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, Arc<Semaphore>) -> F,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((tcp, _)) => _ = tokio::spawn(serve(tcp, Arc::clone(&handshakes))),
            Err(error) => {
                // Out of file descriptors, mostly: a pause lets some be closed.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    info!("no longer accepting connections");
}

async fn shake_hands<F: Future<Output = ()>>(
    credentials: Credentials,
    tcp: TcpStream,
    handshakes: Arc<Semaphore>,
    serve: impl Fn(Accepted) -> F,
) {
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
}
