use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{LinkName, NetworkName, Vni};

/// Whether and how a host carries a network now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The largest packet in bytes; 0 if what would carry it is not there.
    pub mtu: u32,
    /// Everything in the way; empty: the host carries it.
    pub hindrances: Vec<Hindrance>,
}

/// Why a host cannot carry a network. Its text names the object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Hindrance {
    /// A link that the administrator should have made is not there.
    LinkMissing {
        /// Its name.
        link: LinkName,
    },
    /// A link is something else.
    NotABridge {
        /// Its name.
        link: LinkName,
    },
    /// A link is down, or nothing is at its other end.
    LinkDown {
        /// Its name.
        link: LinkName,
        /// Which of the two.
        why: Down,
    },
    /// A bridge does not tell VLANs apart.
    NotVlanAware {
        /// Its name.
        bridge: LinkName,
    },
    /// The host's kernel cannot do it.
    KernelLacks {
        /// What it cannot do.
        what: Feature,
    },
    /// No link has the address from which a VXLAN would be sent.
    AddressMissing {
        /// The address.
        address: IpAddr,
    },
    /// Another link has the VXLAN already.
    VniTaken {
        /// Which.
        vni: Vni,
        /// Whose it is.
        by: LinkName,
    },
    /// A link that VMFerry would make is there, and is somebody else's.
    NameTaken {
        /// Its name.
        link: LinkName,
    },
    /// Open vSwitch does not answer.
    OvsMissing {
        /// What it, or its client, said.
        why: String,
    },
    /// Open vSwitch has no such bridge.
    OvsBridgeMissing {
        /// Its name.
        bridge: LinkName,
    },
    /// Packets would not fit.
    MtuTooSmall {
        /// The network.
        network: NetworkName,
        /// The largest that fits, in bytes.
        mtu: u32,
        /// The largest that is sent, in bytes.
        needed: u32,
    },
}

/// How a link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Down {
    /// It is switched off.
    Off,
    /// It is on, and has no carrier.
    NoCarrier,
}

/// A part of the kernel that a host may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// VLAN devices.
    VlanDevices,
    /// Bridges that filter VLANs.
    BridgeVlanFiltering,
    /// VXLAN devices.
    Vxlan,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VlanDevices => "VLAN devices (CONFIG_VLAN_8021Q)",
            Self::BridgeVlanFiltering => "VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)",
            Self::Vxlan => "VXLAN (CONFIG_VXLAN)",
        })
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkMissing { link } => write!(f, "there is no link {link}"),
            Self::NotABridge { link } => write!(f, "{link} is not a bridge"),
            Self::LinkDown { link, why: Down::Off } => write!(f, "{link} is down"),
            Self::LinkDown { link, why: Down::NoCarrier } => write!(f, "{link} has no carrier"),
            Self::NotVlanAware { bridge } => write!(f, "bridge {bridge} does not filter VLANs"),
            Self::KernelLacks { what } => write!(f, "the kernel has no {what}"),
            Self::AddressMissing { address } => write!(f, "no link has the address {address}"),
            Self::VniTaken { vni, by } => write!(f, "VXLAN {vni} is {by}'s already"),
            Self::NameTaken { link } => write!(f, "there is a link {link} that VMFerry has not made"),
            Self::OvsMissing { why } => write!(f, "Open vSwitch does not answer: {why}"),
            Self::OvsBridgeMissing { bridge } => write!(f, "Open vSwitch has no bridge {bridge}"),
            Self::MtuTooSmall { network, mtu, needed } => {
                write!(f, "network {network} takes packets of up to {mtu} bytes, and they have up to {needed}")
            }
        }
    }
}

impl Hindrance {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::LinkMissing { link } => {
                format!("make {link}, or name another in the agent's configuration")
            }
            Self::NotABridge { .. } => "name a bridge in the agent's configuration".to_owned(),
            Self::LinkDown { link, why: Down::Off } => format!("run `ip link set {link} up`"),
            Self::LinkDown { link, why: Down::NoCarrier } => {
                format!("see to the other end of {link}: cable, switch port, or link in another namespace")
            }
            Self::NotVlanAware { bridge } => {
                format!("run `ip link set {bridge} type bridge vlan_filtering 1`, or name an uplink instead")
            }
            Self::KernelLacks { .. } => {
                "use a kernel that has it, or carry the network in another way on this host".to_owned()
            }
            Self::AddressMissing { address } => {
                format!("give {address} to a link, or correct `local` in the agent's configuration")
            }
            Self::VniTaken { by, .. } => {
                format!("remove {by}, or name its bridge as the network's in the agent's configuration")
            }
            Self::NameTaken { link } => format!("find out whose {link} is, and rename or remove it"),
            Self::OvsMissing { .. } => {
                "start it (`systemctl start openvswitch-switch`), or correct `ovs.database`".to_owned()
            }
            Self::OvsBridgeMissing { bridge } => {
                format!("run `ovs-vsctl add-br {bridge}`, or name another in the agent's configuration")
            }
            Self::MtuTooSmall { .. } => {
                "give what carries the network a larger MTU, or the network and its guests a smaller one".to_owned()
            }
        }
    }
}
