//! In a simulation: libvirt's processes, which live and die apart from the agents, and the job that moves a guest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytesize::ByteSize;
use tokio::time::{Instant, sleep};
use vmferry_agent::hypervisor::{Control, Fault};
use vmferry_core::{
    agent::Sighting,
    migration::{Order, Statistics},
    reason::Reason,
    resolution::{self, Domain, Seen},
};

use super::{
    chance::{Bug, Milestone},
    host::Fake,
    measure,
    world::{Facts, World},
};

/// How often somebody looks who waits for something.
const LOOK: Duration = Duration::from_millis(20);
/// The longest of what a job waits for: a round, a message to the other libvirt.
const ROUND: Duration = Duration::from_millis(400);
const MESSAGE: Duration = Duration::from_millis(60);

/// libvirt's processes, and what they do.
#[derive(Debug, Default)]
pub(crate) struct Libvirts {
    /// Which process each host has.
    processes: BTreeMap<&'static str, u32>,
    down: Vec<&'static str>,
    /// The source's only one.
    job: Option<Job>,
    /// Whether the source's has died with the guest stopped for its hand-over, and knows nothing of it any more.
    has_forgotten: bool,
    /// Whether the two hosts do not reach each other.
    pub(super) is_cut: bool,
}

#[derive(Debug)]
struct Job {
    order: Order,
    is_taken: bool,
    is_cancelled: bool,
    ended: Option<Result<(), Reason>>,
}

impl Facts {
    fn libvirt(&self, host: &'static str) -> Option<u32> {
        let process = self.libvirts.processes.get(host).copied().unwrap_or_default();
        (!self.libvirts.down.contains(&host)).then_some(process)
    }

    /// Who carries the job: the agents, whose the tunnel is, and the destination's libvirt.
    fn carriers(&self) -> (u32, u32, Option<u32>) {
        (self.process("source"), self.process("destination"), self.libvirt("destination"))
    }
}

impl World {
    /// Which of libvirt's processes the host has now.
    pub(crate) fn libvirt(&self, host: &'static str) -> Option<u32> {
        self.facts().libvirt(host)
    }

