use std::net::IpAddr;

use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use vmferry_core::network::LinkName;

/// A link of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Link {
    /// Its number in its network namespace.
    pub(in crate::network) index: u32,
    /// Its name.
    pub(in crate::network) name: LinkName,
    /// Whether it is switched on.
    pub(in crate::network) up: bool,
    /// Whether something is at its other end.
    pub(in crate::network) carrier: bool,
    /// Whether it leads nowhere but back.
    pub(in crate::network) loopback: bool,
    /// Its largest packet in bytes.
    pub(in crate::network) mtu: u32,
    /// The bridge or other link that it is a port of.
    pub(in crate::network) controller: Option<u32>,
    /// The link that it is on top of, or the other end of a pair.
    pub(in crate::network) parent: Option<u32>,
    /// What somebody wrote on it.
    pub(in crate::network) alias: Option<String>,
    /// The group it is in.
    pub(in crate::network) group: u32,
    /// What is particular to its kind.
    pub(in crate::network) special: Special,
}

/// What is particular to a kind of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) enum Special {
    /// A bridge.
    Bridge {
        /// Whether it filters VLANs; none: the kernel cannot.
        filters_vlans: Option<bool>,
    },
    /// A VLAN of its parent.
    Vlan {
        /// Which.
        id: u16,
    },
    /// A VXLAN.
    Vxlan(Tunnel),
    /// One of a pair.
    Veth,
    /// A tap or a tun: a guest's, where it is a port of a bridge.
    Tap,
    /// Any other.
    Other,
}

/// What makes a VXLAN device the one that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::network) struct Tunnel {
    /// Its VNI.
    pub(in crate::network) vni: u32,
    /// Its UDP port.
    pub(in crate::network) port: u16,
    /// Its own address.
    pub(in crate::network) local: Option<IpAddr>,
    /// The multicast group.
    pub(in crate::network) group: Option<IpAddr>,
    /// The index of the link that it sends by.
    pub(in crate::network) device: Option<u32>,
}

/// All links of a network namespace at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::network) struct Links(pub(in crate::network) Vec<Link>);

impl Links {
    /// The one of this name.
    pub(in crate::network) fn named(&self, name: &LinkName) -> Option<&Link> {
        self.0.iter().find(|link| link.name == *name)
    }

    /// The one of this index.
    pub(in crate::network) fn numbered(&self, index: u32) -> Option<&Link> {
        self.0.iter().find(|link| link.index == index)
    }

    /// The ports of a bridge.
    pub(in crate::network) fn ports(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        self.0.iter().filter(move |link| link.controller == Some(bridge))
    }
}

impl Link {
    /// None for a message about no link, or one whose name cannot be written.
    pub(super) fn read(message: &LinkMessage) -> Option<Self> {
        let (mut name, mut mtu, mut controller, mut parent, mut alias, mut group) = (None, 0, None, None, None, 0);
        let mut special = Special::Other;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = text.parse().ok(),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                LinkAttribute::Controller(index) => controller = Some(*index).filter(|index| *index != 0),
                LinkAttribute::Link(index) => parent = Some(*index).filter(|index| *index != 0),
                LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
                LinkAttribute::Group(number) => group = *number,
                LinkAttribute::LinkInfo(infos) => special = Special::read(infos),
                _ => {}
            }
        }
        let flags = message.header.flags;
        let loopback = flags.contains(LinkFlags::Loopback);
        let (up, carrier) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::LowerUp));
        Some(Self {
            index: message.header.index,
            name: name?,
            up,
            carrier,
            loopback,
            mtu,
            controller,
            parent,
            alias,
            group,
            special,
        })
    }
}

impl Special {
    fn read(infos: &[LinkInfo]) -> Self {
        let kind = infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
        let data = infos.iter().find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None });
        match (kind, data) {
            (Some(InfoKind::Bridge), Some(InfoData::Bridge(facts))) => Self::Bridge {
                filters_vlans: facts.iter().find_map(|fact| match fact {
                    InfoBridge::VlanFiltering(filters) => Some(*filters),
                    _ => None,
                }),
            },
            (Some(InfoKind::Bridge), _) => Self::Bridge { filters_vlans: None },
            (Some(InfoKind::Vlan), Some(InfoData::Vlan(facts))) => Self::Vlan {
                id: facts
                    .iter()
                    .find_map(|fact| if let InfoVlan::Id(id) = fact { Some(*id) } else { None })
                    .unwrap_or(0),
            },
            (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(facts))) => Self::Vxlan(Tunnel::read(facts)),
            (Some(InfoKind::Veth), _) => Self::Veth,
            (Some(InfoKind::Tun), _) => Self::Tap,
            _ => Self::Other,
        }
    }
}

impl Tunnel {
    fn read(facts: &[InfoVxlan]) -> Self {
        let mut tunnel = Self::default();
        for fact in facts {
            match fact {
                InfoVxlan::Id(vni) => tunnel.vni = *vni,
                InfoVxlan::Port(port) => tunnel.port = *port,
                InfoVxlan::Local(address) => tunnel.local = Some((*address).into()),
                InfoVxlan::Local6(address) => tunnel.local = Some((*address).into()),
                InfoVxlan::Group(address) => tunnel.group = Some((*address).into()),
                InfoVxlan::Group6(address) => tunnel.group = Some((*address).into()),
                InfoVxlan::Link(index) => tunnel.device = Some(*index).filter(|index| *index != 0),
                _ => {}
            }
        }
        tunnel
    }
}
