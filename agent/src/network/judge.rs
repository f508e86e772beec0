//! Whether a host carries a network: from what was read to every hindrance, without asking the host.

use std::net::IpAddr;

use vmferry_core::network::{Carried, Carrier, Down, Feature, Hindrance, Holder, LinkName, Network, Remotes, Vni};

use super::{
    link::{Link, Links, Special},
    made,
};

/// What was read from a host.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) links: Links,
    /// With the indices of their links.
    pub(super) addresses: Vec<(u32, IpAddr)>,
    /// What the kernel was asked for and does not know.
    pub(super) lacks: Option<Feature>,
    /// Open vSwitch, where the network is one of its.
    pub(super) ovs: Option<Result<OvsBridge, Hindrance>>,
}

/// A bridge of Open vSwitch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OvsBridge {
    /// The largest packet of its own port in bytes, where it has one.
    pub(super) mtu: Option<u32>,
    /// Whether Open vSwitch forwards packets itself, not the kernel.
    pub(super) userspace: bool,
}

/// Bytes of a packet that VXLAN takes: outer IP header, UDP, VXLAN, inner Ethernet.
fn overhead(local: IpAddr) -> u32 {
    if local.is_ipv4() { 50 } else { 70 }
}

/// What Ethernet gives where nobody says anything else.
const ETHERNET_MTU: u32 = 1500;

/// Every hindrance, for a guest with packets of up to `needed` bytes.
pub(super) fn judge(network: &Network, needed: Option<u32>, facts: &Facts) -> Carried {
    let mut hindrances = Vec::from_iter(facts.lacks.map(|what| Hindrance::KernelLacks { what }));
    let links = &facts.links;
    let available = match &network.carrier {
        Carrier::Bridge { bridge } => given_bridge(links, bridge, &mut hindrances).map(|bridge| bridge.mtu),
        Carrier::BridgeVlan { bridge, .. } => given_bridge(links, bridge, &mut hindrances).map(|link| {
            match link.special {
                Special::Bridge { filters_vlans: None } => {
                    hindrances.push(Hindrance::KernelLacks { what: Feature::BridgeVlanFiltering });
                }
                Special::Bridge { filters_vlans: Some(false) } => {
                    hindrances.push(Hindrance::NotVlanAware { bridge: bridge.clone() });
                }
                _ => {}
            }
            link.mtu
        }),
        Carrier::UplinkVlan { uplink, .. } => running(links, uplink, &mut hindrances).map(|uplink| uplink.mtu),
        Carrier::Vxlan { vni, local, device, remotes, port } => {
            if let Some(by) = taken(network, links, *vni, *port) {
                hindrances.push(Hindrance::VniTaken { vni: *vni, by: by.name.clone() });
            }
            let holder = facts.addresses.iter().find(|(_, address)| address == local);
            let holder = holder.and_then(|(index, _)| links.numbered(*index));
            if holder.is_none() {
                hindrances.push(Hindrance::AddressMissing { address: *local });
            }
            // Without a device packets leave by the route to a peer: most often by the link with the address.
            let device = device.as_ref().or(match remotes {
                Remotes::Peers(_) => holder.map(|link| &link.name),
                Remotes::Group(_) => None,
            });
            let device = device.and_then(|device| running(links, device, &mut hindrances));
            // An address that routing makes known is on the loopback link, whose MTU says nothing of the way.
            let underlay = device.map(|device| if device.loopback { ETHERNET_MTU } else { device.mtu });
            underlay.map(|mtu| mtu.saturating_sub(overhead(*local)))
        }
        Carrier::Ovs { .. } => match &facts.ovs {
            Some(Ok(bridge)) => Some(bridge.mtu.unwrap_or(ETHERNET_MTU)),
            Some(Err(hindrance)) => {
                hindrances.push(hindrance.clone());
                None
            }
            None => None,
        },
    };
    hindrances.extend(foreign(network, links).map(|link| Hindrance::NameTaken { link: link.name.clone() }));
    Carried { mtu: fit(network, needed, available, &mut hindrances), hindrances }
}

