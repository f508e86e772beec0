//! Which other guests of this host are in a guest's affinity groups.

use std::collections::BTreeMap;

use vmferry_core::{
    affinity::{GroupName, count},
    agent::Sighting,
    domain_xml::Definition,
};

use super::LibvirtHost;
use crate::hypervisor::Fault;

impl LibvirtHost {
    /// How many others of its groups, and of any, run here or arrive; nothing of a guest that is in none.
    pub(super) async fn beside(&self, guest: &Definition) -> Result<BTreeMap<GroupName, u32>, Fault> {
        if guest.affinity.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(BTreeMap::new());
        }
        let domains = self.libvirt.domains().await?;
        let others = domains.iter().filter(|domain| domain.id != guest.id);
        let active = others.filter(|domain| !matches!(domain.sighting, Sighting::Absent | Sighting::Shutoff));
        Ok(count(active.map(|domain| &domain.definition)))
    }
}
