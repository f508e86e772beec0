//! What VMFerry makes, and how it knows its own.

use macaddr::MacAddr6;
use uuid::Uuid;
use vmferry_core::{
    id::InstanceId,
    network::{Carrier, HeldKind, HeldLink, Holder, LinkName, Network, Plug, VifId, is_made},
};

use super::link::{Link, Links, Special};

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

/// Everything that carries the mark. Of a pair one end: the other goes with it.
pub(super) fn held(links: &Links) -> impl Iterator<Item = HeldLink> {
    let goes_with_another = |link: &Link| {
        let peer = link.parent.filter(|_| link.special == Special::Veth).and_then(|peer| links.numbered(peer));
        peer.is_some_and(|peer| peer.parent == Some(link.index) && peer.index < link.index && mark(peer).is_some())
    };
    let held = links.0.iter().filter(move |link| !goes_with_another(link));
    held.filter_map(|link| {
        let used_by = user(links, link).map(|user| user.name.clone());
        Some(HeldLink { name: link.name.clone(), kind: HeldKind::Link, holder: mark(link)?, used_by })
    })
}

/// A link that is not VMFerry's and would lose what it is plugged into, or lies on.
fn user<'a>(links: &'a Links, link: &Link) -> Option<&'a Link> {
    let uses = |other: &&Link| {
        // The parent of one of a pair is its other end, which may be in another network namespace, where numbers begin again.
        let lies_on = other.parent == Some(link.index) && other.special != Special::Veth;
        (lies_on || other.controller == Some(link.index)) && mark(other).is_none()
    };
    links.0.iter().find(uses)
}

/// Whether somebody else still needs the bridge: a port of it is none of these.
pub(super) fn is_used(links: &Links, bridge: &Link, own: &[&LinkName]) -> bool {
    links.ports(bridge.index).any(|port| !own.contains(&&port.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pair_one_end_is_held() {
        let link = |index, name: &str, parent, special, marked: bool| Link {
            index,
            name: name.parse().expect("valid"),
            up: true,
            carrier: true,
            loopback: false,
            mtu: 1_500,
            controller: None,
            parent,
            alias: (!marked).then(|| "somebody's".to_owned()),
            group: GROUP,
            special,
        };
        let links = Links(vec![
            link(3, "vmfp0123456789", Some(4), Special::Veth, true),
            link(4, "vmfu0123456789", Some(3), Special::Veth, true),
            // Its other end is somebody else's, or in another network namespace, where numbers begin again.
            link(5, "vmfu1123456789", Some(2), Special::Veth, true),
            link(2, "theirs", Some(5), Special::Veth, false),
            link(7, "vmfu2123456789", Some(3), Special::Veth, true),
            // A VLAN goes with what it is on top of, but is something else.
            link(8, "vmfu3123456789", Some(3), Special::Vlan { id: 7 }, true),
        ]);
        let names: Vec<_> = held(&links).map(|held| held.name.to_string()).collect();
        assert_eq!(names, ["vmfp0123456789", "vmfu1123456789", "vmfu2123456789", "vmfu3123456789"]);
    }

    #[test]
    fn what_somebody_else_has_plugged_in_or_put_on_top_is_told() {
        let link = |index, name: &str, controller, parent, special, alias: Option<&str>| Link {
            index,
            name: name.parse().expect("valid"),
            up: true,
            carrier: true,
            loopback: false,
            mtu: 1_500,
            controller,
            parent,
            alias: alias.map(str::to_owned),
            group: if alias.is_some() { GROUP } else { 0 },
            special,
        };
        let bridge = || Special::Bridge { filters_vlans: None };
        let ours = Some("vmferry: network blue");
        let users = |links: Vec<Link>| -> Vec<Option<String>> {
            held(&Links(links)).map(|held| held.used_by.map(|user| user.to_string())).collect()
        };
        let own = vec![
            link(2, "vmfb0123456789", None, None, bridge(), ours),
            link(3, "vmfu0123456789", Some(2), Some(4), Special::Veth, ours),
            // Its other end, in a bridge of the administrator's.
            link(4, "vmfp0123456789", Some(9), Some(3), Special::Veth, ours),
            link(9, "br0", None, None, bridge(), None),
        ];
        assert_eq!(users(own.clone()), [None, None]);
        let plugged = link(5, "own0", Some(2), None, Special::Other, None);
        assert_eq!(users([own.clone(), vec![plugged]].concat()), [Some("own0".into()), None]);
        let from_elsewhere = link(5, "underlay0", None, Some(2), Special::Veth, None);
        assert_eq!(users([own.clone(), vec![from_elsewhere]].concat()), [None, None]);
        let on_top = link(5, "own.7", None, Some(2), Special::Vlan { id: 7 }, Some("the administrator's"));
        assert_eq!(users([own, vec![on_top]].concat()), [Some("own.7".into()), None]);
    }
}
