//! migrate: the source sends what nobody writes to, then runs libvirt's job. Of a guest that is off: [`super::cold`].

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use futures::future::{join, join3};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::Sighting,
    compatibility::{within_limits, within_way},
    convergence::{self, Foresight, Ladder},
    disk::{self, Resolved, StaticImage, Transfer},
    domain_xml::{Definition, rewrite::Relocation},
    migration::{self, Author, Deed, Event, Order, Progress, Statistics},
    reason::Reason,
};

use super::handover;
use crate::hypervisor::{Control, Fault, Helm, Hypervisor, OnDeed, OnProgress, OnSent, OnSwitch};

/// Where it is told how a job goes.
pub struct Reports {
    /// Each sample.
    pub progress: OnProgress,
    /// What its policy has done.
    pub deed: OnDeed,
    /// What looks ahead.
    pub foresight: Foresight,
}

/// How a job is told something while it runs, and what it has remembered.
pub struct Steering {
    /// Where it is told something else than its order says.
    pub helm: Helm,
    /// Remembers whether it was switched to postcopy.
    pub remember: OnSwitch,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// Moves the guest. Returns when the job is over.
///
/// libvirt makes the definition persistent on the destination and forgets it on the source in the same hand-over, so
/// that the guest is defined in exactly one place even if every agent dies at that moment.
///
/// `resolved` is how each disk gets there. The guest may have been given another disk since then; it is looked at again
/// here, where libvirt's own objection is about to be waived.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
    relocations: &[Relocation],
    reports: Reports,
    steering: Steering,
) -> Result<Statistics, Fault> {
    let Steering { helm, remember, cancel } = steering;
    go_on(order, &cancel)?;
    let (guest, transfer) = as_resolved(host, order, resolved).await?;
    // Nobody need have asked for the checks, and the guest's limits may have changed since.
    let beyond_limits = within_limits(host.name(), &guest, &order.limits.policy).into_iter().next();
    if let Some(refusal) = beyond_limits.or_else(|| within_way(&order.instance_name, &order.limits)) {
        return Err(refusal.into());
    }
    let (_, copied) = disk::copied_by_the_job(resolved);
    let job = copied.iter().fold(guest.memory.as_u64(), |sum, size| sum.saturating_add(size.as_u64()));
    let ladder = Ladder::new(&order.limits.policy, convergence::load(guest.memory, copied));
    let Reports { progress, deed, foresight } = reports;
    let ahead = Ahead::of(resolved, ByteSize::b(job), progress);
    for (index, image) in disk::sent(resolved).into_iter().enumerate() {
        go_on(order, &cancel)?;
        host.send_image(order, index, image, ahead.sending(index), cancel.clone()).await?;
    }
    if !ahead.images.is_empty() {
        host.await_images(order, &[]).await?;
        go_on(order, &cancel)?;
    }
    let progress = {
        let (told, foresight) = (ahead.of_the_job(), foresight.clone());
        Arc::new(move |sample| told(foresight.see(sample)))
    };
    let control = |remember, released| Control { ladder, progress, deed, foresight, helm, cancel, remember, released };
    if !order.is_strict() {
        return host.migrate(order, &transfer, relocations, control(remember, None)).await;
    }
    is_running(host, order).await?;
    host.open_release(order).await?;
    let (sender, released) = oneshot::channel();
    let job = host.migrate(order, &transfer, relocations, control(Arc::clone(&remember), Some(sender)));
    handed_over(host, order, join(job, handover::source(host, order, released, &remember)).await)
}

/// A guest that its user has paused since the checks would run on its destination.
async fn is_running(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let (name, here) = (&order.instance_name, host.name());
    match host.sighting(order.instance).await? {
        Sighting::Running => Ok(()),
        Sighting::Shutoff => {
            let message = format!("{name} went off on {here}; start it (virsh start {name}), or migrate cold");
            Err(Fault::new(Reason::InstanceShutoff, message))
        }
        seen => {
            let message = format!(
                "{name} does not run on {here} any more ({seen}); let it run (virsh resume {name}), or migrate cold"
            );
            Err(Fault::new(Reason::InstancePaused, message))
        }
    }
}

