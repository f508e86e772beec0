//! The flow under a lease: whoever loses it changes nothing more, and looks on to the end.

use std::time::Duration;

use tokio::{
    select,
    time::{Instant, sleep},
};
use vmferry_core::{
    agent::{Agent as _, CallError, Pair},
    flow::{self, Completed, Failure, Watch},
    migration::{Cause, Order, Record},
    reason::Reason,
};
use vmferry_remote::Lease;

use crate::{
    client::{RemoteAgent, Seen},
    heed::heeding,
};

/// How long the destination may take to end its half once the source has ended its own, and how often it is asked.
const BOTH_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// The source's and the destination's agent.
type Hosts = Pair<RemoteAgent, RemoteAgent>;

/// Moves one instance.
pub(crate) async fn run(hosts: &Hosts, order: &Order, watch: &impl Watch) -> Result<Completed, Failure> {
    let lease = Lease::first();
    let driven = under(hosts, &lease);
    let flow = Box::pin(flow::run(&driven, order, watch));
    held(&driven, order, &lease, flow, watch).await
}

/// Takes a migration over, and brings it to its end.
pub(crate) async fn resolve(hosts: &Hosts, order: &Order, watch: &impl Watch) -> Result<Completed, Failure> {
    let lease = match hosts.source.take_lease(order.id).await {
        Ok(lease) => lease,
        // Its source knows nothing of it, is of an earlier version, or does not answer, which the flow finds out: what the guest's safety
        // rests on is in the hosts' journals, not in the lease.
        Err(error) => {
            tracing::debug!(%error, "driven without a lease");
            return heeding_both(hosts, watch, Box::pin(flow::resolve(hosts, order, watch))).await;
        }
    };
    let driven = under(hosts, &lease);
    let flow = Box::pin(flow::resolve(&driven, order, watch));
    held(&driven, order, &lease, flow, watch).await
}

/// Looks on while somebody else drives it, if anybody has said that it does; else takes it over.
pub(crate) async fn join(hosts: &Hosts, order: &Order, watch: &impl Watch) -> Result<Completed, Failure> {
    match hosts.source.record(order).await {
        Ok(Some(Record { driver: Some(driver), .. })) => {
            let message = format!("it is driven by {driver}");
            let cause = CallError { host: order.source.host.clone(), reason: Reason::LeaseLost, message };
            Box::pin(follow(hosts, order, watch, &cause)).await
        }
        _ => Box::pin(resolve(hosts, order, watch)).await,
    }
}

fn under(hosts: &Hosts, lease: &Lease) -> Hosts {
    Pair { source: hosts.source.under(lease), destination: hosts.destination.under(lease) }
}

async fn held(
    hosts: &Hosts,
    order: &Order,
    lease: &Lease,
    flow: impl Future<Output = Result<Completed, Failure>>,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    let agents = [&hosts.source, &hosts.destination];
    select! {
        biased;
        refusal = lease.lost() => {
            tracing::info!("{refusal}");
            Box::pin(follow(hosts, order, watch, &refusal)).await
        }
        result = heeding_both(hosts, watch, flow) => result,
        never = lease.keep(&agents, order.id) => match never {},
    }
}

async fn heeding_both<T>(hosts: &Hosts, watch: &impl Watch, flow: impl Future<Output = T>) -> T {
    heeding(&hosts.source, watch, heeding(&hosts.destination, watch, flow)).await
}

/// Looks on while somebody else drives.
async fn follow(hosts: &Hosts, order: &Order, watch: &impl Watch, refusal: &CallError) -> Result<Completed, Failure> {
    let mut phase = None;
    let seen = |Seen { record, progress, .. }: Seen| {
        // It goes on trying; nobody knows for how long.
        if let Some(trouble) =
            record.driver.clone().filter(|_| record.outcome.is_none()).and_then(|driver| driver.trouble)
        {
            return Err(Left::Held(trouble));
        }
        if record.outcome.is_none() && phase.replace(record.phase()) != Some(record.phase()) {
            watch.phase(record.phase());
        }
        if let Some(progress) = progress {
            watch.progress(progress);
        }
        Ok(())
    };
    let seen = match heeding(&hosts.source, watch, hosts.source.watch(order.id, 0, seen)).await {
        Ok(()) => both(hosts, order).await,
        Err(Left::Held(trouble)) => return Err(kept(order, trouble)),
        Err(Left::Unseen(error)) => Err(error),
    };
    seen.unwrap_or_else(|error| Err(unseen(order, refusal, &error)))
}

/// Why somebody who looks on does so no more.
enum Left {
    /// Who drives cannot bring it to its end yet.
    Held(Cause),
    /// The source does not answer.
    Unseen(CallError),
}

impl From<CallError> for Left {
    fn from(error: CallError) -> Self {
        Self::Unseen(error)
    }
}

fn kept(order: &Order, trouble: Cause) -> Failure {
    let (name, id) = (&order.instance_name, order.id);
    let message = format!(
        "the migration of {name} cannot be ended yet: {}; {} goes on trying: vmferry watch {id}",
        trouble.message, order.source.host
    );
    Failure::Held { reason: trouble.reason, message, cause: trouble }
}

/// What it came to, once both hosts have ended it, or have not in time.
async fn both(hosts: &Hosts, order: &Order) -> Result<Result<Completed, Failure>, CallError> {
    let begun = Instant::now();
    let source = hosts.source.record(order).await?;
    loop {
        let destination = hosts.destination.record(order).await.ok().flatten();
        let has_ended = destination.as_ref().is_some_and(|half: &Record| half.outcome.is_some());
        if has_ended || begun.elapsed() > BOTH_LIMIT {
            let ended = source.as_ref().and_then(|source| flow::ended(source, destination.as_ref()));
            let mut ended = ended.ok_or_else(|| CallError {
                host: order.source.host.clone(),
                reason: Reason::MigrationNotFound,
                message: format!("{} does not say any more what became of it", order.source.host),
            })?;
            // An agent of an earlier version has not noted it.
            match &mut ended {
                Ok(Completed { guest: guest @ None, .. }) => *guest = hosts.destination.locate(order).await.ok(),
                Err(Failure::RolledBack { guest: guest @ None, .. }) => *guest = hosts.source.locate(order).await.ok(),
                Ok(_) | Err(_) => {}
            }
            return Ok(ended);
        }
        sleep(LOOK).await;
    }
}

/// What became of it cannot be seen.
fn unseen(order: &Order, refusal: &CallError, error: &CallError) -> Failure {
    let (name, id) = (&order.instance_name, order.id);
    let message = format!(
        "the migration of {name} is driven by somebody else ({}), and how it goes on cannot be seen: {error}; when {} answers again: vmferry \
         watch {id}",
        refusal.message, order.source.host
    );
    Failure::Held { reason: Reason::RunnerUnknown, message, cause: refusal.clone().into() }
}
