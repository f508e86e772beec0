//! Who of a convoy starts now, who waits, and who is given up.

use std::{collections::HashMap, sync::Arc, time::Instant};

use vmferry_core::{
    drain::{self, Blocked, Decision, Guest, Running, Standing},
    id::{HostName, InstanceId},
    schedule::{Objection, Seen},
};

use super::{
    Afoot, Convoy, Ended, Facts, Listener, Why,
    against::{Against, Nowhere},
};
use crate::journey::seen;

impl Convoy {
    /// Who starts now, and where to. Those that nobody takes are given up, unless that may pass.
    pub(super) fn decide(
        &mut self,
        Facts { hosts, claimed }: &Facts,
        afoot: &HashMap<InstanceId, Afoot>,
        listener: &Arc<dyn Listener>,
    ) -> Vec<(Guest, HostName)> {
        let now = Instant::now();
        for guest in &mut self.waiting {
            guest.wish = self.wish.clone();
            let against = self.against.get(&guest.leaving.instance.id);
            guest.wish.exclude.extend(against.into_iter().flat_map(|against| against.excluded(now)));
        }
        let running: Vec<_> = afoot
            .iter()
            .map(|(id, run)| Running {
                guest: &run.guest,
                destination: &run.order.destination.host,
                claimed: claimed.contains(id),
            })
            .collect();
        let hosts = seen(hosts);
        let standing = Standing { waiting: &self.waiting, running: &running };
        let decided = drain::next(&standing, &hosts, self.fleet.weights(), &self.limits);
        let mut start = Vec::new();
        for next in decided {
            let Some(index) = self.waiting.iter().position(|guest| guest.leaving.instance.id == next.instance) else {
                continue;
            };
            match next.decision {
                Decision::Start { candidates } => {
                    let guest = self.waiting.remove(index);
                    self.against.entry(next.instance).or_default().somewhere();
                    match candidates.into_iter().next() {
                        Some(candidate) => start.push((guest, candidate.host)),
                        None => self.waiting.push(guest),
                    }
                }
                Decision::Wait(why) => {
                    let why = Why::Others(self.in_their_own_words(index, why, &hosts));
                    listener.waits(next.instance, &self.waiting[index].leaving.instance.name, &why);
                }
                Decision::Blocked(blocked) => self.nowhere(index, blocked, &hosts, now, listener),
            }
        }
        start
    }

    /// What speaks against hosts that were tried is what they said, and not that they were.
    fn in_their_own_words(&self, index: usize, why: drain::Waiting, hosts: &[Seen<'_>]) -> drain::Waiting {
        match why {
            drain::Waiting::NoHost { objections } => {
                let said = self.objections(index, hosts);
                drain::Waiting::NoHost { objections: if said.is_empty() { objections } else { said } }
            }
            why => why,
        }
    }

    fn objections(&self, index: usize, hosts: &[Seen<'_>]) -> Vec<Objection> {
        let guest = &self.waiting[index];
        let nothing = Against::default();
        let against = self.against.get(&guest.leaving.instance.id).unwrap_or(&nothing);
        against.objections(&self.wish, guest, hosts, self.fleet.weights())
    }

    /// No host takes it: it waits if that may pass, and stays otherwise.
    fn nowhere(
        &mut self,
        index: usize,
        blocked: Blocked,
        hosts: &[Seen<'_>],
        now: Instant,
        listener: &Arc<dyn Listener>,
    ) {
        let said = self.objections(index, hosts);
        let objections = if said.is_empty() { blocked.objections } else { said };
        match self.against.entry(blocked.instance).or_default().nowhere(objections, now) {
            Nowhere::Wait(objections) => listener.waits(blocked.instance, &blocked.name, &Why::Silence(objections)),
            Nowhere::Stay(objections) => {
                self.waiting.remove(index);
                self.end(Ended::blocked(Blocked { objections, ..blocked }), listener);
            }
        }
    }
}
