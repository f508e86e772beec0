//! Where a guest's vifs are plugged in on a host, and what must be there for them.

use serde::{Deserialize, Serialize};

use crate::{
    domain_xml::rewrite::{Place, Relocation},
    id::InstanceId,
    instance::{Vif, VifAttachment},
    network::{Carrier, LinkName, Network, NetworkName, Plug, VifId, tap},
    policy::{Guarded, Policy},
    undo::Undo,
};

/// A vif on a bridge of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Which vif.
    pub vif: VifId,
    /// The bridge that its tap is a port of.
    pub bridge: LinkName,
    /// What VMFerry makes for it here. None: the bridge is somebody else's.
    pub plug: Option<Plug>,
    /// The host's end of it. None: libvirt names it, and it is not filtered.
    pub tap: Option<LinkName>,
    /// What the guest may send and receive. None: anything.
    pub policy: Option<Policy>,
}

impl Placement {
    /// The filter that its tap needs.
    pub fn guarded(&self) -> Option<Guarded> {
        let (tap, policy) = (self.tap.clone()?, self.policy.clone()?);
        Some(Guarded { tap, mac: self.vif.mac, policy })
    }

    /// How to take away what was made here for it, in the order in which it is to be made.
    pub fn undos(&self) -> Vec<Undo> {
        let unplug = self.plug.clone().map(|plug| Undo::Unplug { plug: Box::new(plug) });
        let filters = self.guarded().map(|Guarded { tap, .. }| Undo::DropFilters { tap });
        unplug.into_iter().chain(filters).collect()
    }
}

/// How a vif is plugged in on the host that it is on. `network`: as this host carries the one it is said to be on. None: it is on
/// no bridge that VMFerry has to do with.
pub fn here(vif: &Vif, instance: InstanceId, network: Option<&Network>) -> Option<Placement> {
    let VifAttachment::Bridge { bridge } = &vif.attachment else { return None };
    let (id, bridge): (_, LinkName) = (vif.id(instance)?, bridge.parse().ok()?);
    let plug = plug(id, network).filter(|plug| plug.bridge() == bridge);
    let tap = vif.tap.as_deref().and_then(|tap| tap.parse().ok());
    Some(Placement { vif: id, bridge, plug, tap, policy: vif.policy.clone() })
}

/// How a vif shall be plugged in on the host that it comes to, and what its definition must say then, if not what it says.
pub fn there(vif: &Vif, instance: InstanceId, network: Option<&Network>) -> Option<(Placement, Option<Relocation>)> {
    let VifAttachment::Bridge { bridge: before } = &vif.attachment else { return None };
    let id = vif.id(instance)?;
    let bridge = match network {
        Some(network) => Plug { vif: id, network: network.clone() }.bridge(),
        None => before.parse().ok()?,
    };
    let plug = plug(id, network);
    // Filters go by its name, and are there before it.
    let tap = vif.policy.as_ref().map(|_| tap(id));
    // What is on the administrator's bridge is known by that.
    let name: Option<NetworkName> = plug.as_ref().map(|plug| plug.network.name.clone());
    let differs = bridge.as_str() != before || tap.is_some() || name.is_some();
    let place = Place::Bridge { bridge: bridge.clone(), tap: tap.clone(), network: name };
    let relocation = differs.then(|| Relocation { target: vif.mac.clone(), place });
    Some((Placement { vif: id, bridge, plug, tap, policy: vif.policy.clone() }, relocation))
}

/// Only where something is made.
fn plug(vif: VifId, network: Option<&Network>) -> Option<Plug> {
    let network = network.filter(|network| !matches!(network.carrier, Carrier::Bridge { .. }))?;
    Some(Plug { vif, network: network.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{VlanId, is_made};

    const GUEST: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa0";

    fn vif(bridge: &str, policy: bool) -> Vif {
        Vif {
            mac: "52:54:00:a0:00:01".into(),
            attachment: VifAttachment::Bridge { bridge: bridge.into() },
            model: "virtio".into(),
            network: None,
            policy: policy.then(Policy::default),
            tap: Some("vnet3".into()),
            vlan: None,
            mtu: None,
        }
    }

    fn network(carrier: Carrier) -> Network {
        Network { name: "blue".parse().expect("valid"), carrier, mtu: None }
    }

    fn id() -> InstanceId {
        GUEST.parse().expect("valid")
    }

    #[test]
    fn a_vif_that_finds_its_bridge_stays_as_it_is() {
        let (placement, relocation) = there(&vif("br0", false), id(), None).expect("on a bridge");
        assert_eq!((placement.tap, placement.plug, relocation), (None, None, None));
        let other = network(Carrier::Bridge { bridge: "br-blue".parse().expect("valid") });
        let (placement, relocation) = there(&vif("br0", false), id(), Some(&other)).expect("on a bridge");
        assert_eq!((placement.bridge.as_str(), placement.plug), ("br-blue", None));
        assert!(matches!(relocation, Some(Relocation { place: Place::Bridge { tap: None, network: None, .. }, .. })));
    }

    #[test]
    fn filters_are_there_before_the_tap_and_go_with_it() {
        let (placement, relocation) = there(&vif("br0", true), id(), None).expect("on a bridge");
        let tap = placement.tap.clone().expect("named");
        assert!(is_made(tap.as_str()) && relocation.is_some());
        assert_eq!(placement.undos(), [Undo::DropFilters { tap }]);
        let leaves = here(&vif("br0", true), id(), None).expect("on a bridge");
        assert_eq!(leaves.guarded().expect("filtered").tap.as_str(), "vnet3");
        assert_eq!(here(&vif("br0", false), id(), None).expect("on a bridge").undos(), []);
    }

    #[test]
    fn what_is_made_for_a_vif_is_unplugged_where_it_is_plugged_into_that() {
        let vlan = VlanId::try_from(7).expect("valid");
        let made = network(Carrier::Ovs { bridge: "br-int".parse().expect("valid"), vlan: Some(vlan) });
        let (placement, relocation) = there(&vif("br0", false), id(), Some(&made)).expect("on a bridge");
        let Some(Relocation { place: Place::Bridge { bridge, network, .. }, .. }) = relocation else { panic!() };
        assert_eq!((&bridge, network.expect("named").as_str()), (&placement.bridge, "blue"));
        assert!(matches!(&placement.undos()[..], [Undo::Unplug { .. }]));
        assert!(here(&vif(bridge.as_str(), false), id(), Some(&made)).expect("on a bridge").plug.is_some());
        // Somebody has plugged it into something else.
        assert!(here(&vif("br0", false), id(), Some(&made)).expect("on a bridge").plug.is_none());
        assert_eq!(there(&Vif { mac: "x".into(), ..vif("br0", false) }, id(), None), None);
    }
}
