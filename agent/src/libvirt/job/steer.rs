//! Carries out the policy, and what is said by hand, while the job runs.

mod restore;

use std::time::Duration;

use bytesize::ByteSize;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use virt::domain::Domain;
use virt_sys as sys;
use vmferry_core::{
    agent::Sighting,
    convergence::{Action, Foresight, Ladder},
    id::InstanceId,
    migration::{FLOOR, Limits, Progress, Steering},
};

use super::{
    Libvirt, OnDeed, SteeringError,
    crossing::Crossing,
    helm::{Held, Told},
};
use crate::libvirt::{
    Error, Fault, ffi,
    reading::{lookup, or_gone},
};

/// The policy's times come also while libvirt does not say how the job goes on.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two tries to switch a guest to postcopy, where the way is not as it should be.
const SWITCH_RETRY: Duration = Duration::from_secs(5);
/// How long the way may take to answer before a guest is switched to postcopy.
const WAY_LIMIT: Duration = Duration::from_secs(2);
/// As much as libvirt can be told, in MiB.
const MOST_MIB: u64 = i64::MAX.cast_unsigned() >> 20;

/// What libvirt and QEMU keep for a guest's migrations, whoever asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usual {
    downtime_millis: u64,
    bandwidth_mib: u64,
}

/// Where it is told what is done.
pub(super) struct Reports {
    pub(super) deed: OnDeed,
    pub(super) foresight: Foresight,
}

/// At the wheel of one job.
pub(super) struct Steersman {
    libvirt: Libvirt,
    instance: InstanceId,
    ladder: Ladder,
    /// Per second, while it is not paused; `None`: as much as is usual.
    bandwidth: Option<ByteSize>,
    usual: Option<Usual>,
    /// What QEMU has taken.
    told: Option<Duration>,
    /// The newest sample, and when it came.
    last: (Progress, Instant),
    is_paused: bool,
    suspend: Suspend,
    crossing: Crossing,
    /// The policy wants the guest to be switched to postcopy; when that is tried next.
    wants_postcopy: Option<Instant>,
    may_postcopy: bool,
    /// What was tried to change, and is to be put back.
    changed: Changed,
    reports: Reports,
    ending: Ending,
}

/// How a job ends.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// Ends it.
    pub(super) give_up: CancellationToken,
    /// It is over.
    pub(super) over: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspend {
    No,
    /// As soon as memory is sent, and libvirt takes it; since this time of the job's.
    Wanted(Duration),
    Done,
}

#[derive(Debug, Clone, Copy, Default)]
struct Changed {
    downtime: bool,
    bandwidth: bool,
    /// Whether the guest ran and was stopped, or may have been.
    suspended: bool,
}

impl Steersman {
    /// Before the job begins: sets what the policy begins with, for QEMU decides by it when the last round is sent.
    pub(super) async fn embark(
        libvirt: &Libvirt,
        instance: InstanceId,
        ladder: Ladder,
        limits: &Limits,
        reports: Reports,
        ending: Ending,
        crossing: Crossing,
    ) -> Self {
        let mut steersman = Self {
            libvirt: libvirt.clone(),
            instance,
            ladder,
            bandwidth: limits.bandwidth,
            usual: restore::usual(libvirt, instance).await,
            told: None,
            last: (Progress::default(), Instant::now()),
            is_paused: false,
            suspend: Suspend::No,
            crossing,
            wants_postcopy: None,
            may_postcopy: limits.policy.may_postcopy(),
            changed: Changed::default(),
            reports,
            ending,
        };
        steersman.reports.foresight.show(&steersman.ladder);
        // A guest that was switched to postcopy has been handed over.
        if !steersman.is_switched() {
            steersman.tell_downtime().await;
        }
        steersman
    }

    /// Until the job is over. What is being told then is told to its end, so that nothing of it comes after what follows.
    pub(super) async fn steer(&mut self, mut samples: mpsc::UnboundedReceiver<Progress>, mut helm: Held) {
        let over = self.ending.over.clone();
        loop {
            select! {
                biased;
                () = over.cancelled() => return,
                Some(sample) = samples.recv() => self.note(sample).await,
                told = helm.next() => {
                    // Whoever tells it may have seen more of the job than the newest sample has: the one after the next is newer.
                    for _ in 0..2 {
                        if self.last.0.round == 0 && let Ok(Some(sample)) = timeout(SILENCE, samples.recv()).await {
                            self.note(sample).await;
                        }
                    }
                    self.answer(told).await;
                }
                () = sleep(SILENCE) => {
                    let (last, at) = self.last;
                    self.follow(&Progress { elapsed: last.elapsed + at.elapsed(), ..last }).await;
                }
            }
        }
    }

