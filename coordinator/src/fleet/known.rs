//! One migration, as its hosts know it: what they have of it, or that it waits.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join;
use tokio::time::{Instant, sleep};
use vmferry_core::{
    agent::CallError,
    id::MigrationId,
    migration::{Endpoint, Order, Record},
    reason::Reason,
    turns::Waiter,
};

use super::{Answer, Fleet, heard};
use crate::{
    client::RemoteAgent,
    exit::{Exit, Failed},
    history::{self, Migration},
    render::migration::past,
};

/// How long a migration is looked for that is named by its id, and that no host knows yet: its checks may not be over.
const UNSEEN: Duration = Duration::from_secs(5);
/// How often.
const LOOK: Duration = Duration::from_millis(250);

/// A migration that somebody wants to end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It waited, and does not any more: nothing was changed.
    Waited(Box<Order>),
    /// A host has a half of it. And those of its hosts that did not answer.
    Begun(Box<Migration>, Vec<CallError>),
}

impl Fleet {
    /// What the hosts have of the migration with this id, the story of its job as well, and the hosts that did not answer. Fails if none did.
    pub(crate) async fn recorded(&self, id: MigrationId) -> Result<(Option<Migration>, Vec<CallError>), Failed> {
        let answers = self.gather(move |agent: RemoteAgent| async move { half(&agent, id).await }).await;
        put_together(answers)
    }

    /// The same of the two hosts of an order that somebody else knows.
    pub(crate) async fn recorded_by(&self, order: &Order) -> Result<(Option<Migration>, Vec<CallError>), Failed> {
        let ask = async |endpoint: &Endpoint| {
            let agent = self.agent_at(endpoint);
            Answer { endpoint: endpoint.clone(), result: half(&agent, order.id).await }
        };
        let (source, destination) = join(ask(&order.source), ask(&order.destination)).await;
        put_together(vec![source, destination])
    }

    /// The migration that waits and is meant by `wanted`: its id or the beginning of it, or the name of its instance. Of hosts that do not
    /// answer those tell who look for what they have of it.
    pub(crate) async fn waiter(&self, wanted: &str) -> Result<Option<Waiter>, Failed> {
        meant(self.gather(|agent: RemoteAgent| async move { agent.waiters().await }).await, wanted)
    }

    /// The same of one that has not begun: it waits, or it is just its turn.
    pub(crate) async fn queued(&self, wanted: &str) -> Result<Option<Waiter>, Failed> {
        meant(self.gather(|agent: RemoteAgent| async move { agent.queued().await }).await, wanted)
    }

    /// At which of its two hosts a migration waits, of those that answer.
    pub(crate) async fn waits_at(&self, order: &Order) -> Vec<RemoteAgent> {
        let ask = async |endpoint: &Endpoint| {
            let agent = self.agent_at(endpoint);
            let waiters = agent.waiters().await.unwrap_or_default();
            waiters.iter().any(|waiter| waiter.order.id == order.id).then_some(agent)
        };
        let (source, destination) = join(ask(&order.source), ask(&order.destination)).await;
        source.into_iter().chain(destination).collect()
    }

    /// Ends the wait of the migration that is meant by `wanted`, or tells what was begun of it. A name means an instance of which one
    /// goes on. `calling` makes of an agent who calls it.
    pub(crate) async fn end_wait(
        &self,
        wanted: &str,
        calling: impl Fn(RemoteAgent) -> RemoteAgent,
    ) -> Result<Ending, Failed> {
        let began = Instant::now();
        let is_id = wanted.parse::<MigrationId>().is_ok();
        loop {
            if let Some(Waiter { order, waiting, .. }) = self.waiter(wanted).await? {
                let at = if waiting.host == order.source.host { &order.source } else { &order.destination };
                match calling(self.agent_at(at)).abort(order.id).await {
                    // It may just have begun: then its job was told to end, and whoever drives it brings it there.
                    Ok(()) => match self.recorded_by(&order).await? {
                        (Some(migration), silent) => return Ok(Ending::Begun(Box::new(migration), silent)),
                        (None, _) => return Ok(Ending::Waited(Box::new(order))),
                    },
                    // It waits no longer, and will be seen to have begun.
                    Err(error) if error.reason == Reason::MigrationNotFound && began.elapsed() < UNSEEN => {}
                    Err(error) => return Err(error.into()),
                }
            } else {
                match self.begun(wanted).await {
                    Ok((migration, silent)) => return Ok(Ending::Begun(Box::new(migration), silent)),
                    Err(failed)
                        if is_id
                            && failed.reason == Some(Reason::MigrationNotFound)
                            && failed.exit != Exit::Unreachable
                            && began.elapsed() < UNSEEN => {}
                    Err(failed) => return Err(failed),
                }
            }
            sleep(LOOK).await;
        }
    }

    /// The migration that is meant, where a name means only what has not ended.
    async fn begun(&self, wanted: &str) -> Result<(Migration, Vec<CallError>), Failed> {
        let (migration, silent) = self.migration_of(wanted).await?;
        let is_named = migration.order.instance_name == wanted;
        if is_named && self.is_settled(&migration, &silent) {
            let message = format!(
                "no migration of {wanted} goes on; the last one, {}, ended {}",
                migration.order.id,
                past(&migration)
            );
            return Err(Failed::because(Reason::MigrationNotFound, message));
        }
        Ok((migration, silent))
    }
}

/// `None`: the host has nothing of it.
async fn half(agent: &RemoteAgent, id: MigrationId) -> Result<Option<Record>, CallError> {
    match agent.whole_record(id).await {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.reason == Reason::MigrationNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn put_together(answers: Vec<Answer<Option<Record>>>) -> Result<(Option<Migration>, Vec<CallError>), Failed> {
    let (given, silent) = heard(answers)?;
    Ok((history::merge(given.into_iter().flatten()).pop(), silent))
}

/// The one of this instance, or of which this is the id or its beginning.
fn meant(answers: Vec<Answer<Vec<Waiter>>>, wanted: &str) -> Result<Option<Waiter>, Failed> {
    let (given, _) = heard(answers)?;
    let is_meant =
        |Waiter { order, .. }: &Waiter| order.instance_name == wanted || history::is_beginning(wanted, order.id);
    let mut meant = each(given.into_iter().flatten().filter(is_meant));
    match (meant.len(), meant.pop()) {
        (2.., _) => Err(Failed::usage(format!(
            "several migrations that wait may be meant by {wanted}; name one by its id (`vmferry migrations`)"
        ))),
        (_, waiter) => Ok(waiter),
    }
}

/// Each once: as the host tells of it for which it waits, if it has its turn on the other.
pub(crate) fn each(waiters: impl Iterator<Item = Waiter>) -> Vec<Waiter> {
    let mut each: BTreeMap<MigrationId, Waiter> = BTreeMap::new();
    for waiter in waiters {
        let known = each.entry(waiter.order.id).or_insert_with(|| waiter.clone());
        if known.has_turn {
            *known = waiter;
        }
    }
    each.into_values().collect()
}
