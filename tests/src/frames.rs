//! Frames that no guest may send, and some that it may. Each carries a mark: whoever sees one knows what it is.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use etherparse::{PacketBuilder, VlanId};

use crate::network;

/// What a frame pretends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: UDP with the guest's own addresses.
    Honest,
    /// That another card has sent it.
    ForeignMac,
    /// That another address has sent it.
    ForeignIpv4,
    /// That the guest has another address.
    ForeignArpAddress,
    /// That another card has the guest's address.
    ForeignArpMac,
    /// That the guest is the gateway.
    GatewayArp,
    /// That another address of IPv6 has sent it.
    ForeignIpv6,
    /// That the guest has another address of IPv6.
    ForeignNeighbour,
    /// That the guest is a DHCP server.
    DhcpOffer,
    /// That the guest is a router.
    RouterAdvertisement,
    /// That the guest is in a VLAN.
    Tagged,
}

/// All of them, the honest one first.
pub const KINDS: [Kind; 11] = [
    Kind::Honest,
    Kind::ForeignMac,
    Kind::ForeignIpv4,
    Kind::ForeignArpAddress,
    Kind::ForeignArpMac,
    Kind::GatewayArp,
    Kind::ForeignIpv6,
    Kind::ForeignNeighbour,
    Kind::DhcpOffer,
    Kind::RouterAdvertisement,
    Kind::Tagged,
];

/// UDP port, here and there, of honest frames.
pub const PORT: u16 = 7777;

type Mac = [u8; 6];

const EVERYBODY: Mac = [0xff; 6];
/// Where all nodes of IPv6 listen.
const ALL_NODES: (Mac, Ipv6Addr) = ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const FOREIGN_MAC: Mac = [0x52, 0x54, 0, 0xba, 0xd0, 0];
const FOREIGN_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xbad);

/// An address of the guests' network that nobody has.
fn foreign_ipv4() -> Ipv4Addr {
    network::guest_address(250)
}

const MAGIC: [u8; 8] = *b"VMFERRY!";
/// The magic, the kind, a count, and one byte, so that it fills an option of neighbour discovery.
const MARK: usize = 14;

/// What is written into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What the frame pretends.
    pub kind: Kind,
    /// Counts the sender's frames.
    pub sequence: u32,
}

impl Mark {
    fn bytes(self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = self.kind as u8;
        bytes[9..13].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// The mark of a frame, if it has one.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mark = frame.windows(MARK).find(|window| window.starts_with(&MAGIC))?;
        let sequence = u32::from_be_bytes(mark[9..13].try_into().ok()?);
        Some(Self { kind: *KINDS.get(usize::from(mark[8]))?, sequence })
    }
}

