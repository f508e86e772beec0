//! Logical networks: what guests are plugged into, whatever carries it on the host they are on.

mod carried;
mod holder;
mod link;

use std::{collections::BTreeSet, fmt, net::IpAddr};

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    carried::{Carried, Down, Feature, Hindrance},
    holder::{HeldKind, HeldLink, Holder},
    link::LinkName,
};
use crate::{
    id::{InstanceId, name},
    identity::is_label,
};

/// A logical network's name: the same on every host that carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

name!(NetworkName, is_label, "network name");

/// How one host carries a logical network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Network {
    /// Its name on every host.
    pub name: NetworkName,
    /// What carries it here.
    pub carrier: Carrier,
    /// The largest packet in bytes; none: what the carrier gives.
    pub mtu: Option<u32>,
}

/// What carries a network on a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Carrier {
    /// A bridge that the administrator has made. It is never changed.
    Bridge {
        /// Its name.
        bridge: LinkName,
    },
    /// A VLAN of a bridge that the administrator has made and that filters VLANs.
    BridgeVlan {
        /// Its name.
        bridge: LinkName,
        /// Which.
        vlan: VlanId,
    },
    /// A VLAN of a link, on a bridge of its own.
    UplinkVlan {
        /// The link: `eth1`.
        uplink: LinkName,
        /// Which.
        vlan: VlanId,
    },
    /// A VXLAN, on a bridge of its own.
    Vxlan {
        /// Which.
        vni: Vni,
        /// This host's address in the underlay.
        local: IpAddr,
        /// The link that leads to the other hosts. A group needs one.
        device: Option<LinkName>,
        /// Where the other hosts are.
        remotes: Remotes,
        /// UDP port of all of them.
        port: u16,
    },
    /// A bridge of Open vSwitch that the administrator has made.
    Ovs {
        /// Its name: `br-int`.
        bridge: LinkName,
        /// The VLAN that the guests' ports get.
        vlan: Option<VlanId>,
    },
}

/// Where a VXLAN's other ends are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remotes {
    /// A multicast group of them.
    Group(IpAddr),
    /// Their addresses; this host's own may be among them.
    Peers(BTreeSet<IpAddr>),
}

/// UDP port of VXLAN, of RFC 7348.
pub const VXLAN_PORT: u16 = 4789;

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { bridge } => write!(f, "bridge {bridge}"),
            Self::BridgeVlan { bridge, vlan } => write!(f, "VLAN {vlan} of bridge {bridge}"),
            Self::UplinkVlan { uplink, vlan } => write!(f, "VLAN {vlan} of {uplink}"),
            Self::Vxlan { vni, .. } => write!(f, "VXLAN {vni}"),
            Self::Ovs { bridge, vlan: None } => write!(f, "Open vSwitch bridge {bridge}"),
            Self::Ovs { bridge, vlan: Some(vlan) } => write!(f, "VLAN {vlan} of Open vSwitch bridge {bridge}"),
        }
    }
}

/// A VLAN's number, of IEEE 802.1Q: 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

/// A VXLAN's number: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not between {least} and {most}")]
pub struct OutOfRange {
    /// What was said.
    pub value: u32,
    /// The least that is one.
    pub least: u32,
    /// The greatest.
    pub most: u32,
}

impl TryFrom<u16> for VlanId {
    type Error = OutOfRange;

    fn try_from(value: u16) -> Result<Self, Self::Error> {
        if (1..=4094).contains(&value) {
            return Ok(Self(value));
        }
        Err(OutOfRange { value: value.into(), least: 1, most: 4094 })
    }
}

impl From<VlanId> for u16 {
    fn from(VlanId(value): VlanId) -> Self {
        value
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for Vni {
    type Error = OutOfRange;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        let (least, most) = (1, (1 << 24) - 1);
        if (least..=most).contains(&value) { Ok(Self(value)) } else { Err(OutOfRange { value, least, most }) }
    }
}

impl From<Vni> for u32 {
    fn from(Vni(value): Vni) -> Self {
        value
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual interface among all: a guest's is known by its MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VifId {
    /// The guest.
    pub instance: InstanceId,
    /// The address.
    pub mac: MacAddr6,
}

impl fmt::Display for VifId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vif {} of {}", self.mac.to_string().to_lowercase(), self.instance)
    }
}

/// A vif that is plugged into a logical network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plug {
    /// Which vif.
    pub vif: VifId,
    /// The network, as the host carries it.
    pub network: Network,
}

impl VifId {
    /// By what those who steer Open vSwitch know it: its port's `iface-id`. The same on every host.
    pub fn interface_id(&self) -> Uuid {
        Uuid::new_v5(&NAMES, self.to_string().as_bytes())
    }
}

impl Plug {
    /// Whom what is made is for: the network, or the vif alone.
    pub fn holder(&self) -> Holder {
        match &self.network.carrier {
            Carrier::Ovs { .. } => Holder::Vif(self.vif),
            _ => Holder::Network(self.network.name.clone()),
        }
    }

