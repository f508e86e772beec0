//! Whom to let answer, without the kernel's connection tracking: what rules let through one way is remembered in sets, by packets
//! themselves, and what comes the other way and answers it passes.
//!
//! The sets are shared: sets, and rules that name them, of each vif's own would cost far more, the more there are. So that a guest
//! that fills one harms few others, there are several, and its name says in which a tap's flows are.

use sha2::{Digest as _, Sha256};
use vmferry_core::{
    network::LinkName,
    policy::{Ends, Flow, Subject},
};

use super::{
    frame::{DYNAMIC, EGRESS, INGRESS, PASS_RECEIVED, PASS_SENT, RECEIVED, SENT},
    part::{Kind, Part, Set},
};

/// The taps that have rules.
pub(super) const RULED: &str = "ruled";

/// How many there are of each set. A packet asks for them one after the other.
const SHARDS: u8 = 8;

/// Where a tap's flows are.
pub(super) fn shard(tap: &LinkName) -> u8 {
    Sha256::digest(tap.as_str())[0] % SHARDS
}

/// The taps whose flows are there.
pub(super) fn shard_set(shard: u8) -> String {
    format!("{RULED}-{shard}")
}

/// The chain that lets pass what no rule is asked about: what always passes, and answers.
pub(super) fn known(map: &str) -> String {
    format!("{map}_known")
}

/// The chain that remembers, and lets pass, what rules have let through.
pub(super) fn remember(map: &str) -> String {
    format!("{map}_remember")
}

/// IPv4 or IPv6, in the words of nft.
struct Family {
    digit: &'static str,
    ip: &'static str,
    address: &'static str,
    icmp: &'static str,
    l4proto: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family { digit: "4", ip: "ip", address: "ipv4_addr", icmp: "icmp", l4proto: "icmp" },
    Family { digit: "6", ip: "ip6", address: "ipv6_addr", icmp: "icmpv6", l4proto: "ipv6-icmp" },
];

/// What the sets of flows are called, before the number of the family and the shard.
const FLOWS: [&str; 4] = [TCP, UDP, ECHOES, PAIRS];
pub(super) const TCP: &str = "tcp";
const UDP: &str = "udp";
pub(super) const ECHOES: &str = "echoes";
const PAIRS: &str = "pairs";

fn flow_set(what: &str, family: &str, shard: u8) -> String {
    format!("{what}{family}-{shard}")
}

/// The sets of flows of a tap, or of all.
pub(super) fn flow_sets(tap: Option<&LinkName>) -> Vec<String> {
    let shards = tap.map_or(0..SHARDS, |tap| shard(tap)..shard(tap) + 1);
    let of = |shard| FAMILIES.iter().flat_map(move |family| FLOWS.map(|what| flow_set(what, family.digit, shard)));
    shards.flat_map(of).collect()
}

/// A flow as an element: its set, and its key there.
pub(super) fn flow_element(tap: &LinkName, flow: &Flow) -> (String, String) {
    let (digit, from, to) = match flow.ends {
        Ends::V4 { from, to } => ("4", from.to_string(), to.to_string()),
        Ends::V6 { from, to } => ("6", from.to_string(), to.to_string()),
    };
    let (what, key) = match flow.subject {
        Subject::Ports { protocol, from: port, to: other } => {
            (if protocol == 6 { TCP } else { UDP }, format!("{from} . {port} . {to} . {other}"))
        }
        Subject::Echo { id } => (ECHOES, format!("{id} . {from} . {to}")),
        Subject::Protocol { protocol } => (PAIRS, format!("{protocol} . {from} . {to}")),
    };
    (flow_set(what, digit, shard(tap)), format!("\"{tap}\" . {key}"))
}

