//! What must be true of every answer, whatever the facts are.
//!
//! They go by [`permits`], which knows nothing of how answers are found.

use proptest::{prelude::*, sample::select};

use super::{
    Handover::Strict,
    Word::Told,
    ownership::{has_given_up, has_resumed, is_released},
    *,
};
use crate::migration::Side::{Destination, Source};

pub(super) const HOLDS: [Hold; 11] = [
    Hold::BothSilent,
    Hold::SourceSilent,
    Hold::DestinationSilent,
    Hold::RunsTwice,
    Hold::Contradicted,
    Hold::RunsNowhere,
    Hold::Unreleased,
    Hold::LostThere,
    Hold::LostHere,
    Hold::PostcopyUnfinished,
    Hold::PostcopyLost,
];
const ENDS: [End; 2] = [End::Forward, End::Back];

fn source_marks() -> Vec<SourceMark> {
    use SourceMark::{Ended, Ending, Moved, Moving, Nothing, Ready, Released, Stayed, Switched};
    let ends = ENDS.into_iter().flat_map(|end| [Ending(end), Ended(end)]);
    [Nothing, Ready, Moving, Stayed, Released, Switched, Moved].into_iter().chain(ends).collect()
}

fn destination_marks() -> Vec<DestinationMark> {
    use DestinationMark::{Ended, Ending, Nothing, Ready, Resuming};
    let ends = ENDS.into_iter().flat_map(|end| [Ending(end), Ended(end)]);
    [Nothing, Ready, Resuming].into_iter().chain(ends).collect()
}

fn seen() -> impl Strategy<Value = Seen> {
    use Domain::{Absent, Off, Paused, PausedPostcopy, PausedToMove, RunningPostcopy};
    let domain = select(vec![Absent, Off, Domain::Running, RunningPostcopy, PausedToMove, PausedPostcopy, Paused]);
    let job = select(vec![Job::None, Job::Outgoing, Job::Incoming, Job::Other, Job::Unknown]);
    let states = [RunState::Running, RunState::Paused, RunState::Incoming, RunState::Finishing, RunState::Sent];
    let qemu = select([None].into_iter().chain(states.map(Some)).collect::<Vec<_>>());
    (domain, job, qemu).prop_map(|(domain, job, qemu)| Seen { domain, job, qemu })
}

fn facts() -> impl Strategy<Value = (SourceFacts, DestinationFacts)> {
    let here = (seen(), select(source_marks())).prop_map(|(seen, mark)| SourceFacts { seen, mark });
    let way = select(vec![Way::Open, Way::Cut]);
    let there =
        (seen(), select(destination_marks()), way).prop_map(|(seen, mark, way)| DestinationFacts { seen, mark, way });
    (here, there)
}

/// What a strict hand-over can come to by decision 0007, whatever fails, as long as nobody changes things by hand and no host goes down.
fn is_possible(here: SourceFacts, there: DestinationFacts) -> bool {
    use SourceMark::{Ended, Ending, Moved, Moving};
    let (ours, theirs) = (here.seen.copy(), there.seen.copy());
    let runs_there = theirs == GuestCopy::Runs;
    let is_whole_there = matches!(theirs, GuestCopy::Stopped | GuestCopy::Runs | GuestCopy::Unclear);
    let went_back = matches!(here.mark, Ending(End::Back) | Ended(End::Back));
    let postcopy = [ours, theirs].iter().any(|copy| matches!(copy, GuestCopy::Departing | GuestCopy::Incomplete));
    !postcopy
        && ours != GuestCopy::Arriving
        && here.mark != SourceMark::Switched
        // The destination runs nothing without the source's release, and journals that first.
        && (!has_resumed(there) || is_released(here))
        && (!runs_there || has_resumed(there))
        && (!has_resumed(there) || !matches!(ours, GuestCopy::Runs | GuestCopy::Unclear))
        && (!matches!(here.mark, Moved | Ending(End::Forward) | Ended(End::Forward)) || has_resumed(there))
        && (!went_back || (!has_resumed(there) && !matches!(ours, GuestCopy::None | GuestCopy::Off)))
        // No copy goes before the other is whole or lasting.
        && (!matches!(ours, GuestCopy::None | GuestCopy::Off) || is_whole_there || has_resumed(there))
        && (!has_given_up(there) || (!is_whole_there && !matches!(ours, GuestCopy::None | GuestCopy::Off)) || went_back)
        // QEMU sends all before it arrives.
        && (theirs != GuestCopy::Stopped || is_released(here) || went_back || here.mark == Moving)
}

