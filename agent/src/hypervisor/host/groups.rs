//! Who is in which security group: this host's guests by libvirt's word, and others' as far as this host has been told.

use std::collections::BTreeSet;

use tracing::warn;
use vmferry_core::{
    domain_xml::Definition,
    id::InstanceId,
    instance::Vif,
    migration::Order,
    policy::{GroupReport, Member, Members, Told, memberships, named},
    reason::Reason,
};

use super::{LibvirtHost, network::Vifs};
use crate::hypervisor::{Fault, Grouping, Networking as _};

impl Vifs {
    /// The members of groups, as far as they are known here: of this host's domains, and those that others have told of.
    pub(super) fn members(&self, definitions: &[Definition]) -> Members {
        self.remembered.told().members(&memberships(definitions), &ids(definitions))
    }
}

impl Grouping for LibvirtHost {
    async fn groups(&self) -> Result<GroupReport, Fault> {
        let definitions = self.libvirt.definitions().await?;
        let (here, own) = (ids(&definitions), memberships(&definitions));
        Ok(GroupReport { host: self.name.clone(), here, own, told: self.vifs.remembered.told() })
    }

    async fn tell_groups(&self, hosts: Told) -> Result<(), Fault> {
        if hosts.0.contains_key(&self.name) {
            let message =
                format!("which guests of {} are in groups, its libvirt says; tell it those of others", self.name);
            return Err(Fault::new(Reason::InvalidRequest, message));
        }
        self.vifs.remembered.change(|told| told.replace(hosts))?;
        // Whoever asked may be gone before it is done.
        self.vifs.unheeded.notify_one();
        self.reconcile(true).await.map(drop)
    }
}

impl LibvirtHost {
    /// Who is in the groups that rules of these vifs name, by host.
    pub(super) async fn members_for(&self, vifs: &[Vif]) -> Result<Told, Fault> {
        let named = named(vifs.iter().filter_map(|vif| vif.policy.as_ref()));
        if named.is_empty() {
            return Ok(Told::default());
        }
        let definitions = self.libvirt.definitions().await?;
        let here = ids(&definitions);
        let mut known = self.vifs.remembered.told();
        // Of those it had been told before they came.
        known.0.values_mut().for_each(|memberships| memberships.retain(|id, _| !here.contains(id)));
        known.0.insert(self.name.clone(), memberships(&definitions));
        Ok(known.only(&named))
    }

    /// libvirt forgets the guest here in the same moment in which it begins to run there: from then on it must be known as the
    /// destination's. Until then libvirt is believed.
    pub(super) async fn expect_departure(&self, order: &Order) {
        let noted = async { self.note_departure(order, &self.plugged(order).await?).await };
        if let Err(fault) = noted.await {
            let (name, to) = (&order.instance_name, &order.destination.host);
            warn!("until {name} has moved to {to}, it may be in no group for guests here: {fault}");
        }
    }

    /// If it has stayed.
    pub(super) async fn forget_departure(&self, order: &Order) {
        if let Ok(Some(_)) = self.libvirt.domain(&order.instance.to_string()).await
            && let Err(fault) = self.count_elsewhere(order, None).await
        {
            let (name, to) = (&order.instance_name, &order.destination.host);
            warn!("{name} has stayed, and is remembered as one of {to}; run `vmferry groups sync`: {fault}");
        }
    }

    /// From now on the guest counts as one of its destination's, unless libvirt has it here; without groups, as nobody's.
    pub(super) async fn count_elsewhere(&self, order: &Order, member: Option<Member>) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        if self.vifs.remembered.change(|told| told.moved(order.instance, member, &order.destination.host))? {
            self.vifs.unheeded.notify_one();
            let members = self.vifs.members(&self.libvirt.definitions().await?);
            self.vifs.firewall.guard(&[], &members).await?;
        }
        Ok(())
    }
}

fn ids(definitions: &[Definition]) -> BTreeSet<InstanceId> {
    definitions.iter().map(|definition| definition.id).collect()
}
