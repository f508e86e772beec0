//! Where libvirt's hand-over can break, row by row, and what becomes of it then.

use super::{
    Handover::{Fast, Strict},
    Resolution::{Back, Forward, Held, Settled, Wait},
    Step::{Cleanup, Cut, Post, Release, Resume},
    Word::{Dead, Silent, Told},
    *,
};
use crate::{
    migration::Side::{Destination, Source},
    reason::Reason,
};

const ABSENT: Seen = Seen { domain: Domain::Absent, job: Job::None, qemu: None };
const OFF: Seen = Seen { domain: Domain::Off, ..ABSENT };
const RUNNING: Seen = Seen { domain: Domain::Running, job: Job::None, qemu: Some(RunState::Running) };
/// On the source, after it has sent all; libvirt's job is gone.
const SENT: Seen = Seen { domain: Domain::PausedToMove, job: Job::None, qemu: Some(RunState::Sent) };
const SENDING: Seen = Seen { job: Job::Outgoing, ..RUNNING };
/// On the destination: QEMU receives, or libvirt has not dealt with Finish.
const ARRIVING: Seen = Seen { domain: Domain::PausedToMove, job: Job::Incoming, qemu: Some(RunState::Incoming) };
/// On the destination, with `VIR_MIGRATE_PAUSED`, after Finish.
const ARRIVED: Seen = Seen { domain: Domain::Paused, job: Job::None, qemu: Some(RunState::Paused) };
const DEPARTING: Seen = Seen { domain: Domain::PausedPostcopy, job: Job::None, qemu: None };
const INCOMPLETE: Seen = Seen { domain: Domain::RunningPostcopy, job: Job::None, qemu: None };

fn source(mark: SourceMark, seen: Seen) -> Word<SourceFacts> {
    Told(SourceFacts { seen, mark })
}

fn destination(mark: DestinationMark, seen: Seen) -> Word<DestinationFacts> {
    Told(DestinationFacts { seen, mark, way: Way::Open })
}

fn cut_off(seen: Seen) -> Word<DestinationFacts> {
    Told(DestinationFacts { seen, mark: DestinationMark::Ready, way: Way::Cut })
}

#[test]
fn source_libvirtd_restarts_in_begin() {
    let forgotten = source(SourceMark::Moving, RUNNING);
    let nothing_came = destination(DestinationMark::Ready, ABSENT);
    for handover in [Strict, Fast] {
        assert_eq!(resolve(handover, forgotten, nothing_came), Back(Cleanup(Source)));
    }
}

#[test]
fn source_libvirtd_restarts_in_perform() {
    let cancelled = source(SourceMark::Moving, RUNNING);
    let leftover = destination(DestinationMark::Ready, ARRIVING);
    assert_eq!(resolve(Strict, cancelled, leftover), Back(Cleanup(Source)));
    let back_to_work = source(SourceMark::Ending(End::Back), RUNNING);
    assert_eq!(resolve(Strict, back_to_work, leftover), Back(Cleanup(Source)));
    let over = source(SourceMark::Ended(End::Back), RUNNING);
    assert_eq!(resolve(Strict, over, leftover), Back(Cleanup(Destination)), "the paused incoming goes");
}

#[test]
fn source_libvirtd_restarts_when_perform_is_done_and_the_destination_never_ran() {
    let left_paused = source(SourceMark::Moving, SENT);
    for handover in [Strict, Fast] {
        assert_eq!(resolve(handover, left_paused, destination(DestinationMark::Ready, ARRIVED)), Forward(Release));
    }
    let killed = destination(DestinationMark::Ready, ABSENT);
    assert_eq!(resolve(Strict, left_paused, killed), Back(Cleanup(Source)));
    assert_eq!(resolve(Fast, left_paused, killed), Back(Cleanup(Destination)), "it must say that it never runs there");
    let given_up = destination(DestinationMark::Ended(End::Back), ABSENT);
    assert_eq!(resolve(Fast, left_paused, given_up), Back(Cleanup(Source)));
    // It is not whole there.
    assert_eq!(resolve(Strict, left_paused, destination(DestinationMark::Ready, ARRIVING)), Back(Cleanup(Source)));
    assert_eq!(resolve(Fast, left_paused, destination(DestinationMark::Ready, ARRIVING)), Wait);
}

#[test]
fn source_libvirtd_restarts_when_perform_is_done_and_the_destination_runs() {
    let left_paused = source(SourceMark::Moving, SENT);
    assert_eq!(resolve(Fast, left_paused, destination(DestinationMark::Ready, RUNNING)), Forward(Post(Destination)));
    let kept = destination(DestinationMark::Ended(End::Forward), RUNNING);
    assert_eq!(resolve(Fast, left_paused, kept), Forward(Post(Source)), "the source's copy is destroyed");
}

