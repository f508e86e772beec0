//! The two rules of ownership, apart from how anything is decided: answers are held against them, here and in the model.
//!
//! *Until the destination's guest has been resumed, its copy may only be destroyed, or resumed after the source's release. Once it has been,
//! the source's may only be destroyed.* And never the one while the other is not whole (I4).

use super::{DestinationFacts, DestinationMark, End, GuestCopy, SourceFacts, SourceMark, Step};
use crate::migration::Side::{Destination, Source};

/// Whether a step may be taken in a strict hand-over, for one who knows everything.
pub fn permits(step: Step, here: SourceFacts, there: DestinationFacts) -> bool {
    let (ours, theirs) = (here.seen.copy(), there.seen.copy());
    match step {
        Step::Cut => true,
        Step::Release => ours != GuestCopy::Runs && !has_given_up(there),
        Step::Resume => ours != GuestCopy::Runs && is_released(here) && !has_given_up(there),
        Step::Post(Destination) => theirs == GuestCopy::Runs || has_resumed(there),
        Step::Post(Source) => theirs == GuestCopy::Runs || has_resumed(there),
        Step::Cleanup(Destination) => {
            let is_needed = matches!(ours, GuestCopy::None | GuestCopy::Off) && theirs == GuestCopy::Stopped;
            theirs != GuestCopy::Runs && !has_resumed(there) && !is_needed
        }
        // It lets the source's copy go on: the other must neither run nor be about to.
        Step::Cleanup(Source) => {
            theirs != GuestCopy::Runs && !has_resumed(there) && (!is_released(here) || has_given_up(there))
        }
    }
}

/// Whether the destination is bound to keep its copy.
pub(super) fn has_resumed(there: DestinationFacts) -> bool {
    use DestinationMark::{Ended, Ending, Resuming};
    matches!(there.mark, Resuming | Ending(End::Forward) | Ended(End::Forward))
}

pub(super) fn has_given_up(there: DestinationFacts) -> bool {
    matches!(there.mark, DestinationMark::Ending(End::Back) | DestinationMark::Ended(End::Back))
}

/// Whether the destination may, by the source's journal, let its copy run.
pub(super) fn is_released(here: SourceFacts) -> bool {
    use SourceMark::{Ended, Ending, Moved, Released};
    matches!(here.mark, Released | Moved | Ending(End::Forward) | Ended(End::Forward))
}
