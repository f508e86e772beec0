//! All hosts of the inventory at once.

mod ask;
mod facts;
mod known;
mod look;
mod newest;

use std::collections::{HashMap, HashSet};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;
use vmferry_core::{
    agent::CallError, convergence::Policy, id::HostName, identity::Identity, migration::Endpoint, reason::Reason,
    schedule::Weights,
};
use vmferry_transport::Credentials;

pub(crate) use self::{
    facts::Found,
    known::{Ending, each},
    newest::Newest,
};
use crate::{
    catalogue::Catalogue,
    client::{Relay, RemoteAgent},
    exit::Failed,
    inventory::{Inventory, LeftOut, Loaded, Warning, canonical},
    render,
};

/// The agents of the inventory.
#[derive(Debug)]
pub(crate) struct Fleet {
    inventory: Inventory,
    agents: Vec<RemoteAgent>,
    /// Where each is among the agents.
    places: HashMap<HostName, usize>,
    left_out: Vec<LeftOut>,
    warnings: Vec<Warning>,
    way: Way,
    /// For whom they are asked, if not for ourselves.
    asker: Option<Identity>,
}

/// How agents are called.
#[derive(Debug, Clone)]
enum Way {
    /// By ourselves, with the newest of these.
    Direct(watch::Receiver<Credentials>),
    /// Through a coordinator that serves.
    Through(Relay),
}

impl Way {
    fn agent(&self, endpoint: &Endpoint) -> RemoteAgent {
        match self {
            Self::Direct(credentials) => RemoteAgent::new(credentials.clone(), endpoint.clone()),
            Self::Through(relay) => RemoteAgent::through(relay, endpoint.clone()),
        }
    }
}

/// What one host said. A dead or slow one costs its own answer only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer<T> {
    /// Who was asked.
    pub(crate) endpoint: Endpoint,
    /// What came back.
    pub(crate) result: Result<T, CallError>,
}

impl<T> Answer<T> {
    /// With what is made of what came back.
    pub(crate) fn map<U>(self, made: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { endpoint: self.endpoint, result: self.result.map(made) }
    }
}

impl Fleet {
    /// The hosts of the inventory; or those that its coordinator knows, if it names one. That one is asked, and nobody else.
    pub(crate) async fn open(loaded: Loaded, credentials: watch::Receiver<Credentials>) -> Result<Self, Failed> {
        match loaded.inventory.coordinator.clone() {
            None => Ok(Self::new(loaded, &credentials)),
            Some(coordinator) => Self::behind(loaded, &Relay::new(credentials, coordinator)).await,
        }
    }

    /// The hosts of the inventory. Calls nobody yet.
    pub(crate) fn new(loaded: Loaded, credentials: &watch::Receiver<Credentials>) -> Self {
        let Loaded { inventory, left_out, warnings } = loaded;
        let way = Way::Direct(credentials.clone());
        let agents = inventory.hosts.iter().map(|endpoint| way.agent(endpoint)).collect();
        Self::of(inventory, agents, left_out, warnings, way)
    }

    fn of(
        inventory: Inventory,
        agents: Vec<RemoteAgent>,
        left_out: Vec<LeftOut>,
        warnings: Vec<Warning>,
        way: Way,
    ) -> Self {
        let places = agents.iter().enumerate().map(|(place, agent)| (agent.endpoint().host.clone(), place)).collect();
        Self { inventory, agents, places, left_out, warnings, way, asker: None }
    }

    /// The hosts of a later inventory. Connections to those that are still there stay.
    fn renewed(&self, loaded: Loaded) -> Self {
        let Loaded { inventory, left_out, warnings } = loaded;
        let agent = |endpoint: &Endpoint| match self.find(&endpoint.host) {
            Some(agent) if agent.endpoint() == endpoint => RemoteAgent::clone(agent),
            _ => self.way.agent(endpoint),
        };
        let agents = inventory.hosts.iter().map(agent).collect();
        Self::of(inventory, agents, left_out, warnings, self.way.clone())
    }

    /// The hosts that a coordinator knows, and its policies besides our own.
    async fn behind(loaded: Loaded, relay: &Relay) -> Result<Self, Failed> {
        let Loaded { mut inventory, mut left_out, mut warnings } = loaded;
        let known = relay.inventory().await?;
        warnings.extend(known.warnings.into_iter().map(Warning::from));
        inventory.hosts = known.hosts;
        left_out.extend(known.left_out.into_iter().map(|(endpoint, why)| LeftOut { endpoint, why }));
        let is_ours = |policy: &Policy| inventory.policies.iter().any(|own| own.name() == policy.name());
        let theirs: Vec<_> = known.policies.into_iter().filter(|policy| !is_ours(policy)).collect();
        inventory.policies.extend(theirs);
        let way = Way::Through(relay.clone());
        let agents = inventory.hosts.iter().map(|endpoint| way.agent(endpoint)).collect();
        Ok(Self::of(inventory, agents, left_out, warnings, way))
    }

    /// The same hosts, asked for somebody else.
    pub(crate) fn on_behalf_of(&self, identity: &Identity) -> Self {
        let agents = self.agents.iter().map(|agent| agent.on_behalf_of(identity)).collect();
        let Self { inventory, left_out, warnings, way, .. } = self;
        let same = Self::of(inventory.clone(), agents, left_out.clone(), warnings.clone(), way.clone());
        Self { asker: Some(identity.clone()), ..same }
    }