#[test]
fn source_libvirtd_restarts_when_perform_is_done_and_the_destination_is_silent() {
    let left_paused = source(SourceMark::Moving, SENT);
    assert_eq!(resolve(Fast, left_paused, Silent), Held(Hold::DestinationSilent));
    assert_eq!(resolve(Fast, left_paused, Dead), Held(Hold::LostThere), "it may have run there");
    assert_eq!(resolve(Strict, left_paused, Silent), Back(Cleanup(Source)), "unreleased, it cannot run there");
    let released = source(SourceMark::Released, SENT);
    assert_eq!(resolve(Strict, released, Silent), Held(Hold::DestinationSilent));
    assert_eq!(resolve(Strict, released, Dead), Held(Hold::LostThere));
}

#[test]
fn source_libvirtd_restarts_in_confirm() {
    let killed = source(SourceMark::Moving, ABSENT);
    assert_eq!(resolve(Fast, killed, destination(DestinationMark::Ready, RUNNING)), Forward(Post(Destination)));
    assert_eq!(resolve(Strict, killed, destination(DestinationMark::Ready, ARRIVED)), Forward(Release));
    let released = source(SourceMark::Released, ABSENT);
    assert_eq!(resolve(Strict, released, destination(DestinationMark::Ready, ARRIVED)), Forward(Resume));
}

#[test]
fn destination_libvirtd_restarts_in_prepare() {
    let killed = destination(DestinationMark::Ready, ABSENT);
    for handover in [Strict, Fast] {
        assert_eq!(resolve(handover, source(SourceMark::Moving, SENDING), killed), Wait, "the job ends by itself");
        assert_eq!(resolve(handover, source(SourceMark::Stayed, RUNNING), killed), Back(Cleanup(Source)));
    }
}

#[test]
fn destination_libvirtd_restarts_in_finish() {
    // One whose vCPUs run is kept, one that stands still is killed; the source has lost the reply either way.
    let kept = destination(DestinationMark::Ready, RUNNING);
    assert_eq!(resolve(Fast, source(SourceMark::Moving, SENT), kept), Forward(Post(Destination)));
    let killed = destination(DestinationMark::Ready, ABSENT);
    assert_eq!(resolve(Strict, source(SourceMark::Moving, RUNNING), killed), Back(Cleanup(Source)));
}

#[test]
fn postcopy_fails_on_either_side() {
    for mark in [SourceMark::Moving, SourceMark::Switched] {
        for there in [INCOMPLETE, ARRIVING, RUNNING] {
            let both = resolve(Fast, source(mark, DEPARTING), destination(DestinationMark::Ready, there));
            assert_eq!(both, Held(Hold::PostcopyUnfinished), "{mark:?} {there:?}");
        }
        assert_eq!(resolve(Fast, source(mark, DEPARTING), Silent), Held(Hold::PostcopyUnfinished));
        assert_eq!(resolve(Fast, source(mark, DEPARTING), Dead), Held(Hold::PostcopyLost));
        let gone = destination(DestinationMark::Ready, ABSENT);
        assert_eq!(resolve(Fast, source(mark, DEPARTING), gone), Held(Hold::PostcopyLost));
    }
    let half = destination(DestinationMark::Ready, INCOMPLETE);
    assert_eq!(resolve(Fast, Silent, half), Held(Hold::PostcopyUnfinished));
    assert_eq!(resolve(Fast, Dead, half), Held(Hold::PostcopyLost));
    let whole = destination(DestinationMark::Ready, RUNNING);
    assert_eq!(resolve(Fast, source(SourceMark::Switched, ABSENT), whole), Forward(Post(Destination)));
}

#[test]
fn a_lost_finish_reply_by_default() {
    let restarted = source(SourceMark::Moving, RUNNING);
    let there = |seen| destination(DestinationMark::Ready, seen);
    assert_eq!(resolve(Fast, restarted, there(RUNNING)), Held(Hold::RunsTwice), "too late: libvirt has done it");
    assert_eq!(resolve(Fast, restarted, Silent), Held(Hold::DestinationSilent));
    assert_eq!(resolve(Fast, restarted, there(ABSENT)), Back(Cleanup(Source)));
}

#[test]
fn a_lost_finish_reply_when_it_arrives_paused() {
    let restarted = source(SourceMark::Moving, RUNNING);
    let arrived = destination(DestinationMark::Ready, ARRIVED);
    assert_eq!(resolve(Strict, restarted, arrived), Back(Cleanup(Source)));
    assert_eq!(resolve(Strict, restarted, Silent), Back(Cleanup(Source)));
    let over = source(SourceMark::Ended(End::Back), RUNNING);
    assert_eq!(resolve(Strict, over, arrived), Back(Cleanup(Destination)));
    // It was released just before, so that libvirt's restart got nowhere.
    let frozen = source(SourceMark::Released, SENT);
    assert_eq!(resolve(Strict, frozen, arrived), Forward(Resume));
}

#[test]
fn finish_fails_on_the_destination() {
    let restarted = source(SourceMark::Moving, RUNNING);
    let killed = destination(DestinationMark::Ready, ABSENT);
    for handover in [Strict, Fast] {
        assert_eq!(resolve(handover, restarted, killed), Back(Cleanup(Source)));
    }
}

