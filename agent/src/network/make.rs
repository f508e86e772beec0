//! Makes links, one after the other, each only if it is not there. What is there is brought to what it should be.

use std::{collections::BTreeSet, fs, io, net::IpAddr};

use rtnetlink::{
    LinkBridge, LinkBridgeVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, LinkVxlan,
    packet_route::link::{BridgeStpState, BridgeVlanInfoFlags, InfoData, InfoVeth, LinkAttribute, LinkMessage},
};
use vmferry_core::{
    network::{Hindrance, Holder, LinkName, VlanId},
    reason::Reason,
};

use super::{
    fdb,
    link::{Link, Links, Netlink, Special, Tunnel},
    made::{self, GROUP},
};
use crate::hypervisor::Fault;

/// What is made for one holder.
pub(super) struct Maker<'a> {
    pub(super) netlink: &'a Netlink,
    pub(super) holder: Holder,
    pub(super) mtu: u32,
}

/// Whether a bridge remembers behind which port an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learning {
    /// As the kernel does it.
    Kept,
    /// Not at all.
    Off,
}

/// What is to be the port of a bridge that leads to the other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Uplink {
    /// A VLAN of the link of this index.
    Vlan { parent: u32, id: VlanId },
    /// A VXLAN, and its other ends where it has no group of them.
    Vxlan { tunnel: Tunnel, peers: BTreeSet<IpAddr> },
    /// One of a pair, whose other end has this name.
    Pair { port: LinkName },
}

impl Uplink {
    /// Whether a link is this already, whatever its name and its other ends.
    fn is(&self, link: &Link, links: &Links) -> bool {
        let parent = link.parent;
        match (self, &link.special) {
            (Self::Vlan { parent: wanted, id }, Special::Vlan { id: tag }) => {
                (parent, *tag) == (Some(*wanted), (*id).into())
            }
            (Self::Vxlan { tunnel: wanted, .. }, Special::Vxlan(tunnel)) => wanted == tunnel,
            (Self::Pair { port }, Special::Veth) => {
                parent.and_then(|peer| links.numbered(peer)).is_some_and(|peer| peer.name == *port)
            }
            _ => false,
        }
    }

    fn message(&self, name: &LinkName) -> LinkMessage {
        match self {
            Self::Vlan { parent, id } => LinkVlan::new(name.as_str(), *parent, (*id).into()).link_group(GROUP).build(),
            Self::Vxlan { tunnel, .. } => vxlan(name, tunnel),
            Self::Pair { port } => {
                let peer = LinkUnspec::new_with_name(port.as_str()).link_group(GROUP).build();
                LinkVeth::new(name.as_str(), port.as_str())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                    .link_group(GROUP)
                    .build()
            }
        }
    }
}

fn vxlan(name: &LinkName, tunnel: &Tunnel) -> LinkMessage {
    // The tunnel's own learning says behind which peer an address is; without it every frame would go to all of them.
    let mut builder = LinkVxlan::new(name.as_str(), tunnel.vni).port(tunnel.port).learning(true).link_group(GROUP);
    if let Some(device) = tunnel.device {
        builder = builder.dev(device);
    }
    builder = match tunnel.local {
        Some(IpAddr::V4(address)) => builder.local(address),
        Some(IpAddr::V6(address)) => builder.local6(address),
        None => builder,
    };
    builder = match tunnel.group {
        Some(IpAddr::V4(address)) => builder.group(address),
        Some(IpAddr::V6(address)) => builder.group6(address),
        None => builder,
    };
    builder.build()
}

fn bridge(name: &LinkName, learning: Learning) -> LinkMessageBuilder<LinkBridge> {
    // A port forwards at once: a guest that has just arrived cannot wait for a spanning tree, and there is no loop with
    // one way out. Without snooping: nobody asks a guest that has arrived which groups it is in, and it would lose them.
    let builder = LinkMessageBuilder::<LinkBridge>::new(name.as_str())
        .forward_delay(0)
        .stp_state(BridgeStpState::Disabled)
        .mcast_snooping(false);
    match learning {
        Learning::Kept => builder,
        Learning::Off => builder.ageing_time(0),
    }
}

