//! A domain as libvirt shows it, in our words.

use std::fmt;

use virt::{connect::Connect, domain::Domain};
use virt_sys as sys;
use vmferry_core::{
    agent::Sighting,
    domain_xml::{self, Definition},
    id::InstanceId,
    instance::InstanceState,
    resolution::{self, Seen},
};

use super::{Fault, Standing, ffi};

/// libvirt's way to a domain's monitor may be taken this long by one call before we call the domain stuck.
const STUCK_AFTER_MS: u64 = 2_000;

/// What is to be seen of a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainReading {
    /// Its UUID.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// What it does, in the words of users. `Migrating` while libvirt's migration job runs, on either host, but for a guest
    /// that has not run here yet.
    pub state: InstanceState,
    /// What it does, as far as a migration cares.
    ///
    /// `Arriving` only while libvirt's incoming job runs: by its state alone (paused for migration) an arriving guest
    /// looks like one that is just being handed over, on its source.
    pub sighting: Sighting,
    /// Whether it is paused because it comes, goes, or is on two hosts, or may be.
    pub crosses: bool,
    /// Whether libvirt keeps the definition when the guest stops.
    pub persistent: bool,
    /// Snapshots that libvirt keeps of it.
    pub snapshots: u32,
    /// The job that runs on it, in words.
    pub job: Option<String>,
    /// Its definition; the running one while it runs.
    pub definition: Definition,
}

/// A job on a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    MigrationOut,
    MigrationIn,
    /// Something else, by its `virDomainJobOperation`.
    Other(sys::virDomainJobOperation),
    /// libvirt cannot ask: QEMU's monitor does not answer or is taken. A job may run.
    Unknown,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match *self {
            Self::MigrationOut => "outgoing migration",
            Self::MigrationIn => "incoming migration",
            Self::Other(operation) => match operation {
                sys::VIR_DOMAIN_JOB_OPERATION_START => "start",
                sys::VIR_DOMAIN_JOB_OPERATION_SAVE => "save",
                sys::VIR_DOMAIN_JOB_OPERATION_RESTORE => "restore",
                sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT => "snapshot",
                sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT => "snapshot revert",
                sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE => "snapshot deletion",
                sys::VIR_DOMAIN_JOB_OPERATION_DUMP => "dump",
                sys::VIR_DOMAIN_JOB_OPERATION_BACKUP => "backup",
                _ => "job of unknown kind",
            },
            Self::Unknown => "unknown, QEMU's monitor is not available",
        })
    }
}

/// What was read, not yet understood.
pub(super) struct Raw {
    id: InstanceId,
    xml: String,
    moment: Moment,
    persistent: bool,
    snapshots: u32,
}

/// What a domain did at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) active: bool,
    state: sys::virDomainState,
    reason: u32,
    pub(super) job: Option<Job>,
}

impl Raw {
    pub(super) fn read(domain: &Domain) -> Result<Self, Fault> {
        Ok(Self {
            id: InstanceId(domain.uuid()?),
            // Without VIR_DOMAIN_XML_SECURE: no secrets.
            xml: domain.xml_desc(0)?,
            moment: Moment::read(domain)?,
            persistent: domain.is_persistent()?,
            snapshots: domain.num_snapshots(0)?,
        })
    }

    pub(super) fn id(&self) -> InstanceId {
        self.id
    }

    pub(super) fn understand(self) -> Result<DomainReading, domain_xml::Error> {
        let definition = Definition::parse(&self.xml)?;
        Ok(DomainReading {
            id: self.id,
            name: definition.name.clone(),
            state: self.moment.state(),
            sighting: self.moment.sighting(),
            crosses: self.moment.crosses(),
            persistent: self.persistent,
            snapshots: self.snapshots,
            job: self.moment.job.map(|job| job.to_string()),
            definition,
        })
    }
}

impl Moment {
    pub(super) fn read(domain: &Domain) -> Result<Self, Fault> {
        // The job before the state: a guest that is still paused after its incoming job was seen had not run yet. The
        // other way round it could have been resumed in between.
        let job = if domain.is_active()? { job(domain)? } else { None };
        let (state, reason) = ffi::state(domain)?;
        Ok(Self { active: domain.is_active()?, state, reason, job })
    }