/// Who a guest really is.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// Its MAC address.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Sender {
    /// A frame of this kind, to everybody.
    pub fn frame(self, mark: Mark) -> Result<Vec<u8>> {
        match mark.kind {
            Kind::Honest => self.udp(self.mac, self.address, PORT, PORT, mark),
            Kind::ForeignMac => self.udp(FOREIGN_MAC, self.address, PORT, PORT, mark),
            Kind::ForeignIpv4 => self.udp(self.mac, foreign_ipv4(), PORT, PORT, mark),
            Kind::ForeignArpAddress => Ok(self.arp(self.mac, foreign_ipv4(), mark)),
            Kind::ForeignArpMac => Ok(self.arp(FOREIGN_MAC, self.address, mark)),
            Kind::GatewayArp => Ok(self.arp(self.mac, network::guest_address(1), mark)),
            Kind::ForeignIpv6 => {
                let builder = PacketBuilder::ethernet2(self.mac, ALL_NODES.0);
                let builder = builder.ipv6(FOREIGN_IPV6.octets(), ALL_NODES.1.octets(), 64).udp(PORT, PORT);
                written(|frame| builder.write(frame, &mark.bytes()))
            }
            Kind::ForeignNeighbour => {
                // Unasked, and in place of what is known.
                self.icmpv6(136, [0x20, 0, 0, 0], &FOREIGN_IPV6.octets(), mark)
            }
            Kind::DhcpOffer => self.udp(self.mac, self.address, 67, 68, mark),
            // A router for no time: nobody is to believe it for longer than the test.
            Kind::RouterAdvertisement => self.icmpv6(134, [64, 0, 0, 0], &[0; 8], mark),
            Kind::Tagged => {
                let vlan = VlanId::try_new(10).context("10 is a VLAN")?;
                let builder = PacketBuilder::ethernet2(self.mac, EVERYBODY).single_vlan(vlan);
                let builder = builder.ipv4(self.address.octets(), [255; 4], 64).udp(PORT, PORT);
                written(|frame| builder.write(frame, &mark.bytes()))
            }
        }
    }

    fn udp(self, mac: Mac, from: Ipv4Addr, source: u16, destination: u16, mark: Mark) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(mac, EVERYBODY);
        let builder = builder.ipv4(from.octets(), [255; 4], 64).udp(source, destination);
        written(|frame| builder.write(frame, &mark.bytes()))
    }

    /// A gratuitous request. What follows the 28 bytes of ARP nobody reads.
    fn arp(self, mac: Mac, address: Ipv4Addr, mark: Mark) -> Vec<u8> {
        let (ethertype, request) = ([0x08, 0x06], [0, 1, 8, 0, 6, 4, 0, 1]);
        let ends = [&mac[..], &address.octets(), &[0; 6], &address.octets()].concat();
        [&EVERYBODY[..], &self.mac, &ethertype, &request, &ends, &mark.bytes()].concat()
    }

    /// Neighbour discovery; the mark is in an option that nobody knows.
    fn icmpv6(self, kind: u8, head: [u8; 4], body: &[u8], mark: Mark) -> Result<Vec<u8>> {
        let payload = [body, &[253, 2], &mark.bytes()].concat();
        let builder = PacketBuilder::ethernet2(self.mac, ALL_NODES.0);
        let builder = builder.ipv6(link_local(self.mac).octets(), ALL_NODES.1.octets(), 255).icmpv6_raw(kind, 0, head);
        written(|frame| builder.write(frame, &payload))
    }
}

fn written<E: Into<anyhow::Error>>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    write(&mut frame).map_err(Into::into)?;
    Ok(frame)
}

/// The address that a card gives itself, of RFC 4291.
fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket};

    use super::*;

    const SENDER: Sender = Sender { mac: [0x52, 0x54, 0, 1, 2, 3], address: Ipv4Addr::new(198, 51, 100, 100) };

    #[test]
    fn every_frame_is_well_formed_and_says_what_it_is() {
        for (kind, sequence) in KINDS.into_iter().zip(1..) {
            let mark = Mark { kind, sequence };
            let frame = SENDER.frame(mark).expect("it can be made");
            assert_eq!(Mark::of(&frame), Some(mark));
            SlicedPacket::from_ethernet(&frame).expect("well-formed");
            let is_own = frame[6..12] == SENDER.mac;
            assert_eq!(is_own, kind != Kind::ForeignMac, "{kind:?}");
        }
        assert_eq!(Mark::of(&[0; 60]), None);
    }

    #[test]
    fn a_forged_frame_is_wrong_in_one_thing_only() {
        let source = |kind| {
            let frame = SENDER.frame(Mark { kind, sequence: 0 }).expect("it can be made");
            match SlicedPacket::from_ethernet(&frame).expect("well-formed").net {
                Some(NetSlice::Ipv4(ip)) => ip.header().source_addr(),
                other => panic!("{other:?}"),
            }
        };
        for kind in [Kind::Honest, Kind::ForeignMac, Kind::DhcpOffer, Kind::Tagged] {
            assert_eq!(source(kind), SENDER.address, "{kind:?}");
        }
        assert_ne!(source(Kind::ForeignIpv4), SENDER.address);
    }
}
