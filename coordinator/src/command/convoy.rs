//! Several guests that move at the same time, within limits: whoever may start does, the others wait.
//!
//! ```text
//!   load: each guest's source is asked, and its move forecast ──▶ waiting, or blocked
//!   go:   drain::next ──▶ start ──▶ arrived, failed, or refused: waits again, for another host
//! ```
//!
//! Nothing of it is kept anywhere: who is still on the source when it is begun again is what is left to do.

mod load;
mod other;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{select, time::sleep};
use vmferry_core::{
    agent::CallError,
    drain::{self, Decision, Guest, Limits, Plan, Running, Standing},
    flow::{self, Completed, Failure},
    host::Host,
    id::{HostName, InstanceId},
    migration::{Order, Steering},
    reason::Reason,
};

pub(super) use self::other::Stray;
use self::{
    load::foresee,
    other::{Found, await_end},
};
use super::{Session, cannot_watch_signals, choose, search::refusal_of_destination, strategy, trip::Trip};
use crate::{
    cli,
    exit::{Exit, Failed},
    fleet::Answer,
    interrupt::Interrupts,
    render::{
        board::{Board, Lane},
        convoy::{End, Ended},
    },
};

/// How often it is looked whether somebody who waits may start, while nothing happens here.
const LOOK: Duration = Duration::from_secs(2);

/// Guests that move.
pub(super) struct Convoy<'a> {
    session: &'a Session,
    limits: Limits,
    asked: cli::Limits,
    trips: HashMap<InstanceId, Trip>,
    waiting: Vec<Guest>,
    strays: Vec<Stray>,
    ended: Vec<Ended>,
}

/// A move that runs.
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

fn facts<'a>(session: &'a Session, afoot: &HashMap<InstanceId, Afoot>) -> LocalBoxFuture<'a, Facts> {
    let claimed = afoot.iter().filter(|(_, run)| run.lane.is_ready()).map(|(id, _)| *id).collect();
    Box::pin(async move { Facts { hosts: session.hosts().await, claimed } })
}

/// A move that is over.
struct Over {
    instance: InstanceId,
    took: Duration,
    result: Result<Completed, Failure>,
}

impl<'a> Convoy<'a> {
    /// Nobody in it yet. `asked` is what each move may cost.
    pub(super) fn new(session: &'a Session, limits: Limits, asked: cli::Limits) -> Self {
        Self {
            session,
            limits,
            asked,
            trips: HashMap::new(),
            waiting: Vec::new(),
            strays: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn guests(&self) -> usize {
        self.waiting.len() + self.strays.len() + self.ended.len()
    }

    /// Guests that somebody else moves, or has begun to move and left.
    pub(super) fn follow(&mut self, strays: impl IntoIterator<Item = Stray>) {
        self.strays.extend(strays);
    }

    /// What will be done, as far as that can be foreseen.
    pub(super) fn plan(&self, hosts: &[Answer<Host>]) -> Plan {
        let mut plan = drain::plan(&self.waiting, &choose::seen(hosts), self.session.fleet.weights(), &self.limits);
        let before = self.ended.iter().filter_map(|ended| match &ended.end {
            End::Blocked(blocked) => Some(blocked.clone()),
            _ => None,
        });
        plan.blocked.extend(before);
        plan
    }

    /// Moves them. The first interrupt lets nobody start any more, the second leaves.
    pub(super) async fn go(mut self, board: &Board) -> Result<Vec<Ended>, Failed> {
        let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
        let mut moves = FuturesUnordered::<LocalBoxFuture<'a, Over>>::new();
        let mut afoot = HashMap::<InstanceId, Afoot>::new();
        // Nobody waits for these: what is known of a guest when its turn comes, counts.
        let mut looks = FuturesUnordered::new();
        let mut unseen: Vec<_> = self.waiting.iter().map(|guest| guest.leaving.instance.id).collect();
        let mut others = FuturesUnordered::new();
        // While the hosts are asked what they have, those that move go on.
        let mut asked: Option<LocalBoxFuture<'a, Facts>> = None;
        let (mut is_due, mut stopping) = (true, false);
        loop {
            others.extend(self.strays.drain(..).map(|stray| await_end(self.session, stray)));
            // One at a time: a look takes a little of the way that those have who move.
            while let Some(instance) = looks.is_empty().then(|| unseen.pop()).flatten() {
                if self.waiting.iter().any(|guest| guest.leaving.instance.id == instance) {
                    looks.push(foresee(self.session, self.trips[&instance].clone()));
                }
            }
            board.tell(afoot.len() + others.len(), self.waiting.len(), &self.ended);
            if afoot.is_empty() && self.waiting.is_empty() && others.is_empty() {
                break;
            }
            if is_due && asked.is_none() && !self.waiting.is_empty() {
                is_due = false;
                asked = Some(facts(self.session, &afoot));
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
                        self.over(run, over, stopping, board);
                    }
                    self.share_bandwidth(&afoot).await;
                }
                facts = answered => {
                    asked = None;
                    for (guest, destination) in self.decide(&facts, &afoot, board) {
                        match self.begin(guest, &destination, board).await {
                            Ok((run, flow)) => {
                                moves.push(flow);
                                afoot.insert(run.order.instance, run);
                            }
                            Err(ended) => self.end(ended, board),
                        }
                    }
                    self.share_bandwidth(&afoot).await;
                }
                Some(look) = looks.next() => self.foreseen(look),
                Some(found) = others.next() => {
                    is_due = true;
                    self.found(found, stopping, board).await;
                }
                () = sleep(LOOK) => is_due = true,
                () = interrupts.next() => {
                    if stopping {
                        board.leave();
                        return Err(left(&afoot, others.len()));
                    }
                    stopping = true;
                    asked = None;
                    self.stop(&afoot, board);
                }
            }
        }
        board.leave();
        Ok(self.ended)
    }

