//! Migrations that nobody drives any more are brought to their end by the agents, without a coordinator.
//!
//! The source's agent takes the lease that has lapsed, and drives by the same flow as a coordinator, for as long as it takes. The
//! destination's leaves that to it; only if it is not heard from there, either, it asks the source how things are, and ends its own half
//! accordingly. Whether a step may be taken is not decided here but where it is taken, by each host for itself: two that drive at the same
//! time do no harm.

mod own;

use std::{collections::HashMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};
use vmferry_core::{
    agent::{Agent as _, CallError, Finished, Pair, Rollback, Sighting},
    flow::{self, Failure, Watch},
    id::MigrationId,
    identity::Identity,
    migration::{Cause, Kind, Order, Outcome, Phase, Progress, Record, Side},
    reason::Reason,
    resolution::{End, GuestCopy, Handover, Resolution, SourceMark, Step, Word, resolve},
};
use vmferry_remote::{Lease, RemoteAgent};
use vmferry_transport::Credentials;

pub use self::own::Own;
use crate::{hypervisor::Hypervisor, migration::Migration, migrations::Migrations};

/// How much longer than until it asks its source a destination waits until it goes by what it knows alone.
const ALONE: u32 = 2;

/// The longest pause between two tries to end one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How the agents of other hosts are called.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As whom.
    pub identity: Identity,
    /// The newest.
    pub credentials: watch::Receiver<Credentials>,
}

/// Looks after migrations that nobody drives, for as long as it is polled. `lasts` is how long a lease does that is not renewed.
pub async fn keep<H: Hypervisor>(migrations: Arc<Migrations<H>>, caller: Caller, lasts: Duration) {
    let mut minded = HashMap::<MigrationId, tokio::task::JoinHandle<()>>::new();
    let mut awake = Instant::now();
    loop {
        let slept = Instant::now();
        sleep(lasts / 4).await;
        // What stood still itself has heard nobody meanwhile, who may have been there all the time.
        if slept.elapsed() > lasts / 2 {
            awake = Instant::now();
        }
        minded.retain(|_, task| !task.is_finished());
        for half in migrations.open_halves() {
            let (id, side) = (half.state().order().id, half.state().side());
            // The source's agent needs some time of its own before it is heard.
            let patience = match side {
                Side::Source => lasts,
                Side::Destination => 2 * lasts,
            };
            if half.silence().min(awake.elapsed()) < patience || minded.contains_key(&id) {
                continue;
            }
            let mind = Mind { migrations: Arc::clone(&migrations), caller: caller.clone(), half, patience };
            minded.insert(
                id,
                tokio::spawn(async move {
                    match side {
                        Side::Source => Box::pin(mind.drive()).await,
                        Side::Destination => Box::pin(mind.ask()).await,
                    }
                }),
            );
        }
    }
}

/// One half that nobody calls.
struct Mind<H> {
    migrations: Arc<Migrations<H>>,
    caller: Caller,
    half: Migration,
    patience: Duration,
}

/// What is left to do.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// It cannot be done now.
    Held(Cause),
}

impl<H: Hypervisor> Mind<H> {
    /// Source: until it has ended on both hosts, or somebody else drives.
    async fn drive(self) {
        let order = self.half.state().order().clone();
        let (name, by) = (&order.instance_name, self.caller.identity.to_string());
        let epoch = match self.half.take_lapsed(&by, self.patience) {
            Ok(Some(epoch)) => epoch,
            Ok(None) => return,
            Err(fault) => return warn!("{name}: cannot take over its migration {}: {fault}", order.id),
        };
        info!(id = %order.id, epoch, "{name}: its coordinator is not heard any more; its migration is driven from here");
        let lease = Lease::taken(epoch);
        let destination = RemoteAgent::new(self.caller.credentials.clone(), order.destination.clone()).under(&lease);
        let hosts = Pair { source: Own { migrations: &*self.migrations, by: &by }, destination };
        let mut driver = self.half.watch_driver();
        let called = [&hosts.destination];
        select! {
            biased;
            _ = driver.wait_for(|driver| driver.as_ref().is_some_and(|driver| driver.epoch > epoch)) => {
                info!(id = %order.id, "{name}: somebody else drives its migration now");
            }
            refusal = lease.lost() => info!(id = %order.id, "{name}: {refusal}"),
            () = self.to_the_end(&hosts, &order, epoch) => {}
            never = lease.keep(&called, order.id) => match never {},
        }
    }

