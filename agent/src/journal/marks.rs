//! How far a live migration's half is, for whoever resolves it (docs/decisions/0007-the-source-releases-the-destination-resumes.md).

use vmferry_core::{
    migration::{Outcome, Phase},
    reason::Reason,
    resolution::{DestinationMark, End, SourceMark, Way},
    undo::Undo,
};

use super::State;

impl State {
    /// Of the source's half.
    pub fn source_mark(&self) -> SourceMark {
        match self.end() {
            Some(Told::Over(end)) => SourceMark::Ended(end),
            Some(Told::Begun(end)) => SourceMark::Ending(end),
            None if self.statistics().is_some() || self.answered => SourceMark::Moved,
            None if self.switched => SourceMark::Switched,
            None if self.released => SourceMark::Released,
            None if self.unmoved => SourceMark::Stayed,
            None if self.has_begun(Phase::Migrate) => SourceMark::Moving,
            None => SourceMark::Ready,
        }
    }

    /// Of the destination's half.
    pub fn destination_mark(&self) -> DestinationMark {
        let is_resuming = self.has_begun(Phase::Migrate) && !self.never_ran();
        match self.end() {
            Some(Told::Over(end)) => DestinationMark::Ended(end),
            Some(Told::Begun(end)) => DestinationMark::Ending(end),
            None if is_resuming => DestinationMark::Resuming,
            None => DestinationMark::Ready,
        }
    }

    /// Whether the source may still come in here. That is closed for good only by this half's end.
    pub fn way(&self) -> Way {
        let is_let_in = self.pending.iter().any(|undo| matches!(undo, Undo::RevokeTunnel { .. }));
        if self.end().is_some() && !is_let_in { Way::Cut } else { Way::Open }
    }

    /// Whether the guest was to be let run here, and there was none.
    fn never_ran(&self) -> bool {
        let is_missing = self.cause().is_some_and(|cause| cause.reason == Reason::StartFailed);
        is_missing && !self.has_done(Phase::Migrate)
    }

    fn end(&self) -> Option<Told> {
        match (self.outcome(), self.record.phase()) {
            (Some(Outcome::Completed | Outcome::CompletedWithWarnings), _) => Some(Told::Over(End::Forward)),
            (Some(Outcome::FailedRolledBack | Outcome::AbortedRolledBack), _) => Some(Told::Over(End::Back)),
            (None | Some(Outcome::Held), Phase::Post) => Some(Told::Begun(End::Forward)),
            (None | Some(Outcome::Held), Phase::Cleanup) => Some(Told::Begun(End::Back)),
            (None | Some(Outcome::Held), _) => None,
        }
    }
}

/// Which end, and whether it is there.
enum Told {
    Begun(End),
    Over(End),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use vmferry_core::{
        id::HostName,
        migration::{Cause, Side, Statistics},
    };

    use super::*;
    use crate::journal::{Entry, tests::order};

    fn state(side: Side, entries: impl IntoIterator<Item = Entry>) -> State {
        let opened =
            Entry::Opened { format: 3, order: order(), side, requested_by: "me".into(), at: Timestamp::UNIX_EPOCH };
        let mut state = State::opened(opened).expect("it opens");
        for entry in entries {
            state.apply(entry);
        }
        state
    }

    fn begun(phase: Phase) -> Entry {
        Entry::Begun { phase, at: Timestamp::UNIX_EPOCH }
    }

    fn done() -> Entry {
        Entry::Done { took: Duration::from_millis(1) }
    }

    fn ended(outcome: Outcome) -> Entry {
        Entry::Ended { outcome, at: Timestamp::UNIX_EPOCH }
    }

    fn failed(reason: Reason) -> Entry {
        let host: HostName = "node-31".parse().expect("valid");
        Entry::Failed(Cause { reason, host, message: "why".into() })
    }

    /// Each is further on than the one before it.
    #[test]
    fn the_sources_half_says_how_far_it_is() {
        let mark = |entries: &[Entry]| {
            let entries = [begun(Phase::Pre), done()].into_iter().chain(entries.iter().cloned());
            state(Side::Source, entries).source_mark()
        };
        let moving = begun(Phase::Migrate);
        assert_eq!(state(Side::Source, []).source_mark(), SourceMark::Ready);
        assert_eq!(mark(&[]), SourceMark::Ready);
        assert_eq!(mark(&[failed(Reason::MemoryShort)]), SourceMark::Ready);
        assert_eq!(mark(std::slice::from_ref(&moving)), SourceMark::Moving);
        // What the cause is called says nothing of where the guest is.
        assert_eq!(mark(&[moving.clone(), failed(Reason::MigrationFailed)]), SourceMark::Moving);
        assert_eq!(mark(&[moving.clone(), Entry::Unmoved]), SourceMark::Stayed);
        assert_eq!(mark(&[moving.clone(), Entry::Released, failed(Reason::HandoverFailed)]), SourceMark::Released);
        assert_eq!(mark(&[moving.clone(), Entry::Switching]), SourceMark::Switched);
        assert_eq!(mark(&[moving.clone(), Entry::Switching, Entry::Stayed]), SourceMark::Moving);
        assert_eq!(mark(&[moving.clone(), Entry::Released, Entry::Answered]), SourceMark::Moved);
        let moved = [moving, Entry::Measured(Statistics::default()), done()];
        assert_eq!(mark(&moved), SourceMark::Moved);
        let post = [moved.as_slice(), &[begun(Phase::Post)]].concat();
        assert_eq!(mark(&post), SourceMark::Ending(End::Forward));
        let over = [post.as_slice(), &[done(), ended(Outcome::CompletedWithWarnings)]].concat();
        assert_eq!(mark(&over), SourceMark::Ended(End::Forward));
        assert_eq!(mark(&[begun(Phase::Cleanup)]), SourceMark::Ending(End::Back));
        assert_eq!(mark(&[begun(Phase::Cleanup), ended(Outcome::AbortedRolledBack)]), SourceMark::Ended(End::Back));
    }

    #[test]
    fn the_destinations_half_says_how_far_it_is_and_whether_anything_can_still_come() {
        let tunnel = Undo::RevokeTunnel { source: "node-28".parse().expect("valid") };
        let told = |entries: &[Entry]| {
            let state = state(Side::Destination, entries.iter().cloned());
            (state.destination_mark(), state.way())
        };
        let ready = [begun(Phase::Pre), Entry::Step(tunnel.clone()), done()];
        let after = |more: &[Entry]| told(&[ready.as_slice(), more].concat());
        assert_eq!(told(&[]), (DestinationMark::Ready, Way::Open), "it is about to be let in");
        assert_eq!(after(&[]), (DestinationMark::Ready, Way::Open));
        assert_eq!(after(&[begun(Phase::Migrate)]), (DestinationMark::Resuming, Way::Open));
        assert_eq!(after(&[begun(Phase::Migrate), done()]), (DestinationMark::Resuming, Way::Open));
        // There was none that could run.
        let missing = [begun(Phase::Migrate), failed(Reason::StartFailed)];
        assert_eq!(after(&missing), (DestinationMark::Ready, Way::Open));
        assert_eq!(
            after(&[begun(Phase::Post), Entry::Struck(tunnel.clone())]),
            (DestinationMark::Ending(End::Forward), Way::Cut)
        );
        assert_eq!(after(&[begun(Phase::Cleanup)]), (DestinationMark::Ending(End::Back), Way::Open));
        let back = [begun(Phase::Cleanup), Entry::Struck(tunnel), ended(Outcome::FailedRolledBack)];
        assert_eq!(after(&back), (DestinationMark::Ended(End::Back), Way::Cut));
    }
}
