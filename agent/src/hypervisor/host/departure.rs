//! What a host does for a guest's networks while it leaves.
//!
//! What the filters remember of its conversations goes with it: an answer that is on its way when it moves gets through where it
//! arrives. And its port is nothing any more from the moment in which it is stopped: it sends nothing, so that no late frame says
//! that it is still here, and what is for it goes wherever it may be.

use std::{collections::BTreeMap, convert::Infallible, future::pending};

use futures::future::join;
use tokio::sync::Notify;
use vmferry_core::{
    domain_xml::rewrite::{Place, Relocation},
    migration::Order,
    network::LinkName,
    policy::Flows,
    vif::Placement,
};

use super::LibvirtHost;
use crate::hypervisor::Networking as _;

impl LibvirtHost {
    /// For as long as it is polled. The destination is told of conversations as the job begins, so that nearly all is known before
    /// the guest arrives; and again when it is stopped, of what came meanwhile. What cannot be told is learnt anew from the guest's
    /// own packets.
    pub(super) async fn see_it_off(&self, order: &Order, relocations: &[Relocation], stopped: &Notify) -> Infallible {
        match self.plugged(order).await {
            Ok(placed) => {
                let taps = filtered(&placed, relocations);
                self.tell(order, &taps).await;
                stopped.notified().await;
                join(self.forget(&placed), self.tell(order, &taps)).await;
            }
            Err(fault) => tracing::warn!("{}: its conversations stay behind: {fault}", order.instance_name),
        }
        pending().await
    }

    /// Has the host's bridges forget behind which port the guest is. If it goes on here after all, its next packet tells them.
    async fn forget(&self, placed: &[Placement]) {
        for Placement { vif, bridge, .. } in placed {
            if let Err(fault) = self.vifs.plumber.forget(bridge, vif.mac).await {
                tracing::debug!("bridge {bridge} takes {vif} to be here until it hears from it elsewhere: {fault}");
            }
        }
    }

    async fn tell(&self, order: &Order, taps: &[(LinkName, LinkName)]) {
        if taps.is_empty() {
            return;
        }
        let mut told: BTreeMap<LinkName, Flows> = BTreeMap::new();
        for (here, there) in taps {
            match self.vifs.firewall.flows(here).await {
                Ok(flows) => _ = told.insert(there.clone(), flows),
                Err(fault) => tracing::warn!("the conversations of {here} cannot be read: {fault}"),
            }
        }
        if let Err(error) = self.listeners.send_flows(order, &told).await {
            let (name, to) = (&order.instance_name, &order.destination.host);
            tracing::warn!("{to} has not been told of the conversations of {name}: {error}");
        }
    }
}

/// The taps of the guest that rules filter: here, and on the destination.
fn filtered(placed: &[Placement], relocations: &[Relocation]) -> Vec<(LinkName, LinkName)> {
    let by_rules = placed.iter().filter_map(|placement| {
        let policy = placement.policy.as_ref().filter(|policy| !policy.rules.is_empty());
        Some((placement.vif.mac, placement.tap.clone().filter(|_| policy.is_some())?))
    });
    let there = |mac| {
        relocations.iter().find(|relocation| relocation.target.parse() == Ok(mac)).and_then(|relocation| {
            match &relocation.place {
                Place::Bridge { tap, .. } => tap.clone(),
                Place::Device { .. } | Place::Portal { .. } => None,
            }
        })
    };
    by_rules.filter_map(|(mac, here)| Some((here, there(mac)?))).collect()
}
