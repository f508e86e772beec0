//! What all hosts say of themselves.

use tokio::try_join;
use vmferry_core::{
    agent::CallError,
    host::{Alike, Host},
    id::HostName,
    instance::Instance,
};

use super::{Answer, Fleet, ask, heard};
use crate::{client::RemoteAgent, exit::Failed, find};

/// An instance that was looked for.
#[derive(Debug)]
pub(crate) struct Found {
    /// It.
    pub(crate) guest: Instance,
    /// What all hosts say of themselves, as they were asked for it.
    pub(crate) hosts: Vec<Answer<Host>>,
    /// Those that did not answer.
    pub(crate) silent: Vec<CallError>,
}

impl Fleet {
    /// Facts of all hosts.
    pub(crate) async fn hosts(&self) -> Vec<Answer<Host>> {
        alike(self.gather(|agent: RemoteAgent| async move { agent.facts().await }).await)
    }

    /// The instance that is meant by `wanted`, and the facts of all hosts: they are asked once.
    pub(crate) async fn found(&self, wanted: &str, from: Option<&HostName>) -> Result<Found, Failed> {
        if let Some(from) = from {
            self.agent(from)?;
        }
        let answers =
            self.gather(|agent: RemoteAgent| async move { try_join!(agent.facts(), agent.instances()) }).await;
        let mut instances = Vec::new();
        let hosts = answers.into_iter().map(|answer| {
            answer.map(|(host, more)| {
                instances.extend(more);
                host
            })
        });
        let hosts = alike(hosts.collect());
        let (_, silent) = heard(hosts.clone())?;
        Ok(Found { guest: find::instance(instances, &silent, wanted, from)?, hosts, silent })
    }

    /// Asks the hosts of these names, from any thread. Fails if one is not in the inventory.
    pub(crate) async fn gather_these<T, F>(
        &self,
        names: &[HostName],
        call: impl Fn(RemoteAgent) -> F + Send,
    ) -> Result<Vec<Answer<T>>, Failed>
    where
        T: Send,
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let agents = names.iter().map(|name| self.agent(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(ask::each_alone(agents.into_iter(), call).await)
    }
}

/// Of thousands of hosts most say the same.
fn alike(mut answers: Vec<Answer<Host>>) -> Vec<Answer<Host>> {
    let mut alike = Alike::default();
    answers.iter_mut().filter_map(|answer| answer.result.as_mut().ok()).for_each(|host| alike.share(host));
    answers
}
