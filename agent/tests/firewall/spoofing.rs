//! What a guest may claim to be.

use macaddr::MacAddr6;
use vmferry_core::policy::{Guarded, Members, Policy, link_local};

use crate::{
    frames::{ALL_NODES, arp, arp_body, ethernet, ipv4, ipv6, link_layer, nd, udp, udp4, udp6},
    lan::{Lan, lan},
};

const NONE: [u8; 16] = [0; 16];
const NOBODY: [u8; 4] = [0; 4];
const ALL: [u8; 4] = [255; 4];
const OTHER_MAC: MacAddr6 = MacAddr6::new(0x52, 0x54, 0, 0, 0, 99);
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

/// A multicast listener's report, behind the header that tells routers to look.
fn listens(mac: MacAddr6, from: [u8; 16]) -> Vec<u8> {
    let body = [&[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0], &ALL_NODES[..]].concat();
    ethernet(mac, 0x86dd, &ipv6(from, ALL_NODES, 0, &body))
}

/// Each by its name.
fn honest(lan: &Lan) -> Vec<(&'static str, Vec<u8>)> {
    let guest = &lan.guests[0];
    let (mac, v4, v6, other) = (guest.mac, guest.ipv4(), guest.ipv6(), lan.guests[1].ipv4());
    let local = link_local(mac).octets();
    vec![
        ("ARP", arp(mac, mac, v4, other)),
        ("ARP that asks whether an address is free", arp(mac, mac, NOBODY, v4)),
        ("ARP that answers", ethernet(mac, 0x0806, &arp_body(2, mac, v4, other))),
        ("RARP after a move", ethernet(mac, 0x8035, &arp_body(3, mac, NOBODY, NOBODY))),
        ("IPv4", udp4(mac, v4, other, [1000, 2000])),
        ("a later fragment", ethernet(mac, 0x0800, &ipv4(v4, other, [0, 9], b"the rest"))),
        ("who wants an address by DHCP", udp4(mac, NOBODY, ALL, [68, 67])),
        ("IPv6", udp6(mac, v6, ALL_NODES, [1000, 2000])),
        ("IPv6 by its own address of the link", udp6(mac, local, ALL_NODES, [1000, 2000])),
        ("who wants an address by DHCP for IPv6", udp6(mac, local, ALL_NODES, [546, 547])),
        ("ND that asks", nd(mac, v6, 135, &ALL_NODES, &link_layer(1, mac))),
        ("ND that asks again", nd(mac, v6, 135, &ALL_NODES, &[])),
        ("ND that asks whether an address is free", nd(mac, NONE, 135, &v6, &[])),
        ("the same with a nonce", nd(mac, NONE, 135, &v6, &NONCE)),
        ("ND that answers", nd(mac, v6, 136, &v6, &link_layer(2, mac))),
        ("ND that answers in short", nd(mac, v6, 136, &local, &[])),
        ("who looks for a router", nd(mac, local, 133, &[], &link_layer(1, mac))),
        ("who looks for a router, without an address", nd(mac, NONE, 133, &[], &[])),
        ("who listens", listens(mac, NONE)),
        ("who listens, by an address", listens(mac, local)),
        ("a ping", nd(mac, v6, 128, &[], b"ping")),
    ]
}

