//! From policies to what the table has for each vif. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmferry_core::{
    network::LinkName,
    policy::{Direction, GroupName, Guarded, Members, Peer, Policy, Protocol, Rule as Allowed},
};

use super::{
    flows::{RULED, shard, shard_set},
    frame::{ANY, EGRESS, GUARDED, INGRESS, IPV4, IPV6, MAC, RAW_IPV6, RAW_MAC, frame},
    nft::failed,
    part::{Atom, Attached, Chain, Kind, Owner, Part, Parts, Rule, Set, long_mark, mark},
};
use crate::hypervisor::Fault;

/// The table for these vifs.
pub(super) fn table(vifs: &[Guarded], members: &Members) -> Parts {
    let mut parts = Parts::from([(Owner::Frame, frame())]);
    parts.extend(vifs.iter().map(|vif| (Owner::Tap(vif.tap.clone()), filters(vif))));
    for vif in vifs {
        parts.extend(rules(&vif.policy));
        parts.extend(groups(&vif.policy).map(|name| (Owner::Group(group_stem(name)), group(name, members))));
    }
    parts
}

/// Refuses the name of a link that nft would take for something else.
pub(super) fn nameable(tap: &LinkName) -> Result<(), Fault> {
    if tap.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "._-@+".contains(c)) {
        return Ok(());
    }
    Err(failed(format!("nft takes `{tap}` for something else than the name of a link; give it another name")))
}

/// The groups that a policy's rules ask for.
pub(super) fn groups(policy: &Policy) -> impl Iterator<Item = &GroupName> {
    policy.rules.iter().filter_map(|rule| match &rule.peer {
        Peer::Group(name) => Some(name),
        Peer::Anyone | Peer::Net(_) => None,
    })
}

/// The sets of a group's members.
pub(super) fn group(name: &GroupName, members: &Members) -> Part {
    let (mut part, stem) = (Part::default(), group_stem(name));
    for (family, types) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        part.sets.insert(format!("{stem}{GROUP}{family}"), Set::plain(types));
    }
    for address in members.get(name).into_iter().flatten() {
        let family = if address.is_ipv4() { "4" } else { "6" };
        part.element(&format!("{stem}{GROUP}{family}"), [Atom::Ip(*address)]);
    }
    part
}

/// What the names of a group's sets begin with. The kernel leaves 255 bytes.
pub(super) fn group_stem(name: &GroupName) -> String {
    match name.as_str() {
        short if short.len() <= 200 => format!("group-{short}"),
        long => format!("group-{}-{}", &long[..150], mark(long.as_bytes())),
    }
}

/// What comes between the name of a group and the number of the family.
const GROUP: &str = "-members";

/// The name of a group's set, without what tells the families apart.
pub(super) fn stem_of(set: &str) -> Option<&str> {
    set.strip_suffix(['4', '6'])?.strip_suffix(GROUP).filter(|stem| stem.starts_with("group-"))
}

/// The mark of what a vif may.
pub(super) fn vif_mark(vif: &Guarded) -> String {
    mark(format!("{vif:?}").as_bytes())
}

/// All that a vif has in the table.
pub(super) fn filters(vif: &Guarded) -> Part {
    let (mut part, tap) = (Part::default(), || Atom::from(&vif.tap));
    let comment = Some(vif_mark(vif));
    part.attach(Kind::Set, GUARDED, [tap()], Attached { comment, chain: None });
    part.element(MAC, [tap(), vif.mac.into()]);
    part.element(RAW_MAC, [tap(), Atom::Number(u64::from_be_bytes(widened(vif.mac.into_array())).into())]);
    let addresses = vif.addresses();
    if addresses.is_empty() {
        part.element(ANY, [tap()]);
    }
    for address in addresses {
        match address {
            IpAddr::V4(_) => part.element(IPV4, [tap(), Atom::Ip(address)]),
            IpAddr::V6(v6) => {
                part.element(IPV6, [tap(), Atom::Ip(address)]);
                part.element(RAW_IPV6, [tap(), Atom::Number(v6.to_bits())]);
            }
        }
    }
    if !vif.policy.rules.is_empty() {
        part.element(RULED, [tap()]);
        part.element(&shard_set(shard(&vif.tap)), [tap()]);
    }
    for (map, chain, _) in restrictions(&vif.policy) {
        part.attach(Kind::Map, map, [tap()], Attached { comment: None, chain: Some(chain) });
    }
    part
}

