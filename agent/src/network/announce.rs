//! Says for a guest where it is now, to those who do not hear it from the guest itself.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder, icmpv6::NeighborAdvertisementHeader,
};
use macaddr::MacAddr6;

pub(super) use self::socket::send;

mod socket;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// One for each address. Addresses that are no host's are left out.
pub(super) fn frames(mac: MacAddr6, addresses: &BTreeSet<IpAddr>) -> Vec<Vec<u8>> {
    let good = |address: &&IpAddr| !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    let frames = addresses.iter().filter(good).map(|address| match address {
        IpAddr::V4(address) => gratuitous_arp(mac, *address),
        IpAddr::V6(address) => unsolicited_advertisement(mac, *address),
    });
    frames.flatten().collect()
}

/// RFC 5227, section 2.3: a request for the own address.
fn gratuitous_arp(mac: MacAddr6, address: Ipv4Addr) -> Option<Vec<u8>> {
    let (mac, address) = (mac.into_array(), address.octets());
    let (hardware, operation) = (ArpHardwareId::ETHERNET, ArpOperation::REQUEST);
    let arp = ArpPacket::new(hardware, EtherType::IPV4, operation, &mac, &address, &[0; 6], &address).ok()?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac, BROADCAST).arp(arp).write(&mut frame).ok()?;
    Some(frame)
}

/// RFC 4861, section 7.2.6: all nodes forget what they knew.
fn unsolicited_advertisement(mac: MacAddr6, address: Ipv6Addr) -> Option<Vec<u8>> {
    let mac = mac.into_array();
    let header = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    // The target, and its link-layer address: type 2, of one unit of eight bytes.
    let target = [&address.octets()[..], &[2, 1], &mac].concat();
    let builder = PacketBuilder::ethernet2(mac, ALL_NODES_MAC)
        // Neighbours believe only what has crossed no router.
        .ipv6(address.octets(), ALL_NODES.octets(), u8::MAX)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header));
    let mut frame = Vec::new();
    builder.write(&mut frame, &target).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_standards_have_them() {
        let mac = MacAddr6::new(0x52, 0x54, 0, 0, 0, 0x0a);
        let addresses = ["192.0.2.7", "2001:db8::7", "224.0.0.1", "::", "127.0.0.1"].map(|a| a.parse().expect("valid"));
        let frames = frames(mac, &BTreeSet::from(addresses));
        let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let arp = "ffffffffffff52540000000a08060001080006040001\
                   52540000000ac0000207000000000000c0000207";
        let advertisement = "33330000000152540000000a86dd600000000020\
                             3aff20010db8000000000000000000000007ff020000000000000000000000000001\
                             8800";
        let rest = "2000000020010db80000000000000000000000070201\
                    52540000000a";
        assert_eq!(hex(&frames[0]), arp);
        let frame = hex(&frames[1]);
        let (head, tail) = frame.split_at(advertisement.len());
        // Between them is the checksum, which the receiver's kernel checks in the tests with namespaces.
        assert_eq!((head, &tail[4..]), (advertisement, rest));
        assert_eq!(frames.len(), 2);
    }
}