    fn state(&self) -> InstanceState {
        match (self.state, self.job) {
            (sys::VIR_DOMAIN_SHUTOFF, _) => InstanceState::Shutoff,
            (sys::VIR_DOMAIN_CRASHED, _) => InstanceState::Crashed,
            // It runs on its destination.
            (sys::VIR_DOMAIN_PAUSED, _) if self.is_departing() => InstanceState::Paused,
            // It arrives: until it runs here the guest runs on its source, and must not be seen running twice.
            (sys::VIR_DOMAIN_PAUSED, Some(Job::MigrationIn)) => InstanceState::Paused,
            (_, Some(Job::MigrationOut | Job::MigrationIn)) => InstanceState::Migrating,
            (sys::VIR_DOMAIN_PAUSED, _) => InstanceState::Paused,
            (sys::VIR_DOMAIN_PMSUSPENDED, _) => InstanceState::Suspended,
            // Running, blocked on I/O, shutting down: vCPUs run.
            _ => InstanceState::Active,
        }
    }

    pub(super) fn sighting(&self) -> Sighting {
        if !self.active {
            return Sighting::Shutoff;
        }
        match self.state {
            _ if self.is_departing() => Sighting::Departing,
            sys::VIR_DOMAIN_RUNNING if self.is_incomplete() => Sighting::Incomplete,
            sys::VIR_DOMAIN_PAUSED if self.job == Some(Job::MigrationIn) && self.is_paused_to_arrive() => {
                Sighting::Arriving
            }
            sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED | sys::VIR_DOMAIN_CRASHED => Sighting::Paused,
            // A state that changed since is not known to be harmless.
            _ => Sighting::Running,
        }
    }

    /// The same as facts by which a live migration is resolved.
    pub(super) fn seen(&self) -> Seen {
        let domain = match self.state {
            _ if !self.active => resolution::Domain::Off,
            _ if self.is_departing() => resolution::Domain::PausedPostcopy,
            sys::VIR_DOMAIN_RUNNING if self.is_incomplete() => resolution::Domain::RunningPostcopy,
            sys::VIR_DOMAIN_PAUSED if self.is_paused_to_arrive() => resolution::Domain::PausedToMove,
            sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED | sys::VIR_DOMAIN_CRASHED => {
                resolution::Domain::Paused
            }
            // A state that changed since is not known to be harmless.
            _ => resolution::Domain::Running,
        };
        let job = match self.job {
            None => resolution::Job::None,
            Some(Job::MigrationOut) => resolution::Job::Outgoing,
            Some(Job::MigrationIn) => resolution::Job::Incoming,
            Some(Job::Other(_)) => resolution::Job::Other,
            Some(Job::Unknown) => resolution::Job::Unknown,
        };
        Seen { domain, job, qemu: None }
    }

    fn crosses(&self) -> bool {
        let may_arrive = self.is_paused_to_arrive() && self.job == Some(Job::Unknown);
        let moves = matches!(self.job, Some(Job::MigrationIn | Job::MigrationOut));
        let was_moved = self.reason == sys::VIR_DOMAIN_PAUSED_MIGRATION;
        self.active && self.state == sys::VIR_DOMAIN_PAUSED && (moves || was_moved || may_arrive || self.is_departing())
    }

    fn is_departing(&self) -> bool {
        let departs = matches!(self.reason, sys::VIR_DOMAIN_PAUSED_POSTCOPY | sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED);
        self.active && self.state == sys::VIR_DOMAIN_PAUSED && departs
    }

    /// One that was paused meanwhile, and let go on, runs for another reason; one that did not need postcopy runs as one that has moved.
    fn is_incomplete(&self) -> bool {
        match self.reason {
            sys::VIR_DOMAIN_RUNNING_POSTCOPY | sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED => true,
            sys::VIR_DOMAIN_RUNNING_UNPAUSED | sys::VIR_DOMAIN_RUNNING_WAKEUP => self.job == Some(Job::MigrationIn),
            _ => false,
        }
    }

    /// How far a guest is here that was switched to postcopy.
    pub(super) fn standing(&self) -> Standing {
        let begun_anew = matches!(
            self.reason,
            sys::VIR_DOMAIN_RUNNING_BOOTED | sys::VIR_DOMAIN_RUNNING_RESTORED | sys::VIR_DOMAIN_RUNNING_FROM_SNAPSHOT
        );
        match self.sighting() {
            Sighting::Absent | Sighting::Shutoff => Standing::Gone,
            Sighting::Incomplete | Sighting::Arriving | Sighting::Departing => Standing::Incomplete,
            Sighting::Running | Sighting::Paused if self.job == Some(Job::MigrationIn) => Standing::Incomplete,
            // Somebody started it: its memory is another's.
            Sighting::Running if begun_anew => Standing::Gone,
            Sighting::Running | Sighting::Paused => Standing::Complete,
        }
    }

