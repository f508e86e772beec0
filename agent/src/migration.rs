//! One migration's half on this host: a task that takes one phase at a time, each of them once.
//!
//! ```text
//!            pre          migrate: the source           post
//!  opened ────────▶ ready ─────────────────▶ moved ──────────▶ ended: completed
//!     │               │                        │
//!     └───────────────┴──────────┬─────────────┘
//!                                └── cleanup ────────────────▶ ended: rolled back
//! ```
//!
//! Of a cold migration migrate has a half on the destination, too: it starts the guest.
//!
//! The state is the journal's, so a repeat gets the first call's answer even from another process. Phases run in
//! this task, not in the call: a caller that goes away cancels nothing, and a cleanup waits for the phase before it.

mod chronicle;
mod forsaken;
mod handle;
mod job;
mod lease;
mod recovery;
mod release;
mod samples;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vmferry_core::{
    agent::{CallError, Finished, Half, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    flow::{is_before_the_handover, rolled_back},
    migration::{Cause, Kind, Outcome, Phase, Side, Statistics},
    reason::Reason,
};

use self::chronicle::{Chronicle, Teller};
pub use self::{handle::Migration, samples::Samples};
use crate::{
    gate::Gate,
    hypervisor::{Fault, Helm, Hypervisor},
    journal::{Entry, Journal, State},
    phase::{self, Steps, write},
};

/// How often that is tried again which was decided and could not be done: a post, a cleanup, leftovers.
const AGAIN: Duration = Duration::from_secs(10);

/// How often a destination is told that it may let the guest run, until it answers.
const TELL_AGAIN: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, CallError>>;

enum Command {
    Pre(Half, Reply<Vec<Relocation>>),
    Migrate(Vec<Relocation>, Reply<Statistics>),
    Start(Reply<Duration>),
    Post(Reply<Finished>),
    Cleanup(Rollback, Reply<Finished>),
    Forsake(Cause, Reply<Finished>),
}

enum Origin {
    New,
    LeftBehind,
}

struct Task<H> {
    host: Arc<H>,
    gate: Arc<Gate>,
    journal: Journal,
    state: watch::Sender<State>,
    samples: Arc<watch::Sender<Samples>>,
    helm: Helm,
    cancel: CancellationToken,
    chronicle: Chronicle,
    /// How it tells itself something. Only who else holds this keeps it alive.
    itself: mpsc::WeakSender<Command>,
}

impl<H: Hypervisor> Task<H> {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, origin: Origin) {
        if let Origin::LeftBehind = origin {
            self.recover().await;
        }
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv() => command,
                () = sleep(TELL_AGAIN), if self.is_unheard() => {
                    self.tell_again().await;
                    continue;
                }
                () = sleep(AGAIN), if self.has_leftovers() || self.unfinished().is_some() => {
                    self.unwind_again().await;
                    self.finish().await;
                    continue;
                }
            };
            // A reply that nobody waits for any more is no failure: the next call gets the same.
            match command {
                Some(Command::Pre(half, reply)) => _ = reply.send(self.pre(&half).await),
                Some(Command::Migrate(relocations, reply)) => _ = reply.send(self.migrate(&relocations).await),
                Some(Command::Start(reply)) => _ = reply.send(self.start_guest().await),
                Some(Command::Post(reply)) => _ = reply.send(self.post().await),
                Some(Command::Cleanup(rollback, reply)) => _ = reply.send(self.cleanup(rollback).await),
                Some(Command::Forsake(cause, reply)) => _ = reply.send(self.forsake(cause).await),
                None => return,
            }
        }
    }

    async fn pre(&mut self, half: &Half) -> Result<Vec<Relocation>, CallError> {
        let state = self.journal.state();
        if state.has_done(Phase::Pre) && state.outcome().is_none() {
            return Ok(state.relocations.clone());
        }
        self.refuse_if_over()?;
        let order = state.order().clone();
        let begun = self.begin(Phase::Pre)?;
        if let (Half::Source { resolved }, Kind::Live) = (half, order.kind) {
            self.chronicle.measure(&self.host, &order, resolved);
        }
        let release = self.on_release();
        let mut steps = Steps::new(&mut self.journal);
        let ready = match half {
            Half::Source { resolved } => {
                phase::pre::source(&*self.host, &order, resolved, &mut steps).await.map(|()| Vec::new())
            }
            Half::Destination { leaving, resolved } => {
                phase::pre::destination(&*self.host, &self.gate, &order, leaving, resolved, release, &mut steps).await
            }
        };
        match ready {
            Ok(relocations) => {
                if !relocations.is_empty() {
                    self.append(Entry::Relocated(relocations.clone()))?;
                }
                self.done(begun)?;
                Ok(relocations)
            }
            Err(fault) => Err(self.failed(fault)),
        }
    }

    async fn migrate(&mut self, relocations: &[Relocation]) -> Result<Statistics, CallError> {
        let state = self.journal.state();
        if let Some(statistics) = state.statistics() {
            return Ok(statistics);
        }
        if state.switched && state.outcome().is_none() {
            let order = state.order().clone();
            if self.host.sighting(order.instance).await.is_ok_and(|seen| seen == Sighting::Departing) {
                return self.resume(&order).await;
            }
        }
        let state = self.journal.state();
        self.refuse_if_over()?;
        if state.side() != Side::Source || !state.has_done(Phase::Pre) {
            return Err(self.out_of_order("the guest can move only from the source, after pre"));
        }
        let (order, resolved) = (state.order().clone(), state.resolved.clone());
        if !relocations.is_empty() && order.kind == Kind::Live {
            // For another process of this agent, if this one does not see the job's end.
            self.append(Entry::Relocated(relocations.to_vec()))?;
        }
        let begun = self.begin(Phase::Migrate)?;
        let host = Arc::clone(&self.host);
        let moved = match order.kind {
            Kind::Live => {
                let (reports, steering, remembers) = self.steering();
                let moving = phase::migrate::source(&*host, &order, &resolved, relocations, reports, steering);
                self.accompany(moving, remembers).await
            }
            Kind::Cold { .. } => {
                let progress = self.chronicle.on_progress(Arc::clone(&self.samples));
                let cancel = self.cancel.clone();
                let mut steps = Steps::new(&mut self.journal);
                let moving = phase::cold::source(&*host, &order, &resolved, relocations, &mut steps, progress, &cancel);
                moving.await
            }
        };
        let moved = self.measured(moved, begun);
        match moved {
            Ok(statistics) => Ok(statistics),
            Err(error) => {
                if order.kind.is_cold() {
                    self.bring_up_again(&error).await;
                }
                Err(error)
            }
        }
    }

    /// Ends the phase in which the guest moved, or did not.
    fn measured(&mut self, moved: Result<Statistics, Fault>, begun: Instant) -> Result<Statistics, CallError> {
        self.samples.send_modify(Samples::end);
        self.note_the_rest();
        if let Err(fault) = &moved
            && is_before_the_handover(fault.reason)
            && !self.journal.state().switched
        {
            self.append(Entry::Unmoved)?;
        }
        let statistics = moved.map_err(|fault| self.failed(fault))?;
        self.append(Entry::Measured(statistics))?;
        self.done(begun)?;
        Ok(statistics)
    }

    /// A guest that is off must not wait for its coordinator: nobody has been told that it moved, so nobody else starts it.
    async fn bring_up_again(&mut self, error: &CallError) {
        if let Err(error) = self.cleanup(self.own_rollback(error.clone().into())).await {
            warn!("{}: {error}", self.journal.state().order().instance_name);
        }
    }

    async fn start_guest(&mut self) -> Result<Duration, CallError> {
        let state = self.journal.state();
        if let Some(took) = state.took(Phase::Migrate) {
            return Ok(took);
        }
        self.refuse_if_over()?;
        let is_to_be_let_run = state.order().kind.shutdown().is_some() || state.order().is_strict();
        if state.side() != Side::Destination || !is_to_be_let_run || !state.has_done(Phase::Pre) {
            let why =
                "only the destination starts a guest, after pre, and only one that was shut down or arrives paused";
            return Err(self.out_of_order(why));
        }
        let order = state.order().clone();
        let begun = self.begin(Phase::Migrate)?;
        let started = match order.kind {
            Kind::Live => phase::handover::destination(&*self.host, &order).await,
            Kind::Cold { .. } => phase::cold::destination(&*self.host, &order).await,
        };
        match started {
            Ok(()) => {
                self.done(begun)?;
                Ok(begun.elapsed())
            }
            Err(fault) if fault.reason == Reason::StartFailed => Err(self.failed(fault)),
            // Whether it ran is not known: it is tried again by whoever asks next.
            Err(fault) => Err(self.call_error(fault)),
        }
    }

    async fn post(&mut self) -> Result<Finished, CallError> {
        let state = self.journal.state();
        match state.outcome() {
            Some(Outcome::Completed | Outcome::CompletedWithWarnings) => {
                let complaints = state.warnings().to_vec();
                self.unwind_again().await;
                return Ok(self.finished(complaints));
            }
            Some(_) => return Err(self.out_of_order("it was rolled back")),
            None => {}
        }
        let (order, side) = (state.order().clone(), state.side());
        let judged = phase::post::judge(&*self.host, state).await;
        judged.map_err(|fault| self.call_error(fault))?;
        let begun = self.begin(Phase::Post)?;
        let mut steps = Steps::new(&mut self.journal);
        let finished = match side {
            Side::Source => phase::post::source(&*self.host, &order, &mut steps).await,
            Side::Destination => phase::post::destination(&*self.host, &order, &mut steps).await,
        };
        // Not ended: what did not go through can be asked for again.
        let mut warnings = finished.map_err(|fault| self.call_error(fault))?;
        self.done(begun)?;
        if side == Side::Destination {
            let guest = self.look().await;
            self.note_guest(guest)?;
            // It ran here and was stopped or paused since, by its user or by itself: that is no longer the move's matter.
            if let Some(guest) = guest.filter(|guest| !order.is_at_rest(*guest)) {
                let (name, here) = (&order.instance_name, self.host.name());
                warnings.insert(0, format!("{name} arrived on {here} and does not run there any more ({guest})"));
            }
        }
        let outcome = if warnings.is_empty() { Outcome::Completed } else { Outcome::CompletedWithWarnings };
        self.end(outcome, &warnings)?;
        Ok(self.finished(warnings))
    }

    async fn cleanup(&mut self, Rollback { cause, released, kept, .. }: Rollback) -> Result<Finished, CallError> {
        let state = self.journal.state();
        let is_news = kept && !state.kept && state.side() == Side::Destination;
        match state.outcome() {
            Some(Outcome::FailedRolledBack | Outcome::AbortedRolledBack) => {
                if is_news && self.has_leftovers() {
                    self.append(Entry::Kept)?;
                }
                let complaints = self.unwind_again().await;
                return Ok(self.finished(complaints));
            }
            Some(_) => return Err(self.out_of_order("it was completed")),
            None => {}
        }
        let judged = phase::cleanup::judge(&*self.host, state, released, kept).await;
        let judged = judged.map_err(|fault| self.call_error(fault));
        if let Err(error) = &judged
            && error.reason == Reason::PhaseOutOfOrder
        {
            return judged.map(|()| Finished::default());
        }
        if self.unfinished() != Some(Phase::Cleanup) {
            self.append(Entry::Failed(cause))?;
        }
        if is_news {
            self.append(Entry::Kept)?;
        }
        let begun = self.begin(Phase::Cleanup)?;
        // Decided, and perhaps not to be done now: it will be tried again, from here.
        judged?;
        let state = self.journal.state();
        if (state.side(), state.order().kind) == (Side::Source, Kind::Live) && state.has_begun(Phase::Migrate) {
            let instance = state.order().instance;
            self.host.let_go_on(instance).await.map_err(|fault| self.call_error(fault))?;
        }
        let leftovers = Steps::new(&mut self.journal).unwind(&*self.host).await;
        self.done(begun)?;
        if self.journal.state().side() == Side::Source {
            let guest = self.look().await;
            // It may be started again by what is left to be taken back.
            let order = self.journal.state().order();
            let guest = guest.filter(|guest| leftovers.is_empty() || order.is_at_rest(*guest));
            self.note_guest(guest)?;
        }
        let outcome = self.journal.state().cause().map_or(Outcome::FailedRolledBack, rolled_back);
        self.end(outcome, &leftovers)?;
        Ok(self.finished(leftovers))
    }

    /// What is to be seen of the guest, which may have died meanwhile. That it cannot be seen is no reason not to end.
    async fn look(&self) -> Option<Sighting> {
        self.host.sighting(self.journal.state().order().instance).await.ok()
    }

    /// For whoever asks later, too.
    fn note_guest(&mut self, guest: Option<Sighting>) -> Result<(), CallError> {
        guest.filter(|_| guest != self.journal.state().guest()).map_or(Ok(()), |guest| self.append(Entry::Seen(guest)))
    }

    /// What is answered.
    fn finished(&self, complaints: Vec<String>) -> Finished {
        Finished { complaints, guest: self.journal.state().guest() }
    }

    /// One that is tried again goes on: its journal must not grow for as long as libvirt, say, is down.
    fn begin(&mut self, phase: Phase) -> Result<Instant, CallError> {
        if self.unfinished() == Some(phase) {
            return Ok(Instant::now());
        }
        info!(%phase, "{}: {phase} begins", self.journal.state().order().instance_name);
        self.append(Entry::Begun { phase, at: Timestamp::now() })?;
        Ok(Instant::now())
    }

    fn done(&mut self, begun: Instant) -> Result<(), CallError> {
        self.append(Entry::Done { took: begun.elapsed() })
    }

    fn end(&mut self, outcome: Outcome, warnings: &[String]) -> Result<(), CallError> {
        self.note_the_rest();
        for warning in warnings {
            warn!("{warning}");
            self.append(Entry::Warning(warning.clone()))?;
        }
        info!(%outcome, "{}: {outcome}", self.journal.state().order().instance_name);
        self.append(Entry::Ended { outcome, at: Timestamp::now() })
    }

    /// Remembers why it did not go through, so that a repeat hears the same.
    fn failed(&mut self, fault: Fault) -> CallError {
        warn!(reason = %fault.reason, "{}: {fault}", self.journal.state().order().instance_name);
        let error = self.call_error(fault);
        match self.append(Entry::Failed(error.clone().into())) {
            Ok(()) => error,
            Err(worse) => worse,
        }
    }

    fn append(&mut self, entry: Entry) -> Result<(), CallError> {
        let written = write(&mut self.journal, entry);
        self.publish();
        written.map_err(|fault| self.call_error(fault))
    }

    fn publish(&self) {
        self.gate.follow(self.journal.state());
        self.state.send_replace(self.journal.state().clone());
    }

    fn refuse_if_over(&self) -> Result<(), CallError> {
        let state = self.journal.state();
        match (state.cause(), state.outcome()) {
            (Some(cause), _) => {
                Err(CallError { host: cause.host.clone(), reason: cause.reason, message: cause.message.clone() })
            }
            (None, Some(outcome)) => Err(self.out_of_order(&format!("it has ended: {outcome}"))),
            (None, None) => Ok(()),
        }
    }

    fn out_of_order(&self, why: &str) -> CallError {
        let id = self.journal.state().order().id;
        self.call_error(Fault::new(Reason::PhaseOutOfOrder, format!("migration {id} cannot do that now: {why}")))
    }

    fn call_error(&self, Fault { reason, message }: Fault) -> CallError {
        CallError { host: self.host.name().clone(), reason, message }
    }
}