fn widened([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    [0, 0, a, b, c, d, e, f]
}

/// Whether a vif's part has rules.
pub(super) fn has_rules(part: &Part) -> bool {
    part.elements.keys().any(|element| element.set == RULED)
}

/// The chains of security groups, one for each direction that is not open: they return for what a rule lets through. They ask every
/// packet, not only the first, so that a flow that is lost is there again after the next one. Vifs with the same rules share them:
/// with each change the kernel looks at every chain that there is.
pub(super) fn rules(policy: &Policy) -> Parts {
    let part = |(_, name, rules): (_, String, _)| {
        let chains = BTreeMap::from([(name.clone(), Chain { hook: None, rules })]);
        (Owner::Rules(name), Part { chains, ..Part::default() })
    };
    restrictions(policy).map(part).collect()
}

/// The map that leads to the rules of a direction that is not open, the chain that has them, and what it has.
fn restrictions(policy: &Policy) -> impl Iterator<Item = (&'static str, String, Vec<Rule>)> {
    let restricted = [(Direction::Egress, EGRESS), (Direction::Ingress, INGRESS)].into_iter();
    restricted.filter(|(direction, _)| policy.restricts(*direction)).map(|(direction, map)| {
        let allowed = policy.rules.iter().filter(|rule| rule.direction == direction);
        let rules: Vec<_> = allowed.flat_map(matches).chain([Rule::new("drop")]).collect();
        let texts: Vec<_> = rules.iter().filter_map(|rule| rule.text.as_deref()).collect();
        (map, format!("{RULES}{}", long_mark(texts.join("\n").as_bytes())), rules)
    })
}

/// What the names of chains of rules begin with.
const RULES: &str = "rules-";

/// Whether a chain of this name has rules of vifs.
pub(super) fn has_rules_of_vifs(chain: &str) -> bool {
    chain.starts_with(RULES)
}

/// What a rule lets through, a line for each family.
fn matches(rule: &Allowed) -> Vec<Rule> {
    let ports = rule.ports.map_or_else(String::new, |ports| match ports.first == ports.last {
        true => format!(" {}", ports.first),
        false => format!(" {}-{}", ports.first, ports.last),
    });
    let mut rules = Vec::new();
    for (digit, ip) in [("4", "ip"), ("6", "ip6")] {
        let v4 = ip == "ip";
        let protocol = match (rule.protocol, v4) {
            (Protocol::Any, _) => String::new(),
            (Protocol::Tcp, _) if ports.is_empty() => " meta l4proto tcp".to_owned(),
            (Protocol::Udp, _) if ports.is_empty() => " meta l4proto udp".to_owned(),
            (Protocol::Tcp, _) => format!(" tcp dport{ports}"),
            (Protocol::Udp, _) => format!(" udp dport{ports}"),
            (Protocol::Icmp, true) => " meta l4proto icmp".to_owned(),
            (Protocol::Icmpv6, false) => " meta l4proto ipv6-icmp".to_owned(),
            (Protocol::Icmp, false) | (Protocol::Icmpv6, true) => continue,
            (Protocol::Number(number), _) => format!(" meta l4proto {number}"),
        };
        let field = match rule.direction {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        };
        let mut groups = BTreeSet::new();
        let peer = match &rule.peer {
            Peer::Anyone => String::new(),
            Peer::Net(net) if net.addr().is_ipv4() != v4 => continue,
            Peer::Net(net) if net.prefix_len() == 0 => String::new(),
            Peer::Net(net) => format!(" {ip} {field} {}", net.trunc()),
            Peer::Group(name) => {
                let stem = group_stem(name);
                let set = format!("{stem}{GROUP}{digit}");
                groups.insert(stem);
                format!(" {ip} {field} @{set}")
            }
        };
        let line = format!("meta protocol {ip}{protocol}{peer} return");
        rules.push(Rule { groups, ..Rule::new(line) });
    }
    rules
}
