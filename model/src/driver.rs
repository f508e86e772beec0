//! Whoever drives: a coordinator, another one that took over, or an agent by itself. All by one function: [`resolve`].
//!
//! ```text
//!   a coordinator:  pre (source) ─▶ pre (destination) ─▶ migrate ─┐
//!                        └───────────────┴── no, or silence ──────┤
//!   whoever takes over: ──────────────────────────────────────────┴▶ ask both ─▶ resolve ─▶ a step ─▶ ask both …
//!                                                                        ▲           ├────▶ wait, held: until a host says something else
//!                                                                        └───────────┘
//! ```

use vmferry_core::{
    migration::Side,
    resolution::{
        DestinationFacts, DestinationMark, End, Handover, Hold, Resolution, SourceFacts, SourceMark, Step, Word,
        resolve,
    },
};

use crate::{
    Bug, Protocol,
    network::{Answer, Call, Message},
    world::{Qemu, World},
};

/// Who may drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// The one that began.
    Coordinator,
    /// `vmferry migrations resolve`, from elsewhere.
    Another,
    /// The source's agent, when the lease has lapsed.
    Source,
    /// The destination's, when it asks for the guest's release, or has been left alone.
    Destination,
}

impl Who {
    pub const ALL: [Self; 4] = [Self::Coordinator, Self::Another, Self::Source, Self::Destination];

    /// The host whose agent it is.
    pub fn side(self) -> Option<Side> {
        match self {
            Self::Coordinator | Self::Another => None,
            Self::Source => Some(Side::Source),
            Self::Destination => Some(Side::Destination),
        }
    }

    pub fn is_remote_agent_of(self, side: Side) -> bool {
        self.side().is_some_and(|its| its != side)
    }
}

/// What it holds in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Driver {
    pub doing: Doing,
    pub epoch: u8,
    /// Its lease is over: it only looks on.
    pub watches: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing {
    Nothing,
    /// It is about to make its first call.
    Begins,
    Calls(Call),
    /// It is about to ask the source what it knows.
    AsksSource,
    /// It has, and is about to ask the destination, which is later.
    AsksDestination(Word<SourceFacts>),
    /// Until it would hear something else. What it has told people, if they have to know.
    Waits(Option<Hold>),
    /// It told people, or its journal, how it ended.
    Over(End),
    /// Its process is gone.
    Dead,
}

impl Driver {
    pub fn begins() -> Self {
        Self { doing: Doing::Begins, epoch: 1, watches: false }
    }

    pub fn idle() -> Self {
        Self { doing: Doing::Nothing, epoch: 0, watches: false }
    }

    pub fn waits(&self) -> bool {
        matches!(self.doing, Doing::Waits(_))
    }

    /// Whether something can still be expected from it.
    pub fn drives(&self) -> bool {
        !self.watches && !matches!(self.doing, Doing::Nothing | Doing::Over(_) | Doing::Dead)
    }
}

impl Protocol {
    /// Whether it can go on by itself now.
    pub fn may_go_on(&self, world: &World, who: Who) -> bool {
        match world.driver(who).doing {
            Doing::Begins | Doing::AsksSource | Doing::AsksDestination(_) => true,
            // What would change nothing it need not ask.
            doing @ Doing::Waits(_) => {
                let (source, destination) = (world.word_of_source(who), world.word_of_destination(who));
                self.intends(*world.driver(who), who, source, destination) != doing
            }
            Doing::Nothing | Doing::Calls(_) | Doing::Over(_) | Doing::Dead => false,
        }
    }

    /// It goes on. `unheard`: what it asks for now is lost.
    pub fn goes_on(&self, world: &mut World, who: Who, unheard: bool) {
        match world.driver(who).doing {
            Doing::Begins => self.calls(world, who, Call::Pre(Side::Source)),
            Doing::Waits(_) => world.driver_mut(who).doing = Doing::AsksSource,
            Doing::AsksSource => {
                let word = if unheard { Word::Silent } else { world.word_of_source(who) };
                world.driver_mut(who).doing = Doing::AsksDestination(word);
            }
            Doing::AsksDestination(source) => {
                let word = if unheard { Word::Silent } else { world.word_of_destination(who) };
                match self.intends(*world.driver(who), who, source, word) {
                    Doing::Calls(call) => self.calls(world, who, call),
                    Doing::Nothing => *world.driver_mut(who) = Driver::idle(),
                    doing => world.driver_mut(who).doing = doing,
                }
            }
            Doing::Nothing | Doing::Calls(_) | Doing::Over(_) | Doing::Dead => {}
        }
    }

