//! What the kernel has, as far as it can be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use macaddr::MacAddr6;
use vmferry_core::{network::LinkName, policy::Guarded};

use super::{
    frame,
    part::{Atom, Owner, Part, Parts},
    ruleset,
};

/// What is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The taps that are filtered.
    pub guarded: BTreeMap<LinkName, Seen>,
}

/// A filter as far as the kernel can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The MAC addresses that the guest may use.
    pub macs: BTreeSet<MacAddr6>,
    /// The addresses that it may use, the link-local one among them; none: any.
    pub addresses: BTreeSet<IpAddr>,
    mark: Option<String>,
}

impl Seen {
    /// Whether this is the filter of that vif with that policy.
    pub fn is(&self, vif: &Guarded) -> bool {
        self.mark == Some(ruleset::vif_mark(vif))
    }
}

impl Held {
    /// What these parts say.
    pub(super) fn of(parts: &Parts) -> Self {
        let mut held = Self::default();
        for (owner, part) in parts {
            match owner {
                Owner::Tap(tap) => {
                    let seen = seen(part);
                    if seen.mark.is_some() {
                        held.guarded.insert(tap.clone(), seen);
                    }
                }
                Owner::Frame | Owner::Group(_) | Owner::Rules(_) | Owner::Nobody => {}
            }
        }
        held
    }
}

fn seen(part: &Part) -> Seen {
    let mut seen = Seen::default();
    for (element, with) in &part.elements {
        match element.key.last() {
            Some(Atom::Link(_)) if element.set == frame::GUARDED => {
                seen.mark = with.comment.clone().or(Some(String::new()))
            }
            Some(Atom::Mac(mac)) => {
                seen.macs.insert(MacAddr6::from(*mac));
            }
            Some(Atom::Ip(address)) => {
                seen.addresses.insert(*address);
            }
            _ => {}
        }
    }
    seen
}
