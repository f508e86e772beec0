//! What others hold of a migration's task.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span};
use vmferry_core::{
    agent::{CallError, Finished, Half, Rollback},
    domain_xml::rewrite::Relocation,
    migration::{Cause, Deed, Phase, Side, Statistics, Steering},
    reason::Reason,
    turns::Open,
};

use super::{Chronicle, Command, Origin, Reply, Samples, Task, Teller, lease::Heard};
use crate::{
    gate::Gate,
    hypervisor::{Fault, Helm, Hypervisor, SteeringError},
    journal::{Journal, Lessor, State},
};

/// A handle on the task.
#[derive(Debug, Clone)]
pub struct Migration {
    commands: mpsc::Sender<Command>,
    pub(super) state: watch::Receiver<State>,
    samples: watch::Receiver<Samples>,
    helm: Helm,
    cancel: CancellationToken,
    teller: Teller,
    pub(super) lessor: Lessor,
    pub(super) heard: Arc<Heard>,
}

impl Migration {
    /// Starts the task on a new journal. `usual` is what was sent per second in former migrations to the same host.
    pub fn start<H: Hypervisor>(host: Arc<H>, gate: Arc<Gate>, journal: Journal, usual: Option<ByteSize>) -> Self {
        Self::spawn(host, gate, journal, usual, Origin::New)
    }

    /// Starts the task on a journal that another process of this agent left behind.
    pub fn take_up<H: Hypervisor>(host: Arc<H>, gate: Arc<Gate>, journal: Journal) -> Self {
        Self::spawn(host, gate, journal, None, Origin::LeftBehind)
    }

    fn spawn<H: Hypervisor>(
        host: Arc<H>,
        gate: Arc<Gate>,
        journal: Journal,
        usual: Option<ByteSize>,
        origin: Origin,
    ) -> Self {
        gate.follow(journal.state());
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
        let lessor = journal.lessor();
        let task = Task {
            host,
            gate,
            journal,
            state: state_sender,
            samples: Arc::new(samples_sender),
            helm: helm.clone(),
            cancel: cancel.clone(),
            chronicle,
            itself: commands.downgrade(),
        };
        tokio::spawn(task.run(receiver, origin).instrument(span));
        Self { commands, state, samples, helm, cancel, teller, lessor, heard: Arc::new(Heard::now()) }
    }

    /// Gets this host ready. The destination returns which disks the guest finds elsewhere there.
    pub async fn pre(&self, half: &Half) -> Result<Vec<Relocation>, CallError> {
        self.ask(|reply| Command::Pre(half.clone(), reply)).await
    }

    /// Moves the guest, whose disks are where `relocations` say.
    pub async fn migrate(&self, relocations: Vec<Relocation>) -> Result<Statistics, CallError> {
        self.ask(|reply| Command::Migrate(relocations, reply)).await
    }

    /// Destination of a cold migration, or of a strict hand-over: lets the guest run. Returns how long it took.
    pub async fn start_guest(&self) -> Result<Duration, CallError> {
        self.ask(Command::Start).await
    }

    /// Makes the move final.
    pub async fn post(&self) -> Result<Finished, CallError> {
        self.ask(Command::Post).await
    }

    /// Takes everything back.
    pub async fn cleanup(&self, rollback: Rollback) -> Result<Finished, CallError> {
        self.ask(|reply| Command::Cleanup(rollback, reply)).await
    }

    /// Destination whose source does not answer: ends its half if this host alone can tell how, and leaves it as it is if not.
    pub async fn forsake(&self, cause: Cause) -> Result<Finished, CallError> {
        self.ask(|reply| Command::Forsake(cause, reply)).await
    }

    /// Asks the running job, or the one to come, to end. Returns at once. `by` is the identity of who wants it.
    pub fn abort(&self, by: &str) -> Result<(), Fault> {
        let state = self.state.borrow();
        if state.statistics().is_some() || state.switched || state.released || state.has_begun(Phase::Post) {
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

    /// When it began and which it is, if it plays this half here and its outcome is not decided yet.
    pub fn under_way(&self, side: Side) -> Option<(Timestamp, Open)> {
        let state = self.state.borrow();
        (state.side() == side && state.outcome().is_none()).then(|| {
            let order = state.order();
            (state.started(), Open { id: order.id, instance_name: order.instance_name.clone() })
        })
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
