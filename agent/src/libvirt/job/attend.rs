//! What goes on beside the call: samples, aborts, and the wait for a job whose call was lost.

use std::{convert::Infallible, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vmferry_core::id::InstanceId;

use super::crossing::Crossing;
use crate::libvirt::{
    JobOrder, Libvirt,
    event::{self, Event},
    ffi,
    reading::{lookup, or_gone},
};

/// The first sample comes sooner: small guests are through before the second.
const FIRST_SAMPLE: Duration = Duration::from_millis(100);
/// Between two samples, unless a round begins.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Between two aborts while libvirt refuses: the job may not have begun yet.
const ABORT_RETRY: Duration = Duration::from_millis(50);
/// Between two aborts once libvirt has taken one.
const ABORT_REPEAT: Duration = Duration::from_secs(1);
/// After a lost call: between two looks whether the job goes on, and how long libvirt may fail to say.
const LOST_CALL_POLL: Duration = Duration::from_millis(250);
/// See [`LOST_CALL_POLL`].
const LOST_CALL_LIMIT: Duration = Duration::from_secs(60);

/// Samples the job for as long as it is polled, and as each round begins. A sample that fails is skipped: around the hand-over the domain is
/// first "not running" and then gone, and a call that fails for good says so itself.
pub(super) async fn sample(libvirt: &Libvirt, order: &JobOrder, round: &Notify, sender: &event::Sender) -> Infallible {
    let id = order.instance;
    sleep(FIRST_SAMPLE).await;
    loop {
        let params = libvirt
            .read(format!("sample the migration of domain {id}"), move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(ffi::job_statistics(&domain)).map(Option::flatten),
                None => Ok(None),
            })
            .await;
        match params {
            Ok(Some(params)) if params.is_migration_out() => {
                let _ = sender.send(Event::Sampled(params.progress(order.memory)));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%id, %error, "no sample"),
        }
        // Either way it is time for the next one.
        let _ = timeout(SAMPLE_INTERVAL, round.notified()).await;
    }
}

/// Waits until no job runs on the domain. `false` if libvirt does not say for too long.
pub(super) async fn job_is_over(libvirt: &Libvirt, id: InstanceId) -> bool {
    let mut said = Instant::now();
    while said.elapsed() < LOST_CALL_LIMIT {
        match libvirt.job(id).await {
            Ok(None) => return true,
            Ok(Some(_)) => said = Instant::now(),
            Err(error) => tracing::debug!(%id, %error, "the job may go on"),
        }
        sleep(LOST_CALL_POLL).await;
    }
    false
}

/// Waits to be cancelled, then aborts the job again and again for as long as it is polled: the first abort may come
/// before the job has begun.
pub(super) async fn abort(
    libvirt: &Libvirt,
    id: InstanceId,
    cancel: &CancellationToken,
    crossing: &Crossing,
) -> Infallible {
    cancel.cancelled().await;
    loop {
        // From the moment on in which QEMU is told to switch to postcopy there is no way back, unless it turns out that it did not.
        if crossing.has_begun() {
            sleep(ABORT_REPEAT).await;
            continue;
        }
        match libvirt.abort_job(id).await {
            Ok(()) => sleep(ABORT_REPEAT).await,
            Err(error) => {
                tracing::debug!(%id, %error, "not aborted yet");
                sleep(ABORT_RETRY).await;
            }
        }
    }
}
