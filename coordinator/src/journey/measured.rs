//! What hosts measure of a move: before it, and of its job.

use vmferry_core::{
    agent::{Agent as _, CallError, Pair},
    convergence::{Forecast, Job, load},
    disk::{Resolved, copied_by_the_job},
    flow::{Completed, Failure},
    migration::{Limits, Order, Statistics},
};

use crate::{client::RemoteAgent, render::checks::Foreseen};

/// What is measured now, and what follows from it for a guest whose disks get there so.
pub(crate) async fn forecast(
    source: &RemoteAgent,
    order: &Order,
    resolved: &[Resolved],
) -> Result<Foreseen, CallError> {
    let measured = source.measure(order).await?;
    let Limits { policy, bandwidth, .. } = &order.limits;
    let (disks, sizes) = copied_by_the_job(resolved);
    let job = Job { disks, load: load(measured.memory, sizes) };
    Ok((measured, Forecast::of(&measured, job, policy, *bandwidth)))
}

/// The flow has them unless the job's answer was lost; then the source's record has.
pub(crate) async fn statistics(
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    order: &Order,
    result: &Result<Completed, Failure>,
) -> Option<Statistics> {
    match result {
        Ok(completed) if completed.statistics.is_none() => hosts.source.record(order).await.ok()??.statistics,
        Ok(completed) => completed.statistics,
        Err(_) => None,
    }
}
