//! What may go wrong: anything, at any time, but only so often.

use vmferry_core::{migration::Side, resolution::SourceMark};

use crate::{
    Protocol,
    driver::{Doing, Driver, Who},
    libvirt::Move,
    network::{Answer, Call, Message},
    world::{Agent, Qemu, World},
};

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A call is lost.
    Loses(Message),
    /// Its caller stops waiting. It is carried out when it arrives, whenever that is.
    Delays(Message),
    /// It is carried out, and comes once more later.
    Doubles(Message),
    /// Somebody asks and hears nothing.
    Unheard(Who),
    /// A coordinator's or an agent's process is killed.
    Kills(Who),
    /// A libvirtd is killed and started again.
    RestartsLibvirtd(Side),
    /// The answer to Finish is lost.
    LosesFinish,
    /// The two hosts do not reach each other any more.
    CutsLink,
    /// A host goes down, with all that runs on it.
    FellsHost(Side),
    /// An agent believes that nobody drives any more, and it is not so: the lease was not renewed in time.
    Hurries(Who),
    /// Somebody runs `resolve` while another drives.
    Resolves,
}

/// What may go wrong, and how often in all.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub often: u8,
    pub kinds: fn(Fault) -> bool,
}

impl Budget {
    /// Anything.
    pub const fn any(often: u8) -> Self {
        Self { often, kinds: |_| true }
    }
}

impl Protocol {
    /// All that could go wrong now.
    pub(crate) fn faults(&self, world: &World) -> Vec<Fault> {
        let is_over = world.is_over() && world.source.mark != SourceMark::Nothing && world.network.is_empty();
        if world.faults == 0 || is_over {
            return Vec::new();
        }
        let mut faults = vec![Fault::LosesFinish, Fault::CutsLink, Fault::Resolves];
        for message in world.network.iter().copied().filter(|message| message.is_awaited && !message.is_local()) {
            faults.extend([Fault::Loses(message), Fault::Delays(message), Fault::Doubles(message)]);
        }
        faults.extend(Who::ALL.map(Fault::Unheard));
        faults.extend(Who::ALL.map(Fault::Kills));
        faults.extend(Who::ALL.map(Fault::Hurries));
        for side in [Side::Source, Side::Destination] {
            faults.extend([Fault::RestartsLibvirtd(side), Fault::FellsHost(side)]);
        }
        faults.retain(|fault| (self.faults.kinds)(*fault) && self.may_happen(world, *fault));
        faults
    }

    fn may_happen(&self, world: &World, fault: Fault) -> bool {
        match fault {
            Fault::Loses(_) | Fault::Doubles(_) | Fault::Delays(_) => true,
            Fault::Unheard(who) => match world.driver(who).doing {
                Doing::AsksSource => who != Who::Source && world.reaches(who, Side::Source),
                Doing::AsksDestination(_) => who != Who::Destination && world.reaches(who, Side::Destination),
                _ => false,
            },
            Fault::Kills(who) => match who.side() {
                Some(side) => !world.agent(side).down,
                None => world.driver(who).drives() || world.driver(who).watches,
            },
            Fault::RestartsLibvirtd(Side::Source) => !world.moves.is_over(),
            Fault::RestartsLibvirtd(Side::Destination) => {
                world.destination.qemu == Qemu::Incoming || !world.moves.is_over()
            }
            Fault::LosesFinish => matches!(world.moves, Move::Finishing | Move::Finished { .. }),
            Fault::CutsLink => world.link && !world.is_over(),
            Fault::FellsHost(_) => !world.is_over(),
            Fault::Hurries(who) => self.could_drive(world, who) && !self.nobody_drives(world, who),
            Fault::Resolves => {
                let is_known = world.source.epoch > 1 || !world.is_over();
                is_known && world.driver(Who::Another).doing == Doing::Nothing && !world.source.agent.down
            }
        }
    }

    /// It goes wrong.
    pub(crate) fn strikes(&self, world: &mut World, fault: Fault) {
        world.faults -= 1;
        match fault {
            Fault::Loses(message) => {
                world.take_off(message);
                self.answers(world, message, Answer::Silence);
            }
            Fault::Delays(message) => {
                world.take_off(message);
                world.put_on_its_way(Message { is_awaited: false, ..message });
                self.answers(world, message, Answer::Silence);
            }
            Fault::Doubles(message) => world.put_on_its_way(Message { is_awaited: false, ..message }),
            Fault::Unheard(who) => self.goes_on(world, who, true),
            Fault::Kills(who) => match who.side() {
                Some(side) => self.agent_dies(world, side),
                None => {
                    world.driver_mut(who).doing = Doing::Dead;
                    world.forget_calls_of(who);
                }
            },
            Fault::RestartsLibvirtd(Side::Source) => self.source_libvirtd_restarts(world),
            Fault::RestartsLibvirtd(Side::Destination) => self.destination_libvirtd_restarts(world),
            Fault::LosesFinish => world.moves = Move::Confirming { well: false },
            Fault::CutsLink => world.link = false,
            Fault::FellsHost(side) => self.host_falls(world, side),
            Fault::Hurries(who) => self.takes_over(world, who),
            Fault::Resolves => {
                world.source.epoch += 1;
                *world.driver_mut(Who::Another) =
                    Driver { doing: Doing::AsksSource, epoch: world.source.epoch, watches: false };
            }
        }
    }

    /// What it had in its memory is gone, and whoever waits for it hears nothing.
    fn agent_dies(&self, world: &mut World, side: Side) {
        let Agent { work, awaits_job, .. } =
            std::mem::replace(world.agent_mut(side), Agent { down: true, ..Agent::default() });
        let its = match side {
            Side::Source => Who::Source,
            Side::Destination => Who::Destination,
        };
        *world.driver_mut(its) = Driver::idle();
        world.forget_calls_of(its);
        if let Some(work) = work {
            self.answers(world, work.message, Answer::Silence);
        }
        if let Some(Some(who)) = awaits_job
            && matches!(world.driver(who).doing, Doing::Calls(Call::Migrate))
        {
            self.hears(world, who, Answer::Silence);
        }
    }

    fn host_falls(&self, world: &mut World, side: Side) {
        if !world.agent(side).down {
            self.agent_dies(world, side);
        }
        world.history.bereaved = true;
        match side {
            Side::Source => {
                if world.source.qemu != Qemu::Absent {
                    world.source.qemu = Qemu::Off;
                }
                world.moves = Move::None;
                self.closes_its_streams(world);
            }
            Side::Destination => {
                world.destination.qemu = match world.destination.qemu {
                    // It was made persistent when it had arrived.
                    Qemu::Arrived | Qemu::Running | Qemu::Off => Qemu::Off,
                    _ => Qemu::Absent,
                };
                world.destination.finishes = false;
                if let Move::Finishing | Move::Finished { .. } = world.moves {
                    world.moves = Move::Confirming { well: false };
                }
            }
        }
    }
}
