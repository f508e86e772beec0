//! What a vif may send and receive: its addresses, and the rules of its security groups.

mod flows;
mod groups;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

pub use self::{
    flows::{Ends, Flow, Flows, Subject},
    groups::{GroupReport, Member, Memberships, Told, gather, member_of_placed, memberships, named},
    text::InvalidRule,
};
use crate::{id::name, identity::is_label, network::LinkName};

/// What a vif may send and receive. It may never send with another MAC address than its own, offer addresses by DHCP, or
/// advertise itself as a router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// The addresses that the guest may use, by IP, ARP and ND, beside the link-local one that follows from its MAC address. None:
    /// any.
    pub addresses: BTreeSet<IpAddr>,
    /// The groups that it is a member of, with all its addresses.
    pub groups: BTreeSet<GroupName>,
    /// What is let through. A direction of which no rule speaks is open; of one of which a rule speaks, only what a rule allows
    /// and the answers to what was let through the other way.
    pub rules: BTreeSet<Rule>,
}

/// A security group's name: the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

name!(GroupName, is_label, "security group's name");

/// Lets something through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Whether the guest receives it or sends it.
    pub direction: Direction,
    /// What it is.
    pub protocol: Protocol,
    /// Destination ports, of TCP and UDP only. None: all.
    pub ports: Option<Ports>,
    /// Who is at the other end.
    pub peer: Peer,
}

/// As the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the guest.
    Ingress,
    /// From the guest.
    Egress,
}

/// What is carried in IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// All of IPv4 and IPv6.
    Any,
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// ICMP, of IPv4.
    Icmp,
    /// ICMP of IPv6. What IPv6 cannot do without (ND, multicast listeners) is never dropped by rules.
    Icmpv6,
    /// Another by its number.
    Number(u8),
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last; not before the first.
    pub last: u16,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Anybody.
    Anyone,
    /// Addresses with a common beginning.
    Net(IpNet),
    /// The members of a group.
    Group(GroupName),
}

/// Which addresses the members of each group have.
pub type Members = BTreeMap<GroupName, BTreeSet<IpAddr>>;

/// A vif with a policy, where it is on a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Guarded {
    /// Its tap.
    pub tap: LinkName,
    /// The guest's MAC address.
    pub mac: MacAddr6,
    /// What it may.
    pub policy: Policy,
}

impl Policy {
    /// Whether a rule speaks of this direction, so that it is not open.
    pub fn restricts(&self, direction: Direction) -> bool {
        self.rules.iter().any(|rule| rule.direction == direction)
    }

    /// Whether groups have to do with it: the guest is in one, or a rule names one.
    pub fn concerns_groups(&self) -> bool {
        !self.groups.is_empty() || self.rules.iter().any(|rule| matches!(rule.peer, Peer::Group(_)))
    }
}

impl Direction {
    /// The other way.
    pub fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

impl Guarded {
    /// All addresses that the guest may use; none: any.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let addresses = &self.policy.addresses;
        if addresses.is_empty() {
            return BTreeSet::new();
        }
        addresses.iter().copied().chain([IpAddr::V6(link_local(self.mac))]).collect()
    }
}

/// The link-local address that follows from a MAC address, by RFC 4291.
pub fn link_local(mac: MacAddr6) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.into_array();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_has_one_link_local_address() {
        let mac = MacAddr6::new(0x52, 0x54, 0, 0x12, 0x34, 0x56);
        assert_eq!(link_local(mac).to_string(), "fe80::5054:ff:fe12:3456");
    }
}
