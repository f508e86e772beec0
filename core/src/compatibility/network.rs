//! Can the guest's vifs be plugged in on the host?

use std::net::IpAddr;

use super::{Checks, DestinationFacts, Refusal};
use crate::{
    domain_xml::Definition,
    instance::{Vif, VifAttachment},
    network::{Carried, Hindrance, Network},
    policy::Policy,
    reason::Reason,
};

/// What a host knows of one of a guest's vifs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VifSight {
    /// The logical network that it is said to be on, as the host carries it. None: it is on none, or the host knows of no such
    /// network.
    pub network: Option<(Network, Carried)>,
    /// The largest packet in bytes on the bridge that the vif names. None: there is no such bridge.
    pub bridge_mtu: Option<u32>,
    /// Another guest that runs on the host with the same MAC address.
    pub same_mac: Option<String>,
    /// Another guest of the host whose policy gives it one of the addresses that this one's does.
    pub same_address: Option<(IpAddr, String)>,
}

/// Every rule of every vif.
pub(super) fn arriving(checks: &mut Checks<'_>, facts: &DestinationFacts, definition: &Definition) {
    let nothing = VifSight::default();
    for (index, vif) in definition.vifs.iter().enumerate() {
        let sight = facts.vifs.get(index).unwrap_or(&nothing);
        // What only the source's configuration calls so may have a bridge of the same name here.
        let said = definition
            .interfaces
            .iter()
            .flatten()
            .any(|label| vif.mac.parse() == Ok(label.mac) && label.network.is_some());
        let vif = &Vif { network: vif.network.clone().filter(|_| said || sight.network.is_some()), ..vif.clone() };
        let subject = format!("vif {}", vif.mac);
        let question = Question { facts, name: &definition.name, vif, sight };
        let mut refusals = question.network();
        refusals.extend(question.policy());
        refusals.extend(question.clashes());
        if refusals.is_empty() {
            checks.pass(&subject, &question.detail());
        }
        for refusal in refusals {
            checks.refuse(&subject, refusal);
        }
    }
}

struct Question<'a> {
    facts: &'a DestinationFacts,
    name: &'a str,
    vif: &'a Vif,
    sight: &'a VifSight,
}