/// The largest packet, and whether both the administrator's word and the guest's packets fit.
fn fit(network: &Network, needed: Option<u32>, available: Option<u32>, hindrances: &mut Vec<Hindrance>) -> u32 {
    let Some(available) = available else { return network.mtu.unwrap_or(0) };
    let mut too_small =
        |mtu, needed| hindrances.push(Hindrance::MtuTooSmall { network: network.name.clone(), mtu, needed });
    // The port of its own that Open vSwitch has does not bound those of others.
    let bounded = !matches!(network.carrier, Carrier::Ovs { .. });
    let mtu = match network.mtu {
        Some(wanted) if bounded && wanted > available => {
            too_small(available, wanted);
            available
        }
        Some(wanted) => wanted,
        None => available,
    };
    if let Some(needed) = needed.filter(|needed| *needed > mtu) {
        too_small(mtu, needed);
    }
    // Both may be one number.
    hindrances.dedup();
    mtu
}

/// A bridge that the administrator has made, if it is one.
fn given_bridge<'a>(links: &'a Links, name: &LinkName, hindrances: &mut Vec<Hindrance>) -> Option<&'a Link> {
    let Some(bridge) = links.named(name) else {
        hindrances.push(Hindrance::LinkMissing { link: name.clone() });
        return None;
    };
    if !matches!(bridge.special, Special::Bridge { .. }) {
        hindrances.push(Hindrance::NotABridge { link: name.clone() });
        return None;
    }
    if !bridge.up {
        hindrances.push(Hindrance::LinkDown { link: name.clone(), why: Down::Off });
    }
    // A bridge without uplinks is one that joins this host's guests; one whose uplinks are all dead has lost the others.
    let uplinks = links.ports(bridge.index).filter(|port| port.special != Special::Tap && made::mark(port).is_none());
    let uplinks = Vec::from_iter(uplinks);
    if !uplinks.iter().any(|port| port.up && port.carrier) {
        hindrances.extend(uplinks.iter().map(|port| down(port)));
    }
    Some(bridge)
}

/// A link that packets leave by.
fn running<'a>(links: &'a Links, name: &LinkName, hindrances: &mut Vec<Hindrance>) -> Option<&'a Link> {
    let link = links.named(name);
    match link {
        None => hindrances.push(Hindrance::LinkMissing { link: name.clone() }),
        Some(link) if !link.up || !link.carrier => hindrances.push(down(link)),
        Some(_) => {}
    }
    link
}

fn down(link: &Link) -> Hindrance {
    let why = if link.up { Down::NoCarrier } else { Down::Off };
    Hindrance::LinkDown { link: link.name.clone(), why }
}

/// The kernel has one VXLAN device for a VNI and a port.
fn taken<'a>(network: &Network, links: &'a Links, vni: Vni, port: u16) -> Option<&'a Link> {
    let (own, holder) = (made::shared(network), Holder::Network(network.name.clone()));
    links.0.iter().find(|link| match &link.special {
        Special::Vxlan(tunnel) => {
            (tunnel.vni, tunnel.port) == (vni.into(), port)
                && !(own.contains(&link.name) && made::is_for(link, &holder))
        }
        _ => false,
    })
}

