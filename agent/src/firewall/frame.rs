//! What the table has for all vifs: the sets that say what each may claim to be, and the chains that ask them.
//!
//! What the kernel does in the bridge family, and why the rules are as they are:
//! - Every match is for what may pass. A field that a frame is too short for matches nothing, so it is dropped at the end.
//! - `ether type` reads the frame as it came, a VLAN tag included, even where the kernel has taken that off.
//! - `meta l4proto` and what follows it (`udp`, `icmpv6`) are found behind the extension headers of IPv6; a packet in which
//!   they are not to be found has no `l4proto` at all. Ports of fragments other than the first match nothing.
//! - Frames to the addresses that bridges keep for themselves (spanning tree, LLDP) do not come by `prerouting`.

use super::{
    flows::{RULED, flows, known, remember},
    part::{Chain, Hook, Kind, Part, Rule, Set},
};

/// The taps that are filtered, with the [mark](super::part::mark) of what they may as a comment.
pub(super) const GUARDED: &str = "guarded";
/// Those of them that may use any address.
pub(super) const ANY: &str = "any_address";
/// Tap and MAC address.
pub(super) const MAC: &str = "macs";
/// The same for fields that nft has no word for.
pub(super) const RAW_MAC: &str = "raw_macs";
/// Tap and address.
pub(super) const IPV4: &str = "addresses4";
/// Tap and address.
pub(super) const IPV6: &str = "addresses6";
/// The same for the target of ND, which nft 1.0.6 has no word for.
pub(super) const RAW_IPV6: &str = "raw_addresses6";
/// Which chain a tap's frames go through.
pub(super) const EGRESS: &str = "egress";
/// Which chain frames to a tap go through.
pub(super) const INGRESS: &str = "ingress";
/// What passes rules unasked from a guest.
pub(super) const SENT: &str = "sent";
/// What passes rules unasked to a guest.
pub(super) const RECEIVED: &str = "received";
/// Lets through what a guest sends.
pub(super) const PASS_SENT: &str = "pass_sent";
/// Lets through what a guest receives.
pub(super) const PASS_RECEIVED: &str = "pass_received";

/// Says of a set that packets make its elements. Without a size: the kernel sets 65535, but takes no memory for them in advance.
pub(super) const DYNAMIC: &str = "flags dynamic,timeout; gc-interval 10s;";

/// How long the later fragments of a packet may take, after the first.
const FRAGMENTS: &str = "10s";

/// What the table has for all vifs.
pub(super) fn frame() -> Part {
    let mut part = Part::default();
    for (name, types) in [
        (GUARDED, "ifname"),
        (ANY, "ifname"),
        (MAC, "ifname . ether_addr"),
        (IPV4, "ifname . ipv4_addr"),
        (IPV6, "ifname . ipv6_addr"),
    ] {
        part.sets.insert(name.to_owned(), Set::plain(types));
    }
    for (name, field) in [(RAW_MAC, "@th,208,48"), (RAW_IPV6, "@th,64,128")] {
        let set = Set::new(Kind::Set, "ifname . integer", format!("typeof iifname . {field};"));
        part.sets.insert(name.to_owned(), set);
    }
    for (name, address, fields) in [
        ("fragments4", "ipv4_addr", "ip saddr . ip daddr . ip id"),
        ("fragments6", "ipv6_addr", "ip6 saddr . ip6 daddr . frag id"),
    ] {
        let types = format!("ifname . {address} . {address} . integer");
        let set = Set::new(Kind::Set, &types, format!("typeof iifname . {fields}; {DYNAMIC}"));
        part.sets.insert(name.to_owned(), set);
    }
    for name in [EGRESS, INGRESS] {
        part.sets.insert(name.to_owned(), Set::new(Kind::Map, "ifname", "type ifname : verdict;"));
    }
    spoofing(&mut part);
    neighbours(&mut part);
    unasked(&mut part);
    flows(&mut part);
    let hooks: [(_, _, &[String]); 3] = [
        (
            "prerouting",
            -200,
            &[
                format!("iifname @{GUARDED} jump spoofing"),
                format!("iifname @{RULED} jump {}", known(EGRESS)),
                format!("iifname vmap @{EGRESS}"),
                format!("iifname @{RULED} goto {}", remember(EGRESS)),
            ],
        ),
        (
            "input",
            -200,
            &[
                // A guest speaks no spanning tree with the host.
                format!("iifname @{GUARDED} ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:0f drop"),
            ],
        ),
        (
            "postrouting",
            200,
            &[
                format!("oifname @{RULED} jump {}", known(INGRESS)),
                format!("oifname vmap @{INGRESS}"),
                format!("oifname @{RULED} goto {}", remember(INGRESS)),
            ],
        ),
    ];
    for (name, priority, rules) in hooks {
        let hook = Hook { name: name.to_owned(), priority, policy: "accept".to_owned() };
        let rules = rules.iter().map(Rule::new).collect();
        part.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules });
    }
    part
}

