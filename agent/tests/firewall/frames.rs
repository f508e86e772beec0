//! Frames, honest and other.

use macaddr::MacAddr6;

const BROADCAST: [u8; 6] = [0xff; 6];

/// Begins a frame.
pub(crate) fn ethernet(from: MacAddr6, kind: u16, body: &[u8]) -> Vec<u8> {
    [&BROADCAST, from.as_bytes(), &kind.to_be_bytes(), body].concat()
}

/// Asks by ARP for an address.
pub(crate) fn arp(frame: MacAddr6, sender: MacAddr6, address: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    ethernet(frame, 0x0806, &arp_body(1, sender, address, wanted))
}

/// The body of ARP or RARP.
pub(crate) fn arp_body(operation: u8, sender: MacAddr6, address: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head, sender.as_bytes(), &address, &[0; 6], &wanted].concat()
}

/// A packet of UDP by IPv4.
pub(crate) fn udp4(frame: MacAddr6, from: [u8; 4], to: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    ethernet(frame, 0x0800, &ipv4(from, to, [0, 0], &udp(ports)))
}

/// A packet of UDP by IPv6.
pub(crate) fn udp6(frame: MacAddr6, from: [u8; 16], to: [u8; 16], ports: [u16; 2]) -> Vec<u8> {
    ethernet(frame, 0x86dd, &ipv6(from, to, 17, &udp(ports)))
}

/// A packet of UDP. Nobody in between looks at its checksum.
pub(crate) fn udp(ports: [u16; 2]) -> Vec<u8> {
    [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &[0, 12, 0, 0], b"word"].concat()
}

/// A packet of UDP by IPv4; `fragment` holds flags and place.
pub(crate) fn ipv4(from: [u8; 4], to: [u8; 4], fragment: [u8; 2], body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0], &length[..], &[0x12, 0x34], &fragment, &[64, 17, 0, 0], &from, &to].concat();
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], body].concat()
}

/// A packet of IPv6.
pub(crate) fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0], &length[..], &[next, 255], &from, &to, body].concat()
}

/// A message of ND: its type, what comes before its target, the target, an option.
pub(crate) fn nd(frame: MacAddr6, from: [u8; 16], kind: u8, target: &[u8], options: &[u8]) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 0, 0, 0, 0], target, options].concat();
    ethernet(frame, 0x86dd, &ipv6(from, ALL_NODES, 58, &body))
}

/// An option of ND that tells a MAC address.
pub(crate) fn link_layer(option: u8, mac: MacAddr6) -> Vec<u8> {
    [&[option, 1], mac.as_bytes()].concat()
}

/// All hosts of a link.
pub(crate) const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
