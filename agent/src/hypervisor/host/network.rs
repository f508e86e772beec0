//! How the guests of this host are plugged in, and filtered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::try_join_all;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::VifSight,
    domain_xml::{Definition, rewrite::Relocation},
    id::{InstanceId, MigrationId},
    instance::{Vif, VifAttachment},
    migration::Order,
    network::{Carrier, LinkName, Network, NetworkName, Plug, is_made},
    policy::{Guarded, Told, member_of_placed, named},
    vif::{self, Placement},
};

use super::LibvirtHost;
use crate::{
    firewall::Firewall,
    hypervisor::{Fault, Networking},
    libvirt::DomainReading,
    network::{Networks, Plumber},
    told::Remembered,
};

/// How often a bridge is asked whether it has heard of a guest from elsewhere.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The host's bridges and filters, and what is known of guests that are on their way here.
#[derive(Debug)]
pub(super) struct Vifs {
    pub(super) plumber: Plumber,
    pub(super) firewall: Arc<Firewall>,
    /// Held from the look at what guests need to the change that follows from it: another change in between would be undone.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Something is known by which nobody filters yet.
    pub(super) unheeded: Notify,
    arriving: Mutex<BTreeMap<MigrationId, Vec<Guarded>>>,
    /// Which guests of other hosts are in groups.
    pub(super) remembered: Remembered,
}

impl Vifs {
    pub(super) fn new(networks: Networks, firewall: Arc<Firewall>, remembered: Remembered) -> Self {
        Self {
            plumber: Plumber::new(networks),
            firewall,
            changing: tokio::sync::Mutex::default(),
            unheeded: Notify::default(),
            arriving: Mutex::default(),
            remembered,
        }
    }

    /// Filters of guests that are on their way here.
    pub(super) fn awaited(&self) -> Vec<Guarded> {
        lock(&self.arriving).values().flatten().cloned().collect()
    }

    /// The taps of the guest that comes with this migration, of those that are filtered.
    pub(super) fn awaited_by(&self, migration: MigrationId) -> BTreeSet<LinkName> {
        let vifs = lock(&self.arriving).get(&migration).cloned().unwrap_or_default();
        vifs.into_iter().map(|guarded| guarded.tap).collect()
    }

    /// The network that a vif is on, as this host carries it.
    fn network(&self, vif: &Vif) -> Option<&Network> {
        self.plumber.networks().get(vif.network.as_ref()?)
    }

    /// The network that a vif's bridge belongs to on this host.
    fn network_of_bridge(&self, vif: &Vif, instance: InstanceId) -> Option<&Network> {
        let VifAttachment::Bridge { bridge } = &vif.attachment else { return None };
        self.plumber.networks().of_bridge(vif.id(instance)?, &bridge.parse().ok()?, vif.vlan)
    }

    /// The name of the network that a vif is on, as far as it is known here.
    fn name_of(&self, vif: &Vif, instance: InstanceId) -> Option<NetworkName> {
        let of_bridge = || self.network_of_bridge(vif, instance).map(|network| network.name.clone());
        vif.network.clone().or_else(of_bridge)
    }

    /// How a vif is plugged in here.
    pub(super) fn here(&self, vif: &Vif, instance: InstanceId) -> Option<Placement> {
        let network = self.network(vif).or_else(|| self.network_of_bridge(vif, instance));
        vif::here(vif, instance, network)
    }
}

