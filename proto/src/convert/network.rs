use vmferry_core::{
    domain_xml::{
        FilterDefinition,
        metadata::interfaces::{InterfaceLabel, written},
    },
    instance::{Vif, VifAttachment},
    network::VlanId,
    policy::{Direction, Peer, Policy, Ports, Protocol, Rule},
};

use super::{Invalid, invalid};
use crate::v1::{self, policy_rule, vif};

impl From<Vif> for v1::Vif {
    fn from(vif: Vif) -> Self {
        let attachment = match vif.attachment {
            VifAttachment::Bridge { bridge } => vif::Attachment::Bridge(bridge),
            VifAttachment::Network { network } => vif::Attachment::Network(network),
            VifAttachment::Other { kind } => vif::Attachment::Other(kind),
        };
        Self {
            mac: vif.mac,
            attachment: Some(attachment),
            model: vif.model,
            logical_network: vif.network.map(Into::into),
            policy: vif.policy.map(Into::into),
            tap: vif.tap,
            mtu_bytes: vif.mtu,
            vlan: vif.vlan.map(|vlan| u16::from(vlan).into()),
        }
    }
}

impl TryFrom<v1::Vif> for Vif {
    type Error = Invalid;

    fn try_from(vif: v1::Vif) -> Result<Self, Invalid> {
        let attachment = match vif.attachment.ok_or(Invalid { field: "vif.attachment" })? {
            vif::Attachment::Bridge(bridge) => VifAttachment::Bridge { bridge },
            vif::Attachment::Network(network) => VifAttachment::Network { network },
            vif::Attachment::Other(kind) => VifAttachment::Other { kind },
        };
        Ok(Self {
            mac: vif.mac,
            attachment,
            model: vif.model,
            network: vif.logical_network.map(TryInto::try_into).transpose().map_err(invalid("vif.logical_network"))?,
            policy: vif.policy.map(TryInto::try_into).transpose()?,
            tap: vif.tap,
            mtu: vif.mtu_bytes,
            vlan: vif.vlan.map(vlan).transpose()?,
        })
    }
}

fn vlan(number: u32) -> Result<VlanId, Invalid> {
    u16::try_from(number).map_err(invalid("vif.vlan"))?.try_into().map_err(invalid("vif.vlan"))
}

/// Adds to vifs that a definition names what only the source knows of them.
pub(super) fn complete(vifs: &mut [Vif], known: Vec<Vif>) {
    for known in known {
        if let Some(vif) = vifs.iter_mut().find(|vif| vif.mac == known.mac) {
            *vif = known;
        }
    }
}

impl From<InterfaceLabel> for v1::VifLabel {
    fn from(InterfaceLabel { mac, network, policy }: InterfaceLabel) -> Self {
        Self { mac: written(mac), logical_network: network.map(Into::into), policy: policy.map(Into::into) }
    }
}

impl TryFrom<v1::VifLabel> for InterfaceLabel {
    type Error = Invalid;

