//! One migration, top to bottom.
//!
//! ```text
//!   check ──▶ admit ──▶ pre ──▶ migrate ──▶ post                      Completed
//!     │ ▲        │       │         │ it failed: what do both hosts know?
//!     │ └─ waited┤       │         ├── forward ──▶ post               Completed
//!     │          │       │         ├── neither                        Failure::Held
//!     │          │       │         └── back ───────────┐
//!     │          │       └──────────────────────────── cleanup        Failure::RolledBack
//!     └──────────┴── nothing was changed                              Failure::Refused, NotStarted
//! ```
//!
//! In admit it waits until both hosts have a place for it (`flow/admit.rs`). What was checked before that is checked again.
//!
//! Of a cold migration the guest is shut down in migrate, and started on the destination at its end: from then on only the
//! destination can say whether it ever ran there, so that one is asked before the source may start it again (`flow/permission.rs`).
//! Of a live one both hosts say what they know, and one step is taken after another (`flow/decide.rs`). With a strict hand-over the guest
//! arrives paused, and the source's agent tells the destination's that it may run; what of that is lost is told here.
//!
//! The coordinator runs it. It keeps nothing: every call is idempotent by the order's id, so that another may carry
//! on with [`resolve`] wherever the first one stopped.

mod admit;
mod begin;
mod decide;
mod ended;
mod held;
mod permission;
mod planned;
mod runner;
mod standing;

use std::time::Duration;

use crate::{
    agent::{Agent, CallError, CheckReport, Finished, Leaving, Pair, Rollback, Sighting},
    compatibility::{Check, HANDOVER, handover_unknown},
    disk::Resolved,
    domain_xml::rewrite::Relocation,
    id::HostName,
    migration::{Cause, Kind, Order, Outcome, Phase, Progress, Side, Statistics},
    reason::Reason,
    turns::Waiting,
};
use admit::{Admitted, admit, keeping, withdraw};
use begin::{Begun, begun_by, pre};
pub use ended::ended;
pub use planned::{Planned, UnknownForm};
pub use runner::is_before_the_handover;
use runner::{Runner, runner};
use standing::{Standing, standing};

/// Sees the flow go on, and may ask it to stop. For people and for records; it decides nothing.
pub trait Watch: Sync {
    /// A phase begins.
    fn phase(&self, phase: Phase);
    /// What speaks against what the hosts are ready to do: refusals, if somebody insists on what was planned.
    fn objections(&self, _order: &Order, _plan: &Plan) -> Vec<Check> {
        Vec::new()
    }
    /// Both hosts have answered the checks, whatever they said.
    fn checked(&self, _plan: &Plan) {}
    /// It waits for its turn, and why. Told again whenever that changes, and every few seconds. Returns for how much longer it may wait; zero:
    /// it gives up.
    fn waiting(&self, _waiting: &Waiting) -> Duration {
        Duration::MAX
    }
    /// The job goes on.
    fn progress(&self, progress: Progress);
    /// A host has not answered for a while, and is asked again.
    fn unheard(&self, _why: &CallError) {}
    /// It has answered again.
    fn heard(&self, _host: &HostName) {}
    /// Whether the user wants it to end now. Asked before each phase up to `migrate`; while that one runs, the
    /// agent's `Abort` call ends it.
    fn is_cancelled(&self) -> bool;
}

/// What the checks of both hosts said.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The instance, as the source shows it.
    pub leaving: Leaving,
    /// Every rule, of both hosts, with its outcome.
    pub checks: Vec<Check>,
    /// How each disk gets to the destination.
    pub resolved: Vec<Resolved>,
}

impl Plan {
    /// Whether a rule refuses the move.
    pub fn is_refused(&self) -> bool {
        self.checks.iter().any(|check| check.refusal().is_some())
    }
}

/// The guest has moved to the destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// What the job measured, unless its answer was lost.
    pub statistics: Option<Statistics>,
    /// What the destination saw of the guest at the end: one that died since it arrived is off. `None`: it could not be asked.
    pub guest: Option<Sighting>,
    /// What needs a look.
    pub warnings: Vec<String>,
}

