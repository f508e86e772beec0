//! No journal says yet where it ends: what the hosts show does, and who may still let the guest run.

use super::{
    DestinationFacts, DestinationMark, GuestCopy,
    Handover::{self, Fast, Strict},
    Hold, Job,
    Resolution::{self, Back, Forward, Held, Wait},
    SourceFacts, SourceMark,
    Step::{Cleanup, Cut, Post, Release, Resume},
    Way,
    Word::{self, Dead, Silent, Told},
};
use crate::migration::Side::{Destination, Source};

pub(super) fn resolve(
    handover: Handover,
    source: Word<SourceFacts>,
    destination: Word<DestinationFacts>,
) -> Resolution {
    match (source, destination) {
        (Told(here), Told(there)) => by_both(handover, here, there),
        (Told(here), Silent) => by_source(handover, here, Hold::DestinationSilent, Hold::PostcopyUnfinished),
        (Told(here), Dead) => by_source(handover, here, Hold::LostThere, Hold::PostcopyLost),
        (Silent, Told(there)) => by_destination(handover, there),
        (Dead, Told(there)) => without_source(there),
        (Dead, Dead) => Held(Hold::LostThere),
        (Silent | Dead, Silent | Dead) => Held(Hold::BothSilent),
    }
}

fn by_both(handover: Handover, here: SourceFacts, there: DestinationFacts) -> Resolution {
    let is_moving = here.seen.job == Job::Outgoing;
    let (ours, theirs) = (here.seen.copy(), there.seen.copy());
    if here.mark == SourceMark::Switched || ours == GuestCopy::Departing || theirs == GuestCopy::Incomplete {
        return switched(ours, theirs);
    }
    match (here.mark, ours, theirs) {
        // Whatever anybody meant: it runs there, and not here.
        (_, _, GuestCopy::Runs) => Forward(Post(Destination)),
        (_, GuestCopy::Unclear, _) | (_, _, GuestCopy::Unclear | GuestCopy::Departing) => Wait,
        // It was shut down on the way: it is where its only definition is.
        (_, GuestCopy::None, GuestCopy::Off) => Forward(Post(Destination)),

        // The job was never begun, or was over before the guest was stopped.
        (SourceMark::Nothing | SourceMark::Ready | SourceMark::Stayed, GuestCopy::Runs, _) => Back(Cleanup(Source)),
        (SourceMark::Nothing | SourceMark::Ready | SourceMark::Stayed, _, GuestCopy::Stopped) => {
            Held(Hold::Contradicted)
        }
        (SourceMark::Nothing | SourceMark::Ready | SourceMark::Stayed, ..) => Back(Cleanup(Source)),

        // Released. The destination may go on, or say that it never will: then the source may.
        (SourceMark::Released, GuestCopy::Runs, _) => Back(Cleanup(Destination)),
        (SourceMark::Released, _, GuestCopy::Stopped) => Forward(Resume),
        (SourceMark::Released, _, GuestCopy::Arriving) => Wait,
        (SourceMark::Released, GuestCopy::None, _) => Held(Hold::RunsNowhere),
        (SourceMark::Released, ..) => Back(Cleanup(Destination)),

        // All of it is there, and it stands still on both: either would do, but it has come this far.
        (_, GuestCopy::Stopped | GuestCopy::None | GuestCopy::Off, GuestCopy::Stopped)
            if handover == Strict || !is_moving =>
        {
            Forward(Release)
        }
        _ if is_moving => Wait,
        (_, GuestCopy::Runs, _) => Back(Cleanup(Source)),
        // libvirt may let it run there at any moment, or have done so.
        (_, GuestCopy::Stopped, GuestCopy::Arriving) if handover == Fast => Wait,
        (_, GuestCopy::Stopped, GuestCopy::Off) if handover == Fast => Held(Hold::LostThere),
        // Nor is what was seen there enough: it must have said that it never will.
        (_, GuestCopy::Stopped, _) if handover == Fast => Back(Cleanup(Destination)),
        // The destination waits for a release that does not come.
        (_, GuestCopy::Stopped, _) => Back(Cleanup(Source)),
        // It went down here. What is not whole there goes as soon as libvirt there sees that.
        (_, _, GuestCopy::Arriving) => Wait,
        (_, GuestCopy::Off, GuestCopy::None) => Back(Cleanup(Source)),
        _ => Held(Hold::RunsNowhere),
    }
}

