//! migrate, of a guest that is off meanwhile: what it does not write to is sent first, then it is shut down, its disks and
//! its definition follow, and the destination starts it.
//!
//! Every step on the source has its undo, so that whatever fails on the way brings the guest up again as it was. While it is
//! off it has another name here, and does not start with the host: nobody starts it by mistake while its disks are read.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::Sighting,
    disk::{self, Resolved, StaticImage},
    domain_xml::rewrite::Relocation,
    migration::{Fallback, Order, Progress, Shutdown, ShuttingDown, Statistics},
    reason::Reason,
    undo::Undo,
};

use super::{
    Steps,
    migrate::{Ahead, as_resolved, go_on},
};
use crate::hypervisor::{Fault, Hypervisor, OnProgress};

/// How often a guest is looked at that is to shut itself down.
const LOOK: Duration = Duration::from_millis(200);
/// How long a start is tried of which it cannot be told what came of it.
const UNDECIDED: Duration = Duration::from_secs(30);
/// How often it is asked again: one that has just been started may not hear it the first time.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The source's half: returns when everything of the guest is on the destination. It is off here then, if it was not before,
/// and has not run there.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
    relocations: &[Relocation],
    steps: &mut Steps<'_>,
    progress: OnProgress,
    cancel: &CancellationToken,
) -> Result<Statistics, Fault> {
    go_on(order, cancel)?;
    as_resolved(host, order, resolved).await?;
    let begun = Instant::now();
    let images: Vec<(usize, &StaticImage)> = disk::sent(resolved).into_iter().enumerate().collect();
    let written = disk::sent_last(resolved);
    let is_written = |image: &StaticImage| written.contains(image.path.as_str());
    let ahead = Ahead::of(resolved, ByteSize::default(), Arc::clone(&progress));
    let mut lengths: Vec<ByteSize> = images.iter().map(|(_, image)| image.size).collect();

    for (index, image) in images.iter().filter(|(_, image)| !is_written(image)) {
        go_on(order, cancel)?;
        host.send_image(order, *index, image, ahead.sending(*index), cancel.clone()).await?;
    }
    go_on(order, cancel)?;
    let off_since = retire(host, order, steps, &progress, cancel).await?;
    // Somebody may have merged or attached a disk while the guest still ran.
    as_resolved(host, order, resolved).await?;
    for (index, image) in images.iter().filter(|(_, image)| is_written(image)) {
        go_on(order, cancel)?;
        lengths[*index] = final_length(host, image).await?;
        host.send_image(order, *index, image, ahead.sending(*index), cancel.clone()).await?;
    }
    if !images.is_empty() {
        host.await_images(order, &lengths).await?;
    }
    go_on(order, cancel)?;
    as_resolved(host, order, resolved).await?;
    is_seen(host, order, Sighting::Shutoff).await?;
    host.move_definition(order, relocations).await?;
    // Once this is answered the destination starts it: nobody may have started it here by its other name.
    is_seen(host, order, Sighting::Shutoff).await?;
    Ok(Statistics {
        total_time: begun.elapsed(),
        downtime: off_since.map(|since| since.elapsed()).unwrap_or_default(),
        transferred: ahead.size(),
        total: ahead.size(),
        rounds: 0,
    })
}

/// The destination's half: the guest runs when this returns. [`Reason::StartFailed`] says that it never did; after any other
/// fault it may have.
pub async fn destination(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        let Err(fault) = host.start(order.instance).await else { return Ok(()) };
        // libvirt may have done it and lost its voice, or have come half the way.
        match host.sighting(order.instance).await {
            Ok(Sighting::Running) => return Ok(()),
            Ok(Sighting::Shutoff | Sighting::Absent) => {
                let message = format!("{} could not be started on {}: {fault}", order.instance_name, host.name());
                return Err(Fault::new(Reason::StartFailed, message));
            }
            Ok(Sighting::Paused | Sighting::Arriving | Sighting::Departing | Sighting::Incomplete) | Err(_)
                if begun.elapsed() < UNDECIDED =>
            {
                sleep(LOOK).await
            }
            Ok(_) | Err(_) => return Err(fault),
        }
    }
}