impl LibvirtHost {
    /// Adds to vifs what only the host that they are on knows: their logical networks, and how large their packets may be. Returns
    /// those that are plugged into something else than they are said to be.
    pub(super) async fn complete(
        &self,
        instance: InstanceId,
        vifs: &mut [Vif],
    ) -> Result<Vec<(String, String)>, Fault> {
        let mut misplaced = Vec::new();
        for vif in vifs {
            let VifAttachment::Bridge { bridge } = &vif.attachment else { continue };
            if let (Some(network), Some(id)) = (self.vifs.network(vif), vif.id(instance)) {
                let expected = Plug { vif: id, network: network.clone() }.bridge();
                let found = self.vifs.network_of_bridge(vif, instance);
                if expected.as_str() != bridge && found.is_none_or(|found| found.name != network.name) {
                    let problem = format!(
                        "it is said to be on network {}, which is {expected} on {}, and it is plugged into {bridge}",
                        network.name, self.name
                    );
                    misplaced.push((vif.mac.clone(), problem));
                }
            } else if vif.network.is_none() {
                vif.network = self.vifs.network_of_bridge(vif, instance).map(|network| network.name.clone());
            }
            if vif.mtu.is_none()
                && let Ok(bridge) = bridge.parse()
            {
                vif.mtu = self.vifs.plumber.mtu(&bridge).await?;
            }
        }
        Ok(misplaced)
    }

    /// What this host knows of the vifs of a guest that wants to come, in their order.
    pub(super) async fn see_vifs(&self, definition: &Definition) -> Result<Vec<VifSight>, Fault> {
        let domains: Vec<_> =
            self.libvirt.domains().await?.into_iter().filter(|domain| domain.id != definition.id).collect();
        try_join_all(definition.vifs.iter().map(|vif| self.see_vif(vif, &domains))).await
    }

    async fn see_vif(&self, vif: &Vif, others: &[DomainReading]) -> Result<VifSight, Fault> {
        let network = match self.vifs.network(vif) {
            Some(network) => Some((network.clone(), self.vifs.plumber.judge(network, vif.mtu).await?)),
            None => None,
        };
        let bridge_mtu = match &vif.attachment {
            VifAttachment::Bridge { bridge } => match bridge.parse() {
                Ok(bridge) => self.vifs.plumber.mtu(&bridge).await?,
                Err(_) => None,
            },
            _ => None,
        };
        let runs = |domain: &&DomainReading| domain.sighting != Sighting::Shutoff;
        let has_mac = |domain: &&DomainReading| domain.definition.vifs.iter().any(|other| other.mac == vif.mac);
        let addresses: Vec<_> = vif.policy.iter().flat_map(|policy| policy.addresses.iter().copied()).collect();
        let same_address = others.iter().find_map(|domain| {
            let meets = |other: &&Vif| match (&vif.network, self.vifs.name_of(other, domain.id)) {
                (Some(network), Some(theirs)) => *network == theirs,
                (None, None) => other.attachment == vif.attachment,
                _ => false,
            };
            let theirs = domain.definition.vifs.iter().filter(meets);
            let theirs: BTreeSet<_> =
                theirs.filter_map(|other| other.policy.as_ref()).flat_map(|policy| policy.addresses.iter()).collect();
            let same = addresses.iter().find(|address| theirs.contains(address))?;
            Some((*same, domain.name.clone()))
        });
        Ok(VifSight {
            network,
            bridge_mtu,
            same_mac: others.iter().filter(runs).find(has_mac).map(|domain| domain.name.clone()),
            same_address,
        })
    }

    /// Why this host cannot filter; none: it can. Asked only if a vif is to be filtered.
    pub(super) async fn filters(&self, definition: &Definition) -> Option<String> {
        if definition.vifs.iter().all(|vif| vif.policy.is_none()) {
            return None;
        }
        self.vifs.firewall.look().await.err().map(|fault| fault.message)
    }

    /// Whether a guest of this host, as it runs or as it starts next, has such a vif.
    async fn has_vif(&self, is_it: impl Fn(&Vif) -> bool) -> Result<bool, Fault> {
        Ok(self.libvirt.definitions().await?.iter().flat_map(|definition| &definition.vifs).any(is_it))
    }

    /// Whether a bridge has a port that leads away from this host.
    async fn leads_away(&self, bridge: &LinkName) -> Result<bool, Fault> {
        let is_guests = |port: &LinkName| {
            let port = port.as_str();
            port.starts_with("vnet") || port.starts_with("tap") || (is_made(port) && port.starts_with("vmft"))
        };
        Ok(self.vifs.plumber.ports(bridge).await?.iter().any(|port| !is_guests(port)))
    }
}