    /// What it does about what it has heard.
    fn intends(
        &self,
        driver: Driver,
        who: Who,
        source: Word<SourceFacts>,
        destination: Word<DestinationFacts>,
    ) -> Doing {
        let step = match resolve(self.handover, source, destination) {
            Resolution::Wait => return Doing::Waits(None),
            Resolution::Held(hold) => return Doing::Waits(Some(hold)),
            // An agent tells nobody: its journal has it.
            Resolution::Settled(_) if who.side().is_some() => return Doing::Nothing,
            Resolution::Settled(end) => return Doing::Over(end),
            Resolution::Forward(step) | Resolution::Back(step) => step,
        };
        let (is_silent, other_is_back) = match step.side() {
            Side::Source => (source.told().is_none(), destination.told().is_some_and(|there| there.mark.is(End::Back))),
            Side::Destination => {
                (destination.told().is_none(), source.told().is_some_and(|here| here.mark.is(End::Back)))
            }
        };
        // How the source's half ends the destination leaves to the source.
        let is_anothers =
            who == Who::Destination && matches!(step, Step::Post(Side::Source) | Step::Cleanup(Side::Source));
        // Who was silent just now is not called.
        match is_silent || is_anothers || driver.watches {
            true => Doing::Waits(None),
            false => Doing::Calls(Call::Take { step, other_is_back }),
        }
    }

    fn calls(&self, world: &mut World, who: Who, call: Call) {
        let epoch = world.driver(who).epoch;
        world.driver_mut(who).doing = Doing::Calls(call);
        world.put_on_its_way(Message { from: who, call, epoch, is_awaited: true });
    }

    /// It hears how its call went.
    pub fn hears(&self, world: &mut World, who: Who, answer: Answer) {
        match (world.driver(who).doing, answer) {
            (Doing::Calls(Call::Pre(Side::Source)), Answer::Done) => {
                self.calls(world, who, Call::Pre(Side::Destination))
            }
            (Doing::Calls(Call::Pre(Side::Destination)), Answer::Done) => self.calls(world, who, Call::Migrate),
            (Doing::Calls(_), Answer::LeaseLost) => {
                world.driver_mut(who).watches = true;
                world.driver_mut(who).doing = Doing::AsksSource;
            }
            // However it went: the hosts say how it is.
            (Doing::Calls(_), _) => world.driver_mut(who).doing = Doing::AsksSource,
            _ => {}
        }
    }

    /// Whether the agent of a host could begin to drive: its half is open, and it does not do so yet.
    pub fn could_drive(&self, world: &World, who: Who) -> bool {
        let Some(side) = who.side() else { return false };
        let is_open = match side {
            Side::Source => !matches!(world.source.mark, SourceMark::Nothing | SourceMark::Ended(_)),
            Side::Destination => {
                !matches!(world.destination.mark, DestinationMark::Nothing | DestinationMark::Ended(_))
            }
        };
        let is_idle = matches!(world.driver(who).doing, Doing::Nothing | Doing::Over(_));
        is_open && is_idle && !world.agent(side).down && self.bug != Some(Bug::NobodyTakesOver)
    }

    /// Whether nobody else drives, so far as an agent can tell by who renews the lease or asks it.
    pub fn nobody_drives(&self, world: &World, who: Who) -> bool {
        let others = Who::ALL.into_iter().filter(|other| *other != who && *other != Who::Destination);
        others.map(|other| world.driver(other)).all(|driver| !driver.drives())
    }

    /// It begins to. The source's agent does so under an epoch of its own, which shuts out whoever drove before.
    pub fn takes_over(&self, world: &mut World, who: Who) {
        let epoch = match who {
            Who::Source => {
                world.source.epoch += 1;
                world.source.epoch
            }
            _ => world.destination.epoch,
        };
        *world.driver_mut(who) = Driver { doing: Doing::AsksSource, epoch, watches: false };
    }

    /// Whether the destination may ask for the guest: it has arrived.
    pub fn has_arrived(&self, world: &World) -> bool {
        self.handover == Handover::Strict
            && world.destination.qemu == Qemu::Arrived
            && world.destination.mark == DestinationMark::Ready
    }
}
