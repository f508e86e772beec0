//! libvirt's own filters: those that a guest takes along, and those that were made for guests of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use vmferry_core::{
    agent::Leaving,
    compatibility::filter_differs,
    domain_xml::{Definition, FilterDefinition},
    id::MigrationId,
    migration::Order,
    nwfilter::{Gathered, is_ours, unneeded},
    reason::Reason,
};

use super::LibvirtHost;
use crate::hypervisor::{Fault, Filtering};

/// What is known of filters for guests that are on their way here.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Held from the look at what guests need to the change that follows from it.
    changing: tokio::sync::Mutex<()>,
    awaited: Mutex<BTreeMap<MigrationId, BTreeSet<String>>>,
}

impl Filters {
    fn awaited(&self) -> MutexGuard<'_, BTreeMap<MigrationId, BTreeSet<String>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LibvirtHost {
    /// The filters that vifs in these definitions name, and all that these name in turn. `Err`: there is no driver for them.
    pub(super) async fn gather_filters<'a>(
        &self,
        definitions: impl IntoIterator<Item = &'a Definition>,
    ) -> Result<Result<Gathered, String>, Fault> {
        let filters = definitions.into_iter().flat_map(|definition| &definition.filters);
        let named: Vec<_> = filters.map(|named| (format!("vif {}", named.mac), named.filter.clone())).collect();
        if named.is_empty() {
            return Ok(Ok(Gathered::default()));
        }
        Ok(self.libvirt.gather_filters(named).await?)
    }

    /// What is here under the names of filters that a guest brings. `Err`: there is no driver for them.
    pub(super) async fn see_filters(&self, leaving: &Leaving) -> Result<Result<Vec<FilterDefinition>, String>, Fault> {
        let names: Vec<_> = leaving.filters.iter().map(|filter| filter.name.clone()).collect();
        if names.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        Ok(self.libvirt.filters_of(names).await?)
    }

    /// Lets go of a filter that was left: one of VMFerry's that nobody needs, also nobody who is on his way here.
    pub(super) async fn remove_filter(&self, name: &str) -> Result<(), Fault> {
        let _changing = self.filters.changing.lock().await;
        self.undefine_unneeded(name).await
    }

    /// By who holds the lock.
    async fn undefine_unneeded(&self, name: &str) -> Result<(), Fault> {
        let awaited: BTreeSet<_> = self.filters.awaited().values().flatten().cloned().collect();
        let filters = self.libvirt.filters().await?.map_err(silent)?;
        let is_it = |filter: &FilterDefinition| filter.name == name;
        if !filters.iter().any(|filter| is_it(filter) && is_ours(filter)) {
            return Ok(());
        }
        let named = &named(&self.libvirt.definitions().await?) | &awaited;
        if !unneeded(&filters, &named).into_iter().any(is_it) {
            return Ok(());
        }
        Ok(self.libvirt.undefine_filter(name).await?)
    }
}

/// The filters that vifs in these definitions name.
pub(super) fn named(definitions: &[Definition]) -> BTreeSet<String> {
    definitions.iter().flat_map(|definition| &definition.filters).map(|named| named.filter.clone()).collect()
}

/// There were filters once: they are not gone with the daemon that keeps them.
fn silent(why: String) -> Fault {
    Fault::new(
        Reason::LibvirtFailed,
        format!("libvirt does not say which filters it has: {why}; start its nwfilter driver"),
    )
}

impl Filtering for LibvirtHost {
    async fn made_filters(&self, order: &Order) -> Result<Vec<String>, Fault> {
        let definitions = self.libvirt.definitions().await?;
        let gathered = self.gather_filters(definitions.iter().filter(|guest| guest.id == order.instance)).await?;
        let filters = gathered.map_err(silent)?.filters;
        Ok(filters.into_iter().filter(is_ours).map(|filter| filter.name).collect())
    }

    async fn make_filter(&self, order: &Order, filter: &FilterDefinition) -> Result<(), Fault> {
        let _changing = self.filters.changing.lock().await;
        self.filters.awaited().entry(order.id).or_default().insert(filter.name.clone());
        match self.libvirt.make_filter(filter).await? {
            None => Ok(()),
            Some(_) => Err(filter_differs(&filter.name, &order.instance_name, &order.source.host, &self.name).into()),
        }
    }

    async fn undefine_filter(&self, migration: MigrationId, name: &str) -> Result<(), Fault> {
        let _changing = self.filters.changing.lock().await;
        self.filters.awaited().retain(|other, names| {
            if *other == migration {
                names.remove(name);
            }
            !names.is_empty()
        });
        self.undefine_unneeded(name).await
    }

    fn settle_filters(&self, migration: MigrationId) {
        self.filters.awaited().remove(&migration);
    }
}
