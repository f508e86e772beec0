//! What the record tells of a job besides its figures: the forecast that is made beside it, what was done to it, and its samples.
//!
//! Nothing here holds up the migration, and nothing that fails here is its failure.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, warn};
use vmferry_core::{
    convergence::{Foreseen, Foreseer, Foresight},
    disk::{self, Resolved},
    migration::{Author, Deed, Event, MOST_EVENTS, Order, Progress, Timeline},
};

use super::{Samples, Task};
use crate::{
    durable,
    hypervisor::{Fault, Hypervisor, OnDeed, OnProgress},
    journal::Entry,
};

/// Something to be noted.
#[derive(Debug)]
pub(super) enum News {
    /// What the guest may have of memory, and what it has written to.
    Memory(ByteSize, ByteSize),
    /// What it writes to per second.
    DirtyRate(ByteSize),
    Sample(Box<Progress>),
    Foreseen(Option<Box<Foreseen>>),
    Event(Event),
}

/// Where others tell what they did.
#[derive(Debug, Clone)]
pub(super) struct Teller(mpsc::UnboundedSender<News>);

impl Teller {
    /// Something was done by hand.
    pub(super) fn by_hand(&self, identity: &str, deed: Deed) {
        let event = Event { at: Timestamp::now(), by: Author::Hand(identity.to_owned()), deed };
        _ = self.0.send(News::Event(event));
    }
}

/// One migration's.
pub(super) struct Chronicle {
    sender: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
    /// What was sent per second in former migrations to the same host.
    usual: Option<ByteSize>,
    /// Until there is a forecast.
    foreseer: Option<Foreseer>,
    /// Whether it is being made.
    is_foreseeing: bool,
    /// Since when it is measured: times of forecasts count from here.
    began: Timestamp,
    foresight: Foresight,
    timeline: Arc<Mutex<Option<Timeline>>>,
    /// Ends what is still being measured.
    measuring: Option<DropGuard>,
}