/// Links of the names that are shared by the network's vifs, which are somebody else's.
fn foreign<'a>(network: &Network, links: &'a Links) -> impl Iterator<Item = &'a Link> {
    let holder = Holder::Network(network.name.clone());
    let names = made::shared(network);
    names.into_iter().filter_map(|name| links.named(&name)).filter(move |link| !made::is_for(link, &holder))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vmferry_core::network::VXLAN_PORT;

    use super::*;
    use crate::network::link::Tunnel;

    fn link(index: u32, name: &str, special: Special) -> Link {
        let (alias, controller, parent) = (None, None, None);
        let name = name.parse().expect("valid");
        let (up, carrier, loopback, mtu, group) = (true, true, false, 1500, 0);
        Link { index, name, up, carrier, loopback, mtu, controller, parent, alias, group, special }
    }

    fn network(carrier: Carrier) -> Network {
        Network { name: "blue".parse().expect("valid"), carrier, mtu: None }
    }

    fn vxlan(local: &str, device: Option<&str>) -> Network {
        network(Carrier::Vxlan {
            vni: Vni::try_from(7).expect("valid"),
            local: local.parse().expect("valid"),
            device: device.map(|device| device.parse().expect("valid")),
            remotes: Remotes::Peers(BTreeSet::new()),
            port: VXLAN_PORT,
        })
    }

    fn facts(links: Vec<Link>, address: &str) -> Facts {
        let addresses = vec![(1, address.parse().expect("valid"))];
        Facts { links: Links(links), addresses, ..Facts::default() }
    }

    #[test]
    fn what_fits_into_a_vxlan_is_what_is_left() {
        let eth0 = || link(1, "eth0", Special::Other);
        let mtu = |network: &Network, facts: &Facts| {
            let carried = judge(network, None, facts);
            assert_eq!(carried.hindrances, []);
            carried.mtu
        };
        assert_eq!(mtu(&vxlan("192.0.2.1", None), &facts(vec![eth0()], "192.0.2.1")), 1450);
        assert_eq!(mtu(&vxlan("2001:db8::1", Some("eth0")), &facts(vec![eth0()], "2001:db8::1")), 1430);
        let jumbo = Link { mtu: 9000, ..eth0() };
        assert_eq!(mtu(&vxlan("192.0.2.1", Some("eth0")), &facts(vec![jumbo], "192.0.2.1")), 8950);
        let routed = Link { mtu: 65536, loopback: true, ..link(1, "lo", Special::Other) };
        assert_eq!(mtu(&vxlan("192.0.2.1", None), &facts(vec![routed], "192.0.2.1")), 1450);
    }

    #[test]
    fn a_number_is_taken_only_by_others_and_on_the_same_port() {
        let tunnel = |port| Special::Vxlan(Tunnel { vni: 7, port, ..Tunnel::default() });
        let eth0 = || link(1, "eth0", Special::Other);
        let hindrances =
            |other: Link| judge(&vxlan("192.0.2.1", None), None, &facts(vec![eth0(), other], "192.0.2.1")).hindrances;
        assert_eq!(hindrances(link(2, "vx7", tunnel(8472))), []);
        let by = "vx7".parse().expect("valid");
        assert_eq!(
            hindrances(link(2, "vx7", tunnel(VXLAN_PORT))),
            [Hindrance::VniTaken { vni: Vni::try_from(7).expect("valid"), by }]
        );
        let name = made::shared(&vxlan("192.0.2.1", None))[1].to_string();
        let own = link(2, &name, tunnel(VXLAN_PORT));
        assert_eq!(hindrances(Link { alias: Some("vmferry: network blue".to_owned()), ..own.clone() }), []);
        assert_eq!(hindrances(Link { group: made::GROUP, ..own.clone() }), []);
        let foreign = hindrances(Link { alias: Some("vmferry: network red".to_owned()), ..own });
        assert!(matches!(&foreign[..], [Hindrance::VniTaken { .. }, Hindrance::NameTaken { .. }]), "{foreign:?}");
    }

    #[test]
    fn a_bridge_is_dead_only_with_all_its_uplinks() {
        let blue = network(Carrier::Bridge { bridge: "br0".parse().expect("valid") });
        let bridge = || link(1, "br0", Special::Bridge { filters_vlans: None });
        let port = |index, name, carrier| Link { controller: Some(1), carrier, ..link(index, name, Special::Other) };
        let tap = || Link { controller: Some(1), carrier: false, ..link(9, "vnet0", Special::Tap) };
        let hindrances = |links: Vec<Link>| judge(&blue, None, &facts(links, "192.0.2.1")).hindrances;
        assert_eq!(hindrances(vec![bridge(), tap()]), []);
        assert_eq!(hindrances(vec![bridge(), tap(), port(2, "eth0", false), port(3, "eth1", true)]), []);
        let down = [Hindrance::LinkDown { link: "eth0".parse().expect("valid"), why: Down::NoCarrier }];
        assert_eq!(hindrances(vec![bridge(), tap(), port(2, "eth0", false)]), down);
    }
}
