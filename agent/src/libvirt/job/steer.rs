//! Carries out the policy, and what is said by hand, while the job runs.

use std::{convert::Infallible, time::Duration};

use bytesize::ByteSize;
use tokio::{select, sync::watch};
use tokio_util::sync::CancellationToken;
use virt::domain::Domain;
use vmferry_core::{
    convergence::{Action, Ladder},
    id::InstanceId,
    migration::{FLOOR, Progress, Steering},
};

use super::{Libvirt, helm::Held};
use crate::libvirt::{
    Error, Fault, ffi,
    reading::{lookup, or_gone},
};

/// What libvirt and QEMU keep for a guest's migrations, whoever asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usual {
    downtime_millis: u64,
    bandwidth_mib: u64,
}

/// At the wheel of one job.
pub(super) struct Steersman<'a> {
    pub(super) libvirt: &'a Libvirt,
    pub(super) instance: InstanceId,
    pub(super) ladder: Ladder,
    /// Per second; `None`: as much as is usual.
    pub(super) bandwidth: Option<ByteSize>,
    pub(super) usual: Option<Usual>,
    /// What QEMU was told, as far as it has taken it.
    pub(super) told: Option<Duration>,
    /// Whether the bandwidth was changed by hand.
    pub(super) changed_bandwidth: bool,
    /// A guest that could not be stopped yet.
    pub(super) to_suspend: bool,
    /// What ends the job.
    pub(super) give_up: CancellationToken,
}

impl Steersman<'_> {
    /// For as long as it is polled.
    pub(super) async fn steer(&mut self, mut samples: watch::Receiver<Option<Progress>>, mut helm: Held) -> Infallible {
        loop {
            select! {
                // The watcher of the job has them for as long as it runs.
                Ok(()) = samples.changed() => {
                    let sample = *samples.borrow_and_update();
                    if let Some(sample) = sample {
                        self.follow(&sample).await;
                    }
                }
                told = helm.next() => {
                    let answer = self.tell(told.steering).await;
                    // Nobody may be waiting for it any more.
                    let _ = told.answer.send(answer);
                }
            }
        }
    }

    /// What QEMU has not taken is tried again with the next sample: it takes nothing before its job has begun.
    async fn follow(&mut self, sample: &Progress) {
        match self.ladder.see(sample) {
            Some(Action::Suspend) => self.to_suspend = true,
            Some(Action::Abort) => self.give_up.cancel(),
            Some(Action::Downtime(_)) | None => {}
        }
        let downtime = self.ladder.downtime();
        if self.told != Some(downtime) {
            let set = self.set_downtime(downtime).await;
            if set.is_ok() {
                self.told = Some(downtime);
            }
            self.untold("the downtime", set);
        }
        if self.to_suspend {
            tracing::info!(id = %self.instance, "the guest is stopped, so that the rest can be sent");
            let stopped = self.suspend().await;
            self.to_suspend = stopped.is_err();
            self.untold("to stop the guest", stopped);
        }
    }

    fn untold(&self, what: &str, told: Result<(), Error>) {
        if let Err(error) = told {
            tracing::debug!(id = %self.instance, %error, "QEMU was not told {what}");
        }
    }

    async fn tell(&mut self, steering: Steering) -> Result<(), Error> {
        match steering {
            Steering::Downtime(downtime) => {
                self.set_downtime(downtime).await?;
                self.told = Some(downtime);
                self.ladder.steer_downtime(downtime);
            }
            Steering::Bandwidth(bandwidth) => {
                self.set_bandwidth(bandwidth).await?;
                self.bandwidth = bandwidth;
            }
            Steering::Deadline(deadline) => self.ladder.steer_deadline(deadline),
            Steering::Pause => self.set_bandwidth(Some(FLOOR)).await?,
            Steering::Resume => self.set_bandwidth(self.bandwidth).await?,
            Steering::Suspend => self.suspend().await?,
        }
        tracing::info!(id = %self.instance, ?steering, "the job was told by hand");
        Ok(())
    }

    /// What the guest's next migration, by whomever, shall find as it was. There being no guest any more is success.
    pub(super) async fn restore(&self) {
        let Some(Usual { downtime_millis, bandwidth_mib }) = self.usual else { return };
        let (downtime, bandwidth) = (self.told.is_some(), self.changed_bandwidth);
        let restored = self
            .of_guest("restore the usual migration limits of", move |domain| {
                if downtime {
                    domain.migrate_set_max_downtime(downtime_millis, 0)?;
                }
                if bandwidth {
                    domain.migrate_set_max_speed(bandwidth_mib, 0)?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = restored {
            tracing::debug!(id = %self.instance, %error, "its next migration begins with the limits of this one");
        }
    }

    async fn set_downtime(&self, downtime: Duration) -> Result<(), Error> {
        let millis = u64::try_from(downtime.as_millis()).unwrap_or(u64::MAX);
        self.of_guest("set the migration downtime of", move |domain| Ok(domain.migrate_set_max_downtime(millis, 0)?))
            .await
    }

    async fn set_bandwidth(&mut self, bandwidth: Option<ByteSize>) -> Result<(), Error> {
        let usual = self.usual.map(|usual| usual.bandwidth_mib);
        let Some(mib) = bandwidth.map(whole_mib).or(usual) else { return Ok(()) };
        self.changed_bandwidth = true;
        self.of_guest("set the migration bandwidth of", move |domain| Ok(domain.migrate_set_max_speed(mib, 0)?)).await
    }

    async fn suspend(&self) -> Result<(), Error> {
        self.of_guest("stop, so that it can be moved,", |domain| Ok(domain.suspend()?)).await
    }

    async fn of_guest(
        &self,
        asked: &str,
        step: impl Fn(&Domain) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let id = self.instance;
        let done = self
            .libvirt
            .change(format!("{asked} domain {id}"), move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(step(&domain)),
                None => Ok(None),
            })
            .await?;
        done.ok_or(Error::NoDomain { id })
    }
}

/// What is usual for the guest's migrations, before anybody says otherwise. `None` if libvirt does not tell: nothing needs it then.
pub(super) async fn usual(libvirt: &Libvirt, id: InstanceId) -> Option<Usual> {
    let asked = format!("read the migration limits of domain {id}");
    let read = libvirt.read(asked, move |connection| {
        let Some(domain) = lookup(connection, id)? else { return Ok(None) };
        Ok(Some(Usual { downtime_millis: ffi::max_downtime(&domain)?, bandwidth_mib: domain.migrate_max_speed(0)? }))
    });
    read.await.inspect_err(|error| tracing::debug!(%id, %error, "libvirt's usual limits are not known")).ok().flatten()
}

/// libvirt's unit. Never less than was asked for.
pub(super) fn whole_mib(bandwidth: ByteSize) -> u64 {
    bandwidth.as_u64().div_ceil(ByteSize::mib(1).as_u64()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirt_is_told_whole_mebibytes_and_never_none() {
        assert_eq!([0, 1, 1 << 20, (1 << 20) + 1, 5 << 20].map(|bytes| whole_mib(ByteSize::b(bytes))), [1, 1, 1, 2, 5]);
    }
}
