//! What the filters remember of a guest's conversations goes with the guest: an answer that is on its way when it moves gets
//! through where it arrives.

use std::{collections::BTreeMap, convert::Infallible, future::pending};

use tokio::sync::Notify;
use vmferry_core::{
    domain_xml::rewrite::{Place, Relocation},
    migration::Order,
    network::LinkName,
    policy::Flows,
};

use super::LibvirtHost;
use crate::hypervisor::{Fault, Networking as _};

impl LibvirtHost {
    /// For as long as it is polled. Told as the job begins, so that nearly all is known before the guest arrives; and again when it
    /// is stopped, of what came meanwhile. What cannot be told is learnt anew from the guest's own packets.
    pub(super) async fn tell_of_flows(
        &self,
        order: &Order,
        relocations: &[Relocation],
        stopped: &Notify,
    ) -> Infallible {
        match self.filtered(order, relocations).await {
            Ok(taps) if taps.is_empty() => {}
            Ok(taps) => {
                self.tell(order, &taps).await;
                stopped.notified().await;
                self.tell(order, &taps).await;
            }
            Err(fault) => tracing::warn!("{}: its conversations stay behind: {fault}", order.instance_name),
        }
        pending().await
    }

    /// The taps of the guest that rules filter: here, and on the destination.
    async fn filtered(&self, order: &Order, relocations: &[Relocation]) -> Result<Vec<(LinkName, LinkName)>, Fault> {
        let placed = self.plugged(order).await?;
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
        Ok(by_rules.filter_map(|(mac, here)| Some((here, there(mac)?))).collect())
    }

    async fn tell(&self, order: &Order, taps: &[(LinkName, LinkName)]) {
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