    /// Starting up while QEMU is prepared, migration while it receives. Any other reason needs a guest that has run.
    fn is_paused_to_arrive(&self) -> bool {
        matches!(self.reason, sys::VIR_DOMAIN_PAUSED_STARTING_UP | sys::VIR_DOMAIN_PAUSED_MIGRATION)
    }
}

/// The domain with this UUID, if it exists. Any other error than `VIR_ERR_NO_DOMAIN` is one.
pub(super) fn lookup(connection: &Connect, id: InstanceId) -> Result<Option<Domain>, Fault> {
    or_gone(connection.lookup_domain_by_uuid(id.0).map_err(Fault::from))
}

/// `None` if the domain does not exist (any more).
pub(super) fn or_gone<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.is(&[sys::VIR_ERR_NO_DOMAIN]) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The job that runs on an active domain.
pub(super) fn job(domain: &Domain) -> Result<Option<Job>, Fault> {
    // To ask for statistics libvirt waits its turn, up to 30 s where QEMU hangs. One such guest must not hide the others.
    match ffi::control(domain) {
        Ok((sys::VIR_DOMAIN_CONTROL_ERROR, _)) => return Ok(Some(Job::Unknown)),
        Ok((sys::VIR_DOMAIN_CONTROL_OCCUPIED, since_ms)) if since_ms > STUCK_AFTER_MS => return Ok(Some(Job::Unknown)),
        Ok(_) => {}
        Err(fault) if fault.is(&[sys::VIR_ERR_OPERATION_INVALID]) => return Ok(None), // it stopped meanwhile
        Err(fault) => return Err(fault),
    }
    match ffi::job_statistics(domain) {
        Ok(params) => Ok(params.map(|params| match params.operation() {
            sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT => Job::MigrationOut,
            sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN => Job::MigrationIn,
            other => Job::Other(other),
        })),
        // The QEMU driver's way to say that the job is an incoming migration; it says it of nothing else.
        Err(fault) if fault.is(&[sys::VIR_ERR_OPERATION_UNSUPPORTED]) => Ok(Some(Job::MigrationIn)),
        // Stopped meanwhile, or a driver without jobs.
        Err(fault) if fault.is(&[sys::VIR_ERR_OPERATION_INVALID, sys::VIR_ERR_NO_SUPPORT]) => Ok(None),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSED: Moment =
        Moment { active: true, state: sys::VIR_DOMAIN_PAUSED, reason: sys::VIR_DOMAIN_PAUSED_MIGRATION, job: None };

    #[test]
    fn a_guest_paused_for_migration_arrives_only_while_its_incoming_job_runs() {
        let sighting = |reason, job| Moment { reason, job, ..PAUSED }.sighting();
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_MIGRATION, Some(Job::MigrationIn)), Sighting::Arriving);
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_STARTING_UP, Some(Job::MigrationIn)), Sighting::Arriving);
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_IOERROR, Some(Job::MigrationIn)), Sighting::Paused);
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_MIGRATION, Some(Job::MigrationOut)), Sighting::Paused);
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_MIGRATION, Some(Job::Unknown)), Sighting::Paused);
        assert_eq!(sighting(sys::VIR_DOMAIN_PAUSED_MIGRATION, None), Sighting::Paused);
    }

    #[test]
    fn facts_say_what_sightings_say_and_do_not_take_a_silent_qemu_for_a_guest_that_stands_still() {
        use vmferry_core::resolution::GuestCopy;
        let jobs = [None, Some(Job::MigrationIn), Some(Job::MigrationOut), Some(Job::Other(0)), Some(Job::Unknown)];
        let states = [
            sys::VIR_DOMAIN_RUNNING,
            sys::VIR_DOMAIN_BLOCKED,
            sys::VIR_DOMAIN_PAUSED,
            sys::VIR_DOMAIN_SHUTDOWN,
            sys::VIR_DOMAIN_SHUTOFF,
            sys::VIR_DOMAIN_CRASHED,
            sys::VIR_DOMAIN_PMSUSPENDED,
        ];
        for (active, job) in jobs.into_iter().flat_map(|job| [(true, job), (false, job)]) {
            for (state, reason) in states.into_iter().flat_map(|state| (0..20).map(move |reason| (state, reason))) {
                let moment = Moment { active, state, reason, job };
                let copy = moment.seen().copy();
                let said = match moment.sighting() {
                    Sighting::Absent => GuestCopy::None,
                    Sighting::Shutoff => GuestCopy::Off,
                    _ if job == Some(Job::Unknown) => GuestCopy::Unclear,
                    Sighting::Running => GuestCopy::Runs,
                    Sighting::Arriving => GuestCopy::Arriving,
                    // Not even libvirt's own reason says that it has arrived as long as it is still coming.
                    Sighting::Paused if job == Some(Job::MigrationIn) => GuestCopy::Arriving,
                    Sighting::Paused => GuestCopy::Stopped,
                    Sighting::Departing => GuestCopy::Departing,
                    Sighting::Incomplete => GuestCopy::Incomplete,
                };
                assert_eq!(copy, said, "active {active}, state {state}, reason {reason}, {job:?}");
            }
        }
    }

    #[test]
    fn who_is_paused_to_move_is_told_from_who_is_paused_by_its_user() {
        let crosses = |reason, job| Moment { reason, job, ..PAUSED }.crosses();
        for job in [None, Some(Job::MigrationIn), Some(Job::MigrationOut), Some(Job::Unknown)] {
            assert!(crosses(sys::VIR_DOMAIN_PAUSED_MIGRATION, job), "{job:?}");
            assert!(crosses(sys::VIR_DOMAIN_PAUSED_POSTCOPY, job), "{job:?}");
            let is_known = matches!(job, Some(Job::MigrationIn | Job::MigrationOut));
            assert_eq!(crosses(sys::VIR_DOMAIN_PAUSED_USER, job), is_known, "{job:?}");
            assert_eq!(crosses(sys::VIR_DOMAIN_PAUSED_STARTING_UP, job), job.is_some(), "{job:?}");
        }
        assert!(!Moment { active: false, state: sys::VIR_DOMAIN_SHUTOFF, ..PAUSED }.crosses());
    }

    #[test]
    fn a_running_guest_with_an_incoming_job_runs() {
        let running = Moment { state: sys::VIR_DOMAIN_RUNNING, job: Some(Job::MigrationIn), ..PAUSED };
        assert_eq!(running.sighting(), Sighting::Running);
        assert_eq!(running.state(), InstanceState::Migrating);
    }

    #[test]
    fn a_guest_whose_memory_is_on_both_hosts_is_here_but_not_whole() {
        for reason in [sys::VIR_DOMAIN_PAUSED_POSTCOPY, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED] {
            for job in [Some(Job::MigrationOut), None] {
                let departing = Moment { reason, job, ..PAUSED };
                assert_eq!((departing.sighting(), departing.state()), (Sighting::Departing, InstanceState::Paused));
            }
        }
        for reason in [sys::VIR_DOMAIN_RUNNING_POSTCOPY, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED] {
            let running = Moment { state: sys::VIR_DOMAIN_RUNNING, reason, job: Some(Job::MigrationIn), ..PAUSED };
            assert_eq!(running.sighting(), Sighting::Incomplete);
            assert_eq!(running.standing(), Standing::Incomplete);
        }
        let moment = |reason, job| Moment { state: sys::VIR_DOMAIN_RUNNING, reason, job, ..PAUSED };
        assert_eq!(moment(sys::VIR_DOMAIN_RUNNING_MIGRATED, None).standing(), Standing::Complete);
        assert_eq!(moment(sys::VIR_DOMAIN_RUNNING_UNPAUSED, None).standing(), Standing::Complete);
        // Somebody paused it and let it go on, while its memory still came.
        let unpaused = moment(sys::VIR_DOMAIN_RUNNING_UNPAUSED, Some(Job::MigrationIn));
        assert_eq!((unpaused.sighting(), unpaused.standing()), (Sighting::Incomplete, Standing::Incomplete));
        // Somebody started it anew.
        assert_eq!(moment(sys::VIR_DOMAIN_RUNNING_BOOTED, None).standing(), Standing::Gone);
    }

    #[test]
    fn a_guest_that_arrives_is_not_seen_running_on_both_hosts() {
        let arriving = Moment { job: Some(Job::MigrationIn), ..PAUSED };
        assert_eq!((arriving.state(), arriving.sighting()), (InstanceState::Paused, Sighting::Arriving));
    }

    #[test]
    fn what_is_not_active_is_shut_off_even_if_it_crashed() {
        let crashed = Moment { active: false, state: sys::VIR_DOMAIN_CRASHED, ..PAUSED };
        assert_eq!(crashed.sighting(), Sighting::Shutoff);
        assert_eq!(crashed.state(), InstanceState::Crashed);
    }
}
