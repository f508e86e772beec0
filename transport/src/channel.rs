//! gRPC to an agent or a coordinator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{Callee, Credentials, DialError, Protocol, dial::call};

/// How often a connection is probed, idle or not, and how long the answer may take: a dead peer is noticed after their sum.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the server at the other end of a channel has answered to its name when it was last connected to: clones are of the same
/// channel.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<AtomicBool>);

impl Reached {
    /// It has. While it is being connected to again, it has not.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A channel to an agent or a coordinator at `address` (HOST:PORT). Connects when first used and again after a break, each time
/// with the newest credentials and within `limit`.
///
/// A call that cannot connect ends with `Unavailable`, whose source chain holds a [`DialError`](crate::DialError).
pub fn channel(
    credentials: watch::Receiver<Credentials>,
    callee: Callee,
    address: &str,
    limit: Duration,
) -> (Channel, Reached) {
    let reached = Reached::default();
    let told = reached.clone();
    let address = address.to_owned();
    let connector = service_fn(move |_| {
        let newest = credentials.borrow().clone();
        let (callee, address, told) = (callee.clone(), address.clone(), told.clone());
        told.0.store(false, Ordering::Relaxed);
        async move {
            let stream = call(&newest, &address, &callee, Protocol::Grpc, limit).await?;
            told.0.store(true, Ordering::Relaxed);
            Ok::<_, DialError>(TokioIo::new(stream))
        }
    });
    // The URI is only what HTTP/2 calls the authority. The connector knows whom to call, and does the TLS.
    let channel = Endpoint::from_static("http://vmferry")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    (channel, reached)
}