impl Chronicle {
    pub(super) fn new(usual: Option<ByteSize>) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self {
            sender,
            news,
            usual,
            foreseer: None,
            is_foreseeing: false,
            began: Timestamp::now(),
            foresight: Foresight::default(),
            timeline: Arc::default(),
            measuring: None,
        }
    }

    pub(super) fn teller(&self) -> Teller {
        Teller(self.sender.clone())
    }

    pub(super) fn foresight(&self) -> Foresight {
        self.foresight.clone()
    }

    /// Begins to measure a guest that is to move while it runs. libvirt takes that only before its job begins.
    pub(super) fn measure<H: Hypervisor>(&mut self, host: &Arc<H>, order: &Order, resolved: &[Resolved]) {
        self.began = Timestamp::now();
        self.foreseer = Some(Foreseer::new(order.limits.clone(), disk::copied_by_the_job(resolved), self.usual));
        let over = CancellationToken::new();
        self.measuring = Some(over.clone().drop_guard());
        let (host, order, sender) = (Arc::clone(host), order.clone(), self.sender.clone());
        let measured = async move {
            let memory = async {
                let memory = noted(host.memory(&order).await);
                _ = memory.map(|(memory, resident)| sender.send(News::Memory(memory, resident)));
            };
            let dirty_rate = async {
                let dirty_rate = noted(host.dirty_rate(&order).await);
                _ = dirty_rate.map(|dirty_rate| sender.send(News::DirtyRate(dirty_rate)));
            };
            over.run_until_cancelled(async { tokio::join!(dirty_rate, memory) }).await;
        };
        tokio::spawn(measured.in_current_span());
    }

    /// Takes a job's samples.
    pub(super) fn on_progress(&self, samples: Arc<watch::Sender<Samples>>) -> OnProgress {
        let timeline = Arc::clone(&self.timeline);
        let sender = self.foreseer.is_some().then(|| self.sender.clone());
        Arc::new(move |sample| {
            samples.send_modify(|samples| samples.push(sample));
            let mut timeline = timeline.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *timeline {
                Some(timeline) => timeline.push(&sample),
                None => *timeline = Some(Timeline::begin(Timestamp::now(), &sample)),
            }
            _ = sender.as_ref().map(|sender| sender.send(News::Sample(Box::new(sample))));
        })
    }

    /// Takes what a policy does.
    pub(super) fn on_deed(&self) -> OnDeed {
        let sender = self.sender.clone();
        Arc::new(move |action| {
            _ = sender.send(News::Event(Event { at: Timestamp::now(), by: Author::Policy, deed: action.into() }));
        })
    }

    /// What is to be noted next.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// What of it is to be journaled.
    pub(super) fn note(&mut self, news: News) -> Option<Entry> {
        match news {
            News::Event(event) => return Some(Entry::Event(event)),
            News::Foreseen(foreseen) => {
                // It was made anyhow when the job was over.
                let is_awaited = self.foreseer.take().is_some();
                return foreseen.filter(|_| is_awaited).map(|foreseen| Entry::Foreseen(*foreseen));
            }
            News::DirtyRate(dirty_rate) => self.foresight.measured(dirty_rate),
            News::Memory(..) | News::Sample(_) => {}
        }
        let foreseer = self.foreseer.as_mut()?;
        match news {
            News::Memory(memory, resident) => foreseer.see_memory(memory, resident),
            News::DirtyRate(dirty_rate) => foreseer.see_dirty_rate(dirty_rate),
            News::Sample(sample) => foreseer.see_sample(&sample),
            News::Foreseen(_) | News::Event(_) => {}
        }
        if foreseer.is_complete() && !self.is_foreseeing {
            self.is_foreseeing = true;
            let (foreseer, after, sender) = (foreseer.clone(), self.elapsed(), self.sender.clone());
            // What it would take for a guest that does not converge is looked for in many tries.
            spawn_blocking(move || sender.send(News::Foreseen(foreseer.foresee(after).map(Box::new))));
        }
        None
    }

    /// What is left to be journaled when the job is over, or before the migration is.
    pub(super) fn end(&mut self) -> Vec<Entry> {
        self.measuring = None;
        let mut entries = Vec::new();
        while let Ok(news) = self.news.try_recv() {
            entries.extend(self.note(news));
        }
        let timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner).take();
        if timeline.is_some() {
            // One that was over before all was measured was foreseen by what was known.
            let foreseen =
                self.foreseer.take().and_then(|foreseer| durable::in_place(|| foreseer.foresee(self.elapsed())));
            entries.extend(foreseen.map(Entry::Foreseen));
        }
        entries.extend(timeline.map(|timeline| Entry::Timeline(timeline.thinned())));
        entries
    }

    fn elapsed(&self) -> Duration {
        Duration::try_from(Timestamp::now().duration_since(self.began)).unwrap_or_default()
    }
}

impl<H: Hypervisor> Task<H> {
    pub(super) fn note(&mut self, news: News) {
        if let Some(entry) = self.chronicle.note(news) {
            self.inform(entry);
        }
    }

    pub(super) fn note_the_rest(&mut self) {
        self.chronicle.end().into_iter().for_each(|entry| self.inform(entry));
    }

    /// What cannot be journaled and only informs is no failure of the migration's.
    fn inform(&mut self, entry: Entry) {
        let is_too_much = self.journal.state().story().events.len() >= MOST_EVENTS;
        if is_too_much && matches!(entry, Entry::Event(_)) {
            return;
        }
        if let Err(error) = self.append(entry) {
            warn!("{}: the record lacks something: {error}", self.journal.state().order().instance_name);
        }
    }
}

fn noted<T>(measured: Result<T, Fault>) -> Option<T> {
    measured.inspect_err(|fault| debug!("the guest was not measured: {fault}")).ok()
}
