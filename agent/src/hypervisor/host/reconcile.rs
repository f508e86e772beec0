//! What the kernel has for this host's guests, held against what they need: when the agent starts, when somebody changes the
//! filters or a guest is started or stopped, and on demand.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join;
use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};
use vmferry_core::{
    domain_xml::Definition,
    network::{Holder, LinkName, Plug},
    policy::{Guarded, Members},
    reason::Reason,
};

use super::LibvirtHost;
use crate::{hypervisor::Fault, network::Changes};

/// Changes come in showers; one look after them is enough.
const SETTLE: Duration = Duration::from_millis(100);
/// How long to wait when something could not be looked at or repaired.
const AGAIN: Duration = Duration::from_secs(5);

/// What the guests of a host need of its networks.
struct Wanted {
    plugs: Vec<Plug>,
    guarded: Vec<Guarded>,
    members: Members,
}

impl LibvirtHost {
    /// Keeps networks and filters as the guests need them, for as long as it is polled.
    pub async fn keep_networks(&self) {
        let mut links = None;
        let mut told = None;
        loop {
            let (failed, unheard) = self.look_and_wait(&mut links).await;
            let unheard = unheard.map(|fault| format!("changes go unnoticed: {fault}"));
            if unheard.is_some() {
                links = None;
                sleep(AGAIN).await;
            }
            let problem = failed.map(|fault| fault.to_string()).or(unheard);
            if let Some(problem) = problem.as_ref().filter(|_| problem != told) {
                warn!("cannot see to the networks of {}: {problem}", self.name);
            }
            told = problem;
            sleep(SETTLE).await;
            // They come in showers.
            links.iter_mut().for_each(Changes::drain);
        }
    }

    /// One look, and the wait for the next change; if the look failed, not for long. Returns what failed of either.
    ///
    /// Both at once: what changes during the look is looked at again.
    async fn look_and_wait(&self, links: &mut Option<Changes>) -> (Option<Fault>, Option<Fault>) {
        let failed = Notify::new();
        let look = async { self.reconcile(true).await.err().inspect(|_| failed.notify_one()) };
        let again = async {
            failed.notified().await;
            sleep(AGAIN).await;
        };
        let wait = async {
            tokio::select! {
                heard = self.changed(links) => heard.err(),
                () = again => None,
            }
        };
        join(look, wait).await
    }

    /// Waits until somebody else changes the filters, a link comes, goes or changes, as taps do when guests start and stop, or other
    /// hosts' guests are known to be in other groups.
    async fn changed(&self, links: &mut Option<Changes>) -> Result<(), Fault> {
        let links = match links {
            Some(links) => links,
            None => links.insert(self.vifs.plumber.changes()?),
        };
        let link = async {
            let error = |error| Fault::new(Reason::NetworkFailed, format!("cannot hear of changes of links: {error}"));
            links.next().await.map_err(error)
        };
        tokio::select! {
            changed = self.vifs.firewall.changed() => changed,
            changed = link => changed,
            () = self.vifs.unheeded.notified() => Ok(()),
        }
    }

    /// What differs from what the guests need, a sentence each; repaired, if asked to.
    pub async fn reconcile(&self, repair: bool) -> Result<Vec<String>, Fault> {
        let _changing = self.vifs.changing.lock().await;
        let wanted = self.wanted(&self.libvirt.definitions().await?);
        let mut drift = Vec::new();
        // What one guest lacks must not keep the others from being filtered.
        let mut failed = None;
        for plug in &wanted.plugs {
            let repaired = match self.lacks(plug).await {
                Ok(None) => continue,
                Ok(Some(lacking)) => {
                    drift.push(format!("{} lacks {lacking}, by which {} is plugged in", self.name, plug.vif));
                    if repair { self.vifs.plumber.plug(None, plug).await } else { Ok(()) }
                }
                Err(fault) => Err(fault),
            };
            failed = failed.or(repaired.err());
        }
        drift.extend(self.see_to_filters(&wanted, repair).await?);
        if repair {
            drift.iter().for_each(|drift| info!("repaired: {drift}"));
        }
        failed.map_or(Ok(drift), Err)
    }

    /// A link that should be there for a vif, and is not.
    async fn lacks(&self, plug: &Plug) -> Result<Option<LinkName>, Fault> {
        let bridge = plug.bridge();
        if self.vifs.plumber.mtu(&bridge).await?.is_none() {
            return Ok(Some(bridge));
        }
        let ports = self.vifs.plumber.ports(&bridge).await?;
        Ok(plug.uplink().filter(|uplink| !ports.contains(uplink)))
    }

    /// A host that filters nobody needs nothing to filter with.
    async fn see_to_filters(&self, wanted: &Wanted, repair: bool) -> Result<Vec<String>, Fault> {
        let Wanted { guarded, members, .. } = wanted;
        match self.vifs.firewall.reconcile(guarded, members, repair).await {
            Err(fault) if fault.reason == Reason::FirewallMissing && guarded.is_empty() => Ok(Vec::new()),
            seen => seen,
        }
    }

    /// Whom the links of VMFerry's are for that these domains need.
    pub(super) fn holders(&self, definitions: &[Definition]) -> BTreeSet<Holder> {
        self.wanted(definitions).plugs.iter().map(Plug::holder).collect()
    }

    fn wanted(&self, definitions: &[Definition]) -> Wanted {
        let vifs = || definitions.iter().flat_map(|definition| definition.vifs.iter().map(|vif| (definition.id, vif)));
        let placed: Vec<_> = vifs().filter_map(|(id, vif)| self.vifs.here(vif, id)).collect();
        let mut plugs: Vec<Plug> = Vec::new();
        for plug in placed.iter().filter_map(|placement| placement.plug.clone()) {
            if !plugs.contains(&plug) {
                plugs.push(plug);
            }
        }
        let mut guarded: Vec<Guarded> = Vec::new();
        // Of a guest that runs, both its definitions are there: the one that runs comes first.
        for one in placed.iter().filter_map(|placement| placement.guarded()).chain(self.vifs.awaited()) {
            if guarded.iter().all(|other| other.tap != one.tap) {
                guarded.push(one);
            }
        }
        Wanted { plugs, guarded, members: self.vifs.members(definitions) }
    }
}