    /// Nothing gets through between the hosts, or all again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.facts().libvirts.is_cut = is_cut;
    }

    /// The process is gone, and with it what it had begun. QEMU stays as it is; a guest that has not arrived does not.
    pub(crate) fn libvirt_dies(&self, host: &'static str) {
        let had_job = {
            let mut facts = self.facts();
            let libvirts = &mut facts.libvirts;
            libvirts.down.push(host);
            *libvirts.processes.entry(host).or_default() += 1;
            host == "source" && libvirts.job.take().is_some()
        };
        if (had_job || host == "destination") && self.sees("destination") == Sighting::Arriving {
            self.set("destination", None);
        }
    }

    /// It is back. A guest that it was moving is let go on, unless the destination may have all of it: of that it knows nothing
    /// (`qemuMigrationSrcRecover`), and leaves it as it is.
    pub(crate) fn libvirt_is_back(&self, host: &'static str) {
        self.facts().libvirts.down.retain(|down| *down != host);
        let is_alone = !self.facts().domains.contains_key("destination");
        if host == "source" && is_alone && self.sees("source") == Sighting::Paused {
            self.set("source", Some((Sighting::Running, true)));
        }
    }

    /// An administrator does what the message of a migration says that is held: one copy of a guest that is paused on both hosts goes,
    /// or its only one is let run.
    pub(crate) fn mend_by_hand(&self) {
        match (self.sees("source"), self.sees("destination")) {
            (Sighting::Paused, Sighting::Paused) => self.set("source", Some((Sighting::Shutoff, true))),
            (Sighting::Paused, Sighting::Absent) => self.set("source", Some((Sighting::Running, true))),
            _ => return,
        }
        self.note("an administrator does as he is told");
    }

    fn ask_for_job(&self, order: &Order) -> bool {
        let mut facts = self.facts();
        let is_free = facts.libvirts.job.as_ref().is_none_or(|job| job.ended.is_some());
        if is_free {
            let job = Job { order: order.clone(), is_taken: false, is_cancelled: false, ended: None };
            facts.libvirts.job = Some(job);
        }
        is_free
    }

    fn job_ended(&self) -> Option<Result<(), Reason>> {
        match &self.facts().libvirts.job {
            Some(job) => job.ended,
            None => Some(Err(Reason::LibvirtFailed)),
        }
    }

    fn runs_job(&self) -> bool {
        self.job_ended().is_none()
    }

    /// The source's libvirt has died when it had stopped the guest for its hand-over, and leaves it so.
    pub(crate) fn leave_stopped(&self) {
        self.facts().libvirts.has_forgotten = true;
        self.set("source", Some((Sighting::Paused, true)));
    }

    fn has_forgotten(&self) -> bool {
        self.facts().libvirts.has_forgotten
    }

    /// What libvirt shows, with the job that it runs.
    pub(super) fn seen(&self, host: &'static str) -> Seen {
        let sends = host == "source" && self.is_simulated() && self.runs_job();
        let (domain, job) = match self.sees(host) {
            Sighting::Absent => (Domain::Absent, resolution::Job::None),
            Sighting::Shutoff => (Domain::Off, resolution::Job::None),
            Sighting::Running => {
                (Domain::Running, if sends { resolution::Job::Outgoing } else { resolution::Job::None })
            }
            Sighting::Arriving => (Domain::PausedToMove, resolution::Job::Incoming),
            Sighting::Paused if sends => (Domain::PausedToMove, resolution::Job::Outgoing),
            // In a simulation nobody else pauses it there.
            Sighting::Paused if host == "source" && (self.is_simulated() || self.has_forgotten()) => {
                (Domain::PausedToMove, resolution::Job::None)
            }
            Sighting::Paused => (Domain::Paused, resolution::Job::None),
            Sighting::Departing => (Domain::PausedPostcopy, resolution::Job::None),
            Sighting::Incomplete => (Domain::RunningPostcopy, resolution::Job::None),
        };
        Seen { domain, job, qemu: None }
    }

    fn cancel_job(&self) {
        if let Some(job) = &mut self.facts().libvirts.job {
            job.is_cancelled = true;
        }
    }

    fn take_job(&self) -> Option<Order> {
        let mut facts = self.facts();
        let job = facts.libvirts.job.as_mut().filter(|job| !job.is_taken)?;
        job.is_taken = true;
        Some(job.order.clone())
    }

    /// The source's libvirt: it runs the jobs that it is asked for.
    pub(crate) async fn run_jobs(self: Arc<Self>) -> turmoil::Result {
        loop {
            sleep(LOOK).await;
            let Some(order) = self.take_job() else { continue };
            let ended = self.move_guest(&order).await;
            self.note(&format!("libvirt: the job ends: {ended:?}"));
            if let Some(job) = &mut self.facts().libvirts.job {
                job.ended = Some(ended);
            }
        }
    }

    async fn move_guest(&self, order: &Order) -> Result<(), Reason> {
        let carriers = self.facts().carriers();
        let is_carried = |waits: Sighting| {
            let facts = self.facts();
            let open = facts.listening.contains(&("source", order.id)) && facts.granted.contains_key(&order.id);
            let there = facts.domains.get("destination").is_some_and(|(seen, _)| *seen == waits);
            open && there && !facts.libvirts.is_cut && carriers == facts.carriers() && carriers.2.is_some()
        };
        let is_cancelled = || self.facts().libvirts.job.as_ref().is_none_or(|job| job.is_cancelled);
        let give_up = |reason| {
            if self.has_bug(Bug::KillsWhatHasNotMoved) {
                self.set("source", None);
            }
            if self.sees("destination") == Sighting::Arriving {
                self.set("destination", None);
            }
            if self.sees("source") == Sighting::Paused {
                self.set("source", Some((Sighting::Running, true)));
            }
            Err(reason)
        };
        sleep(self.draw(MESSAGE)).await;
        if carriers.2.is_none() || self.sees("destination") != Sighting::Absent {
            return Err(Reason::MigrationFailed);
        }
        self.reach(Milestone::Arriving);
        self.set("destination", Some((Sighting::Arriving, false)));
        for _ in 0..3 {
            sleep(self.draw(ROUND)).await;
            if is_cancelled() {
                return give_up(Reason::MigrationAborted);
            }
            if !is_carried(Sighting::Arriving) {
                return give_up(Reason::MigrationFailed);
            }
        }
        self.set("source", Some((Sighting::Paused, true)));
        self.reach(Milestone::Stopped);
        sleep(self.draw(MESSAGE)).await;
        if !is_carried(Sighting::Arriving) {
            return give_up(Reason::MigrationFailed);
        }
        self.reach(Milestone::Arrived);
        self.set("destination", Some((Sighting::Paused, true)));
        if !order.is_strict() {
            // The hole in libvirt's own hand-over is no error of ours, and known: no answer is lost here but by a bug.
            self.set("destination", Some((Sighting::Running, true)));
            if self.has_bug(Bug::LetsBothRun) {
                self.set("source", Some((Sighting::Running, true)));
            }
            self.set("source", None);
            return Ok(());
        }
        sleep(self.draw(MESSAGE)).await;
        if !is_carried(Sighting::Paused) {
            self.note("libvirt: its last answer is lost");
            return give_up(Reason::HandoverFailed);
        }
        self.reach(Milestone::Gone);
        self.set("source", None);
        sleep(self.draw(MESSAGE)).await;
        Ok(())
    }
}

impl Fake {
    /// The job, as the source's agent sees it: what becomes of it if nobody looks is libvirt's.
    pub(super) async fn attend_job(&self, order: &Order, mut control: Control) -> Result<Statistics, Fault> {
        let failed = |reason, what: &str| Err(Fault::new(reason, format!("{}: {what}", order.instance_name)));
        if !self.step("starting the job", || self.world.ask_for_job(order)).await? {
            return failed(Reason::MigrationFailed, "another job runs on it");
        }
        control.foresight.show(&control.ladder);
        measure::samples().into_iter().for_each(|sample| (control.progress)(sample));
        let mut stopped = Instant::now();
        let ended = loop {
            sleep(LOOK).await;
            if control.cancel.is_cancelled() {
                self.world.cancel_job();
            }
            match self.world.sees("source") {
                Sighting::Running => stopped = Instant::now(),
                // The kernel tells that QEMU is gone, whatever libvirt does.
                Sighting::Absent => {
                    if let Some(released) = control.released.take() {
                        _ = released.send(stopped);
                    }
                }
                _ => {}
            }
            if let Some(ended) = self.world.job_ended() {
                break ended;
            }
        };
        match ended {
            Ok(()) => Ok(Statistics {
                total_time: Duration::from_secs(1),
                downtime: Duration::from_millis(50),
                total: ByteSize::mib(256),
                ..Statistics::default()
            }),
            Err(reason) => failed(reason, "the job failed"),
        }
    }

    /// Until libvirt's job is over, whoever began it.
    pub(super) async fn outwait_job(&self) -> Result<(), Fault> {
        while self.world.libvirt(self.name).is_some() && self.world.runs_job() {
            sleep(LOOK).await;
        }
        self.step("looking for the job", || ()).await
    }
}
