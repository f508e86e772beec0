//! libvirt's peer-to-peer migration: Begin (source), Prepare (destination), Perform (source), Finish (destination), Confirm (source).
//!
//! The source's libvirtd carries it, with or without agents. Of its code, as read: a Finish that does not answer counts as failed, and the
//! source's guest is let go on (`cancelled = ddomain == NULL`); restarted when Perform is done it leaves the guest paused for "a third
//! party"; restarted before, it cancels. The destination's kills what arrives when its peer goes away or it is restarted itself, unless the vCPUs run.

use vmferry_core::resolution::{DestinationMark, End, Handover};

use crate::{
    Protocol,
    world::{Qemu, World},
};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// No job.
    None,
    /// Begin is done; Prepare comes.
    Begun,
    /// The destination's QEMU is there, and memory is sent.
    Performing,
    /// The source's guest is stopped, and all of it was sent; Finish comes.
    Performed,
    /// The destination deals with Finish.
    Finishing,
    /// It has; its answer is on its way.
    Finished { well: bool },
    /// The source has it, or knows that there is none; Confirm comes.
    Confirming { well: bool },
    /// Over: the guest was not stopped for it.
    Stayed,
    /// Over: the source was let go on, or should have been.
    Cancelled,
    /// Over: the source's copy is gone.
    Succeeded,
}

impl Move {
    pub fn is_over(self) -> bool {
        matches!(self, Self::None | Self::Stayed | Self::Cancelled | Self::Succeeded)
    }

    /// Whether the agent has yet to hear of its end.
    pub fn is_to_be_noted(self) -> bool {
        matches!(self, Self::Stayed | Self::Cancelled | Self::Succeeded)
    }
}

impl Protocol {
    /// libvirt's next step.
    pub(crate) fn libvirt_goes_on(&self, world: &mut World) {
        let is_open = is_open(world);
        world.moves = match world.moves {
            Move::Begun if is_open && world.destination.qemu == Qemu::Absent => {
                world.destination.qemu = Qemu::Incoming;
                Move::Performing
            }
            Move::Begun => Move::Stayed,
            Move::Performing if is_open && world.destination.qemu == Qemu::Incoming => {
                world.source.qemu = Qemu::Sent;
                Move::Performed
            }
            Move::Performing => Move::Stayed,
            Move::Performed if !is_open => Move::Confirming { well: false },
            Move::Performed => {
                world.destination.finishes = true;
                Move::Finishing
            }
            Move::Finishing => Move::Finishing,
            Move::Finished { well } => Move::Confirming { well },
            Move::Confirming { well: true } => {
                world.source.qemu = Qemu::Absent;
                Move::Succeeded
            }
            Move::Confirming { well: false } => {
                // A frozen one does not hear it.
                if world.source.qemu == Qemu::Sent {
                    world.source.qemu = Qemu::Running;
                }
                Move::Cancelled
            }
            over @ (Move::None | Move::Stayed | Move::Cancelled | Move::Succeeded) => over,
        };
        self.closes_its_streams(world);
    }

    /// With the job its streams are gone.
    pub(crate) fn closes_its_streams(&self, world: &mut World) {
        if world.moves.is_over() && world.destination.mark == DestinationMark::Ended(End::Forward) {
            world.destination.way = false;
        }
    }

    /// The destination's libvirt is done with Finish, whether or not anybody still waits for it.
    pub(crate) fn finish_is_done(&self, world: &mut World) {
        let well = world.destination.qemu == Qemu::Incoming;
        if well {
            world.destination.qemu = match self.handover {
                Handover::Strict => Qemu::Arrived,
                Handover::Fast => Qemu::Running,
            };
            world.history.ran_there |= self.handover == Handover::Fast;
        }
        world.destination.finishes = false;
        if world.moves == Move::Finishing {
            // Cut off before, it answers to nobody.
            world.moves =
                if world.destination.way { Move::Finished { well } } else { Move::Confirming { well: false } };
        }
    }

    /// The answer to Finish does not come only where the way is not there any more.
    pub(crate) fn may_lose_its_answer(&self, world: &World) -> bool {
        matches!(world.moves, Move::Finishing | Move::Finished { .. }) && !is_open(world)
    }

    /// The destination's sees that its peer is gone.
    pub(crate) fn may_kill_what_arrives(&self, world: &World) -> bool {
        let is_idle = world.destination.qemu == Qemu::Incoming && !world.destination.finishes;
        is_idle && (world.moves.is_over() || !is_open(world))
    }

    /// The source's libvirtd is restarted.
    pub(crate) fn source_libvirtd_restarts(&self, world: &mut World) {
        world.moves = match world.moves {
            Move::Begun | Move::Performing => Move::Stayed,
            // It leaves the guest as it is.
            Move::Performed | Move::Finishing | Move::Finished { .. } => Move::Cancelled,
            Move::Confirming { well } => {
                if well {
                    world.source.qemu = Qemu::Absent;
                }
                Move::Cancelled
            }
            over => over,
        };
        self.closes_its_streams(world);
    }

    /// The destination's is.
    pub(crate) fn destination_libvirtd_restarts(&self, world: &mut World) {
        if world.destination.qemu == Qemu::Incoming {
            world.destination.qemu = Qemu::Absent;
        }
        world.destination.finishes = false;
        if let Move::Finishing | Move::Finished { .. } = world.moves {
            world.moves = Move::Confirming { well: false };
        }
    }
}

fn is_open(world: &World) -> bool {
    world.link && world.destination.way
}
