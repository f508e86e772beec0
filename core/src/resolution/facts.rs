//! What each host knows of a guest that was being moved, each fact from the one place where it is true.

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word<F> {
    /// It was asked, and this is what it said.
    Told(F),
    /// It could not be asked: anything may be so there.
    Silent,
    /// It is proved that nothing runs there and that nothing will before its agent was asked: it was fenced, or its power is off. Only
    /// a person or a fence can say this; silence never becomes it.
    Dead,
}

impl<F> Word<F> {
    /// What was told.
    pub fn told(self) -> Option<F> {
        match self {
            Self::Told(facts) => Some(facts),
            Self::Silent | Self::Dead => None,
        }
    }
}

/// What the source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceFacts {
    /// Its libvirt and its QEMU, now.
    pub seen: Seen,
    /// Its journal.
    pub mark: SourceMark,
}

/// What the destination says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DestinationFacts {
    /// Its libvirt and its QEMU, now.
    pub seen: Seen,
    /// Its journal.
    pub mark: DestinationMark,
    /// Whether anything can still come in from the source: the tunnel's grant.
    pub way: Way,
}

/// How far the journal of the source's half says it is. Only ever goes down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceMark {
    /// There is no such journal.
    Nothing,
    /// The job was not begun.
    Ready,
    /// The job was begun.
    Moving,
    /// The job is over, and the guest was not stopped for it.
    Stayed,
    /// Strict: this copy cannot run, and does not go on before the destination has given its own up. Written once that was seen to, and before
    /// anybody is told: a driver that reads it here may act on it.
    Released,
    /// The guest was switched to postcopy, or may have been.
    Switched,
    /// The guest runs on the destination: libvirt's job says so (fast), or the destination (strict).
    Moved,
    /// Post or cleanup was begun.
    Ending(End),
    /// It is over here.
    Ended(End),
}

/// How far the journal of the destination's half says it is. Only ever goes down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestinationMark {
    /// There is no such journal.
    Nothing,
    /// It may arrive. In a strict hand-over nobody has let it run.
    Ready,
    /// Strict: the source's release is here and the guest is about to run, or does: there is no way back.
    Resuming,
    /// Post or cleanup was begun: with the latter it never runs here.
    Ending(End),
    /// It is over here.
    Ended(End),
}

impl SourceMark {
    /// Whether it is this end that was begun here.
    pub fn is(self, end: End) -> bool {
        matches!(self, Self::Ending(its) | Self::Ended(its) if its == end)
    }
}

impl DestinationMark {
    /// Whether it is this end that was begun here.
    pub fn is(self, end: End) -> bool {
        matches!(self, Self::Ending(its) | Self::Ended(its) if its == end)
    }
}

/// Where a migration ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// On the destination.
    Forward,
    /// On the source.
    Back,
}

/// Whether the source can still reach this host's libvirt and QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// It may.
    Open,
    /// The grant is revoked and its streams are cut, and were before the domain was looked at.
    Cut,
}

/// What is to be seen of the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// libvirt's word.
    pub domain: Domain,
    /// libvirt's job on it.
    pub job: Job,
    /// QEMU's own word, if it was asked and has answered.
    pub qemu: Option<RunState>,
}

/// The domain's state, with libvirt's reason as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// No such domain.
    Absent,
    /// Defined, and no QEMU: off, crashed, saved.
    Off,
    /// Its vCPUs run, or may.
    Running,
    /// Running, since the switch to postcopy; not all of its memory is here.
    RunningPostcopy,
    /// QEMU is being prepared, or receives, or the guest was stopped to be handed over: paused, starting up or migration.
    PausedToMove,
    /// Its vCPUs went to the destination, its memory has not wholly: paused, postcopy or postcopy failed.
    PausedPostcopy,
    /// Paused for any other reason. So does libvirt show a guest that has arrived and was not to be resumed.
    Paused,
}

/// The job that libvirt runs on the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Job {
    /// None.
    None,
    /// It sends it.
    Outgoing,
    /// It receives it; also while it handles Finish.
    Incoming,
    /// Something else.
    Other,
    /// libvirt cannot ask QEMU.
    Unknown,
}

/// QEMU's run state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// `running`
    Running,
    /// `paused`, and all others in which vCPUs stand still and no migration is the reason.
    Paused,
    /// `inmigrate`: it receives.
    Incoming,
    /// `finish-migrate`: it stopped to send the rest.
    Finishing,
    /// `postmigrate`: it has sent all.
    Sent,
}

/// What a host's copy of the guest amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestCopy {
    /// There is none.
    None,
    /// Only a definition.
    Off,
    /// On its way in.
    Arriving,
    /// Whole, and its vCPUs stand still.
    Stopped,
    /// Its vCPUs run.
    Runs,
    /// The source's since the switch to postcopy.
    Departing,
    /// The destination's since then, not whole.
    Incomplete,
    /// libvirt and QEMU cannot be asked, or do not agree yet: anything.
    Unclear,
}

impl Seen {
    /// What it amounts to. Where libvirt and QEMU disagree, a guest that may run runs.
    pub fn copy(self) -> GuestCopy {
        let is_receiving = self.job == Job::Incoming || self.qemu == Some(RunState::Incoming);
        match (self.domain, self.qemu) {
            (Domain::Absent, _) => GuestCopy::None,
            (Domain::Off, _) => GuestCopy::Off,
            _ if self.job == Job::Unknown => GuestCopy::Unclear,
            (Domain::PausedPostcopy, _) => GuestCopy::Departing,
            (Domain::RunningPostcopy, _) => GuestCopy::Incomplete,
            (_, Some(RunState::Running)) | (Domain::Running, None) => GuestCopy::Runs,
            (Domain::Running, Some(_)) | (_, Some(RunState::Finishing)) => GuestCopy::Unclear,
            (Domain::PausedToMove | Domain::Paused, _) if is_receiving => GuestCopy::Arriving,
            (Domain::PausedToMove | Domain::Paused, _) => GuestCopy::Stopped,
        }
    }
}