impl Completed {
    /// The outcome it is.
    pub fn outcome(&self) -> Outcome {
        if self.warnings.is_empty() { Outcome::Completed } else { Outcome::CompletedWithWarnings }
    }
}

/// The guest does not run on the destination, or it cannot be told.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// A call failed before anything was changed.
    NotStarted(CallError),
    /// The checks refuse the move; nothing was changed.
    Refused(Box<Plan>),
    /// The guest is on the source, as before unless it died there.
    RolledBack {
        /// Why it did not go through.
        cause: Cause,
        /// What the source saw of the guest at the end. `None`: it could not be asked.
        guest: Option<Sighting>,
        /// What could not be taken back yet.
        leftovers: Vec<String>,
    },
    /// The guest is not running, or where it runs cannot be told yet.
    Held {
        /// What the hosts' facts say.
        reason: Reason,
        /// One sentence.
        message: String,
        /// What made the flow look.
        cause: Cause,
    },
}

impl Failure {
    /// The outcome it is; `None` if no migration came about.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::NotStarted(_) | Self::Refused(_) => None,
            Self::RolledBack { cause, .. } => Some(rolled_back(cause)),
            Self::Held { .. } => Some(Outcome::Held),
        }
    }
}

/// The outcome of a migration that `cause` ended on the source.
pub fn rolled_back(cause: &Cause) -> Outcome {
    match cause.reason {
        Reason::MigrationAborted => Outcome::AbortedRolledBack,
        _ => Outcome::FailedRolledBack,
    }
}

/// Moves one instance.
pub async fn run<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    // Leaves nothing behind. Both hosts report every refusal they have, not the first.
    let mut plan = fit(hosts, order, watch).await?;
    // A host may have changed meanwhile.
    while admit(hosts, order, watch).await.map_err(Failure::NotStarted)? == Admitted::AfterWaiting {
        plan = match keeping(hosts, order, fit(hosts, order, watch)).await {
            Ok(plan) => plan,
            Err(failure) => {
                withdraw(hosts, order).await;
                return Err(failure);
            }
        };
    }

    let relocations = match pre(hosts, order, &plan, watch).await {
        Ok(relocations) => relocations,
        Err(error) => match begun_by(hosts, order, &error).await {
            Begun::ByUs => return cleanup(hosts, order, error.into(), watch).await,
            Begun::Otherwise => {
                withdraw(hosts, order).await;
                return Err(Failure::NotStarted(error));
            }
            // Its turns are this one's, too.
            Begun::BySomebodyElse => return Err(Failure::NotStarted(error)),
        },
    };
    let moved = migrate(hosts, order, &relocations, watch).await;
    settle(hosts, order, moved, watch).await
}

/// Brings a migration to its end that another coordinator left behind.
///
/// Before the job was started it rolls back; a job that runs is waited for; after it, only the rest is done. What was
/// decided stays decided, even if the guest has gone elsewhere since.
pub async fn resolve<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    if order.kind == Kind::Live {
        return decide::resolve(hosts, order, watch).await;
    }
    let source = hosts.source.record(order).await;
    let destination = hosts.destination.record(order).await;
    match standing(order, source, destination, watch.is_cancelled()) {
        Standing::Completed(statistics) => finish(hosts, order, statistics, watch).await,
        Standing::RolledBack(cause) => cleanup(hosts, order, cause, watch).await,
        Standing::Moving => {
            // The job runs: what it was told at its begin stands.
            let moved = migrate(hosts, order, &[], watch).await;
            settle(hosts, order, moved, watch).await
        }
        Standing::Undecided(error) => settle(hosts, order, Err(error), watch).await,
    }
}

/// What the checks said, if they let it go.
async fn fit<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, watch: &impl Watch) -> Result<Plan, Failure> {
    let plan = check(hosts, order, watch).await.map_err(Failure::NotStarted)?;
    if plan.is_refused() { Err(Failure::Refused(Box::new(plan))) } else { Ok(plan) }
}