fn step(resolution: Resolution) -> Option<Step> {
    match resolution {
        Resolution::Forward(step) | Resolution::Back(step) => Some(step),
        Resolution::Wait | Resolution::Held(_) | Resolution::Settled(_) => None,
    }
}

/// The same facts, with less and less of them known.
fn known_less(
    here: SourceFacts,
    there: DestinationFacts,
) -> impl Iterator<Item = (Word<SourceFacts>, Word<DestinationFacts>)> {
    let blind = |seen: Seen| {
        let unanswered = Seen { job: Job::Unknown, qemu: None, ..seen };
        // libvirt alone: only if it is not behind QEMU.
        let alone = Seen { qemu: None, ..seen };
        [Some(seen), (alone.copy() == seen.copy()).then_some(alone), Some(unanswered)].into_iter().flatten()
    };
    let ours = blind(here.seen).map(move |seen| Told(SourceFacts { seen, ..here })).chain([Word::Silent]);
    let theirs = blind(there.seen).map(move |seen| Told(DestinationFacts { seen, ..there })).chain([Word::Silent]);
    let theirs: Vec<_> = theirs.collect();
    ours.flat_map(move |ours| theirs.clone().into_iter().map(move |theirs| (ours, theirs)))
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 10_000_000, ..ProptestConfig::with_cases(4_000) })]

    /// Monotone: what is done without an answer would also be right if that answer were here.
    #[test]
    fn knowing_less_never_makes_it_bolder((here, there) in facts()) {
        prop_assume!(is_possible(here, there));
        for (ours, theirs) in known_less(here, there) {
            if let Some(step) = step(resolve(Strict, ours, theirs)) {
                prop_assert!(permits(step, here, there), "{step:?} by {ours:?} and {theirs:?}");
            }
        }
    }

    /// Whatever people have done to the two by hand, whoever is dead.
    #[test]
    fn no_side_is_let_go_on_while_the_other_may_run(
        (here, there) in facts(),
        answers in (any::<bool>(), any::<bool>()),
        handover in select(vec![Handover::Strict, Handover::Fast]),
    ) {
        let source = if answers.0 { Told(here) } else { Word::Silent };
        let destination = if answers.1 { Told(there) } else { Word::Silent };
        match step(resolve(handover, source, destination)) {
            Some(Step::Resume) => {
                prop_assert!(!answers.0 || here.seen.copy() != GuestCopy::Runs);
                let has_release = answers.0 && here.mark == SourceMark::Released;
                prop_assert!(has_release || there.mark == DestinationMark::Resuming);
            }
            // It may run here already, and then this starts nothing.
            Some(Step::Cleanup(Source)) if here.seen.copy() != GuestCopy::Runs => {
                let stands = answers.1 && there.seen.copy() != GuestCopy::Runs && !has_resumed(there);
                let began_nothing = matches!(here.mark, SourceMark::Ready | SourceMark::Stayed);
                let is_unreleased = handover == Strict && here.mark == SourceMark::Moving;
                let is_decided = here.mark == SourceMark::Ending(End::Back);
                prop_assert!(stands || began_nothing || is_unreleased || is_decided);
                prop_assert!(here.mark != SourceMark::Released || has_given_up(there));
            }
            Some(Step::Post(Source)) => {
                let is_said_here = matches!(here.mark, SourceMark::Moved | SourceMark::Ending(End::Forward));
                prop_assert!(is_said_here || there.seen.copy() == GuestCopy::Runs || has_resumed(there));
            }
            Some(Step::Cleanup(Destination)) => {
                let still_runs = answers.1 && there.seen.copy() == GuestCopy::Runs;
                prop_assert!(!still_runs || here.mark == SourceMark::Ended(End::Back));
                prop_assert!(!answers.1 || !has_resumed(there));
            }
            Some(Step::Cleanup(Source) | Step::Release | Step::Cut | Step::Post(Destination)) | None => {}
        }
    }

    /// Two that run are never made one by us: which of them is the guest only a person can tell.
    #[test]
    fn what_runs_twice_is_left_to_people(facts in facts(), handover in select(vec![Strict, Handover::Fast])) {
        let seen = Seen { domain: Domain::Running, job: Job::None, qemu: Some(RunState::Running) };
        let (here, there) = (SourceFacts { seen, ..facts.0 }, DestinationFacts { seen, ..facts.1 });
        prop_assert_eq!(resolve(handover, Told(here), Told(there)), Resolution::Held(Hold::RunsTwice));
    }
}