/// The destination cannot be asked: `hold` says why, and of a guest with memory on both `split`.
fn by_source(handover: Handover, here: SourceFacts, hold: Hold, split: Hold) -> Resolution {
    let is_dead = hold == Hold::LostThere;
    match (here.mark, here.seen.copy()) {
        (SourceMark::Switched, _) | (_, GuestCopy::Departing | GuestCopy::Incomplete) => Held(split),
        (_, GuestCopy::Unclear | GuestCopy::Arriving) => Wait,
        (SourceMark::Released, _) => Held(hold),
        _ if here.seen.job == Job::Outgoing => Wait,
        (SourceMark::Ready | SourceMark::Stayed, _) | (SourceMark::Nothing, GuestCopy::Runs) => Back(Cleanup(Source)),
        (SourceMark::Nothing, _) => Held(hold),
        // Unreleased: it cannot run there.
        (_, GuestCopy::Runs | GuestCopy::Stopped) if handover == Strict => Back(Cleanup(Source)),
        (_, GuestCopy::Runs) if is_dead => Back(Cleanup(Source)),
        _ => Held(hold),
    }
}

/// The source cannot be asked, for so long that its guest will not arrive any more.
fn by_destination(handover: Handover, there: DestinationFacts) -> Resolution {
    match (there.seen.copy(), there.way) {
        (GuestCopy::Runs, _) => Forward(Post(Destination)),
        (GuestCopy::Departing | GuestCopy::Incomplete, _) => Held(Hold::PostcopyUnfinished),
        (GuestCopy::Unclear, _) => Wait,
        _ if there.mark == DestinationMark::Nothing => Held(Hold::SourceSilent),
        // It may be the only whole copy: the source's libvirt destroys its own when it hears that all has arrived.
        (GuestCopy::Stopped | GuestCopy::Off, _) => Held(Hold::SourceSilent),
        // libvirt may be letting it run just now. To cut it off from its source would then let that go on, too.
        (GuestCopy::Arriving, _) if handover == Fast => Wait,
        // Not whole, so the source's is. But libvirt may be making it so just now: only when it cannot tell the source any more.
        (GuestCopy::None | GuestCopy::Arriving, Way::Open) => Back(Cut),
        (GuestCopy::None | GuestCopy::Arriving, Way::Cut) => Back(Cleanup(Destination)),
    }
}

/// Nothing runs on the source, and nothing will.
fn without_source(there: DestinationFacts) -> Resolution {
    match (there.seen.copy(), there.way) {
        (GuestCopy::Runs, _) => Forward(Post(Destination)),
        (GuestCopy::Departing | GuestCopy::Incomplete, _) => Held(Hold::PostcopyLost),
        (GuestCopy::Unclear, _) => Wait,
        _ if there.mark == DestinationMark::Nothing => Held(Hold::LostHere),
        (GuestCopy::Stopped, _) => Forward(Resume),
        (GuestCopy::Off, _) => Held(Hold::RunsNowhere),
        (GuestCopy::None | GuestCopy::Arriving, Way::Open) => Back(Cut),
        (GuestCopy::None | GuestCopy::Arriving, Way::Cut) => Back(Cleanup(Destination)),
    }
}

/// After the switch to postcopy its memory is on both hosts: neither copy is ever destroyed before it is whole on one.
fn switched(ours: GuestCopy, theirs: GuestCopy) -> Resolution {
    match (ours, theirs) {
        (GuestCopy::None | GuestCopy::Off, GuestCopy::Runs) => Forward(Post(Destination)),
        (_, GuestCopy::None | GuestCopy::Off) | (GuestCopy::None | GuestCopy::Off, GuestCopy::Incomplete) => {
            Held(Hold::PostcopyLost)
        }
        (GuestCopy::Unclear, _) | (_, GuestCopy::Unclear) => Wait,
        _ => Held(Hold::PostcopyUnfinished),
    }
}
