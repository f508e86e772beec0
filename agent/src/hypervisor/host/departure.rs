//! What a host does for a guest's networks while it leaves.
//!
//! What the filters remember of its conversations goes with it: an answer that is on its way when it moves gets through where it
//! arrives. And its port is nothing any more from the moment in which it is stopped: it sends nothing, so that no late frame says
//! that it is still here, and what is for it goes wherever it may be.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::pending,
    time::Duration,
};

use futures::future::join;
use tokio::time::{Instant, timeout};
use vmferry_core::{
    domain_xml::rewrite::{Place, Relocation},
    migration::Order,
    network::LinkName,
    policy::{Ends, Flow, Flows, Subject},
    vif::Placement,
};

use super::LibvirtHost;
use crate::{hypervisor::Networking as _, libvirt::Stopped};

/// How often the destination is told of what came since the last time: the less is left to be told while the guest is stopped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the destination remembers of each tap's conversations, and until when.
#[derive(Debug, Default)]
struct Told(HashMap<(LinkName, Ends, Subject), Instant>);

impl LibvirtHost {
    /// For as long as it is polled. The destination is told of conversations as the job begins and now and then, so that nearly all
    /// is known before the guest arrives; and when it is stopped, of what came meanwhile. What cannot be told is learnt anew from
    /// the guest's own packets.
    pub(super) async fn see_it_off(&self, order: &Order, relocations: &[Relocation], stopped: &Stopped) -> Infallible {
        let mut stopped = stopped.subscribe();
        match self.plugged(order).await {
            Ok(placed) => {
                let taps = filtered(&placed, relocations);
                let mut told = Told::default();
                loop {
                    self.tell(order, &taps, &mut told).await;
                    if timeout(TELL_EVERY, stopped.wait_for(Option::is_some)).await.is_ok() {
                        break;
                    }
                }
                join(self.forget(&placed), self.tell(order, &taps, &mut told)).await;
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

    async fn tell(&self, order: &Order, taps: &[(LinkName, LinkName)], told: &mut Told) {
        let now = Instant::now();
        let mut news: BTreeMap<LinkName, Flows> = BTreeMap::new();
        for (here, there) in taps {
            match self.vifs.firewall.flows(here).await {
                Ok(flows) => _ = news.insert(there.clone(), told.news(there, flows, now)),
                Err(fault) => tracing::warn!("the conversations of {here} cannot be read: {fault}"),
            }
        }
        news.retain(|_, flows| !flows.0.is_empty());
        if news.is_empty() {
            return;
        }
        match self.listeners.send_flows(order, &news).await {
            Ok(()) => told.note(&news, now),
            Err(error) => {
                let (name, to) = (&order.instance_name, &order.destination.host);
                tracing::warn!("{to} has not been told of the conversations of {name}: {error}");
            }
        }
    }
}

impl Told {
    /// Those of a tap's flows that the destination does not know, or forgets in less than half the time that this host would.
    fn news(&self, tap: &LinkName, flows: Flows, now: Instant) -> Flows {
        let is_news = |flow: &Flow| {
            let until = self.0.get(&(tap.clone(), flow.ends, flow.subject));
            until.is_none_or(|until| until.saturating_duration_since(now) < left(flow) / 2)
        };
        Flows(flows.0.into_iter().filter(is_news).collect())
    }

    fn note(&mut self, news: &BTreeMap<LinkName, Flows>, now: Instant) {
        for (tap, flows) in news {
            self.0.extend(flows.0.iter().map(|flow| ((tap.clone(), flow.ends, flow.subject), now + left(flow))));
        }
    }
}

fn left(flow: &Flow) -> Duration {
    Duration::from_secs(flow.left.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_told_what_it_does_not_know_or_is_about_to_forget() {
        let now = Instant::now();
        let [tap, other] = ["vnet0", "vnet1"].map(|name| name.parse::<LinkName>().expect("a name"));
        let ends = Ends::V4 { from: [192, 0, 2, 1].into(), to: [192, 0, 2, 2].into() };
        let flow = |id, left| Flow { ends, subject: Subject::Echo { id }, left };
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut told = Told::default();

        let first = told.news(&tap, Flows(vec![flow(1, 30), flow(2, 600)]), now);
        assert_eq!(first, Flows(vec![flow(1, 30), flow(2, 600)]));
        told.note(&BTreeMap::from([(tap.clone(), first)]), now);

        // It goes on here: both have all their time again.
        let heard = || Flows(vec![flow(1, 30), flow(2, 600), flow(3, 30)]);
        assert_eq!(told.news(&tap, heard(), after(10)), Flows(vec![flow(3, 30)]));
        assert_eq!(told.news(&tap, heard(), after(20)), Flows(vec![flow(1, 30), flow(3, 30)]));
        assert_eq!(told.news(&other, heard(), after(10)), heard());
        // What nobody hears of any more runs out on both hosts alike.
        assert_eq!(told.news(&tap, Flows(vec![flow(1, 5)]), after(25)), Flows::default());
    }
}