/// Asks both hosts. The destination is asked even if the source refuses, so that one run tells all.
pub async fn check<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    watch: &impl Watch,
) -> Result<Plan, CallError> {
    watch.phase(Phase::Check);
    let asked = ask_both(hosts, order).await;
    // Whatever they said, nobody needs the probe files any more. An agent that does not hear this removes them by
    // itself, so that a failure here is nobody's.
    _ = hosts.source.end_check(order).await;
    let mut plan = asked?;
    let objections = watch.objections(order, &plan);
    plan.checks.extend(objections);
    watch.checked(&plan);
    Ok(plan)
}

async fn ask_both<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order) -> Result<Plan, CallError> {
    let source = hosts.source.check(order, Side::Source, None).await?;
    let Some(leaving) = source.leaving else {
        return Err(CallError {
            host: hosts.source.host().clone(),
            reason: Reason::Internal,
            message: format!("{} checked {} without describing it", hosts.source.host(), order.instance_name),
        });
    };
    let mut plan = Plan { leaving, checks: source.checks, resolved: Vec::new() };
    if order.source.host != order.destination.host {
        let CheckReport { checks, resolved, .. } =
            hosts.destination.check(order, Side::Destination, Some(&plan.leaving)).await?;
        plan.checks.extend(checks);
        plan.resolved = resolved;
    }
    plan.checks.extend(not_strict(order, &plan.checks));
    Ok(plan)
}

/// A repeated call joins the job that runs, or returns what it returned.
async fn migrate<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    relocations: &[Relocation],
    watch: &impl Watch,
) -> Result<Statistics, CallError> {
    watch.phase(Phase::Migrate);
    let mut moved = hosts.source.migrate(order, relocations, &|progress| watch.progress(progress)).await?;
    if order.kind.shutdown().is_some() {
        moved.downtime += hosts.destination.start(order).await?;
    }
    Ok(moved)
}

/// Takes a migration from where the job was left to its one outcome.
async fn settle<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    moved: Result<Statistics, CallError>,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    match moved {
        // Point of no return: the guest runs on the destination. Only forward.
        Ok(statistics) if order.kind == Kind::Live => {
            let asked = CallError {
                host: order.source.host.clone(),
                reason: Reason::CoordinatorLost,
                message: "its move could not be made final".into(),
            };
            decide::complete(hosts, order, asked.into(), Some(statistics), watch).await
        }
        Ok(statistics) => finish(hosts, order, Some(statistics), watch).await,
        // The error does not say where the guest runs. The hosts do.
        Err(error) if order.kind == Kind::Live => decide::decide(hosts, order, error.into(), None, watch).await,
        Err(error) => match locate(hosts, order).await {
            Runner::Source => cleanup(hosts, order, error.into(), watch).await,
            // The answer was lost, the move was not.
            Runner::Destination => finish(hosts, order, None, watch).await,
            Runner::Unknown { reason, message } => Err(Failure::Held { reason, message, cause: error.into() }),
        },
    }
}

/// Of a cold migration: the guest is on the destination.
async fn finish<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    statistics: Option<Statistics>,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    match post(hosts, order, statistics, watch).await {
        Ok(completed) => Ok(completed),
        Err(refusal) => Err(contradicted(hosts, order, refusal).await),
    }
}

/// The destination first: the source's lock is the last to go, so that no second migration meets the first. An error is what a host refused.
async fn post<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    statistics: Option<Statistics>,
    watch: &impl Watch,
) -> Result<Completed, CallError> {
    watch.phase(Phase::Post);
    let mut is_final = false;
    let (mut guest, mut warnings) = (None, Vec::new());
    for side in [Side::Destination, Side::Source] {
        let finished = match side {
            Side::Destination => hosts.destination.post(order, side).await,
            // The source's is the only other copy of a guest that is off, or was.
            Side::Source if order.kind.is_cold() && !is_final => {
                let (source, id) = (&order.source.host, order.id);
                warnings.push(format!("{source} keeps its copy until then: vmferry migrations resolve {id}"));
                break;
            }
            Side::Source => hosts.source.post(order, side).await,
        };
        is_final = finished.is_ok();
        if side == Side::Destination {
            guest = seen(&hosts.destination, order, &finished).await;
        }
        match finished {
            Ok(finished) => warnings.extend(finished.complaints),
            Err(error) if error.reason == Reason::PhaseOutOfOrder => return Err(error),
            Err(error) => warnings.push(format!("{}: {error}", error.host)),
        }
    }
    Ok(Completed { statistics, guest, warnings })
}

