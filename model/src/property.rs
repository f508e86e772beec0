//! The invariants, as they are numbered in CONTRIBUTING.md, of every state that the protocol can get into.

use vmferry_core::resolution::{DestinationMark, End, Handover, Hold, Resolution, SourceMark, Word, permits, resolve};

use crate::{
    Protocol,
    world::{Qemu, World},
};

/// I1, one runner.
pub(crate) fn one_runs_at_most(_: &Protocol, world: &World) -> bool {
    !(world.source.qemu == Qemu::Running && world.destination.qemu == Qemu::Running)
}

/// I2, nothing leaks: a half that is over, or never began, holds nothing.
pub(crate) fn nothing_leaks(_: &Protocol, world: &World) -> bool {
    let (here, there) = (&world.source, &world.destination);
    let clean_here = match here.mark {
        SourceMark::Nothing => !here.made,
        SourceMark::Ended(End::Forward) => !here.made && !here.thaw && here.qemu == Qemu::Absent,
        SourceMark::Ended(End::Back) => !here.made && !here.thaw && !matches!(here.qemu, Qemu::Sent | Qemu::Frozen),
        _ => true,
    };
    let clean_there = match there.mark {
        DestinationMark::Nothing | DestinationMark::Ended(End::Back) => {
            !there.made && !there.way && there.qemu == Qemu::Absent
        }
        // Streams end with libvirt's job.
        DestinationMark::Ended(End::Forward) => !there.made && (!there.way || !world.moves.is_over()),
        _ => true,
    };
    clean_here && clean_there
}

/// I3, it ends: where nothing can happen any more by itself, all is over; or a host went down with the guest, and people are told why it is held.
/// ([`crate::ending`] proves that nothing goes on for ever.)
pub(crate) fn it_ends(protocol: &Protocol, world: &World) -> bool {
    if !protocol.is_at_rest(world) || world.is_over() {
        return true;
    }
    let is_lost = |hold| matches!(hold, Hold::RunsNowhere | Hold::LostThere | Hold::LostHere);
    world.history.bereaved && world.holds().any(is_lost)
}

/// I4, the guest is safe: there is a whole copy of it; once it ran on the destination it runs on the source no more; and where somebody was told that
/// it is, or a journal says so, it is.
pub(crate) fn the_guest_is_safe(_: &Protocol, world: &World) -> bool {
    let (here, there) = (world.source.qemu, world.destination.qemu);
    let is_somewhere = here.is_whole() || there.is_whole();
    let is_stale = world.history.ran_there && here == Qemu::Running;
    let is_on_source = here == Qemu::Running;
    let is_on_destination = there == Qemu::Running;
    let said_here = match world.source.mark {
        SourceMark::Ended(End::Back) => is_on_source,
        SourceMark::Ended(End::Forward) => is_on_destination,
        _ => true,
    };
    let said_there = world.destination.mark != DestinationMark::Ended(End::Forward) || is_on_destination;
    let told = world.told().all(|end| match end {
        End::Forward => is_on_destination,
        End::Back => is_on_source,
    });
    !is_stale && (world.history.bereaved || (is_somewhere && said_here && said_there && told))
}

/// I5, the journal is ahead of the world.
pub(crate) fn the_journal_is_ahead(protocol: &Protocol, world: &World) -> bool {
    let (here, there) = (&world.source, &world.destination);
    let undone = (here.undo || !here.made) && (there.undo || !there.made);
    let thawed = here.thaw || here.qemu != Qemu::Frozen;
    let is_committed = !matches!(there.mark, DestinationMark::Nothing | DestinationMark::Ready);
    let resumed = protocol.handover == Handover::Fast || there.qemu != Qemu::Running || is_committed;
    undone && thawed && resumed
}

/// Whoever asks now, and hears from one host or from both, wants nothing that the rules of ownership forbid to one who knows everything.
pub(crate) fn nobody_is_bolder_for_knowing_less(protocol: &Protocol, world: &World) -> bool {
    if protocol.handover == Handover::Fast || world.history.bereaved {
        return true;
    }
    let (here, there) = (world.source_facts(), world.destination_facts());
    let words =
        [(Word::Told(here), Word::Told(there)), (Word::Silent, Word::Told(there)), (Word::Told(here), Word::Silent)];
    words.into_iter().all(|(source, destination)| match resolve(protocol.handover, source, destination) {
        Resolution::Forward(step) | Resolution::Back(step) => permits(step, here, there),
        Resolution::Wait | Resolution::Held(_) | Resolution::Settled(_) => true,
    })
}
