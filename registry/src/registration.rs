//! A host that says that it is there.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, EventType, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use vmferry_core::migration::Endpoint;

use crate::{
    Error, Registry,
    connection::{LIMIT, only, within},
    entry,
};

/// How long after a host's last sign of life etcd forgets it.
pub const LEASE: Duration = Duration::from_secs(15);

/// How often a host gives one: two may be lost.
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);

/// A host that is registered, as long as [`Registration::keep`] runs.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    lease: i64,
    key: String,
    value: String,
    /// Of etcd's, with the host's key in it.
    revision: i64,
}

impl Registry {
    /// Registers a host. One that is registered with the same address is this one, from before.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses us; or the name is registered with another address.
    pub async fn register(&self, host: &Endpoint) -> Result<Registration, Error> {
        Box::pin(self.grant_and_put(host)).await
    }

    async fn grant_and_put(&self, host: &Endpoint) -> Result<Registration, Error> {
        let (key, value) = (self.key(host), entry::value(&host.address));
        let mut client = self.client.clone();
        let granted = within(client.lease_grant(LEASE.as_secs().cast_signed(), None)).await?;
        let mut registration = Registration { registry: self.clone(), lease: granted.id(), key, value, revision: 0 };
        match registration.put().await {
            Ok(revision) => {
                registration.revision = revision;
                Ok(registration)
            }
            Err(error) => {
                // If this fails, too, its time does it.
                let _ = registration.revoke().await;
                Err(error)
            }
        }
    }
}

impl Registration {
    /// Where it stands.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Gives signs of life until something is wrong, and returns what.
    pub async fn keep(&mut self) -> Error {
        match Box::pin(self.keep_on()).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Takes the host off.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses us: it forgets the host after [`LEASE`].
    pub async fn revoke(self) -> Result<(), Error> {
        let mut client = self.registry.client.clone();
        within(client.lease_revoke(self.lease)).await.map(drop)
    }

    /// Writes the key unless somebody else's is there.
    async fn put(&self) -> Result<i64, Error> {
        let mut client = self.registry.client.clone();
        let put = || TxnOp::put(self.key.as_str(), self.value.as_str(), Some(PutOptions::new().with_lease(self.lease)));
        let is_ours = Compare::value(self.key.as_str(), CompareOp::Equal, self.value.as_str());
        let is_free = Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0);
        let else_look = TxnOp::get(self.key.as_str(), None);
        // Comparisons of one transaction must all hold; either of these two is enough.
        let if_ours = Txn::new().when([is_ours]).and_then([put()]).or_else([else_look]);
        let whole = Txn::new().when([is_free]).and_then([put()]).or_else([TxnOp::txn(if_ours)]);
        let answer = within(client.txn(whole)).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Txn(nested) => nested.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(found) => Some(found),
                _ => None,
            }),
            _ => None,
        });
        let Some(found) = found else { return Ok(revision) };
        let found = only(&found).map(|pair| String::from_utf8_lossy(pair.value()).into_owned()).unwrap_or_default();
        Err(Error::Taken { key: self.key.clone(), found })
    }

    async fn keep_on(&mut self) -> Result<std::convert::Infallible, Error> {
        let mut client = self.registry.client.clone();
        let (mut keeper, mut answers) = within(client.lease_keep_alive(self.lease)).await?;
        let since = WatchOptions::new().with_start_revision(self.revision + 1);
        let mut watch = within(client.watch(self.key.as_str(), Some(since))).await?;
        let mut ticks = interval(SIGN_OF_LIFE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => sign_of_life(&mut keeper, &mut answers).await?,
                looked = self.look(&mut watch) => looked?,
            }
        }
    }

    /// Returns whenever somebody wrote what was there already.
    async fn look(&self, watch: &mut WatchStream) -> Result<(), Error> {
        let ended = || Error::Refused("it ended the watch of the host's key".into());
        let message = watch.message().await?.ok_or_else(ended)?;
        if message.canceled() {
            return Err(ended());
        }
        for event in message.events() {
            if event.event_type() == EventType::Delete {
                return Err(Error::Lost("its key was deleted"));
            }
            let found = event.kv().map(etcd_client::KeyValue::value).unwrap_or_default();
            if found != self.value.as_bytes() {
                let found = String::from_utf8_lossy(found).into_owned();
                return Err(Error::Taken { key: self.key.clone(), found });
            }
        }
        Ok(())
    }
}

async fn sign_of_life(keeper: &mut LeaseKeeper, answers: &mut LeaseKeepAliveStream) -> Result<(), Error> {
    within(keeper.keep_alive()).await?;
    let answer = timeout(LIMIT, answers.message()).await.map_err(|_| Error::Silent(LIMIT))??;
    match answer {
        Some(answer) if answer.ttl() > 0 => Ok(()),
        Some(_) => Err(Error::Lost("its lease is over")),
        None => Err(Error::Refused("it ended the stream of signs of life".into())),
    }
}