/// What any guest must never send, whatever its addresses.
fn rogue(lan: &Lan) -> Vec<(&'static str, Vec<u8>)> {
    let guest = &lan.guests[0];
    let (mac, v4, v6, other) = (guest.mac, guest.ipv4(), guest.ipv6(), lan.guests[1].ipv4());
    let local = link_local(mac).octets();
    let behind = |next: u8, header: &[u8], kind: u8| {
        let body = [header, &[kind, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        ethernet(mac, 0x86dd, &ipv6(local, ALL_NODES, next, &body))
    };
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let first = [58, 0, 0, 1, 0, 0, 0, 7];
    vec![
        ("another MAC address", udp4(OTHER_MAC, v4, other, [1000, 2000])),
        ("another MAC address in ARP", arp(mac, OTHER_MAC, v4, other)),
        ("another MAC address around ARP", arp(OTHER_MAC, mac, v4, other)),
        ("another MAC address in RARP", ethernet(mac, 0x8035, &arp_body(3, OTHER_MAC, NOBODY, NOBODY))),
        ("another MAC address in ND that asks", nd(mac, v6, 135, &ALL_NODES, &link_layer(1, OTHER_MAC))),
        ("another MAC address in ND that answers", nd(mac, v6, 136, &v6, &link_layer(2, OTHER_MAC))),
        (
            "another MAC address behind another option",
            nd(mac, v6, 136, &v6, &[&NONCE[..], &link_layer(2, OTHER_MAC)].concat()),
        ),
        (
            "another MAC address behind its own",
            nd(mac, v6, 136, &v6, &[link_layer(2, mac), link_layer(2, OTHER_MAC)].concat()),
        ),
        ("another MAC address of who looks for a router", nd(mac, local, 133, &[], &link_layer(1, OTHER_MAC))),
        ("an answer of DHCP", udp4(mac, v4, ALL, [67, 68])),
        ("an answer of DHCP from another port", udp4(mac, v4, ALL, [1067, 68])),
        ("an answer of DHCP to a relay", udp4(mac, v4, other, [67, 67])),
        ("an answer of DHCP for IPv6", udp6(mac, local, ALL_NODES, [547, 546])),
        ("a router", nd(mac, local, 134, &[0; 8], &[])),
        ("a router behind options", behind(60, &options, 134)),
        ("a router in a fragment", behind(44, &first, 134)),
        ("a router whose type is in the next fragment", {
            let body = [&[60, 0, 0, 1, 0, 0, 0, 7], &options[..]].concat();
            ethernet(mac, 0x86dd, &ipv6(local, ALL_NODES, 44, &body))
        }),
        ("ND behind options", behind(60, &options, 136)),
        ("a redirect", nd(mac, local, 137, &[0; 32], &[])),
        ("no address", udp6(mac, NONE, ALL_NODES, [1000, 2000])),
        ("no address by IPv4", udp4(mac, NOBODY, other, [1000, 2000])),
        ("LLDP", ethernet(mac, 0x88cc, &[2, 7, 4])),
        ("a length instead of a type", ethernet(mac, 0x0026, &[0x42; 0x26])),
    ]
}

/// What a guest must not send that has addresses.
fn claims(lan: &Lan) -> Vec<(&'static str, Vec<u8>)> {
    let guest = &lan.guests[0];
    let (mac, v4, v6) = (guest.mac, guest.ipv4(), guest.ipv6());
    let (other, other6) = (lan.guests[1].ipv4(), lan.guests[1].ipv6());
    vec![
        ("another address", udp4(mac, other, v4, [1000, 2000])),
        ("another address in a later fragment", ethernet(mac, 0x0800, &ipv4(other, v4, [0, 9], &udp([1, 2])))),
        ("another address in ARP", arp(mac, mac, other, v4)),
        ("another address in ARP that answers", ethernet(mac, 0x0806, &arp_body(2, mac, other, v4))),
        ("no address in ARP that answers", ethernet(mac, 0x0806, &arp_body(2, mac, NOBODY, v4))),
        ("another address by IPv6", udp6(mac, other6, ALL_NODES, [1000, 2000])),
        ("another's address of the link", udp6(mac, link_local(OTHER_MAC).octets(), ALL_NODES, [1000, 2000])),
        ("another target", nd(mac, v6, 136, &other6, &link_layer(2, mac))),
        ("another target in short", nd(mac, v6, 136, &other6, &[])),
        ("another's answer", nd(mac, other6, 136, &v6, &link_layer(2, mac))),
        ("who asks whether another's address is free", nd(mac, NONE, 135, &other6, &[])),
    ]
}

/// The frame in a VLAN.
fn tagged(frame: &[u8], kind: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

fn all_pass(lan: &Lan, frames: Vec<(&str, Vec<u8>)>) {
    let lost = frames.iter().filter(|(_, frame)| !lan.passes(0, 1, frame)).map(|(name, _)| *name).collect::<Vec<_>>();
    assert!(lost.is_empty(), "does not arrive: {lost:?}");
}

fn none_pass(lan: &Lan, frames: Vec<(&str, Vec<u8>)>) {
    let seen = frames.iter().filter(|(_, frame)| lan.passes(0, 1, frame)).map(|(name, _)| *name).collect::<Vec<_>>();
    assert!(seen.is_empty(), "arrives: {seen:?}");
}

#[test]
fn a_guest_sends_as_itself_and_as_nobody_else() {
    lan(2, |lan| {
        // Without a filter all of it arrives: the frames are such as a bridge takes.
        all_pass(lan, [honest(lan), rogue(lan), claims(lan)].concat());
        lan.guard(0, [], &Members::new());
        all_pass(lan, honest(lan));
        none_pass(lan, [rogue(lan), claims(lan)].concat());
        // Its filter does not concern others.
        let (mac, v4) = (lan.guests[1].mac, lan.guests[1].ipv4());
        assert!(lan.passes(1, 0, &udp4(OTHER_MAC, v4, ALL, [67, 68])));
        lan.wait(lan.firewall.release(&[lan.guests[0].tap.clone()])).expect("released");
        all_pass(lan, [honest(lan), rogue(lan), claims(lan)].concat());
        assert!(lan.passes(1, 0, &udp4(mac, v4, ALL, [1, 2])));
    });
}

#[test]
fn a_guest_without_addresses_may_use_any_with_its_own_mac_address() {
    lan(2, |lan| {
        let guest = &lan.guests[0];
        let any = Guarded { tap: guest.tap.clone(), mac: guest.mac, policy: Policy::default() };
        lan.wait(lan.firewall.guard(&[any], &Members::new())).expect("it is filtered");
        let claims = claims(lan).into_iter().filter(|(name, _)| !name.starts_with("no address"));
        all_pass(lan, honest(lan).into_iter().chain(claims).collect());
        none_pass(lan, rogue(lan));
    });
}

#[test]
fn a_guest_does_not_choose_its_vlan() {
    lan(2, |lan| {
        let (mac, v4) = (lan.guests[0].mac, lan.guests[0].ipv4());
        let frame = udp4(mac, v4, ALL, [1, 2]);
        // A packet socket does not show the tag.
        for kind in [0x8100, 0x88a8] {
            assert!(lan.passes_as(0, 1, &tagged(&frame, kind), &frame));
        }
        lan.guard(0, [], &Members::new());
        for kind in [0x8100, 0x88a8] {
            assert!(!lan.passes_as(0, 1, &tagged(&frame, kind), &frame));
            let twice = tagged(&tagged(&frame, kind), kind);
            assert!(!lan.passes_as(0, 1, &twice, &tagged(&frame, kind)));
            assert!(!lan.passes_as(0, 1, &twice, &frame));
        }
    });
}
