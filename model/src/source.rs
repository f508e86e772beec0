//! The source's agent: what it accepts, what it journals then, and what it does after that.

use vmferry_core::{
    migration::Side,
    resolution::{End, Handover, SourceMark, Step},
};

use crate::{
    Bug, Protocol,
    libvirt::Move,
    network::{Answer, Call},
    world::{Qemu, Work, World},
};

impl Protocol {
    /// Judges a call and journals what is about to be done; `None`: it shall be done.
    pub(crate) fn source_accepts(&self, world: &mut World, call: Call) -> Option<Answer> {
        let is_moving = !world.moves.is_over();
        let source = &mut world.source;
        let may_run = source.qemu == Qemu::Running;
        match call {
            Call::Pre(_) => match source.mark {
                SourceMark::Nothing => {
                    source.mark = SourceMark::Ready;
                    source.undo = true;
                    None
                }
                SourceMark::Ready => None,
                _ => Some(Answer::Refused),
            },
            Call::Migrate if source.mark == SourceMark::Ready && source.made => {
                source.mark = SourceMark::Moving;
                None
            }
            Call::Take { step: Step::Release, .. } => match source.mark {
                SourceMark::Released => Some(Answer::Done),
                SourceMark::Moving if !may_run => {
                    source.thaw = true;
                    if self.bug == Some(Bug::ReleasesBeforeItLooks) {
                        source.mark = SourceMark::Released;
                    }
                    None
                }
                _ => Some(Answer::Refused),
            },
            Call::Take { step: Step::Post(_), .. } => match source.mark {
                SourceMark::Ended(End::Forward) => Some(Answer::Done),
                SourceMark::Ended(_) | SourceMark::Ending(End::Back) => Some(Answer::Refused),
                _ if may_run => Some(Answer::Refused),
                _ => {
                    source.mark = SourceMark::Ending(End::Forward);
                    None
                }
            },
            Call::Take { step: Step::Cleanup(_), other_is_back } => match source.mark {
                SourceMark::Ended(End::Back) => Some(Answer::Done),
                SourceMark::Moved | SourceMark::Ended(_) | SourceMark::Ending(End::Forward) => Some(Answer::Refused),
                // libvirt may have let it run there.
                SourceMark::Moving
                    if self.handover == Handover::Fast && source.qemu == Qemu::Sent && !other_is_back =>
                {
                    Some(Answer::Refused)
                }
                SourceMark::Released if !other_is_back && self.bug != Some(Bug::GoesOnUnasked) => Some(Answer::Refused),
                // libvirt has handed it over: the only copy is there.
                SourceMark::Moving if source.qemu == Qemu::Absent => Some(Answer::Refused),
                _ if is_moving => Some(Answer::Refused),
                // It never heard of it: what comes too late finds it over.
                SourceMark::Nothing => {
                    source.mark = SourceMark::Ended(End::Back);
                    Some(Answer::Done)
                }
                _ => {
                    source.mark = SourceMark::Ending(End::Back);
                    None
                }
            },
            _ => Some(Answer::Refused),
        }
    }

    /// Does the next thing of what was accepted; `None`: there is more.
    pub(crate) fn source_acts(&self, world: &mut World, work: Work) -> Option<Answer> {
        let source = &mut world.source;
        match work.message.call {
            Call::Pre(_) => source.made = true,
            Call::Migrate => {
                world.moves = Move::Begun;
                // Whoever asked hears of it when it is over.
                source.agent.awaits_job = Some(work.message.is_awaited.then_some(work.message.from));
                return Some(Answer::Silence);
            }
            Call::Take { step: Step::Release, .. } if !work.is_begun && source.qemu != Qemu::Absent => {
                if matches!(source.qemu, Qemu::Sent) && self.bug != Some(Bug::ReleasesUnfrozen) {
                    source.qemu = Qemu::Frozen;
                }
                return None;
            }
            // Frozen, it is looked at: libvirt may have been faster.
            Call::Take { step: Step::Release, .. } if source.qemu == Qemu::Running => {
                source.thaw = false;
                return Some(Answer::Refused);
            }
            Call::Take { step: Step::Release, .. } => source.mark = SourceMark::Released,
            // Killed even if it is frozen, which ends libvirt's job, too, if that goes on: whatever that hears now, there is nothing to let go on.
            Call::Take { step: Step::Post(_), .. } if !work.is_begun => {
                source.qemu = Qemu::Absent;
                return None;
            }
            Call::Take { step: Step::Post(_), .. } => self.source_ends(world, End::Forward),
            Call::Take { step: Step::Cleanup(_), .. } => {
                if matches!(source.qemu, Qemu::Sent | Qemu::Frozen) {
                    source.qemu = Qemu::Running;
                }
                self.source_ends(world, End::Back);
            }
            Call::Take { step: Step::Resume | Step::Cut, .. } => {}
        }
        Some(Answer::Done)
    }

    fn source_ends(&self, world: &mut World, end: End) {
        let source = &mut world.source;
        source.made = false;
        source.undo = false;
        source.thaw = false;
        source.mark = SourceMark::Ended(end);
    }

    /// libvirt's job is over while the agent waits for it.
    pub(crate) fn source_notes_the_end(&self, world: &mut World, job: Move) {
        if world.source.mark == SourceMark::Moving {
            match (job, self.handover) {
                (Move::Stayed, _) => world.source.mark = SourceMark::Stayed,
                (Move::Succeeded, Handover::Fast) => world.source.mark = SourceMark::Moved,
                _ => {}
            }
        }
        world.moves = Move::None;
        if let Some(Some(who)) = world.source.agent.awaits_job.take() {
            self.hears(world, who, Answer::Done);
        }
    }

    /// Whether it is one of the two whose half this is.
    pub(crate) fn accepts(&self, world: &mut World, call: Call) -> Option<Answer> {
        match call.side() {
            Side::Source => self.source_accepts(world, call),
            Side::Destination => self.destination_accepts(world, call),
        }
    }
}
