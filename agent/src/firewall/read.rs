//! From what nft lists to the parts of the table, by whom they are for. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use macaddr::MacAddr6;
use serde::Deserialize;
use vmferry_core::{
    network::LinkName,
    policy::{Ends, Flow, Subject},
};

use super::{
    flows::{ECHOES, TCP},
    frame::frame,
    part::{Atom, Attached, Chain, Element, Hook, Kind, Owner, Part, Parts, Rule, Set},
    ruleset::{has_rules_of_vifs, stem_of},
};

/// What `nft --json list` says.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Listing {
    nftables: Vec<Item>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    metainfo: Option<Named>,
    table: Option<Named>,
    set: Option<ListedSet>,
    map: Option<ListedSet>,
    chain: Option<ListedChain>,
    rule: Option<ListedRule>,
}

#[derive(Debug, Deserialize)]
struct Named {}

#[derive(Debug, Deserialize)]
struct ListedSet {
    name: String,
    #[serde(rename = "type")]
    types: Types,
    #[serde(default)]
    elem: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Types {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Mapped(Key, BTreeMap<String, Option<Target>>),
    Plain(Key),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Key {
    Elem { elem: Elem },
    Bare(Value),
}

#[derive(Debug, Deserialize)]
struct Elem {
    val: Value,
    comment: Option<String>,
    expires: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Concat { concat: Vec<Scalar> },
    One(Scalar),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
struct Target {
    target: String,
}

#[derive(Debug, Deserialize)]
struct ListedChain {
    name: String,
    hook: Option<String>,
    prio: Option<i32>,
    policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ListedRule {
    chain: String,
    comment: Option<String>,
    #[serde(default)]
    expr: serde_json::Value,
}

/// An element, what it has beside its key, and in how many seconds it will be gone.
type Read = (Vec<Atom>, Attached, Option<u32>);

impl Listing {
    /// The sets and maps whose elements belong to the table's parts, for they do not come and go with packets.
    pub(super) fn settled(&self) -> Vec<(Kind, String)> {
        let frame = frame();
        let settled = |set: &&(Kind, &ListedSet)| {
            frame.sets.get(&set.1.name).is_some_and(|known| !known.text.contains("dynamic"))
                || stem_of(&set.1.name).is_some()
        };
        self.sets().filter(|set| settled(&set)).map(|(kind, set)| (kind, set.name.clone())).collect()
    }

    fn sets(&self) -> impl Iterator<Item = (Kind, &ListedSet)> {
        self.nftables.iter().flat_map(|item| {
            [item.set.as_ref().map(|set| (Kind::Set, set)), item.map.as_ref().map(|map| (Kind::Map, map))]
                .into_iter()
                .flatten()
        })
    }

    /// The table's parts, from its own listing and those of the sets that are [settled](Self::settled).
    pub(super) fn parts(&self, sets: &[Self]) -> Result<Parts, String> {
        let (mut parts, frame) = (Parts::new(), frame());
        for (kind, set) in self.sets() {
            let owner = match stem_of(&set.name) {
                _ if frame.sets.contains_key(&set.name) => Owner::Frame,
                Some(stem) => Owner::Group(stem.to_owned()),
                None => Owner::Nobody,
            };
            let declared = Set { kind, types: set.types(), text: String::new() };
            parts.entry(owner).or_default().sets.insert(set.name.clone(), declared);
        }
        for chain in self.nftables.iter().filter_map(|item| item.chain.as_ref()) {
            let hook = chain.hook.clone().map(|name| Hook {
                name,
                priority: chain.prio.unwrap_or_default(),
                policy: chain.policy.clone().unwrap_or_default(),
            });
            let part = parts.entry(chain_owner(&frame, &chain.name)).or_default();
            part.chains.insert(chain.name.clone(), Chain { hook, rules: Vec::new() });
        }
        for rule in self.nftables.iter().filter_map(|item| item.rule.as_ref()) {
            let mut groups = BTreeSet::new();
            collect_groups(&rule.expr, &mut groups);
            let chains = &mut parts.entry(chain_owner(&frame, &rule.chain)).or_default().chains;
            let read = Rule { text: None, mark: rule.comment.clone(), groups };
            chains.entry(rule.chain.clone()).or_default().rules.push(read);
        }
        if self.nftables.iter().any(Item::is_strange) {
            parts.entry(Owner::Nobody).or_default();
        }
        for (kind, set) in sets.iter().flat_map(Self::sets) {
            for (key, with, _) in set.entries()? {
                let element = Element { set: set.name.clone(), kind, key };
                parts.entry(element_owner(&element)).or_default().elements.insert(element, with);
            }
        }
        Ok(parts)
    }

    /// The flows in a set of them, by tap.
    pub(super) fn flows(&self) -> Result<Vec<(LinkName, Flow)>, String> {
        let mut flows = Vec::new();
        for (_, set) in self.sets() {
            let entries = set.entries()?;
            let seen = |(key, _, left): &Read| flow(&set.name, key, left.filter(|left| *left > 0)?);
            flows.extend(entries.iter().filter_map(seen));
        }
        Ok(flows)
    }
}

impl Item {
    /// Whether it is of a kind that this table does not have.
    fn is_strange(&self) -> bool {
        self.metainfo.is_none()
            && self.table.is_none()
            && self.set.is_none()
            && self.map.is_none()
            && self.chain.is_none()
            && self.rule.is_none()
    }
}

impl ListedSet {
    fn types(&self) -> Vec<String> {
        match &self.types {
            Types::One(one) => vec![one.clone()],
            Types::Many(many) => many.clone(),
        }
    }

    fn entries(&self) -> Result<Vec<Read>, String> {
        let types = self.types();
        let atoms = |value: &Value| {
            let scalars = match value {
                Value::One(one) => std::slice::from_ref(one),
                Value::Concat { concat } => concat,
            };
            if scalars.len() != types.len() {
                return Err(format!("set `{}` has an element that is not of its type", self.name));
            }
            scalars.iter().zip(&types).map(|(scalar, kind)| atom(scalar, kind)).collect::<Result<Vec<_>, _>>()
        };
        let read = |entry: &Entry| {
            let (key, verdict) = match entry {
                Entry::Mapped(key, verdict) => (key, Some(verdict)),
                Entry::Plain(key) => (key, None),
            };
            let chain = verdict.map(|verdict| match verdict.first_key_value() {
                Some((verb, Some(target))) if verb == "jump" => target.target.clone(),
                // None of ours, and so no chain's name.
                other => format!("{other:?}"),
            });
            Ok(match key {
                Key::Bare(value) => (atoms(value)?, Attached { comment: None, chain }, None),
                Key::Elem { elem } => {
                    (atoms(&elem.val)?, Attached { comment: elem.comment.clone(), chain }, elem.expires)
                }
            })
        };
        self.elem.iter().map(read).collect()
    }
}

fn atom(scalar: &Scalar, kind: &str) -> Result<Atom, String> {
    let unknown = || format!("`{scalar:?}` is no {kind}");
    Ok(match (kind, scalar) {
        ("ifname", Scalar::Text(text)) => Atom::Link(text.clone()),
        ("ether_addr", Scalar::Text(text)) => Atom::Mac(text.parse::<MacAddr6>().map_err(|_| unknown())?.into_array()),
        ("ipv4_addr", Scalar::Text(text)) => Atom::Ip(text.parse::<Ipv4Addr>().map_err(|_| unknown())?.into()),
        ("ipv6_addr", Scalar::Text(text)) => Atom::Ip(text.parse::<Ipv6Addr>().map_err(|_| unknown())?.into()),
        (_, Scalar::Number(number)) => Atom::Number((*number).into()),
        (_, Scalar::Text(text)) => {
            let digits = text.strip_prefix("0x").ok_or_else(unknown)?;
            Atom::Number(u128::from_str_radix(digits, 16).map_err(|_| unknown())?)
        }
    })
}

fn chain_owner(frame: &Part, name: &str) -> Owner {
    if frame.chains.contains_key(name) {
        return Owner::Frame;
    }
    if has_rules_of_vifs(name) { Owner::Rules(name.to_owned()) } else { Owner::Nobody }
}

fn element_owner(element: &Element) -> Owner {
    let link = match element.key.first() {
        Some(Atom::Link(name)) => name.parse::<LinkName>().ok(),
        _ => None,
    };
    match (link, stem_of(&element.set)) {
        (_, Some(stem)) => Owner::Group(stem.to_owned()),
        (Some(tap), None) => Owner::Tap(tap),
        (None, None) => Owner::Nobody,
    }
}

/// The groups whose sets a rule asks for.
fn collect_groups(value: &serde_json::Value, groups: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::String(text) => {
            groups.extend(text.strip_prefix('@').and_then(stem_of).map(str::to_owned));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_groups(value, groups)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| collect_groups(value, groups)),
        _ => {}
    }
}

/// The flow that an element of a set of `what` stands for, and its tap.
fn flow(what: &str, key: &[Atom], left: u32) -> Option<(LinkName, Flow)> {
    let (Atom::Link(tap), key) = key.split_first()? else { return None };
    let short = |number: u128| u16::try_from(number).ok();
    let byte = |number: u128| u8::try_from(number).ok();
    let (from, to, subject) = match *key {
        [Atom::Ip(from), Atom::Number(source), Atom::Ip(to), Atom::Number(port)] => {
            let protocol = if what.starts_with(TCP) { 6 } else { 17 };
            (from, to, Subject::Ports { protocol, from: short(source)?, to: short(port)? })
        }
        [Atom::Number(id), Atom::Ip(from), Atom::Ip(to)] if what.starts_with(ECHOES) => {
            (from, to, Subject::Echo { id: short(id)? })
        }
        [Atom::Number(protocol), Atom::Ip(from), Atom::Ip(to)] => {
            (from, to, Subject::Protocol { protocol: byte(protocol)? })
        }
        _ => return None,
    };
    let ends = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ends::V4 { from, to },
        (IpAddr::V6(from), IpAddr::V6(to)) => Ends::V6 { from, to },
        _ => return None,
    };
    Some((tap.parse().ok()?, Flow { ends, subject, left }))
}