/// Sends what is left of a guest that was switched to postcopy, after another process of this agent did so. Returns when the job is
/// over.
pub async fn resume(
    host: &impl Hypervisor,
    order: &Order,
    Reports { progress, deed, foresight }: Reports,
    Steering { helm, remember, cancel }: Steering,
) -> Result<Statistics, Fault> {
    host.open_sockets(order, 0).await?;
    // Nothing is decided any more.
    let ladder = Ladder::new(&order.limits.policy, convergence::SMALLEST);
    let seen = foresight.clone();
    let progress = Arc::new(move |sample| progress(seen.see(sample)));
    let control = Control { ladder, progress, deed, foresight, helm, cancel, remember, released: None };
    host.resume_migration(order, control).await
}

/// A job that another process of this agent has begun, as its journal tells of it.
#[derive(Debug)]
pub struct Left<'a> {
    /// How each disk gets to the destination.
    pub resolved: &'a [Resolved],
    /// What the guest finds elsewhere there.
    pub relocations: &'a [Relocation],
    /// What has been done to it: what was told by hand goes on to count, and what its policy did is done again if it is due.
    pub events: &'a [Event],
    /// Whether it may have been switched to postcopy.
    pub begun: bool,
}

/// Goes on with a job that was left behind, and which runs. Returns when it is over.
pub async fn join_job(
    host: &impl Hypervisor,
    order: &Order,
    Left { resolved, relocations, events, begun }: Left<'_>,
    Reports { progress, deed, foresight }: Reports,
    Steering { helm, remember, cancel }: Steering,
) -> Result<Statistics, Fault> {
    let memory = host.definition(order).await?.map_or(convergence::SMALLEST, |guest| guest.memory);
    let (_, copied) = disk::copied_by_the_job(resolved);
    let mut ladder = Ladder::new(&order.limits.policy, convergence::load(memory, copied));
    let mut order = order.clone();
    for Event { by, deed, .. } in events {
        match (by, deed) {
            (Author::Hand(_), Deed::Told(migration::Steering::Downtime(downtime))) => ladder.steer_downtime(*downtime),
            // Its last step may have been taken meanwhile; then that is done again.
            (_, Deed::Told(migration::Steering::Deadline(deadline))) => _ = ladder.steer_deadline(*deadline),
            (_, Deed::Told(migration::Steering::Bandwidth(bandwidth))) => order.limits.bandwidth = *bandwidth,
            (Author::Hand(_), Deed::Abort) => cancel.cancel(),
            (_, Deed::Told(_) | Deed::Abort) => {}
        }
    }
    let progress = {
        let foresight = foresight.clone();
        Arc::new(move |sample| progress(foresight.see(sample)))
    };
    let control = |remember, released| Control { ladder, progress, deed, foresight, helm, cancel, remember, released };
    if !order.is_strict() {
        return host.join_migration(&order, relocations, begun, control(remember, None)).await;
    }
    let (sender, released) = oneshot::channel();
    let job = host.join_migration(&order, relocations, begun, control(Arc::clone(&remember), Some(sender)));
    // A way that is open already only makes it faster: otherwise it is opened when it is needed.
    let way = async {
        if let Err(fault) = host.open_release(&order).await {
            tracing::warn!("{fault}");
        }
    };
    let (moved, told, ()) = join3(job, handover::source(host, &order, released, &remember), way).await;
    handed_over(host, &order, (moved, told))
}

