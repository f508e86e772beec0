//! The host's logical networks: makes what carries them, and takes it away with the last who uses it.
//!
//! ```text
//!  judge ──▶ facts (link, fdb, ovs) ──▶ every hindrance                      reads only
//!  plug  ──▶ bridge, uplink, mark, MTU; port in the administrator's bridge   each only if it is not there
//! ```
//!
//! libvirt makes the guest's tap, always as a port of a Linux bridge: one firewall then serves all carriers. What VMFerry
//! makes carries its mark, in a link's alias or in a port's `external_ids`; nothing else is ever changed.

mod announce;
mod changes;
mod fdb;
mod judge;
#[cfg(test)]
mod kernel_tests;
mod link;
mod made;
mod make;
mod networks;
mod offload;
mod ovs;
mod plug;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use macaddr::MacAddr6;
use rtnetlink::packet_route::link::InfoKind;
use tokio::sync::Mutex;
use vmferry_core::{
    id::MigrationId,
    network::{Carried, Carrier, Feature, HeldKind, HeldLink, Holder, LinkName, Network, NetworkName, Plug, VifId},
    reason::Reason,
};

pub use self::{
    changes::Changes,
    link::Failed,
    networks::{Networks, OVS_DATABASE},
};
use self::{
    judge::Facts,
    link::{Links, Netlink, Special},
    ovs::Ovs,
};
use crate::hypervisor::Fault;

/// Plugs vifs into this host's logical networks.
#[derive(Debug)]
pub struct Plumber {
    networks: Networks,
    /// Networks that must stay though no guest is plugged into them yet. Held while links are made or removed.
    reserved: Mutex<BTreeMap<(MigrationId, VifId), NetworkName>>,
}

impl Plumber {
    /// One for these networks, in the network namespace of the threads that call it.
    pub fn new(networks: Networks) -> Self {
        Self { networks, reserved: Mutex::default() }
    }

    /// What this host carries.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// Whether the host can carry a network now, for a guest with packets of up to `mtu` bytes (none: not known). Reads
    /// only, and tells every hindrance.
    pub async fn judge(&self, network: &Network, mtu: Option<u32>) -> Result<Carried, Fault> {
        let facts = self.facts(&Netlink::open()?, network).await?;
        Ok(judge::judge(network, mtu, &facts))
    }

    /// Plugs a vif in: afterwards [its bridge](Plug::bridge) is there and up. What is there stays, so that it can be done
    /// again. What a failure leaves behind is [unplugged](Self::unplug). With a migration, what the network's vifs share
    /// is not removed before it is unplugged for that migration too.
    pub async fn plug(&self, migration: Option<MigrationId>, plug: &Plug) -> Result<(), Fault> {
        let mut reserved = self.reserved.lock().await;
        if let Some(migration) = migration {
            reserved.insert((migration, plug.vif), plug.network.name.clone());
        }
        let netlink = Netlink::open()?;
        let facts = self.facts(&netlink, &plug.network).await?;
        plug::make(&netlink, &self.ovs(), plug, &facts).await
    }

    /// Takes away what [`plug`](Self::plug) made, if no other link is a port of the bridge, no other migration has plugged a vif in,
    /// and `used`, what the caller knows of guests that are off, is false. What is not there, or is not VMFerry's, is no error.
    pub async fn unplug(&self, migration: Option<MigrationId>, plug: &Plug, used: bool) -> Result<(), Fault> {
        let mut reserved = self.reserved.lock().await;
        if let Some(migration) = migration {
            reserved.remove(&(migration, plug.vif));
        }
        let awaited = match plug.holder() {
            Holder::Network(network) => reserved.values().any(|other| *other == network),
            Holder::Vif(vif) => reserved.keys().any(|(_, other)| *other == vif),
        };
        let used = used || awaited;
        plug::take_away(&Netlink::open()?, &self.ovs(), plug, used).await
    }

    /// Ends the migration's reservation: a guest of this host needs what was made from now on, and keeps it.
    pub async fn settle(&self, migration: MigrationId, plug: &Plug) {
        self.reserved.lock().await.remove(&(migration, plug.vif));
    }

    /// Subscribes to changes of this host's links.
    pub fn changes(&self) -> Result<Changes, Fault> {
        Changes::subscribe()
            .map_err(|error| Fault::new(Reason::NetworkFailed, format!("cannot hear of changes of links: {error}")))
    }

    /// The ports of `bridge`; none if there is no such bridge.
    pub async fn ports(&self, bridge: &LinkName) -> Result<Vec<LinkName>, Fault> {
        let links = Netlink::open()?.links().await?;
        let Some(bridge) = links.named(bridge) else { return Ok(Vec::new()) };
        Ok(links.ports(bridge.index).map(|port| port.name.clone()).collect())
    }

    /// The links of this host that carry VMFerry's mark.
    pub async fn held(&self) -> Result<Vec<HeldLink>, Fault> {
        Ok(made::held(&Netlink::open()?.links().await?).collect())
    }

