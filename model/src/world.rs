//! All there is: two hosts with their journals, their QEMUs and libvirt's job between them, those who drive, and what is on its way.
//!
//! A journal survives its agent; what an agent has in its memory does not ([`Agent`]). QEMU survives everything but its host.

use vmferry_core::{
    migration::Side,
    resolution::{
        DestinationFacts, DestinationMark, Domain, End, Hold, Job, RunState, Seen, SourceFacts, SourceMark, Step, Way,
        Word,
    },
};

use crate::{
    driver::{Doing, Driver, Who},
    libvirt::Move,
    network::{Call, Message},
};

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub source: Source,
    pub destination: Destination,
    /// libvirt's job from one to the other.
    pub moves: Move,
    /// By [`Who`].
    pub drivers: [Driver; 4],
    /// Calls on their way, in no order.
    pub network: Vec<Message>,
    /// Whether the two hosts reach each other.
    pub link: bool,
    /// How often something may still go wrong.
    pub faults: u8,
    pub history: History,
}

/// What nobody in the world remembers, but what must be true goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// The guest's vCPUs have run on the destination.
    pub ran_there: bool,
    /// A host went down with what it had of the guest.
    pub bereaved: bool,
}

/// The host that the guest leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    pub agent: Agent,
    pub mark: SourceMark,
    /// The lease's, as journaled.
    pub epoch: u8,
    /// Its undo is journaled.
    pub undo: bool,
    /// What pre has made on the host.
    pub made: bool,
    /// The undo of the freeze is journaled.
    pub thaw: bool,
    pub qemu: Qemu,
}

/// The host that it shall run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    pub agent: Agent,
    pub mark: DestinationMark,
    /// The highest that it has heard of, as journaled.
    pub epoch: u8,
    pub undo: bool,
    pub made: bool,
    /// The tunnel's grant.
    pub way: bool,
    /// libvirt deals with Finish.
    pub finishes: bool,
    pub qemu: Qemu,
}

/// An agent's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Agent {
    pub down: bool,
    /// What it has journaled and is about to do. One thing at a time.
    pub work: Option<Work>,
    /// Source: who waits for the job's end.
    pub awaits_job: Option<Option<Who>>,
}

/// A call that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Work {
    pub message: Message,
    /// A step of it was taken.
    pub is_begun: bool,
}

impl Work {
    /// The source's half is not over before libvirt's job is.
    pub fn waits_for_libvirt(self, world: &World) -> bool {
        let is_post = matches!(self.message.call, Call::Take { step: Step::Post(Side::Source), .. });
        is_post && self.is_begun && !world.moves.is_over()
    }
}

/// A QEMU process, or what is left of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Qemu {
    /// No process and no definition.
    Absent,
    /// No process: the host went down.
    Off,
    Running,
    /// The source's, stopped; all was sent.
    Sent,
    /// The same, and it cannot be let go on by libvirt: its cgroup is frozen.
    Frozen,
    /// The destination's, receiving.
    Incoming,
    /// The destination's, whole, and not let run.
    Arrived,
}

impl Qemu {
    /// What libvirt and QEMU say of it.
    fn seen(self, job: Job) -> Seen {
        let (domain, qemu) = match self {
            Self::Absent => (Domain::Absent, None),
            Self::Off => (Domain::Off, None),
            Self::Running => (Domain::Running, Some(RunState::Running)),
            Self::Sent => (Domain::PausedToMove, Some(RunState::Sent)),
            // It does not answer any more.
            Self::Frozen => (Domain::PausedToMove, None),
            Self::Incoming => (Domain::PausedToMove, Some(RunState::Incoming)),
            Self::Arrived => (Domain::Paused, Some(RunState::Paused)),
        };
        Seen { domain, job, qemu }
    }

    /// Whether the guest could still be had from it.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Running | Self::Sent | Self::Frozen | Self::Arrived)
    }
}

impl World {
    /// The guest runs on the source, and a coordinator is about to move it.
    pub fn new(faults: u8) -> Self {
        let agent = Agent::default();
        let source = Source {
            agent,
            mark: SourceMark::Nothing,
            epoch: 1,
            undo: false,
            made: false,
            thaw: false,
            qemu: Qemu::Running,
        };
        let destination = Destination {
            agent,
            mark: DestinationMark::Nothing,
            epoch: 1,
            undo: false,
            made: false,
            way: false,
            finishes: false,
            qemu: Qemu::Absent,
        };
        Self {
            source,
            destination,
            moves: Move::None,
            drivers: [Driver::begins(), Driver::idle(), Driver::idle(), Driver::idle()],
            network: Vec::new(),
            link: true,
            faults,
            history: History::default(),
        }
    }

    pub fn agent(&self, side: Side) -> &Agent {
        match side {
            Side::Source => &self.source.agent,
            Side::Destination => &self.destination.agent,
        }
    }

    pub fn agent_mut(&mut self, side: Side) -> &mut Agent {
        match side {
            Side::Source => &mut self.source.agent,
            Side::Destination => &mut self.destination.agent,
        }
    }

    pub fn driver(&self, who: Who) -> &Driver {
        &self.drivers[who as usize]
    }

    pub fn driver_mut(&mut self, who: Who) -> &mut Driver {
        &mut self.drivers[who as usize]
    }

    /// Whether one can talk to the other now.
    pub fn reaches(&self, who: Who, side: Side) -> bool {
        !self.agent(side).down && (self.link || !who.is_remote_agent_of(side))
    }

    /// What the source would say now.
    pub fn source_facts(&self) -> SourceFacts {
        let job = if self.moves.is_over() { Job::None } else { Job::Outgoing };
        SourceFacts { seen: self.source.qemu.seen(job), mark: self.source.mark }
    }

    /// What the destination would say now.
    pub fn destination_facts(&self) -> DestinationFacts {
        let Destination { qemu, mark, way, .. } = self.destination;
        let job = if qemu == Qemu::Incoming { Job::Incoming } else { Job::None };
        DestinationFacts { seen: qemu.seen(job), mark, way: if way { Way::Open } else { Way::Cut } }
    }

    /// What one would hear from the source now.
    pub fn word_of_source(&self, who: Who) -> Word<SourceFacts> {
        if self.reaches(who, Side::Source) { Word::Told(self.source_facts()) } else { Word::Silent }
    }

    /// What one would hear from the destination now.
    pub fn word_of_destination(&self, who: Who) -> Word<DestinationFacts> {
        if self.reaches(who, Side::Destination) { Word::Told(self.destination_facts()) } else { Word::Silent }
    }

    /// Whether both halves are over, or never began.
    pub fn is_over(&self) -> bool {
        let is_over_here = matches!(self.source.mark, SourceMark::Nothing | SourceMark::Ended(_));
        let is_over_there = matches!(self.destination.mark, DestinationMark::Nothing | DestinationMark::Ended(_));
        is_over_here && is_over_there
    }

    /// Whether it is over, and the destination has been left with this.
    pub fn is_over_with(&self, destination: Qemu) -> bool {
        self.is_over() && self.source.mark != SourceMark::Nothing && self.destination.qemu == destination
    }

    /// What was told to people.
    pub fn told(&self) -> impl Iterator<Item = End> {
        self.drivers.iter().filter_map(|driver| match driver.doing {
            Doing::Over(end) => Some(end),
            _ => None,
        })
    }

    /// Why it is held, by the last that looked.
    pub fn holds(&self) -> impl Iterator<Item = Hold> {
        self.drivers.iter().filter_map(|driver| match driver.doing {
            Doing::Waits(hold) => hold,
            _ => None,
        })
    }
}
