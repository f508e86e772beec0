//! Agents that are called through a coordinator that serves, and calls that are made for somebody else.

use std::sync::Arc;

use tokio::{sync::watch, time::timeout};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use vmferry_core::{
    agent::CallError,
    convergence::Policy,
    id::HostName,
    identity::Identity,
    migration::{Cause, Endpoint},
};
use vmferry_proto::{
    authorize::{EPOCH, HOST, ON_BEHALF_OF},
    convert::{Invalid, all, required},
    fleet::{FleetHost, ListInventoryRequest, fleet_host::State, fleet_service_client::FleetServiceClient},
};
use vmferry_transport::{Callee, Credentials, Reached};

use super::{CONNECT, LOOK, MESSAGE_LIMIT, error};
use crate::error::Unserved;

/// A coordinator that is called in the place of agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    /// What its certificate must be for: a DNS name or an IP address.
    pub name: String,
    /// HOST:PORT.
    pub address: String,
}

impl Coordinator {
    /// The coordinator at `address`, which is HOST:PORT; without a `name` its certificate must be for that HOST.
    pub fn new(address: &str, name: Option<String>) -> Self {
        let host = || {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        };
        Self { name: name.unwrap_or_else(host), address: address.to_owned() }
    }

    /// Calls nobody yet.
    pub(super) fn channel(&self, credentials: watch::Receiver<Credentials>) -> (Channel, Reached) {
        vmferry_transport::channel(credentials, Callee::Coordinator(self.name.clone()), &self.address, CONNECT)
    }
}

/// What a coordinator knows without asking anybody.
#[derive(Debug)]
pub struct Known {
    /// In its inventory's order.
    pub hosts: Vec<Endpoint>,
    /// Those that it does not call, and why not.
    pub left_out: Vec<(Endpoint, CallError)>,
    /// Its inventory's.
    pub policies: Vec<Policy>,
    /// Of where its hosts are from, a sentence each.
    pub warnings: Vec<String>,
}

/// A connection to a coordinator. Clones share it.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Whom it leads to.
    pub coordinator: Arc<Coordinator>,
    pub(super) channel: Channel,
    pub(super) reached: Reached,
}

impl Relay {
    /// Calls nobody yet.
    pub fn new(credentials: watch::Receiver<Credentials>, coordinator: Coordinator) -> Self {
        let (channel, reached) = coordinator.channel(credentials);
        Self { coordinator: Arc::new(coordinator), channel, reached }
    }

    /// Its inventory.
    pub async fn inventory(&self) -> Result<Known, Unserved> {
        let mut client = FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let answer = match timeout(LOOK, client.list_inventory(ListInventoryRequest {})).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(error::of_coordinator(&status, &self.coordinator)),
            Err(_) => return Err(error::silent_coordinator(&self.coordinator, LOOK)),
        };
        let told_by = |sentence| format!("{}: {sentence}", self.coordinator);
        let warnings = answer.warnings.into_iter().map(told_by).collect();
        let left_out = answer.left_out.into_iter().filter_map(|host| left_out(host).transpose());
        let read = || {
            let left_out = left_out.collect::<Result<_, _>>()?;
            Ok(Known { hosts: all(answer.hosts)?, left_out, policies: all(answer.policies)?, warnings })
        };
        read().map_err(|invalid| error::nonsense_of_coordinator(&self.coordinator, &invalid))
    }
}

/// `None`: nothing is said of why.
fn left_out(host: FleetHost) -> Result<Option<(Endpoint, CallError)>, Invalid> {
    let Some(State::Unreachable(why)) = host.state else { return Ok(None) };
    let endpoint = required(host.endpoint, "left_out.endpoint")?;
    let Cause { reason, host, message } = why.try_into()?;
    Ok(Some((endpoint, CallError { host, reason, message })))
}

/// The way to an agent: its own connection, or one that leads to a coordinator.
pub(super) type AgentChannel = InterceptedService<Channel, Label>;

/// What requests say of whom they are for, and whose wish they are. Behind a pointer: it is in every call's future.
#[derive(Debug, Clone, Default)]
pub(crate) struct Label(Option<Arc<Words>>);

#[derive(Debug, Clone, Default)]
struct Words {
    host: Option<MetadataValue<Ascii>>,
    on_behalf_of: Option<MetadataValue<Ascii>>,
    epoch: Option<MetadataValue<Ascii>>,
}

impl Label {
    /// For the agent of this host, wherever the connection leads.
    pub(super) fn to(host: &HostName) -> Self {
        Self(Some(Arc::new(Words { host: Some(ascii(host.as_str())), ..Words::default() })))
    }

    /// The same, by who drives under this epoch.
    pub(super) fn under(self, epoch: u64) -> Self {
        let words = self.0.as_deref().cloned().unwrap_or_default();
        Self(Some(Arc::new(Words { epoch: Some(epoch.into()), ..words })))
    }

    /// The same, as the wish of somebody else.
    pub(super) fn on_behalf_of(self, identity: &Identity) -> Self {
        let words = self.0.as_deref().cloned().unwrap_or_default();
        Self(Some(Arc::new(Words { on_behalf_of: Some(ascii(&identity.to_string())), ..words })))
    }
}

fn ascii(label: &str) -> MetadataValue<Ascii> {
    label.parse().expect("names and identities are ASCII")
}

impl Interceptor for Label {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(words) = &self.0 else { return Ok(request) };
        for (key, value) in [(HOST, &words.host), (ON_BEHALF_OF, &words.on_behalf_of), (EPOCH, &words.epoch)] {
            if let Some(value) = value {
                request.metadata_mut().insert(key, value.clone());
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_the_certificate_must_be_for_the_address() {
        for (address, name) in [
            ("fleet.example.org:7444", "fleet.example.org"),
            ("192.0.2.1:7444", "192.0.2.1"),
            ("[2001:db8::1]:7444", "2001:db8::1"),
        ] {
            assert_eq!(Coordinator::new(address, None).name, name);
        }
        assert_eq!(Coordinator::new("192.0.2.1:7444", Some("fleet".into())).name, "fleet");
    }
}