    async fn note(&mut self, sample: Progress) {
        self.last = (sample, Instant::now());
        self.follow(&sample).await;
    }

    /// What libvirt has not taken is tried again with the next sample.
    async fn follow(&mut self, sample: &Progress) {
        // Once QEMU was told to switch to postcopy nothing is the policy's to decide.
        if self.crossing.has_begun() {
            return;
        }
        match self.ladder.see(sample) {
            Some(Action::Suspend) if self.suspend == Suspend::No => {
                (self.suspend, self.wants_postcopy) = (Suspend::Wanted(sample.elapsed), None);
            }
            Some(Action::Abort) => self.give_up(),
            Some(Action::Postcopy) => self.wants_postcopy = Some(Instant::now()),
            Some(Action::Suspend | Action::Downtime(_)) | None => {}
        }
        self.reports.foresight.show(&self.ladder);
        self.tell_downtime().await;
        // Disks are copied before memory is sent: there is nothing to switch to before.
        if let Some(next) = self.wants_postcopy
            && sample.round > 0
            && Instant::now() >= next
        {
            self.wants_postcopy = Some(Instant::now() + SWITCH_RETRY);
            match self.switch().await {
                Ok(()) => (self.reports.deed)(Action::Postcopy),
                Err(error) => {
                    tracing::warn!(id = %self.instance, %error, "the guest is not switched to postcopy yet, as its policy has it");
                }
            }
        }
        let Suspend::Wanted(since) = self.suspend else { return };
        // While disks are copied the guest would stand still for all of them, and it may write faster than they are.
        if sample.round == 0 {
            if sample.elapsed > since * 2 {
                self.give_up();
            }
        } else if !self.is_over() {
            match self.suspend().await {
                Ok(()) => (self.reports.deed)(Action::Suspend),
                Err(error) => {
                    tracing::warn!(id = %self.instance, %error, "the guest is not stopped yet, as its policy has it");
                }
            }
        }
    }

    fn give_up(&self) {
        if !self.ending.give_up.is_cancelled() {
            (self.reports.deed)(Action::Abort);
        }
        self.ending.give_up.cancel();
    }

    async fn answer(&mut self, Told { steering, answer }: Told) {
        // Who has given up waiting must not be surprised.
        if answer.is_closed() {
            return;
        }
        let told = self.tell(steering).await;
        if told.is_ok() {
            tracing::info!(id = %self.instance, ?steering, "the job was told by hand");
        }
        let _ = answer.send(told);
    }

    async fn tell(&mut self, steering: Steering) -> Result<(), SteeringError> {
        let (last, _) = self.last;
        let is_handed_over = last.stopped && self.suspend != Suspend::Done;
        match steering {
            // What follows a guest may still be sent faster or slower.
            Steering::Bandwidth(bandwidth) if self.is_switched() => {
                return self.set_postcopy_bandwidth(bandwidth).await;
            }
            _ if is_handed_over || self.is_over() || self.crossing.has_begun() => return Err(SteeringError::TooLate),
            _ => {}
        }
        if last.round == 0 {
            return Err(SteeringError::TooEarly);
        }
        match steering {
            Steering::Downtime(downtime) => {
                self.set_downtime(downtime).await?;
                self.ladder.steer_downtime(downtime);
            }
            Steering::Bandwidth(bandwidth) => {
                self.set_bandwidth(bandwidth).await?;
                (self.bandwidth, self.is_paused) = (bandwidth, false);
            }
            Steering::Deadline(deadline) => {
                if !self.ladder.steer_deadline(deadline) {
                    return Err(SteeringError::PolicyEnded);
                }
            }
            Steering::Pause => {
                self.set_bandwidth(Some(FLOOR)).await?;
                self.is_paused = true;
            }
            Steering::Resume => self.speed_up().await?,
            Steering::Postcopy if !self.may_postcopy => return Err(SteeringError::NotAllowed),
            Steering::Postcopy => self.switch().await?,
            Steering::Suspend => self.suspend().await?,
        }
        Ok(())
    }

    async fn tell_downtime(&mut self) {
        let downtime = self.ladder.downtime();
        if self.told == Some(downtime) {
            return;
        }
        let is_first = self.told.is_none();
        match self.set_downtime(downtime).await {
            // With which it begins is no news.
            Ok(()) if is_first => {}
            Ok(()) => (self.reports.deed)(Action::Downtime(downtime)),
            Err(error) => tracing::debug!(id = %self.instance, %error, "QEMU was not told the downtime"),
        }
    }

