//! The protocol of a migration (`docs/decisions/0007-the-source-releases-the-destination-resumes.md`), explored state by state.
//!
//! Two hosts with an agent, a libvirtd and a QEMU each; a coordinator that moves the guest, another that is run meanwhile, and both agents, who
//! drive when nobody else does. Calls are lost, late, doubled and overtaken; processes are killed between any two of their steps,
//! and come again with their journals; hosts go down. All that in every order, up to a [`Budget`].
//!
//! What is decided is decided by the product's own function, [`vmferry_core::resolution::resolve`]. What is modelled is around it: what agents accept, what
//! they journal before they act, and what libvirt does.
//!
//! | file | is |
//! | --- | --- |
//! | [`world`] | all there is |
//! | [`driver`] | who drives, and how |
//! | `source`, `destination` | the agents' halves: judge and journal, then act |
//! | [`libvirt`] | its peer-to-peer migration |
//! | [`network`], [`fault`] | what goes wrong |
//! | `property`, [`ending`] | what must be true nevertheless |

// Between the files of a model everything is everybody's, and their docs say what it is.
#![expect(missing_docs, reason = "a model's fields say by their names what they are")]

mod destination;
pub mod driver;
pub mod ending;
pub mod fault;
pub mod libvirt;
pub mod network;
mod property;
mod source;
pub mod world;

use stateright::{Model, Property};
use vmferry_core::{migration::Side, resolution::Handover};

use crate::{
    driver::Who,
    fault::{Budget, Fault},
    libvirt::Move,
    network::{Answer, Message},
    world::{Agent, Qemu, Work, World},
};

/// The protocol, and how much of it is explored.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub handover: Handover,
    pub faults: Budget,
    /// What is wrong with it, to see that it is found.
    pub bug: Option<Bug>,
    /// Whether agents refuse those whose lease is over.
    pub epochs: bool,
}

/// What an implementation could get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// I1: the source is released where it stands, and libvirt can let it go on.
    ReleasesUnfrozen,
    /// I1: the release is journaled before the source was looked at.
    ReleasesBeforeItLooks,
    /// I1: a source that was released goes on because somebody says so who has not asked the destination.
    GoesOnUnasked,
    /// I2: a half is marked as over before the last of it is undone.
    EndsBeforeItIsUndone,
    /// I3: when the lease lapses, nobody drives.
    NobodyTakesOver,
    /// I4: what arrives is destroyed while libvirt may still make it the only copy.
    StrikesWithoutCutting,
    /// Fast: post cuts the way while the answer to Finish may be on it.
    CutsAfterwards,
    /// I5: the destination lets the guest run, and journals it then.
    ActsBeforeItJournals,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A call gets to its agent.
    Arrives(Message),
    /// An agent does the next thing of what it has accepted.
    Acts(Side),
    /// A driver goes on.
    GoesOn(Who),
    /// Who waits asks again, though that would change nothing. It may hear of the two hosts at different times.
    AsksAgain(Who),
    /// An agent takes over, since nobody drives; the destination's asks for the guest that has arrived.
    TakesOver(Who),
    /// libvirt's job goes on.
    LibvirtGoesOn,
    /// The destination's has dealt with Finish.
    FinishIsDone,
    /// Finish's answer does not come, for there is no way any more.
    FinishIsUnanswered,
    /// The destination's libvirt kills what arrives from nowhere.
    LibvirtKillsWhatArrives,
    /// The source's agent hears that the job is over.
    JobIsOver,
    /// An agent's process starts again.
    Starts(Side),
    /// The two hosts reach each other again.
    LinkIsBack,
    /// Something goes wrong.
    GoesWrong(Fault),
}

impl Protocol {
    /// The one that is to be built.
    pub fn new(handover: Handover, faults: Budget) -> Self {
        Self { handover, faults, bug: None, epochs: true }
    }

