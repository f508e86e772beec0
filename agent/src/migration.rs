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
mod job;
mod recovery;
mod samples;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};
use vmferry_core::{
    agent::{CallError, Half, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    flow::rolled_back,
    migration::{Cause, Deed, Kind, Outcome, Phase, Side, Statistics, Steering},
    reason::Reason,
};

use self::chronicle::{Chronicle, Teller};
pub use self::samples::Samples;
use crate::{
    hypervisor::{Fault, Helm, Hypervisor, SteeringError},
    journal::{Entry, Journal, State},
    phase::{self, Steps, write},
};

/// How often that is tried again which was decided and could not be done: a post, a cleanup, leftovers.
const AGAIN: Duration = Duration::from_secs(10);

type Reply<T> = oneshot::Sender<Result<T, CallError>>;

enum Command {
    Pre(Half, Reply<Vec<Relocation>>),
    Migrate(Vec<Relocation>, Reply<Statistics>),
    Start(Reply<Duration>),
    Post(Reply<Vec<String>>),
    Cleanup(Cause, Released, Reply<Vec<String>>),
}

/// Whether the destination of a cold migration has taken its half back.
type Released = bool;

/// A handle on the task.
#[derive(Debug, Clone)]
pub struct Migration {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    samples: watch::Receiver<Samples>,
    helm: Helm,
    cancel: CancellationToken,
    teller: Teller,
}

impl Migration {
    /// Starts the task on a new journal. `usual` is what was sent per second in former migrations to the same host.
    pub fn start<H: Hypervisor>(host: Arc<H>, journal: Journal, usual: Option<ByteSize>) -> Self {
        Self::spawn(host, journal, usual, Origin::New)
    }

    /// Starts the task on a journal that another process of this agent left behind.
    pub fn take_up<H: Hypervisor>(host: Arc<H>, journal: Journal) -> Self {
        Self::spawn(host, journal, None, Origin::LeftBehind)
    }

    fn spawn<H: Hypervisor>(host: Arc<H>, journal: Journal, usual: Option<ByteSize>, origin: Origin) -> Self {
        let (commands, receiver) = mpsc::channel(16);
        let (state_sender, state) = watch::channel(journal.state().clone());
        let (samples_sender, samples) = watch::channel(Samples::default());
        let cancel = CancellationToken::new();
        let helm = Helm::default();
        let chronicle = Chronicle::new(usual);
        let teller = chronicle.teller();
        let order = journal.state().order();
        let span =
            info_span!("migration", id = %order.id, instance = order.instance_name, side = %journal.state().side());
        let task = Task {
            host,
            journal,
            state: state_sender,
            samples: Arc::new(samples_sender),
            helm: helm.clone(),
            cancel: cancel.clone(),
            chronicle,
        };
        tokio::spawn(task.run(receiver, origin).instrument(span));
        Self { commands, state, samples, helm, cancel, teller }
    }

    /// Gets this host ready. The destination returns which disks the guest finds elsewhere there.
    pub async fn pre(&self, half: &Half) -> Result<Vec<Relocation>, CallError> {
        self.ask(|reply| Command::Pre(half.clone(), reply)).await
    }

    /// Moves the guest, whose disks are where `relocations` say.
    pub async fn migrate(&self, relocations: Vec<Relocation>) -> Result<Statistics, CallError> {
        self.ask(|reply| Command::Migrate(relocations, reply)).await
    }

    /// Destination of a cold migration: starts the guest. Returns how long it took.
    pub async fn start_guest(&self) -> Result<Duration, CallError> {
        self.ask(Command::Start).await
    }

    /// Makes the move final.
    pub async fn post(&self) -> Result<Vec<String>, CallError> {
        self.ask(Command::Post).await
    }

    /// Takes everything back.
    pub async fn cleanup(&self, Rollback { cause, released, .. }: Rollback) -> Result<Vec<String>, CallError> {
        self.ask(|reply| Command::Cleanup(cause, released, reply)).await
    }

    /// Asks the running job, or the one to come, to end. Returns at once. `by` is the identity of who wants it.
    pub fn abort(&self, by: &str) -> Result<(), Fault> {
        let state = self.state.borrow();
        if state.statistics().is_some() || state.switched || state.has_begun(Phase::Post) {
            let order = state.order();
            let message =
                format!("{} is already on {}; the move cannot be aborted", order.instance_name, order.destination.host);
            return Err(Fault::new(Reason::TooLateToAbort, message));
        }
        if !self.cancel.is_cancelled() && state.outcome().is_none() {
            self.teller.by_hand(by, Deed::Abort);
        }
        self.cancel.cancel();
        Ok(())
    }

    /// Tells the running job something else than its order says. Returns once libvirt has taken it. `by` is the identity of who wants it.
    pub async fn steer(&self, steering: Steering, by: &str) -> Result<(), Fault> {
        let told = self.helm.steer(steering).await;
        told.inspect(|()| self.teller.by_hand(by, Deed::Told(steering))).map_err(|error| {
            let state = self.state.borrow();
            let (name, to) = (&state.order().instance_name, &state.order().destination.host);
            let nothing = |message| Fault::new(Reason::NothingToSteer, message);
            let too_late = || nothing(format!("the move of {name} to {to} is over, or about to be"));
            let too_early = || nothing(format!("no memory of {name} is sent to {to} yet; say it again once it is"));
            let is_over = state.statistics().is_some() || state.cause().is_some() || state.outcome().is_some();
            match error {
                SteeringError::NoJob if is_over => too_late(),
                SteeringError::NoJob | SteeringError::TooEarly => too_early(),
                SteeringError::TooLate => too_late(),
                SteeringError::PolicyEnded => {
                    nothing(format!("the policy of the move of {name} has taken its last step"))
                }
                SteeringError::NotAllowed => nothing(format!(
                    "the move of {name} was begun with a policy that does not allow postcopy; begin it with --postcopy, or \
                     stop the guest instead (--how suspend)"
                )),
                SteeringError::Way(error) => {
                    nothing(format!("{name} is not switched to postcopy while the way to {to} is not good: {error}"))
                }
                SteeringError::Libvirt(error) => error.into(),
            }
        })
    }

    /// What the journal says now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What the journal says, whenever it changes.
    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The running job's samples, whenever there is one more.
    pub fn watch_samples(&self) -> watch::Receiver<Samples> {
        self.samples.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        // The task ends only with the process, or by a fault of ours.
        if self.commands.send(command(reply)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        let order = self.state.borrow().order().clone();
        Err(CallError {
            host: order.source.host,
            reason: Reason::Internal,
            message: format!("the task of migration {} is gone; the agent's log says why", order.id),
        })
    }
}

enum Origin {
    New,
    LeftBehind,
}

struct Task<H> {
    host: Arc<H>,
    journal: Journal,
    state: watch::Sender<State>,
    samples: Arc<watch::Sender<Samples>>,
    helm: Helm,
    cancel: CancellationToken,
    chronicle: Chronicle,
}

impl<H: Hypervisor> Task<H> {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, origin: Origin) {
        if let Origin::LeftBehind = origin {
            self.recover().await;
        }
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
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
                Some(Command::Cleanup(cause, released, reply)) => {
                    _ = reply.send(self.cleanup(cause, released).await);
                }
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
        let mut steps = Steps::new(&mut self.journal);
        let ready = match half {
            Half::Source { resolved } => {
                phase::pre::source(&*self.host, &order, resolved, &mut steps).await.map(|()| Vec::new())
            }
            Half::Destination { leaving, resolved } => {
                phase::pre::destination(&*self.host, &order, leaving, resolved, &mut steps).await
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
        let statistics = moved.map_err(|fault| self.failed(fault))?;
        self.append(Entry::Measured(statistics))?;
        self.done(begun)?;
        Ok(statistics)
    }

    /// A guest that is off must not wait for its coordinator: nobody has been told that it moved, so nobody else starts it.
    async fn bring_up_again(&mut self, error: &CallError) {
        if let Err(error) = self.cleanup(error.clone().into(), false).await {
            warn!("{}: {error}", self.journal.state().order().instance_name);
        }
    }

    async fn start_guest(&mut self) -> Result<Duration, CallError> {
        let state = self.journal.state();
        if let Some(took) = state.took(Phase::Migrate) {
            return Ok(took);
        }
        self.refuse_if_over()?;
        let may_run_here = state.side() == Side::Destination && state.order().kind.shutdown().is_some();
        if !may_run_here || !state.has_done(Phase::Pre) {
            return Err(self.out_of_order("only the destination of a guest that was shut down starts it, after pre"));
        }
        let order = state.order().clone();
        let begun = self.begin(Phase::Migrate)?;
        match phase::cold::destination(&*self.host, &order).await {
            Ok(()) => {
                self.done(begun)?;
                Ok(begun.elapsed())
            }
            Err(fault) if fault.reason == Reason::StartFailed => Err(self.failed(fault)),
            // Whether it ran is not known: it is tried again by whoever asks next.
            Err(fault) => Err(self.call_error(fault)),
        }
    }

    async fn post(&mut self) -> Result<Vec<String>, CallError> {
        let state = self.journal.state();
        match state.outcome() {
            Some(Outcome::Completed | Outcome::CompletedWithWarnings) => {
                let warnings = state.warnings().to_vec();
                self.unwind_again().await;
                return Ok(warnings);
            }
            Some(_) => return Err(self.out_of_order("it was rolled back")),
            None => {}
        }
        let (order, side) = (state.order().clone(), state.side());
        let judged = phase::post::judge(&*self.host, &order, side).await;
        let mut warnings = judged.map_err(|fault| self.call_error(fault))?;
        let begun = self.begin(Phase::Post)?;
        let mut steps = Steps::new(&mut self.journal);
        let finished = match side {
            Side::Source => phase::post::source(&*self.host, &order, &mut steps).await,
            Side::Destination => phase::post::destination(&*self.host, &order, &mut steps).await,
        };
        // Not ended: what did not go through can be asked for again.
        warnings.extend(finished.map_err(|fault| self.call_error(fault))?);
        self.done(begun)?;
        let outcome = if warnings.is_empty() { Outcome::Completed } else { Outcome::CompletedWithWarnings };
        self.end(outcome, &warnings)?;
        Ok(warnings)
    }

    async fn cleanup(&mut self, cause: Cause, released: Released) -> Result<Vec<String>, CallError> {
        let state = self.journal.state();
        match state.outcome() {
            Some(Outcome::FailedRolledBack | Outcome::AbortedRolledBack) => return Ok(self.unwind_again().await),
            Some(_) => return Err(self.out_of_order("it was completed")),
            None => {}
        }
        let judged = phase::cleanup::judge(&*self.host, state, released).await.map_err(|fault| self.call_error(fault));
        if let Err(error) = &judged
            && error.reason == Reason::PhaseOutOfOrder
        {
            return judged.map(|()| Vec::new());
        }
        self.append(Entry::Failed(cause))?;
        let begun = self.begin(Phase::Cleanup)?;
        // Decided, and perhaps not to be done now: it will be tried again, from here.
        judged?;
        let leftovers = Steps::new(&mut self.journal).unwind(&*self.host).await;
        self.done(begun)?;
        let outcome = self.journal.state().cause().map_or(Outcome::FailedRolledBack, rolled_back);
        self.end(outcome, &leftovers)?;
        Ok(leftovers)
    }

    fn begin(&mut self, phase: Phase) -> Result<Instant, CallError> {
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
