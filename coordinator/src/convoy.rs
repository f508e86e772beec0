//! Several guests that move at the same time, within limits: whoever may start does, the others wait. By whom it is asked for, and who is told
//! ([`Listener`]), is all the same to it.
//!
//! ```text
//!   load: each guest's source is asked, and its move forecast ──▶ waiting, or blocked
//!   go:   drain::next ──▶ start ──▶ arrived, failed, or refused: waits again, for another host
//! ```
//!
//! Nothing of it is kept anywhere: who is still on the source when it is begun again is what is left to do.

mod against;
mod decide;
mod ended;
mod host;
mod lane;
mod listener;
mod load;
mod other;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::CallError,
    drain::{self, Guest, Limits, Plan},
    flow::{Completed, Failure},
    host::Host,
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Steering},
    reason::Reason,
    schedule::Wish,
};

use self::{
    against::Against,
    lane::Lane,
    load::foresee,
    other::{Found, Stray, await_end},
};
pub(crate) use self::{
    ended::{End, Ended},
    host::{Begun, Pace, drain, undrain},
    listener::{Listener, Why},
};
use crate::{
    exit::{Exit, Failed},
    fleet::{Answer, Fleet},
    journey::{Asked, Policies, Trip, Unheard, choose_policy, seen, turned_away},
    lease,
};

/// How often it is looked whether somebody who waits may start, while nothing happens here.
const LOOK: Duration = Duration::from_secs(2);

/// Guests that move.
#[derive(Debug)]
pub(crate) struct Convoy {
    fleet: Arc<Fleet>,
    policies: Arc<Policies>,
    goal: Goal,
    /// What is wanted of the destinations of all.
    wish: Wish,
    limits: Limits,
    asked: Asked,
    trips: HashMap<InstanceId, Trip>,
    waiting: Vec<Guest>,
    against: HashMap<InstanceId, Against>,
    strays: Vec<Stray>,
    ended: Vec<Ended>,
}

/// What all are to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    /// Away from this host.
    Leave(HostName),
    /// To this host.
    Reach(HostName),
}

impl Goal {
    /// Whether a guest that is there is where it should be.
    fn is_met(&self, guest: &Instance) -> bool {
        match self {
            Self::Leave(host) => guest.host != *host,
            Self::Reach(host) => guest.host == *host,
        }
    }

    /// Whether a migration brings it there.
    fn is_served_by(&self, order: &Order) -> bool {
        match self {
            Self::Leave(host) => order.source.host == *host,
            Self::Reach(host) => order.destination.host == *host,
        }
    }
}

/// How a convoy is ended before its time. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// From then on nobody starts any more; those that move go on to their end, and are waited for.
    pub(crate) stop: CancellationToken,
    /// From then on they are left to their agents.
    pub(crate) leave: CancellationToken,
}

/// A move that runs.
#[derive(Debug)]
struct Afoot {
    guest: Guest,
    order: Order,
    lane: Lane,
}

/// What the hosts have.
struct Facts {
    hosts: Vec<Answer<Host>>,
    /// Whose claims are in it for certain: theirs were made before the hosts were asked.
    claimed: Vec<InstanceId>,
}

fn facts(fleet: &Arc<Fleet>, afoot: &HashMap<InstanceId, Afoot>) -> BoxFuture<'static, Facts> {
    let claimed = afoot.iter().filter(|(_, run)| run.lane.is_ready()).map(|(id, _)| *id).collect();
    let fleet = Arc::clone(fleet);
    async move { Facts { hosts: fleet.hosts().await, claimed } }.boxed()
}

/// A move that is over.
struct Over {
    instance: InstanceId,
    took: Duration,
    result: Result<Completed, Failure>,
}

impl Convoy {
    /// How many there are.
    pub(crate) fn guests(&self) -> usize {
        self.waiting.len() + self.strays.len() + self.ended.len()
    }

    /// What will be done, as far as that can be foreseen.
    pub(crate) fn plan(&self, hosts: &[Answer<Host>]) -> Plan {
        let mut plan = drain::plan(&self.waiting, &seen(hosts), self.fleet.weights(), &self.limits);
        let before = self.ended.iter().filter_map(|ended| match &ended.end {
            End::Blocked(blocked) => Some(blocked.clone()),
            _ => None,
        });
        plan.blocked.extend(before);
        plan
    }