    async fn set_downtime(&mut self, downtime: Duration) -> Result<(), Error> {
        self.changed.downtime = true;
        let millis = u64::try_from(downtime.as_millis()).unwrap_or(u64::MAX);
        let set = move |domain: &Domain| Ok(domain.migrate_set_max_downtime(millis, 0)?);
        self.of_guest("set the migration downtime of", set).await?;
        self.told = Some(downtime);
        Ok(())
    }

    async fn set_bandwidth(&mut self, bandwidth: Option<ByteSize>) -> Result<(), Error> {
        let usual = self.usual.map(|usual| usual.bandwidth_mib);
        let (Some(mib), Some(_)) = (bandwidth.map(whole_mib).or(usual), usual) else {
            // What cannot be put back is not changed.
            let source =
                Fault { code: sys::VIR_ERR_OPERATION_FAILED, message: "libvirt has not told what is usual".to_owned() };
            return Err(Error::Refused { asked: format!("set the bandwidth of domain {}", self.instance), source });
        };
        self.changed.bandwidth = true;
        let set = move |domain: &Domain| Ok(domain.migrate_set_max_speed(mib, 0)?);
        self.of_guest("set the migration bandwidth of", set).await
    }

    async fn set_postcopy_bandwidth(&self, bandwidth: Option<ByteSize>) -> Result<(), SteeringError> {
        // To QEMU, nothing is no limit.
        let mib = bandwidth.map_or(0, whole_mib);
        let set =
            move |domain: &Domain| Ok(domain.migrate_set_max_speed(mib, sys::VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY)?);
        Ok(self.of_guest("set the postcopy bandwidth of", set).await?)
    }

    /// Ends a pause.
    async fn speed_up(&mut self) -> Result<(), Error> {
        self.set_bandwidth(self.bandwidth).await?;
        self.is_paused = false;
        Ok(())
    }

    /// A guest that stands still waits for what is left: it is not to wait for the sake of a pause.
    async fn suspend(&mut self) -> Result<(), Error> {
        if self.is_paused {
            self.speed_up().await?;
        }
        let state = self.of_guest("tell the state of", ffi::state).await?;
        // One that its owner has paused is not ours to let go on.
        if state.0 == sys::VIR_DOMAIN_RUNNING {
            self.changed.suspended = true;
            self.of_guest("stop, so that it can be moved,", |domain| Ok(domain.suspend()?)).await?;
        }
        self.suspend = Suspend::Done;
        tracing::info!(id = %self.instance, "the guest is stopped, so that the rest can be sent");
        Ok(())
    }

    /// Has the guest go on where it arrives. Only while the way there is known to be good: from then on the guest needs both hosts.
    async fn switch(&mut self) -> Result<(), SteeringError> {
        let whether = self.crossing.lifeline.is_there();
        let there =
            timeout(WAY_LIMIT, whether).await.unwrap_or_else(|_| Err(format!("no answer within {WAY_LIMIT:?}")));
        there.map_err(SteeringError::Way)?;
        if self.crossing.has_begun() {
            return Err(SteeringError::TooLate);
        }
        if self.is_paused {
            self.speed_up().await?;
        }
        self.crossing.begins().await.map_err(SteeringError::Way)?;
        if self.is_over() {
            self.crossing.stayed().await.map_err(SteeringError::Way)?;
            return Err(SteeringError::TooLate);
        }
        match self.of_guest("switch to postcopy", ffi::start_postcopy).await {
            Ok(()) => {
                self.wants_postcopy = None;
                tracing::info!(id = %self.instance, "QEMU is told to let the guest go on on its destination; the rest follows");
                Ok(())
            }
            // Whether it was is not known: it is looked at again, with the next sample or after the job.
            Err(error @ Error::Refused { .. })
                if matches!(self.libvirt.sighting(self.instance).await, Ok(Sighting::Running)) =>
            {
                self.crossing.stayed().await.map_err(SteeringError::Way)?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_switched(&self) -> bool {
        self.crossing.switched.is_cancelled()
    }

    fn is_over(&self) -> bool {
        self.ending.over.is_cancelled() || self.ending.give_up.is_cancelled()
    }

    async fn of_guest<T: Send + 'static>(
        &self,
        asked: &str,
        step: impl Fn(&Domain) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, Error> {
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

/// libvirt's unit. Never less than was asked for.
pub(super) fn whole_mib(bandwidth: ByteSize) -> u64 {
    bandwidth.as_u64().div_ceil(ByteSize::mib(1).as_u64()).clamp(1, MOST_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirt_is_told_whole_mebibytes_and_never_none() {
        assert_eq!([0, 1, 1 << 20, (1 << 20) + 1, 5 << 20].map(|bytes| whole_mib(ByteSize::b(bytes))), [1, 1, 1, 2, 5]);
        assert_eq!(whole_mib(ByteSize::b(u64::MAX)), MOST_MIB);
    }
}