/// What has become of a strict hand-over, by what its job and its release came to.
fn handed_over(
    host: &impl Hypervisor,
    order: &Order,
    ended: (Result<Statistics, Fault>, Option<Result<Duration, Fault>>),
) -> Result<Statistics, Fault> {
    match ended {
        (Ok(statistics), Some(Ok(downtime))) => Ok(Statistics { downtime, ..statistics }),
        (Ok(_), Some(Err(fault))) => Err(fault),
        (Ok(_), None) => {
            let (name, here) = (&order.instance_name, host.name());
            let message =
                format!("libvirt has handed {name} over, and it is still on {here}: virsh domstate --reason {name}");
            Err(Fault::new(Reason::HandoverFailed, message))
        }
        (Err(fault), _) => Err(fault),
    }
}

/// The guest, if its disks are still those of which the destination was asked, and what is to be done for them.
pub(super) async fn as_resolved(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
) -> Result<(Definition, Transfer), Fault> {
    let guest = host.definition(order).await?.ok_or_else(|| {
        let message = format!("{} is not on {} any more", order.instance_name, host.name());
        Fault::new(Reason::InstanceNotFound, message)
    })?;
    let transfer = disk::transfer(&guest.disks, resolved).map_err(|target| {
        let (name, destination) = (&order.instance_name, &order.destination.host);
        let message =
            format!("disk {target} of {name} is not the one that {destination} was asked about; migrate again");
        Fault::new(Reason::DiskNotShared, message)
    })?;
    Ok((guest, transfer))
}

/// Whether the user wants it to.
pub(super) fn go_on(order: &Order, cancel: &CancellationToken) -> Result<(), Fault> {
    if !cancel.is_cancelled() {
        return Ok(());
    }
    let message = format!("the migration of {} was aborted before it began to move", order.instance_name);
    Err(Fault::new(Reason::MigrationAborted, message))
}

/// One progress of what is sent ahead and of the job after it.
pub(super) struct Ahead {
    images: Vec<StaticImage>,
    /// What the job will have to move, as far as is known before it says so.
    job: ByteSize,
    begun: Instant,
    progress: OnProgress,
}

impl Ahead {
    pub(super) fn of(resolved: &[Resolved], job: ByteSize, progress: OnProgress) -> Self {
        let images = disk::sent(resolved).into_iter().cloned().collect();
        Self { images, job, begun: Instant::now(), progress }
    }

    pub(super) fn size(&self) -> ByteSize {
        size(&self.images)
    }

    /// While the image of this index is sent.
    pub(super) fn sending(&self, index: usize) -> OnSent {
        let before = size(&self.images[..index]).as_u64();
        let total = self.size().as_u64().saturating_add(self.job.as_u64());
        let (progress, begun) = (Arc::clone(&self.progress), self.begun);
        Arc::new(move |sent| {
            let transferred = before.saturating_add(sent.as_u64());
            let elapsed = begun.elapsed();
            progress(Progress {
                elapsed,
                total: ByteSize::b(total),
                remaining: ByteSize::b(total.saturating_sub(transferred)),
                transferred: ByteSize::b(transferred),
                rate: rate(transferred, elapsed),
                ..Progress::default()
            });
        })
    }

    /// While the job runs.
    fn of_the_job(&self) -> OnProgress {
        let (sent, took) = (self.size().as_u64(), self.begun.elapsed());
        let progress = Arc::clone(&self.progress);
        if self.images.is_empty() {
            return progress;
        }
        Arc::new(move |job| {
            progress(Progress {
                elapsed: job.elapsed + took,
                total: ByteSize::b(job.total.as_u64().saturating_add(sent)),
                transferred: ByteSize::b(job.transferred.as_u64().saturating_add(sent)),
                ..job
            });
        })
    }
}

fn size(images: &[StaticImage]) -> ByteSize {
    ByteSize::b(images.iter().fold(0, |sum, image| sum.saturating_add(image.allocated.as_u64())))
}

/// Per second, on the average so far.
fn rate(bytes: u64, elapsed: Duration) -> ByteSize {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    ByteSize::b(bytes.saturating_mul(1_000) / millis)
}
