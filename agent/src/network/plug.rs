//! Plugs one vif in, and unplugs it, in the order that never joins what is not yet set apart.

use std::net::IpAddr;

use vmferry_core::{
    network::{Carrier, Down, Hindrance, LinkName, Network, Plug, Remotes},
    reason::Reason,
};

use super::{
    judge::{self, Facts},
    link::{Link, Links, Netlink, Tunnel},
    made,
    make::{Learning, Maker, Uplink},
    offload,
    ovs::{self, Ovs},
};
use crate::hypervisor::Fault;

/// Makes what is not there.
pub(super) async fn make(netlink: &Netlink, ovs: &Ovs<'_>, plug: &Plug, facts: &Facts) -> Result<(), Fault> {
    let carried = judge::judge(&plug.network, None, facts);
    let stopping = carried.hindrances.iter().filter(|hindrance| stops(hindrance));
    let problems = stopping.map(|problem| format!("{problem}; {}", problem.remedy())).collect::<Vec<_>>();
    if !problems.is_empty() {
        let message =
            format!("{} cannot be plugged into network {}: {}", plug.vif, plug.network.name, problems.join("; "));
        return Err(Fault::new(Reason::NetworkFailed, message));
    }
    let maker = Maker { netlink, holder: plug.holder(), mtu: carried.mtu };
    let (bridge_name, Some(uplink_name)) = (plug.bridge(), plug.uplink()) else { return Ok(()) };
    let Some(wanted) = uplink(plug, &facts.links) else { return Ok(()) };

    let bridge = maker.bridge(&bridge_name, learning(&plug.network)).await?;
    let uplink = maker.uplink(&uplink_name, &bridge, &wanted).await?;
    if matches!(&facts.ovs, Some(Ok(bridge)) if bridge.userspace) {
        let failed = |error| {
            let message = format!("cannot make {uplink_name} sum up what guests leave to their cards: {error}");
            Fault::new(Reason::NetworkFailed, message)
        };
        offload::checksum(&uplink_name).map_err(failed)?;
    }
    if let Some(name) = plug.port() {
        let port = maker.port(&name).await?;
        if let Carrier::BridgeVlan { bridge: given, vlan } = &plug.network.carrier {
            let given = facts.links.named(given).map_or(0, |link| link.index);
            maker.join(&name, port.index, given).await?;
            maker.only_vlan(&name, port.index, *vlan).await?;
        }
        maker.up(&name, port.index).await?;
    }
    maker.join(&uplink_name, uplink.index, bridge.index).await?;
    maker.up(&uplink_name, uplink.index).await?;
    maker.up(&bridge_name, bridge.index).await?;
    if let (Carrier::Ovs { bridge, vlan }, Some(name)) = (&plug.network.carrier, plug.port()) {
        ovs.add(&ovs::Port { bridge, name: &name, vlan: *vlan, vif: plug.vif }).await?;
    }
    Ok(())
}

/// Whether there is no point in trying. What the checks refuse for a guest's sake can still be made.
fn stops(hindrance: &Hindrance) -> bool {
    !matches!(hindrance, Hindrance::MtuTooSmall { .. } | Hindrance::LinkDown { why: Down::NoCarrier, .. })
}

/// A vif's own bridge has one guest: what it learnt would only be wrong once the guest has gone and come back.
fn learning(network: &Network) -> Learning {
    if matches!(network.carrier, Carrier::Ovs { .. }) { Learning::Off } else { Learning::Kept }
}

/// What leads from the bridge to the other hosts; none: nothing is made, or what it would be on is not there.
fn uplink(plug: &Plug, links: &Links) -> Option<Uplink> {
    let index = |name: &LinkName| links.named(name).map(|link| link.index);
    match &plug.network.carrier {
        Carrier::Bridge { .. } => None,
        Carrier::BridgeVlan { .. } | Carrier::Ovs { .. } => Some(Uplink::Pair { port: plug.port()? }),
        Carrier::UplinkVlan { uplink, vlan } => Some(Uplink::Vlan { parent: index(uplink)?, id: *vlan }),
        Carrier::Vxlan { vni, local, device, remotes, port } => {
            let device = device.as_ref().and_then(index);
            let group = |remotes: &Remotes| if let Remotes::Group(group) = remotes { Some(*group) } else { None };
            let tunnel = Tunnel { vni: (*vni).into(), port: *port, local: Some(*local), group: group(remotes), device };
            let peers = match remotes {
                Remotes::Group(_) => Vec::new(),
                Remotes::Peers(peers) => peers.iter().filter(|peer| *peer != local).copied().collect::<Vec<IpAddr>>(),
            };
            Some(Uplink::Vxlan { tunnel, peers: peers.into_iter().collect() })
        }
    }
}

/// Removes what is the vif's own, and what it shares unless that is used.
pub(super) async fn take_away(netlink: &Netlink, ovs: &Ovs<'_>, plug: &Plug, used: bool) -> Result<(), Fault> {
    let holder = plug.holder();
    let links = netlink.links().await?;
    let own = |name: &LinkName| links.named(name).filter(|link| made::is_for(link, &holder));
    let (bridge, Some(uplink)) = (plug.bridge(), plug.uplink()) else { return Ok(()) };
    if used || own(&bridge).is_some_and(|bridge| made::is_used(&links, bridge, &[&uplink])) {
        return Ok(());
    }
    if let Carrier::Ovs { .. } = plug.network.carrier {
        // Without the pair there has never been a port of it; with it, the pair stays as long as the port might.
        if let Some(port) = plug.port().filter(|port| own(port).is_some() || ovs.is_there()) {
            ovs.remove(&port, &holder).await?;
        }
    }
    // The other end of a pair goes with it.
    let going = [Some(uplink), plug.port(), Some(bridge)].into_iter().flatten();
    let going: Vec<&Link> = going.filter_map(|name| own(&name)).collect();
    for link in going {
        netlink.remove(&link.name, link.index).await?;
    }
    Ok(())
}
