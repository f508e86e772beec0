//! A guest with a vif on a network that each host carries in its own way, and the steps on that.

use std::{net::IpAddr, time::Duration};

use vmferry_agent::hypervisor::{Fault, Networking};
use vmferry_core::{
    agent::Leaving,
    domain_xml::{Definition, rewrite::Relocation},
    id::MigrationId,
    migration::Order,
    network::{Carrier, LinkName, Network, Plug, Remotes, VXLAN_PORT},
    policy::{Guarded, Told},
    vif::{self, Placement},
};

use super::{disks, host::Fake};

/// The same network on either host.
pub(super) fn blue(host: &str) -> Network {
    let carrier = match host {
        "source" => Carrier::Vxlan {
            vni: 5001.try_into().expect("valid"),
            local: IpAddr::from([192, 0, 2, 11]),
            device: None,
            remotes: Remotes::Peers([IpAddr::from([192, 0, 2, 12])].into()),
            port: VXLAN_PORT,
        },
        _ => Carrier::Ovs { bridge: "br-int".parse().expect("valid"), vlan: None },
    };
    Network { name: "blue".parse().expect("valid"), carrier, mtu: None }
}

fn definition() -> Definition {
    let mut definition = Definition::parse(&disks::domain_xml()).expect("valid");
    definition.vifs.iter_mut().for_each(|vif| vif.tap = Some("vnet0".into()));
    definition
}

/// The bridge that the guest is on, on the source.
pub(super) fn bridge() -> LinkName {
    let vif = vmferry_core::network::VifId {
        instance: disks::INSTANCE.parse().expect("valid"),
        mac: disks::MAC.parse().expect("valid"),
    };
    Plug { vif, network: blue("source") }.bridge()
}

/// What the guest needs on the source from the beginning.
pub(super) fn of_the_source() -> Vec<String> {
    let (definition, network) = (definition(), blue("source"));
    let placed = definition.vifs.iter().filter_map(|vif| vif::here(vif, definition.id, Some(&network)));
    placed.flat_map(|placement| needs(&placement)).collect()
}

/// The same on either host.
pub(super) fn of_the_guest(host: &str) -> Vec<String> {
    let network = blue(host);
    match host {
        "source" => of_the_source(),
        _ => {
            let placed =
                definition().vifs.into_iter().filter_map(|vif| vif::there(&vif, definition().id, Some(&network)));
            placed.flat_map(|(placement, _)| needs(&placement)).collect()
        }
    }
}

fn needs(placement: &Placement) -> Vec<String> {
    let plug = placement.plug.as_ref().map(plugged);
    plug.into_iter().chain(placement.guarded().map(|guarded| filtered(&guarded.tap))).collect()
}

fn plugged(plug: &Plug) -> String {
    format!("{} for {}", plug.network.carrier, plug.vif)
}

fn filtered(tap: &LinkName) -> String {
    format!("filters of {tap}")
}

pub(crate) fn relocation() -> Relocation {
    let vif = definition().vifs.remove(0);
    vif::there(&vif, definition().id, Some(&blue("destination"))).expect("on a bridge").1.expect("elsewhere")
}

impl Networking for Fake {
    async fn plugged(&self, order: &Order) -> Result<Vec<Placement>, Fault> {
        let network = blue(self.name);
        let placed = definition().vifs.into_iter().filter_map(|vif| vif::here(&vif, order.instance, Some(&network)));
        self.step("looking at the vifs", || placed.collect()).await
    }

    fn placements(&self, leaving: &Leaving) -> Vec<(Placement, Option<Relocation>)> {
        let network = blue(self.name);
        let Definition { id, vifs, .. } = &leaving.definition;
        vifs.iter().filter_map(|vif| vif::there(vif, *id, Some(&network))).collect()
    }

    async fn plug(&self, _: MigrationId, plug: &Plug) -> Result<(), Fault> {
        self.assert_journaled("unplug");
        self.step("plugging", || _ = self.world.facts().has.insert((self.name, plugged(plug)))).await
    }

    async fn unplug(&self, _: MigrationId, plug: &Plug) -> Result<(), Fault> {
        self.step("unplugging", || {
            let mut facts = self.world.facts();
            if !facts.domains.contains_key(self.name) {
                facts.has.remove(&(self.name, plugged(plug)));
            }
        })
        .await
    }

    async fn guard(&self, _: MigrationId, vifs: &[Guarded], members: &Told) -> Result<(), Fault> {
        self.assert_journaled("drop_filters");
        assert_eq!(members.0.len(), 1, "what the source knows of its groups has come along");
        self.step("filtering", || {
            let mut facts = self.world.facts();
            facts.has.extend(vifs.iter().map(|guarded| (self.name, filtered(&guarded.tap))));
        })
        .await
    }

    async fn release_filters(&self, _: MigrationId, tap: &LinkName) -> Result<(), Fault> {
        self.step("letting go of a tap", || {
            let mut facts = self.world.facts();
            if !facts.domains.contains_key(self.name) {
                facts.has.remove(&(self.name, filtered(tap)));
            }
        })
        .await
    }

    async fn note_departure(&self, order: &Order, placed: &[Placement]) -> Result<(), Fault> {
        assert_eq!((self.name, placed.len()), ("source", 1));
        let to = order.destination.host.clone();
        self.step("noting where its groups are", || self.world.facts().noted = Some(to)).await
    }

    async fn settle(&self, _: MigrationId, _: &[Placement]) {
        assert!(self.world.facts().domains.contains_key(self.name), "the guest has arrived");
    }

    async fn announce(&self, placed: &[Placement]) -> Result<(), Fault> {
        assert_eq!(placed.len(), 1);
        self.step("announcing", || ()).await
    }

    async fn await_departure(&self, placed: &[Placement], _: Duration) -> Result<Vec<String>, Fault> {
        assert_eq!(placed.len(), 1);
        self.step("listening", Vec::new).await
    }
}
