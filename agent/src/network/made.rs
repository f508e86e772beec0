//! What VMFerry makes, and how it knows its own.

use macaddr::MacAddr6;
use uuid::Uuid;
use vmferry_core::{
    id::InstanceId,
    network::{Carrier, HeldKind, HeldLink, Holder, LinkName, Network, Plug, VifId, is_made},
};

use super::link::{Link, Links};

/// The group that links of VMFerry's are born in, `vmf` in ASCII: the kernel takes an alias only once a link is there, and
/// VMFerry might be killed in between.
pub(super) const GROUP: u32 = 0x0076_6d66;

const MARK: &str = "vmferry: ";

/// The alias of what is made for somebody.
pub(super) fn alias(holder: &Holder) -> String {
    format!("{MARK}{holder}")
}

/// Whether a link is VMFerry's, and for whom; the inner none: nobody had said yet.
pub(super) fn mark(link: &Link) -> Option<Option<Holder>> {
    match link.alias.as_deref().and_then(|alias| alias.strip_prefix(MARK)) {
        Some(holder) => holder.parse().ok().map(Some),
        None => (link.alias.is_none() && link.group == GROUP && is_made(link.name.as_str())).then_some(None),
    }
}

/// Whether a link was made for this holder, or for one that nobody had named yet: its name says that it is this one.
pub(super) fn is_for(link: &Link, holder: &Holder) -> bool {
    mark(link).is_some_and(|marked| marked.is_none_or(|marked| marked == *holder))
}

/// Names of the links that all vifs of a network share.
pub(super) fn shared(network: &Network) -> Vec<LinkName> {
    if matches!(network.carrier, Carrier::Bridge { .. } | Carrier::Ovs { .. }) {
        return Vec::new();
    }
    // Any vif: theirs are the same.
    let vif = VifId { instance: InstanceId(Uuid::nil()), mac: MacAddr6::nil() };
    let plug = Plug { vif, network: network.clone() };
    [Some(plug.bridge()), plug.uplink(), plug.port()].into_iter().flatten().collect()
}

/// Everything that carries the mark.
pub(super) fn held(links: &Links) -> impl Iterator<Item = HeldLink> {
    links
        .0
        .iter()
        .filter_map(|link| Some(HeldLink { name: link.name.clone(), kind: HeldKind::Link, holder: mark(link)? }))
}

/// Whether somebody else still needs the bridge: a port of it is none of these.
pub(super) fn is_used(links: &Links, bridge: &Link, own: &[&LinkName]) -> bool {
    links.ports(bridge.index).any(|port| !own.contains(&&port.name))
}