    /// All that happens if nothing goes wrong.
    fn steps(&self, world: &World, steps: &mut Vec<Action>) {
        let is_free = |message: &Message| {
            let agent = world.agent(message.call.side());
            agent.down || agent.work.is_none()
        };
        steps.extend(world.network.iter().copied().filter(is_free).map(Action::Arrives));
        for side in [Side::Source, Side::Destination] {
            let agent = world.agent(side);
            if agent.work.is_some_and(|work| !work.waits_for_libvirt(world)) {
                steps.push(Action::Acts(side));
            }
            if agent.down {
                steps.push(Action::Starts(side));
            }
        }
        for who in Who::ALL {
            if self.may_go_on(world, who) {
                steps.push(Action::GoesOn(who));
            }
            let arrived = who == Who::Destination && self.has_arrived(world);
            if self.could_drive(world, who) && (arrived || self.nobody_drives(world, who)) {
                steps.push(Action::TakesOver(who));
            }
        }
        if !world.moves.is_over() && world.moves != Move::Finishing {
            steps.push(Action::LibvirtGoesOn);
        }
        if world.destination.finishes {
            steps.push(Action::FinishIsDone);
        }
        if self.may_lose_its_answer(world) {
            steps.push(Action::FinishIsUnanswered);
        }
        if self.may_kill_what_arrives(world) {
            steps.push(Action::LibvirtKillsWhatArrives);
        }
        if world.moves.is_to_be_noted() && !world.source.agent.down {
            steps.push(Action::JobIsOver);
        }
        if !world.link {
            steps.push(Action::LinkIsBack);
        }
    }

    /// Whether nothing can happen any more, unless something goes wrong.
    fn is_at_rest(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.steps(world, &mut steps);
        steps.is_empty()
    }

    fn arrives(&self, world: &mut World, message: Message) {
        world.take_off(message);
        let side = message.call.side();
        if !world.reaches(message.from, side) {
            return self.answers(world, message, Answer::Silence);
        }
        if message.from.side().is_none() && self.epochs && message.epoch < known_epoch(world, side) {
            return self.answers(world, message, Answer::LeaseLost);
        }
        if side == Side::Destination {
            world.destination.epoch = world.destination.epoch.max(message.epoch);
        }
        match self.accepts(world, message.call) {
            Some(answer) => self.answers(world, message, answer),
            None => world.agent_mut(side).work = Some(Work { message, is_begun: false }),
        }
    }

    fn acts(&self, world: &mut World, side: Side) {
        let Some(work) = world.agent(side).work else { return };
        let answer = match side {
            Side::Source => self.source_acts(world, work),
            Side::Destination => self.destination_acts(world, work),
        };
        world.agent_mut(side).work = match answer {
            None => Some(Work { is_begun: true, ..work }),
            Some(_) => None,
        };
        // Of the job its caller hears at its end.
        if let Some(answer) = answer.filter(|answer| *answer != Answer::Silence) {
            self.answers(world, work.message, answer);
        }
    }

    fn answers(&self, world: &mut World, message: Message, answer: Answer) {
        if message.is_awaited {
            self.hears(world, message.from, answer);
        }
    }
}

fn known_epoch(world: &World, side: Side) -> u8 {
    match side {
        Side::Source => world.source.epoch,
        Side::Destination => world.destination.epoch,
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.faults.often)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, actions);
        actions.extend(Who::ALL.into_iter().filter(|who| world.driver(*who).waits()).map(Action::AsksAgain));
        actions.extend(self.faults(world).into_iter().map(Action::GoesWrong));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Arrives(message) => self.arrives(&mut world, message),
            Action::Acts(side) => self.acts(&mut world, side),
            Action::GoesOn(who) | Action::AsksAgain(who) => self.goes_on(&mut world, who, false),
            Action::TakesOver(who) => self.takes_over(&mut world, who),
            Action::LibvirtGoesOn => self.libvirt_goes_on(&mut world),
            Action::FinishIsDone => self.finish_is_done(&mut world),
            Action::FinishIsUnanswered => world.moves = Move::Confirming { well: false },
            Action::LibvirtKillsWhatArrives => world.destination.qemu = Qemu::Absent,
            Action::JobIsOver => {
                let job = world.moves;
                self.source_notes_the_end(&mut world, job);
            }
            Action::Starts(side) => *world.agent_mut(side) = Agent::default(),
            Action::LinkIsBack => world.link = true,
            Action::GoesWrong(fault) => self.strikes(&mut world, fault),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1: one runs at most", property::one_runs_at_most),
            Property::always("I2: nothing leaks", property::nothing_leaks),
            Property::always("I3: it ends", property::it_ends),
            Property::always("I4: the guest is safe", property::the_guest_is_safe),
            Property::always("I5: the journal is ahead", property::the_journal_is_ahead),
            Property::always("nobody is bolder for knowing less", property::nobody_is_bolder_for_knowing_less),
            Property::sometimes("it completes", |_, world: &World| world.is_over_with(Qemu::Running)),
            Property::sometimes("it goes back", |_, world: &World| world.is_over_with(Qemu::Absent)),
        ]
    }
}
