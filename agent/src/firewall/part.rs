//! What the table is made of, as values, and the transactions that make one of another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::IpAddr,
};

use macaddr::MacAddr6;
use sha2::{Digest as _, Sha256};
use vmferry_core::network::LinkName;

/// The table of ours.
pub(super) const TABLE: &str = "bridge vmferry";

/// Whom a part of the table is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// All.
    Frame,
    /// The members of a group, in a set of this name.
    Group(String),
    /// The vifs that have these rules, in a chain of this name.
    Rules(String),
    /// A vif.
    Tap(LinkName),
    /// Nobody: somebody else has put it there.
    Nobody,
}

/// The table, by whom it is for.
pub(super) type Parts = BTreeMap<Owner, Part>;

/// What the table has for one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Sets and maps.
    pub(super) sets: BTreeMap<String, Set>,
    /// Chains, with their rules.
    pub(super) chains: BTreeMap<String, Chain>,
    /// Elements of sets and maps, its own and others', but for those that come and go with packets.
    pub(super) elements: BTreeMap<Element, Attached>,
}

/// A set's or map's declaration. Two of the same types are the same: the rest is never changed.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// `set` or `map`.
    pub(super) kind: Kind,
    /// The types of its keys, as nft lists them.
    pub(super) types: Vec<String>,
    /// What it is declared with; empty if it was read.
    pub(super) text: String,
}

/// A set, or a map of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Set,
    Map,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where the kernel calls it; none: another chain does.
    pub(super) hook: Option<Hook>,
    /// What it does.
    pub(super) rules: Vec<Rule>,
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) priority: i32,
    pub(super) policy: String,
}

/// A rule. What nft lists is not what it was given; so each rule has a mark that tells whether it is the same.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// What it was given; `None` if it was read.
    pub(super) text: Option<String>,
    /// Follows from the text; none if somebody else made the rule.
    pub(super) mark: Option<String>,
    /// The groups that it asks for.
    pub(super) groups: BTreeSet<String>,
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) set: String,
    pub(super) kind: Kind,
    pub(super) key: Vec<Atom>,
}

/// A part of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    Link(String),
    Mac([u8; 6]),
    Ip(IpAddr),
    Number(u128),
}

/// What an element has beside its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attached {
    /// What is said of it.
    pub(super) comment: Option<String>,
    /// The chain that it leads to.
    pub(super) chain: Option<String>,
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.types) == (other.kind, &other.types)
    }
}

impl Eq for Set {}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.mark.is_some() && self.mark == other.mark
    }
}

impl Eq for Rule {}

impl Rule {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { mark: Some(mark(text.as_bytes())), text: Some(text), groups: BTreeSet::new() }
    }
}

impl Set {
    /// A set of keys of these types, as nft lists them, declared by `text`.
    pub(super) fn new(kind: Kind, types: &str, text: impl Into<String>) -> Self {
        Self { kind, types: types.split(" . ").map(str::to_owned).collect(), text: text.into() }
    }

    /// A set of keys that need no more words.
    pub(super) fn plain(types: &str) -> Self {
        Self::new(Kind::Set, types, format!("type {types};"))
    }
}

impl Part {
    /// Adds an element that is nothing but a key.
    pub(super) fn element(&mut self, set: &str, key: impl IntoIterator<Item = Atom>) {
        self.attach(Kind::Set, set, key, Attached::default());
    }

    /// Adds an element with something beside its key.
    pub(super) fn attach(&mut self, kind: Kind, set: &str, key: impl IntoIterator<Item = Atom>, with: Attached) {
        self.elements.insert(Element { set: set.to_owned(), kind, key: key.into_iter().collect() }, with);
    }

    /// Adds a chain that other chains call.
    pub(super) fn chain<R: Into<String>>(&mut self, name: &str, rules: impl IntoIterator<Item = R>) {
        let rules = rules.into_iter().map(Rule::new).collect();
        self.chains.insert(name.to_owned(), Chain { hook: None, rules });
    }

    /// The parts that it needs beside the frame: rules that its elements lead to, groups that its rules ask for.
    pub(super) fn needs(&self) -> impl Iterator<Item = Owner> {
        let rules = self.elements.values().filter_map(|with| with.chain.clone()).map(Owner::Rules);
        let groups = self.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.groups);
        rules.chain(groups.cloned().map(Owner::Group))
    }
}

impl From<&LinkName> for Atom {
    fn from(link: &LinkName) -> Self {
        Self::Link(link.as_str().to_owned())
    }
}

impl From<MacAddr6> for Atom {
    fn from(mac: MacAddr6) -> Self {
        Self::Mac(mac.into_array())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "\"{name}\""),
            Self::Mac(bytes) => f.write_str(&MacAddr6::from(*bytes).to_string().to_lowercase()),
            Self::Ip(address) => address.fmt(f),
            Self::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key.iter().map(Atom::to_string).collect::<Vec<_>>().join(" . "))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set => "set",
            Self::Map => "map",
        })
    }
}

/// The same for the same, short enough for a comment in the kernel.
pub(super) fn mark(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes)[..8])
}

/// The same, so long that nobody finds two that are alike.
pub(super) fn long_mark(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