    async fn to_the_end(&self, hosts: &Pair<Own<'_, H>, RemoteAgent>, order: &Order, epoch: u64) {
        let mut pauses = self.pauses();
        loop {
            let result = Box::pin(flow::resolve(hosts, order, &Unwatched)).await;
            let held = match result {
                Err(Failure::Held { reason, message, cause }) => Some(Cause { reason, message, ..cause }),
                _ => None,
            };
            let rest = match held {
                Some(held) => Rest::Held(held),
                None => rest(&self.half, hosts.destination.record(order).await),
            };
            match rest {
                Rest::Nothing => {
                    self.half.complain(epoch, None);
                    return info!(id = %order.id, "{}: its migration has ended", order.instance_name);
                }
                Rest::Held(trouble) => {
                    warn!(id = %order.id, "{}: its migration cannot be ended yet: {trouble}", order.instance_name);
                    self.half.complain(epoch, Some(trouble));
                }
            }
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Destination: until its half has ended, or it is called again.
    async fn ask(self) {
        let order = self.half.state().order().clone();
        let source = RemoteAgent::new(self.caller.credentials.clone(), order.source.clone());
        let mut pauses = self.pauses();
        let mut state = self.half.watch_state();
        while self.half.state().outcome().is_none() && self.half.silence() >= self.patience {
            let silence = self.half.silence();
            match source.record(&order).await {
                Ok(record) if order.kind == Kind::Live => self.by_facts(&source, &order, record).await,
                Ok(Some(record)) if record.outcome.is_none() => {
                    debug!(
                        "{}: its migration is still open on {}, which drives it",
                        order.instance_name, order.source.host
                    );
                }
                Ok(record) => self.follow(&source, &order, record).await,
                // A way that is broken for a moment is no reason to cut it.
                Err(error) if silence < ALONE * self.patience => debug!("{}: {error}", order.instance_name),
                Err(error) => self.alone(&order, &error).await,
            }
            select! {
                biased;
                // The connection to the source goes with the half.
                _ = state.wait_for(|state| state.outcome().is_some()) => return,
                () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            }
        }
    }

    /// The source says how it is there: what this half does follows from what both know. How the source's ends is its own agent's matter.
    async fn by_facts(&self, source: &RemoteAgent, order: &Order, record: Option<Record>) {
        let asked = async {
            let here = source.source_facts(order, Duration::ZERO).await?;
            Ok::<_, CallError>((here, self.migrations.destination_facts(order, Duration::ZERO).await?))
        };
        let (here, there) = match asked.await {
            Ok(told) => told,
            Err(error) => return debug!("{}: {error}", order.instance_name),
        };
        let cause = record.and_then(|record| record.cause).unwrap_or_else(|| ended(order));
        let back = |kept| Rollback { side: Side::Destination, cause: cause.clone(), released: false, kept };
        let done = match resolve(Handover::of(order), Word::Told(here), Word::Told(there)) {
            Resolution::Forward(Step::Post(Side::Destination)) => self.half.post().await,
            Resolution::Forward(Step::Resume) => self.half.start_guest().await.map(|_| Finished::default()),
            Resolution::Back(Step::Cleanup(Side::Destination)) => {
                self.half.cleanup(back(here.mark.is(End::Back))).await
            }
            // It has forgotten it, or never began it: a guest that runs there was not released to here.
            Resolution::Back(_) if here.mark == SourceMark::Nothing => match here.seen.copy() {
                GuestCopy::Runs => self.half.cleanup(back(true)).await,
                _ => self.half.forsake(cause).await,
            },
            resolution => {
                let (name, from) = (&order.instance_name, &order.source.host);
                return debug!(
                    "{name}: its migration is open on {from}, and nothing is to be done here: {resolution:?}"
                );
            }
        };
        self.tell(order, done);
    }

    /// Cold: the source has ended its half, or has none.
    async fn follow(&self, source: &RemoteAgent, order: &Order, record: Option<Record>) {
        let lost = || ended(order);
        let ended = match record {
            Some(Record { outcome: Some(Outcome::Completed | Outcome::CompletedWithWarnings), .. }) => {
                self.half.post().await
            }
            Some(record) => self.give_back(record.cause.unwrap_or_else(lost)).await,
            // It has forgotten it. A guest that runs there was not released to here.
            None => match source.locate(order).await {
                Ok(Sighting::Running) => self.give_back(lost()).await,
                _ => self.half.forsake(lost()).await,
            },
        };
        self.tell(order, ended);
    }

    /// Nobody says anything: what can be told from this host alone.
    async fn alone(&self, order: &Order, silence: &CallError) {
        let cause = Cause {
            reason: Reason::CoordinatorLost,
            host: order.source.host.clone(),
            message: format!("neither a coordinator nor {} was heard any more: {silence}", order.source.host),
        };
        self.tell(order, self.half.forsake(cause).await);
    }

    async fn give_back(&self, cause: Cause) -> Result<Finished, CallError> {
        self.half.cleanup(Rollback { side: Side::Destination, cause, released: false, kept: true }).await
    }

    fn tell(&self, order: &Order, ended: Result<Finished, CallError>) {
        let (name, id) = (&order.instance_name, order.id);
        match ended {
            // What was decided before goes on by itself.
            Ok(_) if self.half.state().outcome().is_none() => debug!(%id, "{name}: this half is about to end"),
            Ok(_) => info!(%id, "{name}: this half of its migration has ended, which nobody had asked for any more"),
            Err(error) => warn!(%id, "{name}: this half of its migration cannot be ended yet: {error}"),
        }
    }

    fn pauses(&self) -> impl Iterator<Item = Duration> + use<H> {
        let first = (self.patience / 4).min(Duration::from_secs(1));
        ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

fn ended(order: &Order) -> Cause {
    let host = order.source.host.clone();
    let message = format!("{host} has ended this migration, or never began it");
    Cause { reason: Reason::CoordinatorLost, host, message }
}

/// What the flow has left, by what the two hosts say of their halves.
fn rest(half: &Migration, destination: Result<Option<Record>, CallError>) -> Rest {
    let state = half.state();
    let open = |message: String, host| Rest::Held(Cause { reason: Reason::RunnerUnknown, host, message });
    match destination {
        Err(error) => Rest::Held(error.into()),
        Ok(Some(record)) if record.outcome.is_none() => {
            let host = record.order.destination.host;
            open(format!("{host} has not ended its half yet"), host)
        }
        Ok(_) if state.outcome().is_none() => {
            let host = state.order().source.host.clone();
            open(format!("{host} has not ended its half yet"), host)
        }
        Ok(_) => Rest::Nothing,
    }
}

/// Nobody looks on.
struct Unwatched;

impl Watch for Unwatched {
    fn phase(&self, _: Phase) {}

    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