/// Adds the sets of flows, and what asks them and fills them.
pub(super) fn flows(part: &mut Part) {
    part.sets.insert(RULED.to_owned(), Set::plain("ifname"));
    for shard in 0..SHARDS {
        part.sets.insert(shard_set(shard), Set::plain("ifname"));
        for Family { digit, ip, address, icmp, .. } in FAMILIES {
            let service = format!("ifname . {address} . inet_service . {address} . inet_service");
            let pair = format!("ifname . inet_proto . {address} . {address}");
            let echo = format!("ifname . integer . {address} . {address}");
            let fields = format!("iifname . {icmp} id . {ip} saddr . {ip} daddr");
            for (what, types, words) in [
                // nft takes no more than five types in one key.
                (TCP, &service, format!("type {service}; {DYNAMIC}")),
                (UDP, &service, format!("type {service}; {DYNAMIC}")),
                (ECHOES, &echo, format!("typeof {fields}; {DYNAMIC}")),
                (PAIRS, &pair, format!("type {pair}; {DYNAMIC}")),
            ] {
                part.sets.insert(flow_set(what, digit, shard), Set::new(Kind::Set, types, words));
            }
        }
    }
    for (map, link, unasked, pass) in
        [(EGRESS, "iifname", SENT, PASS_SENT), (INGRESS, "oifname", RECEIVED, PASS_RECEIVED)]
    {
        let shards = |chain: &str| {
            (0..SHARDS)
                .map(move |shard| format!("{link} @{} goto {chain}{shard}", shard_set(shard)))
                .collect::<Vec<_>>()
        };
        let [of_known, of_remember] = [known(map), remember(map)].map(|chain| format!("{chain}_"));
        part.chain(&known(map), [format!("jump {unasked}")].into_iter().chain(shards(&of_known)));
        part.chain(&remember(map), shards(&of_remember));
        for shard in 0..SHARDS {
            let asked = FAMILIES.iter().flat_map(|family| answers(family, shard, link, pass));
            part.chain(&format!("{of_known}{shard}"), asked);
            let remembered = FAMILIES.iter().flat_map(|family| remembers(family, shard, link, pass));
            part.chain(&format!("{of_remember}{shard}"), remembered.chain([format!("goto {pass}")]));
        }
    }
}

/// Lets the answers to what was let through the other way pass.
fn answers(family: &Family, shard: u8, link: &str, pass: &str) -> Vec<String> {
    let Family { digit, ip, icmp, .. } = family;
    let [tcp_set, udp_set, echoes, pairs] = FLOWS.map(|what| flow_set(what, digit, shard));
    let service = format!("{link} . {ip} daddr . th dport . {ip} saddr . th sport");
    let echo = format!("{link} . {icmp} id . {ip} daddr . {ip} saddr");
    let pair = format!("{link} . meta l4proto . {ip} daddr . {ip} saddr");
    vec![
        format!("meta protocol {ip} meta l4proto tcp {service} @{tcp_set} goto {pass}"),
        format!(
            "meta protocol {ip} meta l4proto udp {service} @{udp_set} update @{udp_set} {{ {service} timeout {UDP_LEFT} }} goto {pass}"
        ),
        format!("{icmp} type echo-reply {echo} @{echoes} goto {pass}"),
        format!("meta protocol {ip} {pair} @{pairs} update @{pairs} {{ {pair} timeout {OTHER} }} goto {pass}"),
    ]
}

/// How long TCP is remembered after it carried something.
const TCP_LEFT: &str = "12h";
/// After it was opened or closed.
const TCP_ENDS: &str = "2m";
const UDP_LEFT: &str = "3m";
const ECHO: &str = "30s";
const OTHER: &str = "10m";

/// Remembers whom to let answer. A set that is full takes no more: then the rule ends there, and the next one lets pass.
fn remembers(family: &Family, shard: u8, link: &str, pass: &str) -> Vec<String> {
    let Family { digit, ip, icmp, l4proto, .. } = family;
    let [tcp_set, udp_set, echoes, pairs] = FLOWS.map(|what| flow_set(what, digit, shard));
    let service = format!("{link} . {ip} saddr . th sport . {ip} daddr . th dport");
    let tcp = format!("meta protocol {ip} meta l4proto tcp");
    vec![
        format!(
            "{tcp} tcp flags & (fin|syn|rst) != 0 update @{tcp_set} {{ {service} timeout {TCP_ENDS} }} goto {pass}"
        ),
        format!("{tcp} tcp flags & psh == psh update @{tcp_set} {{ {service} timeout {TCP_LEFT} }} goto {pass}"),
        // What carries nothing may be the last of a connection: it does not prolong.
        format!("{tcp} add @{tcp_set} {{ {service} timeout {TCP_LEFT} }} goto {pass}"),
        format!("meta protocol {ip} meta l4proto udp update @{udp_set} {{ {service} timeout {UDP_LEFT} }} goto {pass}"),
        format!(
            "{icmp} type echo-request update @{echoes} {{ {link} . {icmp} id . {ip} saddr . {ip} daddr timeout {ECHO} }} goto {pass}"
        ),
        format!(
            "meta protocol {ip} meta l4proto != tcp meta l4proto != udp meta l4proto != {l4proto} update @{pairs} \
             {{ {link} . meta l4proto . {ip} saddr . {ip} daddr timeout {OTHER} }} goto {pass}"
        ),
    ]
}