    /// Who starts now, and where to. Those that nobody takes are given up.
    fn decide(
        &mut self,
        Facts { hosts, claimed }: &Facts,
        afoot: &HashMap<InstanceId, Afoot>,
        board: &Board,
    ) -> Vec<(Guest, HostName)> {
        let running: Vec<_> = afoot
            .iter()
            .map(|(id, run)| Running {
                guest: &run.guest,
                destination: &run.order.destination.host,
                claimed: claimed.contains(id),
            })
            .collect();
        let standing = Standing { waiting: &self.waiting, running: &running };
        let decided = drain::next(&standing, &choose::seen(hosts), self.session.fleet.weights(), &self.limits);
        let mut start = Vec::new();
        for next in decided {
            let Some(index) = self.waiting.iter().position(|guest| guest.leaving.instance.id == next.instance) else {
                continue;
            };
            match next.decision {
                Decision::Start { candidates } => {
                    let guest = self.waiting.remove(index);
                    match candidates.into_iter().next() {
                        Some(candidate) => start.push((guest, candidate.host)),
                        None => self.waiting.push(guest),
                    }
                }
                Decision::Wait(why) => board.waits(&self.waiting[index].leaving.instance.name, &why.to_string()),
                Decision::Blocked(blocked) => {
                    self.waiting.remove(index);
                    self.end(Ended::blocked(blocked), board);
                }
            }
        }
        start
    }

    async fn begin(
        &self,
        guest: Guest,
        destination: &HostName,
        board: &Board,
    ) -> Result<(Afoot, LocalBoxFuture<'a, Over>), Ended> {
        let session = self.session;
        let instance = &guest.leaving.instance;
        let failed =
            |failed: Failed| Ended::failed(instance.id, &instance.name, &instance.host, failed.exit, failed.message);
        let trip = &self.trips[&instance.id];
        let endpoint = session.fleet.agent(destination).map_err(failed)?.endpoint().clone();
        let order = trip.order(&endpoint);
        let hosts = session.pair(&order).map_err(failed)?;
        let order =
            Box::pin(strategy::settle(session, &hosts, &self.asked, order, &trip.guest)).await.map_err(failed)?;
        let lane = board.lane(&order);
        let flow = Box::pin({
            let (order, lane) = (order.clone(), lane.clone());
            async move {
                let begun = Instant::now();
                let result = Box::pin(flow::run(&hosts, &order, &lane)).await;
                Over { instance: order.instance, took: begun.elapsed(), result }
            }
        });
        Ok((Afoot { guest, order, lane }, flow))
    }

    /// A move is over: it arrived, it failed, or another host is looked for.
    fn over(&mut self, run: Afoot, Over { took, result, .. }: Over, stopping: bool, board: &Board) {
        let Afoot { mut guest, order, lane } = run;
        lane.end();
        if let Err(failure) = &result {
            if stopping && is_untouched(&order, failure) {
                return self.end(Ended::not_begun(&guest.leaving.instance), board);
            }
            if let Some(verdict) = refusal_of_destination(&order, failure) {
                board.refused(&order, &verdict);
                guest.wish.exclude.push(order.destination.host);
                return self.waiting.push(guest);
            }
            if is_another(failure) {
                board.say(&format!("{} is being moved by somebody else: waiting for its end", order.instance_name));
                return self.strays.push(Stray::new(&guest.leaving.instance, guest.wish));
            }
        }
        self.end(Ended::of(&order, &result, took), board);
    }

    /// Nobody else moves a guest any more: it has gone, or its turn is to come.
    async fn found(&mut self, found: Found, stopping: bool, board: &Board) {
        match found {
            Found::Ended(ended) => self.end(*ended, board),
            Found::Here(guest, _) if stopping => self.end(Ended::not_begun(&guest), board),
            Found::Here(guest, wish) => {
                let before = self.ended.len();
                self.load(vec![(*guest, wish)]).await;
                self.ended[before..].iter().for_each(|ended| board.ended(ended));
            }
        }
    }

    fn end(&mut self, ended: Ended, board: &Board) {
        board.ended(&ended);
        self.ended.push(ended);
    }

    fn stop(&mut self, afoot: &HashMap<InstanceId, Afoot>, board: &Board) {
        afoot.values().for_each(|run| run.lane.stop());
        for guest in self.waiting.drain(..) {
            self.ended.push(Ended::not_begun(&guest.leaving.instance));
        }
        board.say(&format!(
            "no further move is begun; {} that run go on to their end: press Ctrl-C again to leave them to their agents",
            afoot.len()
        ));
    }

    /// What all may send is divided among those that run.
    async fn share_bandwidth(&self, afoot: &HashMap<InstanceId, Afoot>) {
        let Some(whole) = self.limits.bandwidth else { return };
        for run in afoot.values() {
            let Some(share) = run.lane.share(whole, afoot.len()) else { continue };
            let Ok(source) = self.session.fleet.agent(&run.order.source.host) else { continue };
            // A job that has not begun has its share from its order; one that is being handed over needs none.
            match source.steer(run.order.id, Steering::Bandwidth(Some(share))).await {
                Ok(()) => run.lane.has_share(share),
                Err(error) => tracing::debug!(%error, "its share of the bandwidth is as it was"),
            }
        }
    }
}

/// Whether nothing was changed, or all of it was taken back, as the destination did not take it.
fn is_untouched(order: &Order, failure: &Failure) -> bool {
    let is_ended = matches!(failure, Failure::NotStarted(error) if error.reason == Reason::MigrationAborted);
    is_ended || refusal_of_destination(order, failure).is_some()
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