/// Returns for what a guest may claim to be, drops all else.
fn spoofing(part: &mut Part) {
    let own = format!("iifname . ether saddr @{MAC}");
    part.chain(
        "spoofing",
        [
            format!("{own} ether type ip meta l4proto != 255 goto spoofing4"),
            format!("{own} ether type ip6 meta l4proto != 255 goto spoofing6"),
            format!("{own} ether type arp goto spoofing_arp"),
            // RARP, by which QEMU announces the guest after a move.
            format!("{own} ether type 0x8035 iifname . @nh,64,48 @{RAW_MAC} @nh,112,32 0 return"),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing_arp",
        [
            format!(
                "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether @{MAC} goto spoofing_arp_ip"
            ),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing_arp_ip",
        [
            // Who asks whether an address is free has none yet.
            "arp operation request arp saddr ip 0.0.0.0 return".to_owned(),
            format!("iifname @{ANY} return"),
            format!("iifname . arp saddr ip @{IPV4} return"),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing4",
        [
            // What answers DHCP. The first fragment always holds the ports, and without it the others are nothing.
            "meta l4proto udp udp sport 67 drop",
            // From whatever port: clients look at their own.
            "meta l4proto udp udp dport 68 drop",
            // Redirects, and routers' advertisements.
            "ip protocol icmp icmp type 5 drop",
            "ip protocol icmp icmp type 9 drop",
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 return",
            "ip saddr 0.0.0.0 drop",
            &format!("iifname @{ANY} return"),
            &format!("iifname . ip saddr @{IPV4} return"),
            "drop",
        ],
    );
    part.chain(
        "spoofing6",
        [
            // Later fragments: their first had to show what it is.
            "frag frag-off != 0 goto spoofing6_source",
            "meta l4proto ipv6-icmp goto spoofing_icmp6",
            "meta l4proto udp udp sport 547 drop",
            "meta l4proto udp udp dport 546 drop",
            "goto spoofing6_source",
        ],
    );
    part.chain(
        "spoofing6_source",
        [
            "ip6 saddr :: drop".to_owned(),
            format!("iifname @{ANY} return"),
            format!("iifname . ip6 saddr @{IPV6} return"),
            "drop".to_owned(),
        ],
    );
}

/// ICMP of IPv6. Messages of ND have no extension headers or fragments, and options only in the order in which hosts send them:
/// a link-layer address first, then, of who looks for duplicates, a nonce.
fn neighbours(part: &mut Part) {
    let mut icmp = Vec::new();
    for (kind, chain) in [
        ("nd-neighbor-solicit", "spoofing_ns"),
        ("nd-neighbor-advert", "spoofing_na"),
        ("nd-router-solicit", "spoofing_rs"),
    ] {
        icmp.push(format!("ip6 nexthdr ipv6-icmp icmpv6 type {kind} goto {chain}"));
        icmp.push(format!("icmpv6 type {kind} drop"));
    }
    icmp.extend(["nd-router-advert", "nd-redirect"].map(|kind| format!("icmpv6 type {kind} drop")));
    // Who has no address yet says which groups it listens to.
    icmp.extend([131, 132, 143].map(|kind| format!("icmpv6 type {kind} ip6 saddr :: return")));
    icmp.push("icmpv6 type != 134 goto spoofing6_source".to_owned());
    icmp.push("drop".to_owned());
    part.chain("spoofing_icmp6", icmp);

    let link_layer = |option: u8| format!("@th,192,16 {option:#04x}01 iifname . @th,208,48 @{RAW_MAC}");
    let nonce = "0x0e01";
    part.chain(
        "spoofing_ns",
        [
            "ip6 saddr :: ip6 length 24 goto spoofing_target".to_owned(),
            format!("ip6 saddr :: ip6 length 32 @th,192,16 {nonce} goto spoofing_target"),
            "ip6 length 24 goto spoofing6_source".to_owned(),
            format!("ip6 length 32 {} goto spoofing6_source", link_layer(1)),
            format!("ip6 length 40 {} @th,256,16 {nonce} goto spoofing6_source", link_layer(1)),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing_target",
        [format!("iifname @{ANY} return"), format!("iifname . @th,64,128 @{RAW_IPV6} return"), "drop".to_owned()],
    );
    part.chain(
        "spoofing_na",
        [
            "ip6 length 24 goto spoofing_na_target".to_owned(),
            format!("ip6 length 32 {} goto spoofing_na_target", link_layer(2)),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing_na_target",
        [
            format!("iifname @{ANY} goto spoofing6_source"),
            format!("iifname . @th,64,128 @{RAW_IPV6} goto spoofing6_source"),
            "drop".to_owned(),
        ],
    );
    part.chain(
        "spoofing_rs",
        [
            "ip6 saddr :: ip6 length 8 return".to_owned(),
            "ip6 length 8 goto spoofing6_source".to_owned(),
            format!("ip6 length 16 @th,64,16 0x0101 iifname . @th,80,48 @{RAW_MAC} goto spoofing6_source"),
            "drop".to_owned(),
        ],
    );
}

/// What rules are not asked about, and how packets in fragments pass them: the first as a packet does, the others after it.
fn unasked(part: &mut Part) {
    for (chain, pass, link, ports4, ports6, neighbours) in [
        (SENT, PASS_SENT, "iifname", (68, 67), (546, 547), [133, 135, 136].as_slice()),
        (RECEIVED, PASS_RECEIVED, "oifname", (67, 68), (547, 546), [134, 135, 136, 137].as_slice()),
    ] {
        let mut rules = vec![
            "ether type arp accept".to_owned(),
            format!("meta protocol ip udp sport {} udp dport {} accept", ports4.0, ports4.1),
            format!("meta protocol ip6 udp sport {} udp dport {} accept", ports6.0, ports6.1),
        ];
        if chain == SENT {
            rules.push("ether type 0x8035 accept".to_owned());
        }
        let listeners = [130, 131, 132, 143];
        for kind in neighbours.iter().chain(&listeners) {
            rules.push(format!("icmpv6 type {kind} accept"));
        }
        // Errors: without them nobody learns how large a packet may be. What they quote is not looked at.
        rules.extend([3, 11, 12].map(|kind| format!("icmp type {kind} accept")));
        rules.extend([1, 2, 3, 4].map(|kind| format!("icmpv6 type {kind} accept")));
        let (key4, key6) =
            (format!("{link} . ip saddr . ip daddr . ip id"), format!("{link} . ip6 saddr . ip6 daddr . frag id"));
        rules.push(format!("ip frag-off & 0x1fff != 0 {key4} @fragments4 accept"));
        rules.push(format!("frag frag-off != 0 {key6} @fragments6 accept"));
        part.chain(chain, rules);
        part.chain(
            pass,
            [
                format!("ip frag-off & 0x3fff == 0x2000 update @fragments4 {{ {key4} timeout {FRAGMENTS} }} accept"),
                format!("frag frag-off 0 update @fragments6 {{ {key6} timeout {FRAGMENTS} }} accept"),
                "accept".to_owned(),
            ],
        );
    }
}
