//! libvirt's filters: one that the guest's vif names, and one that this names.

use vmferry_agent::hypervisor::{Fault, Filtering};
use vmferry_core::{domain_xml::FilterDefinition, id::MigrationId, migration::Order};

use super::host::Fake;

/// Each after those that it names.
pub(super) fn filters() -> Vec<FilterDefinition> {
    let filters = ["<filter name='base'/>", "<filter name='web'><filterref filter='base'/></filter>"];
    filters.map(|xml| FilterDefinition::parse(xml).expect("valid")).into()
}

/// What the guest needs on either host; the source's were made when it came there.
pub(super) fn of_the_guest() -> Vec<String> {
    filters().iter().map(|filter| held(&filter.name)).collect()
}

fn held(name: &str) -> String {
    format!("libvirt's filter {name}")
}

impl Fake {
    pub(super) fn filters_here(&self) -> Vec<FilterDefinition> {
        let facts = self.world.facts();
        filters().into_iter().filter(|filter| facts.has.contains(&(self.name, held(&filter.name)))).collect()
    }
}

impl Filtering for Fake {
    async fn made_filters(&self, _: &Order) -> Result<Vec<String>, Fault> {
        self.step("looking at the filters", || filters().into_iter().map(|filter| filter.name).collect()).await
    }

    async fn make_filter(&self, _: &Order, filter: &FilterDefinition) -> Result<(), Fault> {
        self.assert_journaled(&format!("\"undefine_filter\":{{\"name\":\"{}\"}}", filter.name));
        self.step("making a filter", || {
            let mut facts = self.world.facts();
            let there = |name: &String| facts.has.contains(&(self.name, held(name)));
            assert!(filter.names.iter().all(there), "what {} names is there before it", filter.name);
            facts.has.insert((self.name, held(&filter.name)));
        })
        .await
    }

    async fn undefine_filter(&self, _: MigrationId, name: &str) -> Result<(), Fault> {
        self.step("undefining a filter", || {
            let mut facts = self.world.facts();
            if !facts.domains.contains_key(self.name) {
                facts.has.remove(&(self.name, held(name)));
            }
        })
        .await
    }

    fn settle_filters(&self, _: MigrationId) {
        assert!(self.world.facts().domains.contains_key(self.name), "the guest has arrived");
    }
}
