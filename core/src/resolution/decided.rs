//! A journal says where it ends: only the rest is to be done.

use super::{
    DestinationFacts, DestinationMark, End, GuestCopy, Hold, Job,
    Resolution::{self, Back, Forward, Held, Settled, Wait},
    SourceFacts, SourceMark,
    Step::{Cleanup, Post, Resume},
    Word::{self, Dead, Silent, Told},
};
use crate::migration::Side::{Destination, Source};

/// Whether one of the journals has decided for this end.
pub(super) fn is(end: End, source: Word<SourceFacts>, destination: Word<DestinationFacts>) -> bool {
    let here = source.told().is_some_and(|here| match here.mark {
        SourceMark::Ending(its) | SourceMark::Ended(its) => its == end,
        SourceMark::Moved => end == End::Forward,
        _ => false,
    });
    let there = destination.told().is_some_and(|there| match there.mark {
        DestinationMark::Ending(its) | DestinationMark::Ended(its) => its == end,
        DestinationMark::Resuming => end == End::Forward,
        _ => false,
    });
    here || there
}

/// The destination first: the source's lock is the last to go, so that no second migration meets the first.
pub(super) fn forward(source: Word<SourceFacts>, destination: Word<DestinationFacts>) -> Resolution {
    let is_over_here = source.told().is_some_and(|here| here.mark == SourceMark::Ended(End::Forward));
    let runs_here = source.told().is_some_and(|here| here.seen.copy() == GuestCopy::Runs);
    let is_resumed_there = destination.told().is_some_and(|there| there.mark == DestinationMark::Resuming);
    if runs_here && (!is_over_here || is_resumed_there) {
        return Held(Hold::Contradicted);
    }
    let there = match destination {
        Told(there) => there,
        // The source has it from the destination that the guest runs there: it need not ask again.
        Silent | Dead if !is_over_here => return Forward(Post(Source)),
        Silent => return Forward(Post(Destination)),
        Dead => return Held(Hold::LostThere),
    };
    match (there.mark, there.seen.copy()) {
        (DestinationMark::Ended(_), _) if is_over_here || source == Dead => Settled(End::Forward),
        (DestinationMark::Ended(_), _) => Forward(Post(Source)),
        (DestinationMark::Ending(_), _) => Forward(Post(Destination)),
        (_, GuestCopy::Departing | GuestCopy::Incomplete) => Held(Hold::PostcopyUnfinished),
        (DestinationMark::Resuming, GuestCopy::Stopped) => Forward(Resume),
        (_, GuestCopy::Arriving | GuestCopy::Unclear) => Wait,
        // What it kept of it was for some time only, or never was.
        (DestinationMark::Nothing, _) if is_over_here => Settled(End::Forward),
        (DestinationMark::Nothing, GuestCopy::Runs | GuestCopy::Stopped | GuestCopy::Off) => Forward(Post(Source)),
        // It may have been stopped there since by its user or by itself: that is no longer the move's matter.
        (_, GuestCopy::Runs | GuestCopy::Stopped | GuestCopy::Off) => Forward(Post(Destination)),
        (_, GuestCopy::None) => Held(Hold::LostThere),
    }
}

/// The source first: once its half has begun to end it releases no copy any more, whoever asks.
pub(super) fn back(source: Word<SourceFacts>, destination: Word<DestinationFacts>) -> Resolution {
    let is_over_here = source.told().is_some_and(|here| here.mark == SourceMark::Ended(End::Back));
    let runs_there = destination.told().is_some_and(|there| there.seen.copy() == GuestCopy::Runs);
    if runs_there && !is_over_here {
        return Held(Hold::Contradicted);
    }
    let is_over_there = match destination {
        Told(there) => matches!(there.mark, DestinationMark::Ended(_) | DestinationMark::Nothing),
        Silent => false,
        Dead => true,
    };
    let here = match source {
        Told(here) => here,
        Silent | Dead if !is_over_there => return Back(Cleanup(Destination)),
        Silent => return Held(Hold::SourceSilent),
        Dead => return Held(Hold::LostHere),
    };
    match (here.mark, here.seen.copy()) {
        (SourceMark::Ended(_), _) if is_over_there => Settled(End::Back),
        (SourceMark::Ended(_), _) => Back(Cleanup(Destination)),
        (SourceMark::Switched, _) | (_, GuestCopy::Departing) => Held(Hold::Contradicted),
        (SourceMark::Ending(_), _) => Back(Cleanup(Source)),
        _ if here.seen.job == Job::Outgoing => Wait,
        (_, GuestCopy::Unclear | GuestCopy::Arriving | GuestCopy::Incomplete) => Wait,
        (_, GuestCopy::Runs | GuestCopy::Stopped | GuestCopy::Off) => Back(Cleanup(Source)),
        (_, GuestCopy::None) => Held(Hold::RunsNowhere),
    }
}
