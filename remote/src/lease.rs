//! A migration's lease, as who drives has it.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vmferry_core::{agent::CallError, id::MigrationId, reason::Reason};
use vmferry_proto::{convert::duration, v1};

use super::{ASK, PREPARING, RemoteAgent, error};

/// How long a renewal may take: the next one comes soon.
const RENEW: Duration = Duration::from_secs(3);
/// How often it is tried again where the migration is not known yet, or nobody answers.
const AGAIN: Duration = Duration::from_millis(500);

/// The lease of one migration. Clones are the same.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    epoch: u64,
    /// There is something to renew.
    begun: CancellationToken,
    lost: CancellationToken,
    refusal: OnceLock<CallError>,
}

impl Lease {
    /// Of a migration that is about to be begun: its source grants it with the first phase.
    pub fn first() -> Self {
        Self::of(1)
    }

    /// Of who has taken over.
    pub fn taken(epoch: u64) -> Self {
        let lease = Self::of(epoch);
        lease.0.begun.cancel();
        lease
    }

    fn of(epoch: u64) -> Self {
        let held =
            Held { epoch, begun: CancellationToken::new(), lost: CancellationToken::new(), refusal: OnceLock::new() };
        Self(Arc::new(held))
    }

    /// Under which its holder drives.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Returns when a host has said that somebody else drives, with what it said.
    pub async fn lost(&self) -> CallError {
        self.0.lost.cancelled().await;
        match self.0.refusal.get() {
            Some(refusal) => refusal.clone(),
            None => pending().await,
        }
    }

    /// Renews it on each of these hosts for as long as it is polled.
    pub async fn keep(&self, agents: &[&RemoteAgent], id: MigrationId) -> Infallible {
        self.0.begun.cancelled().await;
        let kept = agents.iter().map(|agent| self.keep_on(agent, id));
        match join_all(kept).await.pop() {
            Some(never) => match never {},
            None => pending().await,
        }
    }

    async fn keep_on(&self, agent: &RemoteAgent, id: MigrationId) -> Infallible {
        loop {
            let pause = match agent.renew(id).await {
                Ok(lasts) => lasts / 3,
                Err(error) if error.reason == Reason::LeaseLost => {
                    self.lose(error);
                    pending().await
                }
                Err(error) => {
                    tracing::debug!(host = %error.host, %error, "the lease is not renewed there");
                    AGAIN
                }
            };
            sleep(pause).await;
        }
    }

    pub(super) fn begin(&self) {
        self.0.begun.cancel();
    }

    fn lose(&self, refusal: CallError) {
        // The first refusal is as good as all that follow.
        _ = self.0.refusal.set(refusal);
        self.0.lost.cancel();
    }
}

impl RemoteAgent {
    /// The same agent, called by who holds this lease.
    #[must_use]
    pub fn under(&self, lease: &Lease) -> Self {
        Self { label: self.label.clone().under(lease.epoch()), lease: Some(lease.clone()), ..self.clone() }
    }

    /// Takes a migration over that leaves this host: whoever drove it before is refused from now on.
    pub async fn take_lease(&self, id: MigrationId) -> Result<Lease, CallError> {
        let take = || {
            let mut client = self.phases();
            async move { client.take_lease(v1::TakeLeaseRequest { migration_id: id.to_string() }).await }
        };
        Ok(Lease::taken(self.repeated(ASK, PREPARING, take).await?.epoch))
    }

    /// Says that who drives is there. How long the lease lasts from now on.
    async fn renew(&self, id: MigrationId) -> Result<Duration, CallError> {
        let mut client = self.phases();
        let request = v1::RenewRequest { migration_id: id.to_string() };
        let answer = self.within(RENEW, client.renew(request)).await?;
        duration(answer.lasts, "lasts").map_err(|invalid| error::nonsense(&self.place, &invalid))
    }

    /// A step of who drives. If somebody else does by now there is no next step: the answer never comes, and [`Lease::lost`] tells.
    pub(super) async fn driven<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        match (call.await, &self.lease) {
            (Err(error), Some(lease)) if error.reason == Reason::LeaseLost => {
                lease.lose(error);
                pending().await
            }
            (answer, _) => answer,
        }
    }
}
