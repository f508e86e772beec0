//! Plumbing on a real kernel and a real Open vSwitch, in network namespaces of its own; judged by `ip`, `bridge`,
//! `ovs-vsctl` and packets, not by the code that made it. Needs root.

mod announce;
mod bridge;
mod namespace;
mod ovs;
mod vlan;
mod vxlan;

use std::net::IpAddr;

use macaddr::MacAddr6;
use namespace::Namespace;
use uuid::Uuid;
use vmferry_agent::network::{Networks, Plumber};
use vmferry_core::{
    id::{InstanceId, MigrationId},
    network::{Carrier, LinkName, Network, Plug, Remotes, VXLAN_PORT, VifId, VlanId, Vni},
};

fn link(name: &str) -> LinkName {
    name.parse().expect("valid")
}

fn vlan(id: u16) -> VlanId {
    VlanId::try_from(id).expect("valid")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("valid")
}

fn migration(number: u128) -> MigrationId {
    MigrationId(Uuid::from_u128(number))
}

fn network(name: &str, carrier: Carrier) -> Network {
    Network { name: name.parse().expect("valid"), carrier, mtu: None }
}

/// The vif of a guest's that has this number.
fn plug(network: &Network, number: u8) -> Plug {
    let vif =
        VifId { instance: InstanceId(Uuid::from_u128(number.into())), mac: MacAddr6::new(0x52, 0x54, 0, 0, 0, number) };
    Plug { vif, network: network.clone() }
}

fn vxlan(local: &str, remotes: Remotes) -> Carrier {
    Carrier::Vxlan {
        vni: Vni::try_from(5001).expect("valid"),
        local: address(local),
        device: Some(link("eth0")),
        remotes,
        port: VXLAN_PORT,
    }
}

fn peers(addresses: &[&str]) -> Remotes {
    Remotes::Peers(addresses.iter().map(|peer| address(peer)).collect())
}

/// One VXLAN, seen from each of two hosts that know each other's addresses.
fn green() -> [Network; 2] {
    ["192.0.2.1", "192.0.2.2"].map(|local| network("green", vxlan(local, peers(&["192.0.2.1", "192.0.2.2"]))))
}

fn plumber() -> Plumber {
    Plumber::new(Networks::default())
}

/// Plugs in, or says why not.
fn plugged(host: &Namespace, plumber: &Plumber, plug: &Plug) -> Result<(), String> {
    host.run(async || plumber.plug(None, plug).await).map_err(|fault| fault.message)
}

fn unplugged(host: &Namespace, plumber: &Plumber, plug: &Plug) {
    host.run(async || plumber.unplug(None, plug, false).await).expect("taken away");
}

/// What is in the way, for a guest with packets of up to `mtu` bytes, as people read it; and what fits.
fn judged(host: &Namespace, network: &Network, mtu: Option<u32>) -> (u32, Vec<String>) {
    let plumber = plumber();
    let carried = host.run(async || plumber.judge(network, mtu).await).expect("judged");
    (carried.mtu, carried.hindrances.iter().map(ToString::to_string).collect())
}