/// Nobody runs the guest here any more until it is taken back. Returns since when it is off, if it was not before.
async fn retire(
    host: &impl Hypervisor,
    order: &Order,
    steps: &mut Steps<'_>,
    progress: &OnProgress,
    cancel: &CancellationToken,
) -> Result<Option<Instant>, Fault> {
    let instance = order.instance;
    let expected = if order.kind.shutdown().is_some() { Sighting::Running } else { Sighting::Shutoff };
    is_seen(host, order, expected).await?;
    if host.autostart(instance).await? {
        steps.take(Undo::RestoreAutostart { instance }, host.set_autostart(instance, false)).await?;
    }
    let mut off_since = None;
    if let Some(shutdown) = order.kind.shutdown() {
        let undo = Undo::StartAgain { instance };
        let down = steps.take(undo.clone(), shut_down(host, order, shutdown, progress, cancel)).await;
        let is_up = |fault: &Fault| matches!(fault.reason, Reason::ShutdownIgnored | Reason::MigrationAborted);
        if down.as_ref().is_err_and(is_up) {
            // It was waited for long enough.
            steps.keep(&undo)?;
        }
        down?;
        off_since = Some(Instant::now());
        go_on(order, cancel)?;
    }
    let undo = Undo::RestoreName { instance, name: order.instance_name.clone() };
    steps.take(undo, host.rename(instance, &retired_name(order))).await?;
    // libvirt renames no guest that runs: if it is off now, nobody has started it since.
    is_seen(host, order, Sighting::Shutoff).await?;
    Ok(off_since)
}

/// Its name here while it is away.
fn retired_name(order: &Order) -> String {
    format!("{}.moving-with-vmferry", order.instance_name)
}

async fn is_seen(host: &impl Hypervisor, order: &Order, expected: Sighting) -> Result<(), Fault> {
    let seen = host.sighting(order.instance).await?;
    if seen == expected {
        return Ok(());
    }
    let (name, host) = (&order.instance_name, host.name());
    let message =
        format!("{name} was {expected:?} on {host} and is {seen:?} by now, by somebody else's doing; migrate again");
    Err(Fault::new(Reason::InstanceNotRunnable, message))
}

/// To the deadline, even if the user wants to abort: a guest that was asked may do it at any time, and must be seen to, since it
/// is to run again then. It is only asked no more, and its power is not cut.
async fn shut_down(
    host: &impl Hypervisor,
    order: &Order,
    Shutdown { deadline, fallback }: Shutdown,
    progress: &OnProgress,
    cancel: &CancellationToken,
) -> Result<(), Fault> {
    let begun = Instant::now();
    let mut asked = None;
    loop {
        let elapsed = begun.elapsed();
        if host.sighting(order.instance).await? == Sighting::Shutoff {
            return Ok(());
        }
        if elapsed >= deadline {
            break;
        }
        if !cancel.is_cancelled() && asked.is_none_or(|asked: Instant| asked.elapsed() >= ASK_AGAIN) {
            host.ask_to_shut_down(order.instance).await?;
            asked = Some(Instant::now());
        }
        let shutting_down = Some(ShuttingDown { elapsed, deadline });
        progress(Progress { elapsed, shutting_down, ..Progress::default() });
        sleep(LOOK.min(deadline - elapsed)).await;
    }
    go_on(order, cancel)?;
    match fallback {
        Fallback::PowerOff => {
            tracing::warn!("{} did not shut down within {deadline:?}: its power is cut", order.instance_name);
            host.power_off(order.instance).await
        }
        Fallback::GiveUp => {
            let (name, host) = (&order.instance_name, host.name());
            let message = format!("{name} did not shut itself down on {host} within {deadline:?} and runs on");
            Err(Fault::new(Reason::ShutdownIgnored, message))
        }
    }
}

/// A guest that still runs may have been asked to shut down just before all went wrong, and do it any time now: only then can it
/// be started again. Returns when it has, or will not.
pub(super) async fn await_shutdown(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let begun = Instant::now();
    let deadline = order.kind.shutdown().map(|shutdown| shutdown.deadline).unwrap_or_default();
    while host.sighting(order.instance).await? == Sighting::Running && begun.elapsed() < deadline {
        sleep(LOOK).await;
    }
    Ok(())
}

/// How long an image is that the guest wrote to until just now. The destination has made room for what it could become.
async fn final_length(host: &impl Hypervisor, image: &StaticImage) -> Result<ByteSize, Fault> {
    let length = host.image_length(&image.path).await?;
    if length <= image.size {
        return Ok(length);
    }
    let message = format!(
        "{} on {} has grown to {length} since the checks, and the destination expects {} at most; migrate again",
        image.path,
        host.name(),
        image.size
    );
    Err(Fault::new(Reason::CopyFailed, message))
}