    /// Removes one that is as it was when it was listed; another of its name stays, and there being none is no error.
    ///
    /// # Errors
    /// A migration, or a link that is not VMFerry's, needs it; or the kernel or Open vSwitch does not remove it.
    pub async fn remove(&self, leftover: &HeldLink) -> Result<(), Fault> {
        let reserved = self.reserved.lock().await;
        let needed = |by: String| {
            let message = format!("{} stays: {by} needs it by now", leftover.name);
            Err(Fault::new(Reason::NetworkFailed, message))
        };
        let is_for = |(_, vif): &(MigrationId, VifId), network: &NetworkName| match &leftover.holder {
            Some(Holder::Network(held)) => held == network,
            Some(Holder::Vif(held)) => held == vif,
            None => false,
        };
        if let Some(((migration, _), _)) = reserved.iter().find(|(user, network)| is_for(user, network)) {
            return needed(format!("migration {migration}"));
        }
        if leftover.kind == HeldKind::OvsPort {
            let Some(holder) = &leftover.holder else { return Ok(()) };
            return self.ovs().remove(&leftover.name, holder).await;
        }
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let Some(held) = made::held(&links).find(|held| held.name == leftover.name) else { return Ok(()) };
        match (&held.used_by, links.named(&held.name)) {
            (Some(user), _) => needed(user.to_string()),
            (None, Some(link)) if held.holder == leftover.holder => Ok(netlink.remove(&link.name, link.index).await?),
            (None, _) => Ok(()),
        }
    }

    /// The ports in Open vSwitch's database that carry it. A host that has no network there may have none, or no database.
    pub async fn held_ports(&self) -> Result<Vec<HeldLink>, Fault> {
        let held = self.ovs().held().await;
        let uses_it = self.networks.iter().any(|network| matches!(network.carrier, Carrier::Ovs { .. }));
        held.or_else(|fault| if uses_it { Err(fault) } else { Ok(Vec::new()) })
    }

    /// The largest packet in bytes of a link; none: there is no such link.
    pub async fn mtu(&self, link: &LinkName) -> Result<Option<u32>, Fault> {
        Ok(Netlink::open()?.links().await?.named(link).map(|link| link.mtu))
    }

    /// The port of `bridge` behind which `mac` was last seen; none: it was not, or too long ago.
    pub async fn seen_at(&self, bridge: &LinkName, mac: MacAddr6) -> Result<Option<LinkName>, Fault> {
        let netlink = Netlink::open()?;
        let (links, entries) = seen(&netlink, bridge, mac).await?;
        Ok(entries.first().and_then(|entry| links.numbered(entry.link)).map(|port| port.name.clone()))
    }

    /// Makes `bridge` forget behind which port it has seen `mac`.
    pub async fn forget(&self, bridge: &LinkName, mac: MacAddr6) -> Result<(), Fault> {
        let netlink = Netlink::open()?;
        for entry in seen(&netlink, bridge, mac).await?.1 {
            fdb::drop_entry(&netlink, &entry).await?;
        }
        Ok(())
    }

    /// Says that a guest with this MAC has these addresses: a gratuitous ARP or an unsolicited neighbour advertisement for
    /// each, once, out of every port of `bridge` but `tap`, behind which the guest is. The host's own bridge sees none of
    /// it, and does not take itself for the guest.
    pub async fn announce(
        &self,
        bridge: &LinkName,
        tap: &LinkName,
        mac: MacAddr6,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), Fault> {
        let frames = announce::frames(mac, addresses);
        let links = Netlink::open()?.links().await?;
        let bridge = links.named(bridge).ok_or_else(|| missing(bridge))?;
        let mut problems = Vec::new();
        for port in links.ports(bridge.index).filter(|port| port.up && port.name != *tap) {
            if let Err(error) = announce::send(port.index, &frames) {
                problems.push(format!("{}: {error}", port.name));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let message = format!("cannot announce {mac} out of {}", problems.join(", "));
        Err(Fault::new(Reason::NetworkFailed, message))
    }

    fn ovs(&self) -> Ovs<'_> {
        Ovs { database: self.networks.ovs_database() }
    }

    async fn facts(&self, netlink: &Netlink, network: &Network) -> Result<Facts, Fault> {
        let mut facts = Facts { links: netlink.links().await?, ..Facts::default() };
        match &network.carrier {
            Carrier::Bridge { .. } | Carrier::BridgeVlan { .. } => {}
            Carrier::UplinkVlan { .. } => {
                facts.lacks = (!netlink.knows(InfoKind::Vlan).await?).then_some(Feature::VlanDevices);
            }
            Carrier::Vxlan { .. } => {
                facts.addresses = netlink.addresses().await?;
                facts.lacks = (!netlink.knows(InfoKind::Vxlan).await?).then_some(Feature::Vxlan);
            }
            Carrier::Ovs { bridge, .. } => facts.ovs = Some(self.ovs().bridge(bridge).await),
        }
        Ok(facts)
    }
}

/// The links, and what `bridge` has learnt about `mac`.
async fn seen(netlink: &Netlink, bridge: &LinkName, mac: MacAddr6) -> Result<(Links, Vec<fdb::Entry>), Fault> {
    let links = netlink.links().await?;
    let index = links.named(bridge).ok_or_else(|| missing(bridge))?.index;
    let mut entries = fdb::entries(netlink).await?;
    entries.retain(|entry| entry.learnt && entry.bridge == Some(index) && entry.mac == mac && entry.link != index);
    Ok((links, entries))
}

fn missing(bridge: &LinkName) -> Fault {
    Fault::new(Reason::NetworkFailed, format!("there is no bridge {bridge}; make it again"))
}

/// Names of the host's bridges.
pub async fn bridges() -> Result<Vec<String>, Failed> {
    let links = Netlink::open()?.links().await?;
    let bridges = links.0.into_iter().filter(|link| matches!(link.special, Special::Bridge { .. }));
    Ok(bridges.map(|bridge| bridge.name.into()).collect())
}