    /// The bridge that the guest's tap is to be a port of.
    pub fn bridge(&self) -> LinkName {
        match &self.network.carrier {
            Carrier::Bridge { bridge } => bridge.clone(),
            Carrier::BridgeVlan { .. } | Carrier::UplinkVlan { .. } | Carrier::Vxlan { .. } => {
                made('b', &self.network.name.0)
            }
            // Who steers Open vSwitch knows each vif by a port of its own.
            Carrier::Ovs { .. } => made('b', &self.vif.to_string()),
        }
    }

    /// The port of [the bridge](Self::bridge) that leads to the other hosts, where VMFerry makes it.
    pub fn uplink(&self) -> Option<LinkName> {
        match &self.network.carrier {
            Carrier::Bridge { .. } => None,
            Carrier::BridgeVlan { .. } | Carrier::UplinkVlan { .. } | Carrier::Vxlan { .. } => {
                Some(made('u', &self.network.name.0))
            }
            Carrier::Ovs { .. } => Some(made('u', &self.vif.to_string())),
        }
    }

    /// The other end of [the uplink](Self::uplink), where that is one end of a pair: the port of the administrator's bridge.
    pub fn port(&self) -> Option<LinkName> {
        match &self.network.carrier {
            Carrier::Bridge { .. } | Carrier::UplinkVlan { .. } | Carrier::Vxlan { .. } => None,
            Carrier::BridgeVlan { .. } => Some(made('p', &self.network.name.0)),
            Carrier::Ovs { .. } => Some(made('p', &self.vif.to_string())),
        }
    }
}

/// The name of the tap of a vif that VMFerry filters: known before libvirt makes it, so that the filters are there first.
pub fn tap(vif: VifId) -> LinkName {
    made('t', &vif.to_string())
}

/// Whether the name of a link says that VMFerry has made it, or has given it to libvirt.
pub fn is_made(link: &str) -> bool {
    link.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == 1 + DIGITS
            && rest.starts_with(['b', 'u', 'p', 't'])
            && rest[1..].bytes().all(|b| b.is_ascii_hexdigit())
    })
}

const PREFIX: &str = "vmf";
const DIGITS: usize = 10;

/// The namespace of the names below, a UUID of version 4 drawn for them.
const NAMES: Uuid = Uuid::from_u128(0x5f0e_0c4f_3b1d_4c43_9a52_77c1_0b6f_6a1e);

/// The same for the same: what a link is for, and for whom. The kernel leaves fifteen characters.
fn made(purpose: char, whose: &str) -> LinkName {
    let hash = Uuid::new_v5(&NAMES, whose.as_bytes()).simple().to_string();
    LinkName::known(format!("{PREFIX}{purpose}{}", &hash[..DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(carrier: Carrier) -> Network {
        Network { name: "blue".parse().expect("valid"), carrier, mtu: None }
    }

    fn vif(last: u8) -> VifId {
        VifId { instance: InstanceId(Uuid::from_u128(1)), mac: MacAddr6::new(0x52, 0x54, 0, 0, 0, last) }
    }

    #[test]
    fn what_is_made_has_one_name_for_the_network_or_for_each_vif() {
        let link = |name: &str| name.parse::<LinkName>().expect("valid");
        let vlan = VlanId::try_from(7).expect("valid");
        let shared = network(Carrier::UplinkVlan { uplink: link("eth1"), vlan });
        let own = network(Carrier::Ovs { bridge: link("br-int"), vlan: Some(vlan) });
        let plug = |network: &Network, last| Plug { vif: vif(last), network: network.clone() };
        assert_eq!(plug(&shared, 1).bridge(), plug(&shared, 2).bridge());
        assert_ne!(plug(&own, 1).bridge(), plug(&own, 2).bridge());
        let (one, same) = (plug(&own, 1), plug(&own, 1));
        assert_eq!((one.bridge(), one.uplink(), one.port()), (same.bridge(), same.uplink(), same.port()));
        for name in [Some(one.bridge()), one.uplink(), one.port(), Some(tap(vif(1)))].into_iter().flatten() {
            assert!(is_made(name.as_str()), "{name}");
        }
        let given = plug(&network(Carrier::Bridge { bridge: link("br0") }), 1);
        assert_eq!((given.bridge().as_str(), given.uplink(), given.port()), ("br0", None, None));
        assert!(!is_made("vmfb") && !is_made("br0") && !is_made("vmfx0123456789"));
    }

    #[test]
    fn numbers_have_their_bounds() {
        assert!([1, 4094].map(VlanId::try_from).iter().all(Result::is_ok));
        assert!([0, 4095].map(VlanId::try_from).iter().all(Result::is_err));
        assert_eq!(Vni::try_from(0).expect_err("none").to_string(), "0 is not between 1 and 16777215");
        assert!(Vni::try_from(1 << 24).is_err());
    }
}
