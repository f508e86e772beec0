//! How hosts carry one logical network: what is in their configuration, and what an administrator would have made.

use std::time::Duration;

use anyhow::{Context, Result};
use vmferry_core::network::{Carrier, Network, Plug, VifId, VlanId};

use crate::{
    Host, Options, Testbed,
    guest::{Domain, Guest, LinuxGuest},
    network::{OPERATOR, host_address},
    options::HostSpec,
    process,
    wait::{SOON, until},
};

/// The network's name on all hosts.
pub const NETWORK: &str = "blue";
/// The VXLAN that carries it.
pub const VNI: u32 = 5001;
const OVS_BRIDGE: &str = "br-int";
const VLAN: u16 = 10;

/// How a host carries the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A bridge of this name, which the administrator has made.
    Bridge(&'static str),
    /// A VXLAN, on a bridge that VMFerry makes.
    Vxlan,
    /// Open vSwitch.
    Ovs,
}

impl By {
    /// A host's configuration: its `[[network]]`.
    pub fn table(self, index: u8) -> String {
        let carrier = match self {
            Self::Bridge(bridge) => format!("bridge = \"{bridge}\""),
            // Smaller than the wire allows: a guest's packets must fit into the bridges of the others.
            Self::Vxlan => format!(
                "mtu = 1500\nvxlan = {{ vni = {VNI}, local = \"{}\", peers = [\"{OPERATOR}\", \"{}\", \"{}\"], \
                 device = \"underlay0\" }}",
                host_address(index),
                host_address(0),
                host_address(1)
            ),
            Self::Ovs => format!("ovs = \"{OVS_BRIDGE}\"\nvlan = {VLAN}"),
        };
        format!("\n[[network]]\nname = \"{NETWORK}\"\n{carrier}\n")
    }

    /// Makes on the host what its administrator would have made.
    pub fn prepare(self, host: &Host) -> Result<()> {
        match self {
            Self::Bridge("br0") | Self::Vxlan => Ok(()),
            Self::Bridge(name) => host.rename_guest_bridge(name),
            Self::Ovs => host.start_open_vswitch(OVS_BRIDGE, VLAN),
        }
    }

    /// What a guest's vif is plugged into there.
    pub fn bridge(self, domain: &Domain) -> Result<String> {
        // Any carrier of a kind will do: names follow from the network's, or from the vif's.
        let (link, vlan) = ("any".parse()?, VlanId::try_from(VLAN)?);
        let carrier = match self {
            Self::Bridge(bridge) => Carrier::Bridge { bridge: bridge.parse()? },
            Self::Vxlan => Carrier::UplinkVlan { uplink: link, vlan },
            Self::Ovs => Carrier::Ovs { bridge: link, vlan: Some(vlan) },
        };
        let mac = &domain.vif.as_ref().context("the guest has a vif")?.mac;
        let vif = VifId { instance: domain.uuid.parse()?, mac: mac.parse()? };
        let network = Network { name: NETWORK.parse()?, carrier, mtu: None };
        Ok(Plug { vif, network }.bridge().to_string())
    }

    /// What the administrator has made, as it is now. Guests' ports come and go.
    pub fn administrators(self, host: &Host) -> Result<String> {
        match self {
            Self::Vxlan => Ok(String::new()),
            Self::Bridge(bridge) => host.sh(&format!(
                "ip -j link show {bridge}; ip -o link show master {bridge} | awk '{{ print $2 }}' | grep -v '^\\(vnet\\|vmft\\)'"
            )),
            Self::Ovs => host.sh(&format!("ovs-vsctl get bridge {OVS_BRIDGE} external_ids other_config datapath_type
                ovs-vsctl list-ports {OVS_BRIDGE} | grep -v ^vmfp || true")),
        }
    }
}

/// Two hosts that carry the network so.
pub fn up(by: [By; 2]) -> Result<Testbed> {
    let mut hosts = HostSpec::defaults(2);
    for ((host, by), index) in hosts.iter_mut().zip(by).zip(0..) {
        host.configuration = by.table(index);
    }
    let testbed = Testbed::up(Options { hosts, ..Options::default() })?;
    if by.contains(&By::Vxlan) {
        testbed.join_vxlan(VNI)?;
    }
    for (host, by) in testbed.hosts().iter().zip(by) {
        by.prepare(host)?;
    }
    Ok(testbed)
}

/// Starts a guest on a host as if there were no VMFerry: libvirt plugs it into what there is.
pub fn start_without(testbed: &Testbed, host: &str, by: By, mut definition: LinuxGuest) -> Result<Guest> {
    let bridge = if by == By::Ovs { OVS_BRIDGE.to_owned() } else { by.bridge(&definition.domain)? };
    let vif = definition.domain.vif.as_mut().context("the guest has a vif")?;
    vif.bridge = bridge;
    if by == By::Ovs {
        vif.extra = format!("<virtualport type='openvswitch'/><vlan><tag id='{VLAN}'/></vlan>");
    }
    let guest = testbed.define(definition, host)?;
    testbed.host(host)?.virsh(["start", guest.name()])?;
    guest.wait_until_up(Duration::from_secs(60))?;
    Ok(guest)
}

/// Starts a guest on a host, plugged into the network.
pub fn start(testbed: &Testbed, host: &str, by: By, mut definition: LinuxGuest) -> Result<Guest> {
    let bridge = by.bridge(&definition.domain)?;
    definition.domain.vif.as_mut().context("the guest has a vif")?.bridge.clone_from(&bridge);
    let guest = testbed.define(definition, host)?;
    process::run(&mut testbed.vmferry(["instance", "network", "set", guest.name(), NETWORK])?)?;
    let host = testbed.host(host)?;
    // Where VMFerry makes it, it does so by itself.
    let shown = ["link", "show", &bridge];
    until(&format!("bridge {bridge}"), SOON, || Ok(host.run("ip", shown).ok()))?;
    host.virsh(["start", guest.name()])?;
    guest.wait_until_up(Duration::from_secs(60))?;
    Ok(guest)
}