    /// Which hosts there are, and which policies.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Says of hosts that are somebody else who else the inventory has at their addresses.
    pub(crate) fn explain<T>(&self, answers: &mut [Answer<T>]) {
        let distrusted =
            |answer: &&mut Answer<T>| answer.result.as_ref().is_err_and(|error| error.reason == Reason::AgentUntrusted);
        for Answer { endpoint, result } in answers.iter_mut().filter(distrusted) {
            let at = canonical(&endpoint.address);
            let is_there = |other: &&Endpoint| other.host != endpoint.host && canonical(&other.address) == at;
            if let (Err(error), Some(other)) = (result, self.inventory.hosts.iter().find(is_there)) {
                error.message += &format!("; the inventory has {} at the same address", other.host);
            }
        }
    }

    /// Hosts that are not called, as others have their names.
    pub(crate) fn left_out<T>(&self) -> impl Iterator<Item = Answer<T>> {
        self.left_out.iter().cloned().map(|LeftOut { endpoint, why }| Answer { endpoint, result: Err(why) })
    }

    /// What somebody should look at where the hosts are from: a sentence each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.iter().map(ToString::to_string).collect()
    }

    /// Asks all hosts; answers come in the inventory's order.
    pub(crate) async fn ask<T>(&self, call: impl AsyncFn(&RemoteAgent) -> Result<T, CallError>) -> Vec<Answer<T>> {
        ask::each(self.agents.iter(), call).await
    }

    /// Asks all hosts, from any thread; answers come in the inventory's order.
    pub(crate) async fn gather<T, F>(&self, call: impl Fn(RemoteAgent) -> F + Send) -> Vec<Answer<T>>
    where
        T: Send,
        F: Future<Output = Result<T, CallError>> + Send,
    {
        ask::each_alone(self.agents.iter(), call).await
    }

    /// Asks the hosts of these names, in the inventory's order; none named: all. Fails if one is not in the inventory.
    pub(crate) async fn ask_these<T>(
        &self,
        names: &[HostName],
        call: impl AsyncFn(&RemoteAgent) -> Result<T, CallError>,
    ) -> Result<Vec<Answer<T>>, Failed> {
        for name in names {
            self.agent(name)?;
        }
        let names: HashSet<_> = names.iter().collect();
        let is_meant = |agent: &&RemoteAgent| names.is_empty() || names.contains(&agent.endpoint().host);
        Ok(ask::each(self.agents.iter().filter(is_meant), call).await)
    }

    /// The policies that a migration from that host can name; none: what can be named wherever it is.
    pub(crate) async fn policies(&self, host: Option<&HostName>) -> Result<Catalogue, Failed> {
        let theirs = match host {
            Some(host) => Some((host.clone(), self.agent(host)?.policies().await?)),
            None => None,
        };
        Ok(Catalogue::new(&self.inventory, theirs))
    }

    /// The policy that a migration from `host` means by `name`. The host is not asked about one of the inventory's.
    pub(crate) async fn policy(&self, name: &str, host: &HostName) -> Result<Policy, Failed> {
        if let Some(policy) = self.inventory.policies.iter().find(|policy| policy.name() == name) {
            return Ok(policy.clone());
        }
        self.policies(Some(host)).await?.policy(name).cloned()
    }

    /// All hosts, in the inventory's order.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.inventory.hosts
    }

    /// What counts for how much when a host is chosen.
    pub(crate) fn weights(&self) -> &Weights {
        &self.inventory.weights
    }

    /// Whether the inventory has a host of that name.
    pub(crate) fn has(&self, name: &HostName) -> bool {
        self.places.contains_key(name)
    }

    /// The agent of a host of an order that was given: where the inventory has it, or else where the order says. A host that has gone
    /// from the inventory since is still who must end it.
    pub(crate) fn agent_at(&self, endpoint: &Endpoint) -> RemoteAgent {
        self.find(&endpoint.host).cloned().unwrap_or_else(|| {
            let agent = self.way.agent(endpoint);
            self.asker.iter().fold(agent, |agent, asker| agent.on_behalf_of(asker))
        })
    }

    /// The agent of the host called `name`.
    pub(crate) fn agent(&self, name: &HostName) -> Result<&RemoteAgent, Failed> {
        self.find(name).ok_or_else(|| {
            let known: Vec<_> = self.inventory.hosts.iter().map(|endpoint| endpoint.host.as_str()).collect();
            Failed::because(
                Reason::HostNotFound,
                format!("no host {name} in the inventory {}; it has {}", self.inventory.place(), known.join(", ")),
            )
        })
    }

    fn find(&self, name: &HostName) -> Option<&RemoteAgent> {
        self.places.get(name).map(|place| &self.agents[*place])
    }
}

/// A connection to each host is an open file, and the usual limit (1024) is not for us but for programs that call `select`. What
/// cannot be had is told by the connections that fail.
pub(crate) fn allow_connections() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of open files stays");
    }
}

/// The answers that came, and the reasons why the others did not. Fails if none came.
pub(crate) fn heard<T>(answers: Vec<Answer<T>>) -> Result<(Vec<T>, Vec<CallError>), Failed> {
    let (mut given, mut silent) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer.result {
            Ok(value) => given.push(value),
            Err(error) => silent.push(error),
        }
    }
    match (given.is_empty(), silent.as_slice()) {
        (true, [only]) => Err(only.clone().into()),
        (true, [first, ..]) => Err(Failed {
            message: format!("none of {} hosts could be asked:{}", silent.len(), render::list(&silent)),
            host: None,
            ..first.clone().into()
        }),
        _ => Ok((given, silent)),
    }
}
