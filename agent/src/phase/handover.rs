//! The strict hand-over of a guest that runs: it arrives paused, and goes on when its source has released it.
//!
//! Each half keeps one rule, alone: once it has journaled the release, the source never lets its copy run and never takes its half back
//! without the destination's leave; once it has journaled that it was told, the destination never destroys its copy.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use vmferry_core::{agent::Sighting, migration::Order, reason::Reason};

use crate::hypervisor::{Fault, Hypervisor, OnSwitch, Switch};

/// How long a copy may take to have arrived whose source has gone, and how often it is looked at.
const UNDECIDED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// How often the destination is told in a row; after that it is told by whoever looks after the migration.
const TELL: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_secs(1))
    .with_max_times(5);

/// The source's half, beside the job: as soon as the guest cannot run here any more, that is journaled, and then the destination is told.
/// Returns for how long the guest ran nowhere; `None` if it was not released.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    released: oneshot::Receiver<Instant>,
    remember: &OnSwitch,
) -> Option<Result<Duration, Fault>> {
    let since = released.await.ok()?;
    let gone = since.elapsed();
    // I5: before anybody hears of it.
    if let Err(error) = remember(Switch::Released).await {
        let message =
            format!("that {} is released cannot be journaled, so nobody was told: {error}", order.instance_name);
        return Some(Err(Fault::new(Reason::JournalFailed, message)));
    }
    let journaled = since.elapsed();
    let told = (|| host.release(order)).retry(TELL).notify(|fault, _| tracing::warn!("{fault}")).await;
    let (name, to, runs) = (&order.instance_name, &order.destination.host, since.elapsed());
    Some(told.map(|()| {
        tracing::info!("{name} was stopped; {gone:.0?} later its QEMU was gone, at {journaled:.0?} {to} was told, at {runs:.0?} it ran there");
        runs
    }))
}

/// The destination's half: the guest runs when this returns. [`Reason::StartFailed`] says that there is none here; after any other fault
/// it may run.
pub async fn destination(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        let Err(fault) = host.resume_arrived(order.instance).await else { return Ok(()) };
        match host.sighting(order.instance).await {
            Ok(Sighting::Running) => return Ok(()),
            Ok(Sighting::Shutoff | Sighting::Absent) => {
                let (name, here, from) = (&order.instance_name, host.name(), &order.source.host);
                let message =
                    format!("{name} does not run on {from} any more, and {here} has no copy of it that could run");
                return Err(Fault::new(Reason::StartFailed, message));
            }
            Ok(_) | Err(_) if begun.elapsed() < UNDECIDED => sleep(LOOK).await,
            Ok(_) | Err(_) => return Err(fault),
        }
    }
}