impl Networking for LibvirtHost {
    async fn plugged(&self, order: &Order) -> Result<Vec<Placement>, Fault> {
        let definition = self.domain(order).await?.definition;
        Ok(definition.vifs.iter().filter_map(|vif| self.vifs.here(vif, order.instance)).collect())
    }

    fn placements(&self, leaving: &Leaving) -> Vec<(Placement, Option<Relocation>)> {
        let id = leaving.definition.id;
        leaving.definition.vifs.iter().filter_map(|vif| vif::there(vif, id, self.vifs.network(vif))).collect()
    }

    async fn plug(&self, migration: MigrationId, plug: &Plug) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        self.vifs.plumber.plug(Some(migration), plug).await
    }

    async fn unplug(&self, migration: MigrationId, plug: &Plug) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        let bridge = plug.bridge();
        let is_on_it =
            |vif: &Vif| matches!(&vif.attachment, VifAttachment::Bridge { bridge: other } if other == bridge.as_str());
        let used = self.has_vif(is_on_it).await?;
        self.vifs.plumber.unplug(Some(migration), plug, used).await
    }

    async fn guard(&self, migration: MigrationId, vifs: &[Guarded], members: &Told) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        lock(&self.vifs.arriving).insert(migration, vifs.to_vec());
        // Of no others: what a host says of them is not this guest's business.
        let named = named(vifs.iter().map(|guarded| &guarded.policy));
        let brought = members.clone().without(&self.name).only(&named);
        self.vifs.remembered.change(|told| told.learn(brought))?;
        let members = self.vifs.members(&self.libvirt.definitions().await?);
        self.vifs.firewall.guard(vifs, &members).await
    }

    async fn release_filters(&self, migration: MigrationId, tap: &LinkName) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        lock(&self.vifs.arriving).retain(|other, vifs| {
            vifs.retain(|guarded| *other != migration || guarded.tap != *tap);
            !vifs.is_empty()
        });
        let has_it = |vif: &Vif| vif.tap.as_deref() == Some(tap.as_str());
        let awaited = self.vifs.awaited().iter().any(|guarded| guarded.tap == *tap);
        if awaited || self.has_vif(has_it).await? {
            return Ok(());
        }
        self.vifs.firewall.release(std::slice::from_ref(tap)).await
    }

    async fn note_departure(&self, order: &Order, placed: &[Placement]) -> Result<(), Fault> {
        self.count_elsewhere(order, member_of_placed(&order.instance_name, placed)).await
    }

    async fn settle(&self, migration: MigrationId, placed: &[Placement]) {
        lock(&self.vifs.arriving).remove(&migration);
        for plug in placed.iter().filter_map(|placement| placement.plug.as_ref()) {
            self.vifs.plumber.settle(migration, plug).await;
        }
    }

    async fn announce(&self, placed: &[Placement]) -> Result<(), Fault> {
        for Placement { vif, bridge, tap, policy, .. } in placed {
            if let (Some(tap), Some(policy)) = (tap, policy)
                && !policy.addresses.is_empty()
            {
                self.vifs.plumber.announce(bridge, tap, vif.mac, &policy.addresses).await?;
            }
        }
        Ok(())
    }

    async fn await_departure(&self, placed: &[Placement], limit: Duration) -> Result<Vec<String>, Fault> {
        let begun = Instant::now();
        let mut unheard = Vec::new();
        for Placement { vif, bridge, plug, .. } in placed {
            // The bridge before Open vSwitch learns nothing.
            let learns = plug.as_ref().is_none_or(|plug| !matches!(plug.network.carrier, Carrier::Ovs { .. }));
            if !learns || !self.leads_away(bridge).await? {
                continue;
            }
            while self.vifs.plumber.seen_at(bridge, vif.mac).await?.is_none() {
                if begun.elapsed() > limit {
                    unheard.push(format!("{vif} (bridge {bridge})"));
                    break;
                }
                sleep(LOOK_AGAIN).await;
            }
        }
        Ok(unheard)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