/// What the host that has the guest sees of it. Agents of earlier versions do not say so as they finish, and are asked.
async fn seen<A: Agent>(host: &A, order: &Order, finished: &Result<Finished, CallError>) -> Option<Sighting> {
    match finished {
        Ok(Finished { guest: Some(seen), .. }) => Some(*seen),
        Err(error) if error.is_silence() => None,
        Ok(Finished { guest: None, .. }) | Err(_) => host.locate(order).await.ok(),
    }
}

/// The source first: once its half has ended it starts no job any more, whoever asks. Completed only if it turns out to be.
async fn cleanup<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: Cause,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    if order.kind == Kind::Live {
        return match decide::go_back(hosts, order, &cause, false, watch).await {
            Ok(taken_back) => Err(taken_back),
            // The guest has moved meanwhile: the hosts say where it is.
            Err(_) => decide::decide(hosts, order, cause, None, watch).await,
        };
    }
    watch.phase(Phase::Cleanup);
    let rollback = |side| Rollback { side, cause: cause.clone(), released: false, kept: false };
    let is_too_late = |half: &Result<_, CallError>| {
        half.as_ref().is_err_and(|error: &CallError| error.reason == Reason::PhaseOutOfOrder)
    };
    let source = hosts.source.cleanup(order, &rollback(Side::Source)).await;
    if is_too_late(&source) {
        return permission::ask_back(hosts, order, cause, watch).await;
    }
    let destination = hosts.destination.cleanup(order, &rollback(Side::Destination)).await;
    if is_too_late(&destination) {
        return permission::ask_back(hosts, order, cause, watch).await;
    }
    permission::confirm(hosts, order, &cause, &source).await?;
    Err(taken_back(hosts, order, cause, [source, destination]).await)
}

/// What it comes to when the source's half and the destination's have been taken back, as far as that went.
async fn taken_back<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: Cause,
    halves: [Result<Finished, CallError>; 2],
) -> Failure {
    let guest = seen(&hosts.source, order, &halves[0]).await;
    let mut leftovers = Vec::new();
    for half in halves {
        match half {
            Ok(finished) => leftovers.extend(finished.complaints),
            // It never heard of the migration: there is nothing to take back.
            Err(error) if error.reason == Reason::MigrationNotFound => {}
            Err(error) => leftovers.push(format!("{}: {error}", error.host)),
        }
    }
    Failure::RolledBack { cause, guest, leftovers }
}

/// A host refused to end its half as the flow believed it must: nothing is changed until the facts are clear.
async fn contradicted<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, error: CallError) -> Failure {
    let (reason, message) = match locate(hosts, order).await {
        Runner::Unknown { reason, message } => (reason, message),
        Runner::Source | Runner::Destination => (Reason::RunnerUnknown, error.message.clone()),
    };
    Failure::Held { reason, message, cause: error.into() }
}

/// Whose agent does not know the strict hand-over: it takes part in none of its rules, and would not say so.
fn not_strict(order: &Order, checks: &[Check]) -> Vec<Check> {
    let endpoints = [&order.source.host, &order.destination.host];
    let is_silent = |host: &&HostName| !checks.iter().any(|check| check.host == **host && check.subject == HANDOVER);
    let silent = endpoints.into_iter().filter(|_| order.is_strict()).filter(is_silent);
    silent.map(|host| Check::refused(host, HANDOVER, handover_unknown(host, &order.instance_name))).collect()
}

fn go_on(order: &Order, watch: &impl Watch) -> Result<(), CallError> {
    if watch.is_cancelled() { Err(aborted(order)) } else { Ok(()) }
}

fn aborted(order: &Order) -> CallError {
    CallError {
        host: order.source.host.clone(),
        reason: Reason::MigrationAborted,
        message: "aborted by the user before the guest began to move".into(),
    }
}

async fn locate<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order) -> Runner {
    let source = hosts.source.locate(order).await;
    let destination = hosts.destination.locate(order).await;
    runner(order, &source, &destination)
}

#[cfg(test)]
pub(crate) mod tests;
