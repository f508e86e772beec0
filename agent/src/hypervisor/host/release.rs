//! A strict hand-over: when the guest can never run here again, and how its destination is told.

use std::{future::pending, io, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use vmferry_core::{
    agent::Sighting,
    id::InstanceId,
    migration::{Order, Statistics},
    reason::Reason,
};

use super::LibvirtHost;
use crate::{
    hypervisor::{Fault, HandingOver},
    libvirt::{JobError, QemuProcess, Stopped},
};

/// How long the destination may take to let the guest run.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

impl HandingOver for LibvirtHost {
    async fn open_release(&self, order: &Order) -> Result<(), Fault> {
        self.listeners.open_release(order).await.map_err(|error| {
            let (name, to) = (&order.instance_name, &order.destination.host);
            let message = format!("{name} cannot be handed over strictly to {to}: {error}");
            Fault::new(Reason::HandoverUnsupported, message)
        })
    }

    async fn release(&self, order: &Order) -> Result<(), Fault> {
        let told = timeout(RELEASE_LIMIT, self.listeners.release(order)).await;
        told.unwrap_or_else(|_| Err(format!("no answer within {RELEASE_LIMIT:?}"))).map_err(|error| {
            let (name, to) = (&order.instance_name, &order.destination.host);
            let message = format!("{to} was told that {name} may run there, and has not said that it does: {error}");
            Fault::new(Reason::ResumeUnanswered, message)
        })
    }

    async fn let_go_on(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.let_go_on(instance).await?)
    }

    async fn resume_arrived(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.resume_arrived(instance).await?)
    }

    async fn destroy_arrived(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.destroy_arrived(instance).await?)
    }
}

/// Watches for the moment in which a guest's copy here can never run again.
pub(super) struct Watcher {
    process: io::Result<QemuProcess>,
    /// Taken when it is told.
    released: Option<oneshot::Sender<Instant>>,
}

impl Watcher {
    /// Before the job begins. Without a process to be watched libvirt is believed when its job is over.
    pub(super) fn new(order: &Order, released: Option<oneshot::Sender<Instant>>) -> Self {
        let process = QemuProcess::of(&order.instance_name, order.instance);
        if let (Err(error), true) = (&process, released.is_some()) {
            tracing::warn!("{}: its release will be late, its QEMU cannot be watched: {error}", order.instance_name);
        }
        Self { process, released }
    }

    /// For as long as it is polled. A guest that was stopped for its hand-over and whose QEMU is gone then cannot run here: either libvirt
    /// has heard from the destination's that all has arrived, or the copy there is all that is left.
    pub(super) async fn watch(&mut self, stopped: &Stopped) -> std::convert::Infallible {
        if let (Ok(process), true) = (&self.process, self.released.is_some()) {
            let mut stops = stopped.subscribe();
            // It fails if nobody is left who could say so: then this is not polled any more, either.
            _ = stops.wait_for(Option::is_some).await;
            match process.gone().await {
                Ok(()) => {
                    let since = *stopped.borrow();
                    self.tell(since);
                }
                Err(error) => tracing::warn!("the release will be late, QEMU cannot be watched any more: {error}"),
            }
        }
        pending().await
    }

    /// After the job, however it ended: libvirt may have said what the process did not.
    pub(super) async fn settle(
        mut self,
        host: &LibvirtHost,
        order: &Order,
        stopped: &Stopped,
        moved: &Result<Statistics, JobError>,
    ) {
        let since = *stopped.borrow();
        let since = match moved {
            Ok(_) => Some(since.unwrap_or_else(Instant::now)),
            Err(_) => since,
        };
        if self.released.is_none() || since.is_none() {
            return;
        }
        match host.libvirt.sighting(order.instance).await {
            Ok(Sighting::Absent | Sighting::Shutoff) => self.tell(since),
            Ok(seen) => tracing::warn!("{} is not released, it is still here: {seen:?}", order.instance_name),
            Err(error) => tracing::warn!("{} is not released yet: {error}", order.instance_name),
        }
    }

    /// A guest that went off by itself, before it was stopped for its hand-over, is not handed over.
    fn tell(&mut self, since: Option<Instant>) {
        if let Some(since) = since
            && let Some(released) = self.released.take()
        {
            // Nobody may want to know any more.
            _ = released.send(since);
        }
    }
}