impl Maker<'_> {
    /// The holder's bridge; its uplink is the caller's to make.
    pub(super) async fn bridge(&self, name: &LinkName, learning: Learning) -> Result<Link, Fault> {
        let is_bridge = |link: &Link, _: &Links| matches!(link.special, Special::Bridge { .. });
        let link = self.ensure(name, None, is_bridge, || bridge(name, learning).link_group(GROUP).build()).await?;
        // By its name alone: with its number too, kernels before 6.2 take it for a new name, which a link that is up cannot get.
        self.netlink.change(name, bridge(name, learning).build()).await?;
        self.dress(name, link.index).await?;
        deaf_to_ipv6(name);
        Ok(link)
    }

    /// The bridge's way to the other hosts. Not yet its port, and down if it is new.
    pub(super) async fn uplink(&self, name: &LinkName, bridge: &Link, uplink: &Uplink) -> Result<Link, Fault> {
        if let Uplink::Pair { port } = uplink {
            self.free(port).await?;
        }
        let is = |link: &Link, links: &Links| uplink.is(link, links);
        let link = self.ensure(name, Some(bridge), is, || uplink.message(name)).await?;
        self.dress(name, link.index).await?;
        if let Uplink::Vxlan { peers, .. } = uplink {
            fdb::set_peers(self.netlink, name, link.index, peers).await?;
        }
        Ok(link)
    }

    /// The other end of an uplink that is one of a pair.
    pub(super) async fn port(&self, name: &LinkName) -> Result<Link, Fault> {
        let links = self.netlink.links().await?;
        let link = links.named(name).filter(|link| made::is_for(link, &self.holder)).cloned();
        let link = link.ok_or_else(|| self.fault(format!("{name} went away while it was being made; try again")))?;
        self.dress(name, link.index).await?;
        Ok(link)
    }

    /// Lets a bridge's port carry one VLAN, untagged, and no other.
    pub(super) async fn only_vlan(&self, name: &LinkName, port: u32, vlan: VlanId) -> Result<(), Fault> {
        let vlan = u16::from(vlan);
        let untagged = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        self.netlink.set(name, LinkBridgeVlan::new(port).vlan(vlan, untagged).build()).await?;
        let none = BridgeVlanInfoFlags::empty();
        for (first, last) in [(1, vlan - 1), (vlan + 1, 4094)] {
            let builder = LinkBridgeVlan::new(port);
            let others = match first.cmp(&last) {
                std::cmp::Ordering::Less => builder.vlan_range_start(first, none).vlan_range_end(last, none),
                std::cmp::Ordering::Equal => builder.vlan(first, none),
                std::cmp::Ordering::Greater => continue,
            };
            self.netlink.drop_vlan(name, others.build()).await?;
        }
        Ok(())
    }

    /// Makes a link a port of a bridge.
    pub(super) async fn join(&self, name: &LinkName, port: u32, bridge: u32) -> Result<(), Fault> {
        let message = LinkUnspec::new_with_index(port).controller(bridge).build();
        Ok(self.netlink.set(name, message).await?)
    }

    /// Switches a link on.
    pub(super) async fn up(&self, name: &LinkName, index: u32) -> Result<(), Fault> {
        Ok(self.netlink.set(name, LinkUnspec::new_with_index(index).up().build()).await?)
    }

    /// The link of this name, which is the holder's: made if it is not there, and again if it is not what it should be and
    /// no guest uses it.
    async fn ensure(
        &self,
        name: &LinkName,
        bridge: Option<&Link>,
        is_wanted: impl Fn(&Link, &Links) -> bool,
        message: impl Fn() -> LinkMessage,
    ) -> Result<Link, Fault> {
        for _ in 0..3 {
            let links = self.netlink.links().await?;
            match links.named(name) {
                Some(link) if !made::is_for(link, &self.holder) => return Err(self.taken(name)),
                Some(link) if is_wanted(link, &links) => return Ok(link.clone()),
                Some(link) => {
                    let bridge = bridge.unwrap_or(link);
                    if made::is_used(&links, bridge, &[name]) {
                        let problem = format!(
                            "{name} is not what the agent's configuration says, and guests use it; \
                             restore the configuration until they are gone"
                        );
                        return Err(self.fault(problem));
                    }
                    self.netlink.remove(name, link.index).await?;
                }
                None => match self.netlink.make(name, message()).await {
                    // Somebody else was quicker: it may be another agent's call for the same network.
                    Err(error) if error.is(libc::EEXIST) => {}
                    made => made?,
                },
            }
        }
        Err(self.fault(format!("{name} cannot be made: the kernel says that it exists, and does not list it")))
    }

    /// What every link of VMFerry's has: its mark, its MTU, and no address.
    async fn dress(&self, name: &LinkName, index: u32) -> Result<(), Fault> {
        let message = LinkUnspec::new_with_index(index)
            .alias(made::alias(&self.holder))
            .append_extra_attribute(LinkAttribute::Group(GROUP))
            .mtu(self.mtu)
            .build();
        self.netlink.set(name, message).await?;
        Ok(self.netlink.no_addresses(name, index).await?)
    }

    /// A name that is not somebody else's.
    async fn free(&self, name: &LinkName) -> Result<(), Fault> {
        let links = self.netlink.links().await?;
        if links.named(name).is_some_and(|link| !made::is_for(link, &self.holder)) {
            Err(self.taken(name))
        } else {
            Ok(())
        }
    }

    fn taken(&self, name: &LinkName) -> Fault {
        let taken = Hindrance::NameTaken { link: name.clone() };
        self.fault(format!("{taken}; {}", taken.remedy()))
    }

    fn fault(&self, problem: String) -> Fault {
        Fault::new(Reason::NetworkFailed, format!("{} cannot be plugged: {problem}", self.holder))
    }
}

/// A guest's router advertisements are not for the host. Netlink has no word for it; where `/proc/sys` cannot be written the
/// bridge still has no address of its own making.
fn deaf_to_ipv6(bridge: &LinkName) {
    let switch = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    if let Err(error) = fs::write(&switch, "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%bridge, %error, "IPv6 stays on: {switch} cannot be written");
    }
}