    /// Moves them, and says what became of each.
    pub(crate) async fn go(mut self, listener: Arc<dyn Listener>, ending: &Ending) -> Result<Vec<Ended>, Failed> {
        let mut moves = FuturesUnordered::<BoxFuture<'static, Over>>::new();
        let mut afoot = HashMap::<InstanceId, Afoot>::new();
        // Nobody waits for these: what is known of a guest when its turn comes, counts.
        let mut looks = FuturesUnordered::new();
        let mut unseen: Vec<_> = self.waiting.iter().map(|guest| guest.leaving.instance.id).collect();
        let mut others = FuturesUnordered::new();
        // While the hosts are asked what they have, those that move go on.
        let mut asked: Option<BoxFuture<'static, Facts>> = None;
        let (mut is_due, mut stopping) = (true, false);
        self.ended.iter().for_each(|ended| listener.ended(ended));
        loop {
            for stray in self.strays.drain(..) {
                listener.waits(stray.instance, &stray.name, &Why::MovedByOthers);
                others.push(await_end(Arc::clone(&self.fleet), self.goal.clone(), stray).boxed());
            }
            // One at a time: a look takes a little of the way that those have who move.
            while let Some(instance) = looks.is_empty().then(|| unseen.pop()).flatten() {
                if self.waiting.iter().any(|guest| guest.leaving.instance.id == instance) {
                    looks.push(foresee(Arc::clone(&self.fleet), self.trips[&instance].clone()).boxed());
                }
            }
            listener.standing(afoot.len() + others.len(), self.waiting.len(), &self.ended);
            if afoot.is_empty() && self.waiting.is_empty() && others.is_empty() {
                break;
            }
            if is_due && asked.is_none() && !self.waiting.is_empty() {
                is_due = false;
                asked = Some(facts(&self.fleet, &afoot));
            }
            let answered = async {
                match asked.as_mut() {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            select! {
                Some(over) = moves.next() => {
                    is_due = true;
                    if let Some(run) = afoot.remove(&over.instance) {
                        self.over(run, over, stopping, &listener);
                    }
                    self.share_bandwidth(&afoot).await;
                }
                facts = answered => {
                    asked = None;
                    for (guest, destination) in self.decide(&facts, &afoot, &listener) {
                        match self.begin(guest, &destination, &listener).await {
                            Ok((run, flow)) => {
                                moves.push(flow);
                                afoot.insert(run.order.instance, run);
                            }
                            Err(ended) => self.end(*ended, &listener),
                        }
                    }
                    self.share_bandwidth(&afoot).await;
                }
                Some(look) = looks.next() => self.foreseen(look),
                Some(found) = others.next() => {
                    is_due = true;
                    self.found(found, stopping, &listener).await;
                }
                () = sleep(LOOK) => is_due = true,
                () = ending.stop.cancelled(), if !stopping => {
                    stopping = true;
                    asked = None;
                    self.stop(&afoot, &listener);
                }
                () = ending.leave.cancelled() => return Err(left(&afoot, others.len())),
            }
        }
        Ok(self.ended)
    }

    async fn begin(
        &self,
        guest: Guest,
        destination: &HostName,
        listener: &Arc<dyn Listener>,
    ) -> Result<(Afoot, BoxFuture<'static, Over>), Box<Ended>> {
        let instance = &guest.leaving.instance;
        let failed = |failed: Failed| {
            Box::new(Ended::failed(instance.id, &instance.name, &instance.host, failed.exit, failed.message))
        };
        let trip = &self.trips[&instance.id];
        let endpoint = self.fleet.agent(destination).map_err(failed)?.endpoint().clone();
        let order = trip.order(&endpoint);
        let hosts = self.fleet.pair(&order).map_err(failed)?;
        let chosen = choose_policy(&self.policies, &hosts, &self.asked, order, &trip.guest, &Unheard);
        let (order, _) = Box::pin(chosen).await.map_err(failed)?;
        let lane = Lane::begin(&order, listener);
        let flow = {
            let (order, lane) = (order.clone(), lane.clone());
            async move {
                let begun = Instant::now();
                let result = Box::pin(lease::run(&hosts, &order, &lane)).await;
                Over { instance: order.instance, took: begun.elapsed(), result }
            }
        };
        Ok((Afoot { guest, order, lane }, flow.boxed()))
    }

    /// A move is over: it arrived, it failed, or another host is looked for.
    fn over(&mut self, run: Afoot, Over { took, result, .. }: Over, stopping: bool, listener: &Arc<dyn Listener>) {
        let Afoot { guest, order, .. } = run;
        if let Err(failure) = &result {
            let turned = turned_away(&order, failure);
            let is_untouched = turned.is_some()
                || matches!(failure, Failure::NotStarted(error) if error.reason == Reason::MigrationAborted);
            if stopping && is_untouched {
                return self.end(Ended::not_begun(&guest.leaving.instance), listener);
            }
            if let Some(turned) = turned {
                listener.refused(&order, &turned);
                self.against.entry(order.instance).or_default().add(turned, Instant::now());
                return self.waiting.push(guest);
            }
            if is_another(failure) {
                return self.strays.push(Stray::new(&guest.leaving.instance));
            }
        }
        self.end(Ended::of(&order, &result, took), listener);
    }

    /// Nobody else moves a guest any more: it has gone, or its turn is to come.
    async fn found(&mut self, found: Found, stopping: bool, listener: &Arc<dyn Listener>) {
        match found {
            Found::Ended(ended) => self.end(*ended, listener),
            Found::Here(guest) if stopping => self.end(Ended::not_begun(&guest), listener),
            Found::Here(guest) => {
                let before = self.ended.len();
                self.load(vec![*guest]).await;
                self.ended[before..].iter().for_each(|ended| listener.ended(ended));
            }
        }
    }

    fn end(&mut self, ended: Ended, listener: &Arc<dyn Listener>) {
        listener.ended(&ended);
        self.ended.push(ended);
    }

    fn stop(&mut self, afoot: &HashMap<InstanceId, Afoot>, listener: &Arc<dyn Listener>) {
        afoot.values().for_each(|run| run.lane.stop());
        listener.stops(afoot.len());
        for guest in std::mem::take(&mut self.waiting) {
            self.end(Ended::not_begun(&guest.leaving.instance), listener);
        }
    }

    /// What all may send is divided among those that run.
    async fn share_bandwidth(&self, afoot: &HashMap<InstanceId, Afoot>) {
        let Some(whole) = self.limits.bandwidth else { return };
        for run in afoot.values() {
            let Some(share) = run.lane.share(whole, afoot.len()) else { continue };
            let Ok(source) = self.fleet.agent(&run.order.source.host) else { continue };
            // A job that has not begun has its share from its order; one that is being handed over needs none.
            match source.steer(run.order.id, Steering::Bandwidth(Some(share))).await {
                Ok(()) => run.lane.has_share(share),
                Err(error) => tracing::debug!(%error, "its share of the bandwidth is as it was"),
            }
        }
    }
}

/// Whether the guest is refused because somebody else moves it.
fn is_another(failure: &Failure) -> bool {
    let is_one = |reason: Reason| reason == Reason::InstanceMigrating;
    match failure {
        Failure::Refused(plan) => {
            let mut refusals = plan.checks.iter().filter_map(|check| check.refusal()).peekable();
            refusals.peek().is_some() && refusals.all(|refusal| is_one(refusal.reason))
        }
        Failure::NotStarted(CallError { reason, .. }) => is_one(*reason),
        Failure::RolledBack { cause, .. } => is_one(cause.reason),
        Failure::Held { .. } => false,
    }
}

fn left(afoot: &HashMap<InstanceId, Afoot>, others: usize) -> Failed {
    let names: Vec<_> = afoot.values().map(|run| run.order.instance_name.as_str()).collect();
    let message = format!(
        "interrupted: {} that run go on without a coordinator ({}), besides {others} that somebody else has begun; vmferry migrations \
         shows them",
        names.len(),
        names.join(", ")
    );
    Failed { exit: Exit::Interrupted, ..Failed::usage(message) }
}
