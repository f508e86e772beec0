//! Calls: each may be lost, late, there twice, and overtaken by any other.
//!
//! An answer reaches its caller in the step that makes it. That leaves out nothing: a caller that is slow to go on has the same old answer
//! in its hands, and an answer that is lost is a call that came after its caller had stopped waiting.

use vmferry_core::{migration::Side, resolution::Step};

use crate::{driver::Who, world::World};

/// What agents are asked to do. (What they are asked to tell changes nothing: see [`crate::driver`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Pre(Side),
    Migrate,
    /// `other_is_back`: the caller has read in the other host's journal that its half goes back.
    Take {
        step: Step,
        other_is_back: bool,
    },
}

impl Call {
    /// Who is called.
    pub fn side(self) -> Side {
        match self {
            Self::Pre(side) => side,
            Self::Migrate => Side::Source,
            Self::Take { step, .. } => step.side(),
        }
    }
}

/// A call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    pub from: Who,
    pub call: Call,
    /// The lease under which it is made. Agents of the two hosts need none.
    pub epoch: u8,
    /// Whether its caller still waits for it.
    pub is_awaited: bool,
}

/// What a caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Done,
    Refused,
    /// Somebody has a newer lease.
    LeaseLost,
    Silence,
}

impl Message {
    /// One order of what has none, so that equal worlds look equal.
    fn rank(&self) -> (u8, u8, u8, bool) {
        let call = match self.call {
            Call::Pre(side) => side as u8,
            Call::Migrate => 2,
            Call::Take { step, other_is_back } => {
                let step = match step {
                    Step::Release => 2,
                    Step::Resume => 3,
                    Step::Cut => 4,
                    Step::Post(side) => 5 + side as u8,
                    Step::Cleanup(side) => 7 + side as u8,
                };
                2 * step + u8::from(other_is_back)
            }
        };
        (self.from as u8, call, self.epoch, self.is_awaited)
    }

    /// An agent's call on itself takes no network.
    pub fn is_local(&self) -> bool {
        self.from.side() == Some(self.call.side())
    }
}

impl World {
    pub fn put_on_its_way(&mut self, message: Message) {
        self.network.push(message);
        self.network.sort_by_key(Message::rank);
    }

    pub fn take_off(&mut self, message: Message) {
        let index = self.network.iter().position(|other| *other == message).expect("it is on its way");
        self.network.remove(index);
    }

    /// Nobody waits any more for what this caller has on its way.
    pub fn forget_calls_of(&mut self, who: Who) {
        for message in self.network.iter_mut().filter(|message| message.from == who) {
            message.is_awaited = false;
        }
        self.network.sort_by_key(Message::rank);
        for side in [Side::Source, Side::Destination] {
            let agent = self.agent_mut(side);
            if let Some(work) = &mut agent.work
                && work.message.from == who
            {
                work.message.is_awaited = false;
            }
            if agent.awaits_job == Some(Some(who)) {
                agent.awaits_job = Some(None);
            }
        }
    }
}