impl Question<'_> {
    fn network(&self) -> Vec<Refusal> {
        let Self { facts: DestinationFacts { host, bridges, networks, .. }, name, vif, sight } = self;
        match (&vif.network, &sight.network, &vif.attachment) {
            (_, _, VifAttachment::Other { kind }) if kind != "user" => self.missing(
                &format!("an interface of type {kind}"),
                "this version moves vifs on bridges and libvirt networks",
            ),
            (Some(network), _, VifAttachment::Network { .. } | VifAttachment::Other { .. }) => vec![Refusal {
                reason: Reason::NetworkMissing,
                message: format!(
                    "vif {} of {name} is said to be on network {network}, and is not on a bridge",
                    vif.mac
                ),
                remedy: format!("let it be on a bridge, or say nothing of it (vmferry instance network unset {name})"),
            }],
            (Some(network), None, _) => self.missing(
                &format!("network {network}"),
                &format!("add it to the configuration of the agent of {host}: a [[network]] named \"{network}\""),
            ),
            (Some(_), Some((network, carried)), _) => {
                carried.hindrances.iter().map(|hindrance| self.hindered(network, hindrance)).collect()
            }
            (None, _, VifAttachment::Bridge { bridge }) if !bridges.contains(bridge) => self.missing(
                &format!("bridge {bridge}"),
                &format!(
                    "create it on {host} (ip link add {bridge} type bridge) with the same uplink as on the source"
                ),
            ),
            (None, _, VifAttachment::Network { network }) if !networks.contains(network) => self.missing(
                &format!("libvirt network {network}"),
                &format!("define and start it on {host} (virsh net-start {network})"),
            ),
            (None, _, _) => self.bridge_mtu().into_iter().collect(),
        }
    }

    fn missing(&self, what: &str, remedy: &str) -> Vec<Refusal> {
        vec![Refusal {
            reason: Reason::NetworkMissing,
            message: format!(
                "vif {} of {} needs {what}, which {} does not have",
                self.vif.mac, self.name, self.facts.host
            ),
            remedy: remedy.to_owned(),
        }]
    }

    fn hindered(&self, network: &Network, hindrance: &Hindrance) -> Refusal {
        let reason = match hindrance {
            Hindrance::MtuTooSmall { .. } => Reason::MtuTooSmall,
            _ => Reason::NetworkMissing,
        };
        let (host, name, carrier) = (&self.facts.host, self.name, &network.carrier);
        Refusal {
            reason,
            message: format!("{host} cannot plug vif {} of {name} into {carrier} now: {hindrance}", self.vif.mac),
            remedy: format!("on {host}, {}", hindrance.remedy()),
        }
    }

    fn bridge_mtu(&self) -> Option<Refusal> {
        let VifAttachment::Bridge { bridge } = &self.vif.attachment else { return None };
        let (here, needed) = (self.sight.bridge_mtu?, self.vif.mtu?);
        let (host, name, mac) = (&self.facts.host, self.name, &self.vif.mac);
        (here < needed).then(|| Refusal {
            reason: Reason::MtuTooSmall,
            message: format!(
                "vif {mac} of {name} sends packets of up to {needed} bytes, bridge {bridge} of {host} takes {here}"
            ),
            remedy: format!("on {host}, ip link set {bridge} mtu {needed}, and its uplink before"),
        })
    }

    fn policy(&self) -> Option<Refusal> {
        if self.vif.policy.is_some() && !matches!(self.vif.attachment, VifAttachment::Bridge { .. }) {
            let (name, mac, attachment) = (self.name, &self.vif.mac, &self.vif.attachment);
            return Some(Refusal {
                reason: Reason::VifLabelInvalid,
                message: format!("vif {mac} of {name} has a policy, and is on {attachment}, where it is not filtered"),
                remedy: format!(
                    "let it be on a bridge, or take its policy away (vmferry instance policy unset {name})"
                ),
            });
        }
        self.vif.policy.as_ref().and(self.facts.firewall.clone()).map(|why| Refusal {
            reason: Reason::FirewallMissing,
            message: format!("{} cannot filter vif {} of {}: {why}", self.facts.host, self.vif.mac, self.name),
            remedy: format!("install nftables on {}, or choose another host", self.facts.host),
        })
    }

    fn clashes(&self) -> Vec<Refusal> {
        let (host, name, mac) = (&self.facts.host, self.name, &self.vif.mac);
        let same_mac = self.sight.same_mac.as_ref().map(|other| Refusal {
            reason: Reason::MacInUse,
            message: format!("{other}, which runs on {host}, has the MAC address {mac} of {name}"),
            remedy: "give one of them another, or choose another host".into(),
        });
        let same_address = self.sight.same_address.as_ref().map(|(address, other)| Refusal {
            reason: Reason::AddressInUse,
            message: format!("the policy of {other} on {host} gives it the address {address}, as that of {name} does"),
            remedy: format!("see to their policies (vmferry instance policy show {other})"),
        });
        same_mac.into_iter().chain(same_address).collect()
    }

    fn detail(&self) -> String {
        let on = match (&self.sight.network, &self.vif.attachment) {
            (Some((network, _)), _) => format!("network {}: {}", network.name, network.carrier),
            (None, attachment) => match attachment {
                VifAttachment::Network { network } => format!("libvirt network {network}"),
                VifAttachment::Other { kind } => format!("an interface of type {kind}"),
                attachment @ VifAttachment::Bridge { .. } => attachment.to_string(),
            },
        };
        match &self.vif.policy {
            None => on,
            Some(Policy { rules, .. }) if rules.is_empty() => format!("{on}, filtered"),
            Some(Policy { rules, .. }) => format!("{on}, filtered by {} rules", rules.len()),
        }
    }
}

#[cfg(test)]
mod tests;
