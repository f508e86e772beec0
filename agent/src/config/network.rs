use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf};

use serde::Deserialize;
use vmferry_core::network::{Carrier, Network, Remotes, VXLAN_PORT, VlanId, Vni};

use super::check;
use crate::network::{Networks, OVS_DATABASE};

/// The smallest packet that IPv4 hosts must take, RFC 791; the largest there is.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;

#[derive(Debug, Default, Deserialize)]
pub(super) struct OvsTable {
    database: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct NetworkTable {
    name: Option<String>,
    bridge: Option<String>,
    uplink: Option<String>,
    ovs: Option<String>,
    vxlan: Option<VxlanTable>,
    vlan: Option<i64>,
    mtu: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct VxlanTable {
    vni: Option<i64>,
    local: Option<String>,
    device: Option<String>,
    group: Option<String>,
    peers: Option<Vec<String>>,
    port: Option<i64>,
}

/// Every problem is added to the others.
pub(super) fn networks(problems: &mut Vec<String>, tables: Vec<NetworkTable>, ovs: OvsTable) -> Networks {
    let database = ovs.database.unwrap_or_else(|| OVS_DATABASE.into());
    let wanted = "the path of a UNIX socket, e.g. \"/var/run/openvswitch/db.sock\"";
    let database = check(problems, Some(database), "ovs.database", wanted, |database| {
        if database.is_absolute() { Ok(database) } else { Err(format!("{} is not absolute", database.display())) }
    });
    let mut networks = Vec::<Network>::new();
    for (index, table) in tables.into_iter().enumerate() {
        let mut judge = Judge { problems, number: index + 1 };
        let Some(network) = judge.network(table) else { continue };
        for other in &networks {
            judge.beside(other, &network);
        }
        networks.push(network);
    }
    Networks::new(networks).with_ovs_database(database.unwrap_or_default())
}

/// Judges one network's table.
struct Judge<'a> {
    problems: &'a mut Vec<String>,
    /// As a person counts them in the file.
    number: usize,
}

impl Judge<'_> {
    fn problem(&mut self, keys: &str, problem: impl fmt::Display) {
        self.problems.push(format!("network {} ({keys}): {problem}", self.number));
    }

    fn value<T, U>(
        &mut self,
        value: Option<T>,
        key: &str,
        wanted: &str,
        judge: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        check(self.problems, value, &format!("network {} ({key})", self.number), wanted, judge)
    }

    fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        text: Option<String>,
        key: &str,
        wanted: &str,
    ) -> Option<T> {
        self.value(text, key, wanted, |text| text.parse().map_err(|error: T::Err| format!("`{text}`: {error}")))
    }

    fn link<T: std::str::FromStr<Err: fmt::Display>>(&mut self, text: Option<String>, key: &str) -> Option<T> {
        self.parsed(text, key, "the name of a link of this host, e.g. \"eth1\"")
    }

    fn network(&mut self, table: NetworkTable) -> Option<Network> {
        let name = self.parsed(table.name, "name", "the network's name, the same on every host, e.g. \"blue\"");
        let mtu = table.mtu.map(|mtu| {
            self.value(Some(mtu), "mtu", "its largest packet in bytes, e.g. 1450", |mtu| {
                let good = u32::try_from(mtu).ok().filter(|mtu| MTUS.contains(mtu));
                good.ok_or_else(|| format!("{mtu} is not between {} and {}", MTUS.start(), MTUS.end()))
            })
        });
        let vlan = table.vlan.map(|vlan| {
            self.value(Some(vlan), "vlan", "a VLAN's number, e.g. 20", |vlan| {
                let short = u16::try_from(vlan).ok().and_then(|vlan| VlanId::try_from(vlan).ok());
                short.ok_or_else(|| format!("{vlan} is not between 1 and 4094"))
            })
        });
        let has_vlan = vlan.is_some();
        let carrier = match (table.bridge, table.uplink, table.ovs, table.vxlan) {
            (Some(bridge), None, None, None) => {
                let bridge = self.link(Some(bridge), "bridge");
                if has_vlan {
                    bridge.zip(vlan.flatten()).map(|(bridge, vlan)| Carrier::BridgeVlan { bridge, vlan })
                } else {
                    bridge.map(|bridge| Carrier::Bridge { bridge })
                }
            }
            (None, Some(uplink), None, None) => {
                let uplink = self.link(Some(uplink), "uplink");
                if !has_vlan {
                    self.problem("vlan", "is missing; write the VLAN of the uplink, or name a bridge instead");
                }
                uplink.zip(vlan.flatten()).map(|(uplink, vlan)| Carrier::UplinkVlan { uplink, vlan })
            }
            (None, None, Some(ovs), None) => {
                let bridge = self.link(Some(ovs), "ovs");
                // One that is wrong is not none.
                if has_vlan && vlan.flatten().is_none() {
                    None
                } else {
                    bridge.map(|bridge| Carrier::Ovs { bridge, vlan: vlan.flatten() })
                }
            }
            (None, None, None, Some(vxlan)) => {
                if has_vlan {
                    self.problem("vlan", "a VXLAN has none; remove it");
                }
                self.vxlan(vxlan)
            }
            (None, None, None, None) => {
                self.problem("bridge, uplink, vxlan, ovs", "nothing carries it; write one of them");
                None
            }
            _ => {
                self.problem("bridge, uplink, vxlan, ovs", "more than one carries it; write only one of them");
                None
            }
        };
        if mtu.is_some_and(|mtu| mtu.is_none()) {
            return None;
        }
        Some(Network { name: name?, carrier: carrier?, mtu: mtu.flatten() })
    }

    fn vxlan(&mut self, table: VxlanTable) -> Option<Carrier> {
        let vni = self.value(table.vni, "vxlan.vni", "the VXLAN's number, e.g. 5001", |vni| {
            let short = u32::try_from(vni).ok().and_then(|vni| Vni::try_from(vni).ok());
            short.ok_or_else(|| format!("{vni} is not between 1 and 16777215"))
        });
        let wanted = "this host's address in the underlay, e.g. \"192.0.2.11\"";
        let local = self.parsed::<IpAddr>(table.local, "vxlan.local", wanted);
        let local = local.and_then(|local| self.value(Some(local), "vxlan.local", wanted, unicast));
        let port = self.value(Some(table.port.unwrap_or(VXLAN_PORT.into())), "vxlan.port", "a UDP port", |port| {
            u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| format!("{port} is none"))
        });
        let device = table.device.map(|device| self.link(Some(device), "vxlan.device"));
        let remotes = match (table.group, table.peers) {
            (Some(group), None) => {
                if device.is_none() {
                    self.problem("vxlan.device", "is missing; a group needs the link that leads to it, e.g. \"eth0\"");
                }
                self.group(group, local).map(Remotes::Group)
            }
            (None, Some(peers)) => self.peers(peers, local).map(Remotes::Peers),
            (group, _) => {
                let what = if group.is_some() { "both are there" } else { "neither is there" };
                self.problem("vxlan.group, vxlan.peers", format!("{what}; write one of them"));
                None
            }
        };
        if device.as_ref().is_some_and(Option::is_none) {
            return None;
        }
        Some(Carrier::Vxlan { vni: vni?, local: local?, device: device.flatten(), remotes: remotes?, port: port? })
    }

    fn group(&mut self, text: String, local: Option<IpAddr>) -> Option<IpAddr> {
        let wanted = "a multicast address of `local`'s family, e.g. \"239.1.1.1\"";
        let group = self.parsed::<IpAddr>(Some(text), "vxlan.group", wanted)?;
        self.value(Some(group), "vxlan.group", wanted, |group| match local {
            _ if !group.is_multicast() => Err(format!("{group} is not multicast")),
            Some(local) if local.is_ipv4() != group.is_ipv4() => Err(format!("{group} is not of {local}'s family")),
            _ => Ok(group),
        })
    }

    fn peers(&mut self, texts: Vec<String>, local: Option<IpAddr>) -> Option<BTreeSet<IpAddr>> {
        let wanted = "the other hosts' addresses, of `local`'s family, e.g. [\"192.0.2.12\"]";
        let all = texts.len();
        let peers = texts.into_iter().filter_map(|text| {
            let peer = self.parsed::<IpAddr>(Some(text), "vxlan.peers", wanted)?;
            self.value(Some(peer), "vxlan.peers", wanted, |peer| match local {
                Some(local) if local.is_ipv4() != peer.is_ipv4() => Err(format!("{peer} is not of {local}'s family")),
                _ => unicast(peer),
            })
        });
        let peers = peers.collect::<Vec<_>>();
        if all == 0 {
            self.problem("vxlan.peers", format!("is empty; write {wanted}"));
        }
        (peers.len() == all && all > 0).then(|| peers.into_iter().collect())
    }

    /// Two networks that would be one, or that the host cannot tell apart.
    fn beside(&mut self, other: &Network, network: &Network) {
        if other.name == network.name {
            self.problem("name", format!("another network is `{}`; rename one of them", other.name));
        }
        let same = match (&other.carrier, &network.carrier) {
            (Carrier::Vxlan { vni, .. }, Carrier::Vxlan { vni: this, .. }) => vni == this,
            (one, other) => one == other,
        };
        if same {
            let keys = match &network.carrier {
                Carrier::Vxlan { .. } => "vxlan.vni",
                Carrier::Bridge { .. } => "bridge",
                Carrier::BridgeVlan { .. } => "bridge, vlan",
                Carrier::UplinkVlan { .. } => "uplink, vlan",
                Carrier::Ovs { .. } => "ovs, vlan",
            };
            self.problem(keys, format!("{} carries `{}` already; remove one of them", network.carrier, other.name));
        }
    }
}

fn unicast(address: IpAddr) -> Result<IpAddr, String> {
    if address.is_multicast() || address.is_unspecified() {
        Err(format!("{address} is no host's"))
    } else {
        Ok(address)
    }
}

#[cfg(test)]
mod tests;
