//! The destination's agent: what it accepts, what it journals then, and what it does after that.

use vmferry_core::resolution::{DestinationMark, End, Handover, Step};

use crate::{
    Bug, Protocol,
    network::{Answer, Call},
    world::{Qemu, Work, World},
};

impl Protocol {
    /// Judges a call and journals what is about to be done; `None`: it shall be done.
    pub(crate) fn destination_accepts(&self, world: &mut World, call: Call) -> Option<Answer> {
        let destination = &mut world.destination;
        let acts_first = self.bug == Some(Bug::ActsBeforeItJournals);
        match call {
            Call::Pre(_) => match destination.mark {
                DestinationMark::Nothing => {
                    destination.mark = DestinationMark::Ready;
                    destination.undo = true;
                    None
                }
                DestinationMark::Ready => None,
                _ => Some(Answer::Refused),
            },
            Call::Take { step: Step::Resume, .. } => match (destination.mark, destination.qemu) {
                (DestinationMark::Ready, Qemu::Arrived) => {
                    if acts_first {
                        destination.qemu = Qemu::Running;
                        world.history.ran_there = true;
                    } else {
                        destination.mark = DestinationMark::Resuming;
                    }
                    None
                }
                (DestinationMark::Resuming, Qemu::Arrived) => None,
                (DestinationMark::Resuming, Qemu::Running) => Some(Answer::Done),
                _ => Some(Answer::Refused),
            },
            // libvirt may be letting it run.
            Call::Take { step: Step::Cut, .. }
                if self.handover == Handover::Fast && destination.qemu != Qemu::Absent =>
            {
                Some(Answer::Refused)
            }
            Call::Take { step: Step::Cut, .. } => {
                destination.way = false;
                Some(Answer::Done)
            }
            Call::Take { step: Step::Post(_), .. } => match destination.mark {
                DestinationMark::Ended(End::Forward) => Some(Answer::Done),
                DestinationMark::Ended(_) | DestinationMark::Ending(End::Back) => Some(Answer::Refused),
                // It has not run here.
                _ if matches!(destination.qemu, Qemu::Absent | Qemu::Incoming | Qemu::Arrived) => Some(Answer::Refused),
                _ => {
                    destination.mark = DestinationMark::Ending(End::Forward);
                    None
                }
            },
            Call::Take { step: Step::Cleanup(_), other_is_back } => match (destination.mark, destination.qemu) {
                (DestinationMark::Ended(End::Back), _) => Some(Answer::Done),
                (DestinationMark::Resuming | DestinationMark::Ended(_) | DestinationMark::Ending(End::Forward), _)
                | (_, Qemu::Running) => Some(Answer::Refused),
                // Begun, it goes on, however it looks by now.
                (DestinationMark::Ending(End::Back), _) => None,
                // It may be the only whole copy.
                (_, Qemu::Arrived) if !other_is_back => Some(Answer::Refused),
                (_, Qemu::Incoming) if !other_is_back && !self.is_cut(world) => Some(Answer::Refused),
                (DestinationMark::Nothing, _) => {
                    world.destination.mark = DestinationMark::Ended(End::Back);
                    Some(Answer::Done)
                }
                _ => {
                    let destination = &mut world.destination;
                    destination.mark = match self.bug {
                        Some(Bug::EndsBeforeItIsUndone) => DestinationMark::Ended(End::Back),
                        _ => DestinationMark::Ending(End::Back),
                    };
                    if self.bug != Some(Bug::StrikesWithoutCutting) {
                        destination.way = false;
                    }
                    None
                }
            },
            Call::Migrate | Call::Take { step: Step::Release, .. } => Some(Answer::Refused),
        }
    }

    fn is_cut(&self, world: &World) -> bool {
        !world.destination.way || self.bug == Some(Bug::StrikesWithoutCutting)
    }

    /// Does the next thing of what was accepted; `None`: there is more.
    pub(crate) fn destination_acts(&self, world: &mut World, work: Work) -> Option<Answer> {
        let destination = &mut world.destination;
        match work.message.call {
            Call::Pre(_) => {
                destination.made = true;
                destination.way = true;
            }
            Call::Take { step: Step::Resume, .. } => match destination.qemu {
                Qemu::Arrived | Qemu::Running => {
                    destination.qemu = Qemu::Running;
                    destination.mark = DestinationMark::Resuming;
                    world.history.ran_there = true;
                }
                _ => return Some(Answer::Refused),
            },
            Call::Take { step: Step::Post(_), .. } => {
                // No stream is let in any more. Those that are there end with libvirt's job, whose answer is perhaps still on one.
                destination.way &= !world.moves.is_over() && self.bug != Some(Bug::CutsAfterwards);
                destination.undo = false;
                destination.made = false;
                destination.mark = DestinationMark::Ended(End::Forward);
            }
            Call::Take { step: Step::Cleanup(_), .. } => {
                destination.qemu = Qemu::Absent;
                destination.way = false;
                destination.made = false;
                destination.undo = false;
                destination.mark = DestinationMark::Ended(End::Back);
            }
            Call::Migrate | Call::Take { step: Step::Release | Step::Cut, .. } => {}
        }
        Some(Answer::Done)
    }
}
