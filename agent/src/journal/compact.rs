//! A journal without what is over: every step that was taken back is two lines less.

use vmferry_core::migration::Driver;

use super::{Entry, FORMAT, State};

impl State {
    /// The fewest entries that amount to it.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let Self {
            record,
            story,
            pending,
            resolved,
            relocations,
            placed,
            filters,
            autostart,
            switched,
            unmoved,
            released,
            answered,
            kept,
        } = self;
        let opened = Entry::Opened {
            format: FORMAT,
            order: record.order.clone(),
            side: record.side,
            requested_by: record.requested_by.clone(),
            at: record.started,
        };
        let phases = record.phases.iter().flat_map(|span| {
            let begun = Entry::Begun { phase: span.phase, at: span.started };
            [Some(begun), span.duration.map(|took| Entry::Done { took })].into_iter().flatten()
        });
        let ended = record.outcome.zip(record.ended).map(|(outcome, at)| Entry::Ended { outcome, at });
        let leased = record.driver.clone();
        let leased = leased.map(|Driver { epoch, holder, since, .. }| Entry::Leased { epoch, holder, at: since });
        let mut entries = vec![opened];
        entries.extend(leased);
        entries.extend(phases);
        entries.extend(pending.iter().cloned().map(Entry::Step));
        entries.extend((!resolved.is_empty()).then(|| Entry::Resolved(resolved.clone())));
        entries.extend((!relocations.is_empty()).then(|| Entry::Relocated(relocations.clone())));
        entries.extend((!placed.is_empty()).then(|| Entry::Placed(placed.clone())));
        entries.extend((!filters.is_empty()).then(|| Entry::Filters(filters.clone())));
        entries.extend(autostart.then_some(Entry::Autostart(true)));
        entries.extend(switched.then_some(Entry::Switching));
        entries.extend(unmoved.then_some(Entry::Unmoved));
        entries.extend(released.then_some(Entry::Released));
        entries.extend(answered.then_some(Entry::Answered));
        entries.extend(kept.then_some(Entry::Kept));
        entries.extend(record.statistics.map(Entry::Measured));
        entries.extend(story.foreseen.map(Entry::Foreseen));
        entries.extend(story.events.iter().cloned().map(Entry::Event));
        entries.extend(story.timeline.clone().map(Entry::Timeline));
        entries.extend(record.cause.clone().map(Entry::Failed));
        entries.extend(record.warnings.iter().cloned().map(Entry::Warning));
        entries.extend(record.guest.map(Entry::Seen));
        entries.extend(ended);
        entries
    }

    /// The same as a file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for entry in self.entries() {
            text.extend(entry.line());
            text.push(b'\n');
        }
        text
    }
}