    fn try_from(label: v1::VifLabel) -> Result<Self, Invalid> {
        Ok(Self {
            mac: label.mac.parse().map_err(invalid("label.mac"))?,
            network: label
                .logical_network
                .map(TryInto::try_into)
                .transpose()
                .map_err(invalid("label.logical_network"))?,
            policy: label.policy.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Policy> for v1::Policy {
    fn from(Policy { addresses, groups, rules }: Policy) -> Self {
        Self {
            addresses: addresses.into_iter().map(|address| address.to_string()).collect(),
            groups: groups.into_iter().map(Into::into).collect(),
            rules: rules.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = Invalid;

    fn try_from(policy: v1::Policy) -> Result<Self, Invalid> {
        let addresses = policy.addresses.iter().map(|text| text.parse().map_err(invalid("policy.addresses")));
        let groups = policy.groups.into_iter().map(|name| name.try_into().map_err(invalid("policy.groups")));
        Ok(Self {
            addresses: addresses.collect::<Result<_, _>>()?,
            groups: groups.collect::<Result<_, _>>()?,
            rules: policy.rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Rule> for v1::PolicyRule {
    fn from(Rule { direction, protocol, ports, peer }: Rule) -> Self {
        let direction = match direction {
            Direction::Ingress => policy_rule::Direction::Ingress,
            Direction::Egress => policy_rule::Direction::Egress,
        };
        Self {
            direction: direction.into(),
            protocol: protocol.to_string(),
            ports: ports.map(|Ports { first, last }| policy_rule::Ports { first: first.into(), last: last.into() }),
            peer: match peer {
                Peer::Anyone => None,
                Peer::Net(net) => Some(policy_rule::Peer::Net(net.to_string())),
                Peer::Group(group) => Some(policy_rule::Peer::Group(group.into())),
            },
        }
    }
}

impl TryFrom<v1::PolicyRule> for Rule {
    type Error = Invalid;

    fn try_from(rule: v1::PolicyRule) -> Result<Self, Invalid> {
        let direction = match rule.direction() {
            policy_rule::Direction::Unspecified => return Err(Invalid { field: "rule.direction" }),
            policy_rule::Direction::Ingress => Direction::Ingress,
            policy_rule::Direction::Egress => Direction::Egress,
        };
        let protocol: Protocol = rule.protocol.parse().map_err(invalid("rule.protocol"))?;
        let ports = rule.ports.map(|policy_rule::Ports { first, last }| format!("{first}-{last}").parse());
        let peer = match rule.peer {
            None => Peer::Anyone,
            Some(policy_rule::Peer::Net(net)) => net.parse().map_err(invalid("rule.net"))?,
            Some(policy_rule::Peer::Group(group)) => Peer::Group(group.try_into().map_err(invalid("rule.group"))?),
        };
        let ports = ports.transpose().map_err(invalid("rule.ports"))?;
        Self::new(direction, protocol, ports, peer).map_err(invalid("rule"))
    }
}

pub(super) fn wire_filters(filters: &[FilterDefinition]) -> Vec<String> {
    filters.iter().map(|filter| filter.xml().to_owned()).collect()
}

pub(super) fn filters(filters: &[String]) -> Result<Vec<FilterDefinition>, Invalid> {
    filters.iter().map(|xml| FilterDefinition::parse(xml).map_err(invalid("leaving.libvirt_filters"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vif_may_arrives_as_it_was_said() {
        let rule = |text: &str| Rule::parse(Direction::Ingress, text).expect("valid");
        let policy = Policy {
            addresses: ["192.0.2.7".parse().expect("valid")].into(),
            groups: ["web".parse().expect("valid")].into(),
            rules: ["tcp:80-443@192.0.2.0/24", "any@group=web", "47"].map(rule).into(),
        };
        let label = InterfaceLabel {
            mac: "52:54:00:a0:00:01".parse().expect("valid"),
            network: Some("blue".parse().expect("valid")),
            policy: Some(policy),
        };
        assert_eq!(InterfaceLabel::try_from(v1::VifLabel::from(label.clone())), Ok(label.clone()));
        let mut wire = v1::VifLabel::from(label);
        wire.policy.as_mut().expect("there").rules[0].ports = Some(policy_rule::Ports { first: 2, last: 1 });
        assert!(InterfaceLabel::try_from(wire).is_err());
    }

    #[test]
    fn a_filter_arrives_without_its_uuid_and_what_is_none_does_not() {
        let xml = |uuid| format!("<filter name='web'>{uuid}<filterref filter='base'/></filter>");
        let sent = FilterDefinition::parse(&xml("<uuid>2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01</uuid>")).expect("valid");
        assert_eq!(filters(&wire_filters(&[sent])), Ok(vec![FilterDefinition::parse(&xml("")).expect("valid")]));
        assert_eq!(filters(&["<domain/>".into()]), Err(Invalid { field: "leaving.libvirt_filters" }));
    }
}