#[test]
fn confirm_fails_on_the_source() {
    let left_paused = source(SourceMark::Moved, SENT);
    let running = destination(DestinationMark::Ready, RUNNING);
    assert_eq!(resolve(Fast, left_paused, running), Forward(Post(Destination)));
    let kept = destination(DestinationMark::Ended(End::Forward), RUNNING);
    assert_eq!(resolve(Fast, left_paused, kept), Forward(Post(Source)));
}

#[test]
fn the_client_dies_with_the_guest_paused_on_either_side() {
    let there = |seen| destination(DestinationMark::Ready, seen);
    assert_eq!(resolve(Strict, source(SourceMark::Moving, SENT), there(ARRIVED)), Forward(Release));
    assert_eq!(resolve(Strict, source(SourceMark::Moving, SENT), there(ABSENT)), Back(Cleanup(Source)));
    assert_eq!(resolve(Strict, source(SourceMark::Moving, ABSENT), there(ARRIVED)), Forward(Release));
    assert_eq!(resolve(Strict, Silent, there(ARRIVED)), Held(Hold::SourceSilent), "it may be the only copy");
    assert_eq!(resolve(Strict, Dead, there(ARRIVED)), Forward(Resume));
}

#[test]
fn the_destinations_host_dies_after_it_was_resumed() {
    let released = source(SourceMark::Released, SENT);
    assert_eq!(resolve(Strict, released, Dead), Held(Hold::LostThere), "the source's copy is stale");
    let back_again = |seen| destination(DestinationMark::Resuming, seen);
    assert_eq!(resolve(Strict, released, back_again(ABSENT)), Held(Hold::LostThere));
    assert_eq!(resolve(Strict, released, back_again(OFF)), Forward(Post(Destination)), "it is there, and off");
}

#[test]
fn a_released_source_goes_on_only_when_the_destination_never_will() {
    let released = source(SourceMark::Released, SENT);
    let gone = destination(DestinationMark::Ready, ABSENT);
    assert_eq!(resolve(Strict, released, gone), Back(Cleanup(Destination)));
    for given_up in [DestinationMark::Ending(End::Back), DestinationMark::Ended(End::Back)] {
        assert_eq!(resolve(Strict, released, destination(given_up, ABSENT)), Back(Cleanup(Source)));
    }
}

#[test]
fn a_destination_whose_source_is_gone_asks_itself() {
    let there = |seen| destination(DestinationMark::Ready, seen);
    assert_eq!(resolve(Fast, Silent, there(RUNNING)), Forward(Post(Destination)));
    assert_eq!(resolve(Strict, Silent, destination(DestinationMark::Resuming, ARRIVED)), Forward(Resume));
    for seen in [ABSENT, ARRIVING] {
        assert_eq!(resolve(Strict, Silent, there(seen)), Back(Cut));
        assert_eq!(resolve(Strict, Silent, cut_off(seen)), Back(Cleanup(Destination)));
    }
    assert_eq!(resolve(Strict, Silent, cut_off(ARRIVED)), Held(Hold::SourceSilent));
}

#[test]
fn what_was_decided_stays_decided_wherever_the_guest_has_gone_since() {
    let (here, there) = (SourceMark::Ended(End::Forward), DestinationMark::Ended(End::Forward));
    assert_eq!(resolve(Strict, source(here, RUNNING), destination(there, ABSENT)), Settled(End::Forward));
    let (here, there) = (SourceMark::Ended(End::Back), DestinationMark::Ended(End::Back));
    assert_eq!(resolve(Strict, source(here, ABSENT), destination(there, RUNNING)), Settled(End::Back));
    let contradicted = resolve(Strict, source(here, RUNNING), destination(DestinationMark::Resuming, ABSENT));
    assert_eq!(contradicted, Held(Hold::Contradicted));
}

#[test]
fn qemu_is_believed_when_it_says_that_the_guest_runs() {
    let lagging = Seen { qemu: Some(RunState::Running), ..ARRIVED };
    assert_eq!(lagging.copy(), GuestCopy::Runs);
    assert_eq!(Seen { qemu: Some(RunState::Sent), ..RUNNING }.copy(), GuestCopy::Unclear);
    assert_eq!(Seen { job: Job::Unknown, ..ARRIVED }.copy(), GuestCopy::Unclear);
}

#[test]
fn every_hold_names_the_hosts_and_what_to_do() {
    let order = crate::flow::tests::order();
    for hold in laws::HOLDS {
        let (message, command) = (hold.message(&order), hold.command(&order));
        assert!(message.contains("node-31") && message.contains("web"), "{message}");
        assert!(command.contains("node-") || command.contains(&order.id.to_string()), "{command}");
        let known = [Reason::RunnerUnknown, Reason::RunsTwice, Reason::NotRunning];
        let postcopy = [Reason::PostcopyUnfinished, Reason::PostcopyLost];
        assert!(known.contains(&hold.reason()) || postcopy.contains(&hold.reason()));
    }
}
