//! Where the kernel sends frames: entries of bridges and of VXLAN devices.

use std::{collections::BTreeSet, net::IpAddr};

use futures::TryStreamExt as _;
use macaddr::MacAddr6;
use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_CREATE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use vmferry_core::network::LinkName;

use super::link::{Failed, Netlink, failed};

/// An entry, and the message that it was read from.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The index of the port or the VXLAN device.
    pub(super) link: u32,
    pub(super) mac: MacAddr6,
    /// The index of the bridge, if it is a bridge's.
    pub(super) bridge: Option<u32>,
    /// A VXLAN's other end.
    pub(super) remote: Option<IpAddr>,
    /// Whether it was learnt, and not written by somebody.
    pub(super) learnt: bool,
    message: NeighbourMessage,
}

impl Entry {
    fn read(message: NeighbourMessage) -> Option<Self> {
        let (mut mac, mut bridge, mut remote) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                NeighbourAttribute::Controller(index) => bridge = Some(*index),
                NeighbourAttribute::Destination(address) => remote = self::address(address),
                _ => {}
            }
        }
        let written = matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
        let (link, learnt) = (message.header.ifindex, !written);
        Some(Self { link, mac: MacAddr6::from(mac?), bridge, remote, learnt, message })
    }
}

/// A bridge's entries have addresses of no family that says how to read them: their length does.
fn address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => {
            let short = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            short.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

/// All entries of the network namespace.
pub(super) async fn entries(netlink: &Netlink) -> Result<Vec<Entry>, Failed> {
    let request = netlink.handle().neighbours().get().set_address_family(AddressFamily::Bridge);
    let messages = request.execute().try_collect::<Vec<_>>().await.map_err(failed("list the forwarding entries"))?;
    Ok(messages.into_iter().filter_map(Entry::read).collect())
}

/// Drops an entry of a bridge. One that is gone is gone.
pub(super) async fn drop_entry(netlink: &Netlink, entry: &Entry) -> Result<(), Failed> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.link;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Controller;
    let key = |attribute: &&NeighbourAttribute| {
        matches!(attribute, NeighbourAttribute::LinkLayerAddress(_) | NeighbourAttribute::Vlan(_))
    };
    message.attributes = entry.message.attributes.iter().filter(key).cloned().collect();
    let action = format!("drop {}'s entry of a bridge", entry.mac);
    let dropped = netlink.request(&action, RouteNetlinkMessage::DelNeighbour(message), 0).await;
    dropped.or_else(|error| if error.is(libc::ENOENT) { Ok(()) } else { Err(error) })
}

/// Makes a VXLAN device send what has no known place to exactly these.
pub(super) async fn set_peers(
    netlink: &Netlink,
    name: &LinkName,
    index: u32,
    peers: &BTreeSet<IpAddr>,
) -> Result<(), Failed> {
    let there = entries(netlink).await?.into_iter().filter(|entry| entry.link == index && entry.bridge.is_none());
    let there = there.filter(|entry| entry.mac.is_nil()).filter_map(|entry| entry.remote).collect::<BTreeSet<_>>();
    for peer in peers.difference(&there) {
        let action = format!("make {peer} an other end of {name}");
        let request = RouteNetlinkMessage::NewNeighbour(anywhere(index, *peer));
        netlink.request(&action, request, NLM_F_CREATE | NLM_F_APPEND).await?;
    }
    for peer in there.difference(peers) {
        let action = format!("forget {peer} as an other end of {name}");
        let dropped = netlink.request(&action, RouteNetlinkMessage::DelNeighbour(anywhere(index, *peer)), 0).await;
        dropped.or_else(|error| if error.is(libc::ENOENT) { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// The entry of all that is sent to everybody, or to somebody not yet heard of.
fn anywhere(index: u32, peer: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    let peer = match peer {
        IpAddr::V4(peer) => NeighbourAddress::Inet(peer),
        IpAddr::V6(peer) => NeighbourAddress::Inet6(peer),
    };
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![0; 6]), NeighbourAttribute::Destination(peer)];
    message
}
