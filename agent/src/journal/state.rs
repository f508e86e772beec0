//! What a journal says, as the fold of its entries.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use vmferry_core::{
    agent::Sighting,
    disk::Resolved,
    domain_xml::rewrite::Relocation,
    migration::{Cause, Driver, Order, Outcome, Phase, PhaseSpan, Record, Side, Statistics, Story},
    undo::Undo,
    vif::Placement,
};

use super::Entry;

/// What the entries amount to.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// As others see it; without `pending`, `story` and, once it is read back, `driver`, which is the [`Lessor`]'s.
    pub(super) record: Record,
    /// How its job went. Shared: states are copied with each entry.
    pub(super) story: Arc<Story>,
    /// Steps to take back, oldest first.
    pub pending: Vec<Undo>,
    /// How each disk gets to the destination; once pre has begun.
    pub resolved: Vec<Resolved>,
    /// The devices that the guest finds elsewhere here; the destination has it, once pre is done.
    pub relocations: Vec<Relocation>,
    /// How the guest's vifs are plugged in here; once pre has begun.
    pub placed: Vec<Placement>,
    /// libvirt's filters that were made here and are needed by the guest; the source has them, once pre has begun.
    pub filters: Vec<String>,
    /// Whether this host shall start the guest with itself; the destination has it, once pre has begun.
    pub autostart: bool,
    /// Whether the guest was switched to postcopy, or may have been; the source has it.
    pub switched: bool,
    /// Whether libvirt's job is over, and the guest was not stopped for it; the source has it.
    pub unmoved: bool,
    /// Whether the guest can never run here again, so that its destination may let it run; the source has it.
    pub released: bool,
    /// Whether the destination has said, after that, that the guest runs; the source has it.
    pub answered: bool,
    /// Whether the source has taken its half back; the destination has it.
    pub kept: bool,
}

impl State {
    pub(super) fn opened(entry: Entry) -> Option<Self> {
        let Entry::Opened { format: _, order, side, requested_by, at } = entry else { return None };
        let record = Record {
            order,
            side,
            requested_by,
            driver: None,
            started: at,
            ended: None,
            phases: Vec::new(),
            outcome: None,
            cause: None,
            statistics: None,
            guest: None,
            pending: Vec::new(),
            warnings: Vec::new(),
            story: Story::default(),
        };
        Some(Self {
            record,
            story: Arc::default(),
            pending: Vec::new(),
            resolved: Vec::new(),
            relocations: Vec::new(),
            placed: Vec::new(),
            filters: Vec::new(),
            autostart: false,
            switched: false,
            unmoved: false,
            released: false,
            answered: false,
            kept: false,
        })
    }

    pub(super) fn apply(&mut self, entry: Entry) {
        let record = &mut self.record;
        match entry {
            Entry::Opened { .. } => {}
            Entry::Leased { epoch, holder, at } => {
                record.driver = Some(Driver { epoch, holder, since: at, trouble: None });
            }
            Entry::Begun { phase, at } => record.phases.push(PhaseSpan { phase, started: at, duration: None }),
            Entry::Done { took } => {
                if let Some(span) = record.phases.last_mut() {
                    span.duration = Some(took);
                }
            }
            Entry::Step(undo) => self.pending.push(undo),
            Entry::Struck(undo) => self.pending.retain(|pending| *pending != undo),
            Entry::Resolved(resolved) => self.resolved = resolved,
            Entry::Relocated(relocations) => self.relocations = relocations,
            Entry::Placed(placed) => self.placed = placed,
            Entry::Filters(filters) => self.filters = filters,
            Entry::Autostart(autostart) => self.autostart = autostart,
            Entry::Switching => self.switched = true,
            Entry::Stayed => self.switched = false,
            Entry::Unmoved => self.unmoved = true,
            Entry::Released => self.released = true,
            Entry::Answered => self.answered = true,
            Entry::Kept => self.kept = true,
            Entry::Measured(statistics) => record.statistics = Some(statistics),
            Entry::Foreseen(foreseen) => Arc::make_mut(&mut self.story).foreseen = Some(foreseen),
            Entry::Event(event) => Arc::make_mut(&mut self.story).events.push(event),
            Entry::Timeline(timeline) => Arc::make_mut(&mut self.story).timeline = Some(timeline),
            // The first cause is the cause; what follows from it is not.
            Entry::Failed(cause) => _ = record.cause.get_or_insert(cause),
            Entry::Warning(warning) => record.warnings.push(warning),
            Entry::Seen(guest) => record.guest = Some(guest),
            Entry::Ended { outcome, at } => {
                record.outcome = Some(outcome);
                record.ended = Some(at);
            }
        }
    }

    /// As others see it, but for the story of its job, which may be long.
    pub fn record(&self) -> Record {
        let pending = self.pending.iter().map(Undo::to_string).collect();
        Record { pending, ..self.record.clone() }
    }

    /// As others see it, with that.
    pub fn whole_record(&self) -> Record {
        Record { story: Story::clone(&self.story), ..self.record() }
    }

    /// How its job went.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// What was asked for.
    pub fn order(&self) -> &Order {
        &self.record.order
    }

    /// Which half this host plays.
    pub fn side(&self) -> Side {
        self.record.side
    }

    /// When it began, by this host's clock.
    pub fn started(&self) -> Timestamp {
        self.record.started
    }

    /// How it ended; `None` while it goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        self.record.outcome
    }

    /// Why it did not go through.
    pub fn cause(&self) -> Option<&Cause> {
        self.record.cause.as_ref()
    }

    /// What the job measured.
    pub fn statistics(&self) -> Option<Statistics> {
        self.record.statistics
    }

    /// What was to be seen of the guest at the end, if it was here.
    pub fn guest(&self) -> Option<Sighting> {
        self.record.guest
    }

    /// What needs a look.
    pub fn warnings(&self) -> &[String] {
        &self.record.warnings
    }

    /// Whether a phase was begun.
    pub fn has_begun(&self, phase: Phase) -> bool {
        self.record.phases.iter().any(|span| span.phase == phase)
    }

    /// Whether a phase went through.
    pub fn has_done(&self, phase: Phase) -> bool {
        self.took(phase).is_some()
    }

    /// How long a phase took that went through.
    pub fn took(&self, phase: Phase) -> Option<Duration> {
        self.record.phases.iter().find(|span| span.phase == phase && span.duration.is_some())?.duration
    }
}
