//! How a live migration goes on of which nobody has said how its job ended, or that somebody else has left: both hosts are asked what they know,
//! [`resolve`] says where it goes, one step is taken there, and both are asked again.
//!
//! Cold migrations have their own order (`flow/standing.rs`, `flow/permission.rs`).

use std::time::Duration;

use super::{Completed, Failure, Watch, held, migrate, post, settle, standing, taken_back};
use crate::{
    agent::{Agent, CallError, Pair, Rollback},
    migration::{Cause, Order, Outcome, Phase, Record, Side, Statistics},
    reason::Reason,
    resolution::{
        DestinationFacts, DestinationMark, End, GuestCopy, Handover, Hold, Job, Resolution, SourceFacts, SourceMark,
        Step, Word, resolve as resolution,
    },
};

/// How many steps are taken until it is enough: more than any order of them needs.
const STEPS: usize = 12;
/// How often the hosts are asked while libvirt has not decided, and how long the source may hold back an answer that is as before.
const WAITS: usize = 30;
const HOLD: Duration = Duration::from_secs(1);

/// What the two hosts said, at nearly one time.
pub(super) struct Told {
    pub(super) source: Result<SourceFacts, CallError>,
    pub(super) destination: Result<DestinationFacts, CallError>,
}

impl Told {
    /// The source first: what is true there is the older of the two.
    async fn by<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, hold: Duration) -> Self {
        let source = hosts.source.source_facts(order, hold).await;
        Self { source, destination: hosts.destination.destination_facts(order, Duration::ZERO).await }
    }

    fn source(&self) -> Word<SourceFacts> {
        self.source.as_ref().map_or(Word::Silent, |facts| Word::Told(*facts))
    }

    fn destination(&self) -> Word<DestinationFacts> {
        self.destination.as_ref().map_or(Word::Silent, |facts| Word::Told(*facts))
    }

    /// What the source has of the guest.
    pub(super) fn ours(&self) -> Option<GuestCopy> {
        self.source().told().map(|here| here.seen.copy())
    }

    /// What the destination has.
    pub(super) fn theirs(&self) -> Option<GuestCopy> {
        self.destination().told().map(|there| there.seen.copy())
    }

    /// Whether the source keeps its copy for good.
    fn is_kept(&self) -> bool {
        self.source().told().is_some_and(|here| here.mark.is(End::Back))
    }

    /// Whether the destination never runs its own.
    fn is_given_up(&self) -> bool {
        self.destination().told().is_some_and(|there| there.mark.is(End::Back))
    }

    /// Whether libvirt's job goes on.
    fn is_moving(&self) -> bool {
        self.source().told().is_some_and(|here| here.seen.job == Job::Outgoing)
    }
}

/// One that somebody else has begun.
pub(super) async fn resolve<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    let source = hosts.source.record(order).await;
    let destination = hosts.destination.record(order).await;
    if let Ok(Some(record)) = &source
        && matches!(record.outcome, None | Some(Outcome::Held))
        && record.phase() == Phase::Migrate
    {
        // The job may run: what it was told at its begin stands.
        let moved = migrate(hosts, order, &[], watch).await;
        return settle(hosts, order, moved, watch).await;
    }
    let (cause, statistics) = known(order, source, destination.ok().flatten(), watch.is_cancelled());
    decide(hosts, order, cause, statistics, watch).await
}

/// Why it would not have gone through, and what its job measured.
fn known(
    order: &Order,
    source: Result<Option<Record>, CallError>,
    destination: Option<Record>,
    cancelled: bool,
) -> (Cause, Option<Statistics>) {
    match source {
        Ok(source) => {
            let cause = standing::cause(order, source.as_ref(), destination.as_ref(), cancelled).into();
            (cause, source.and_then(|record| record.statistics))
        }
        Err(error) => (error.into(), None),
    }
}

/// Step by step, to its end or until the facts allow none. `cause` is what made somebody ask.
pub(super) async fn decide<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: Cause,
    statistics: Option<Statistics>,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    let (mut steps, mut waits, mut refusals, mut is_joined) = (0, 0, 0, false);
    // The last word of a host that did not do what the facts said it may.
    let mut refusal: Option<CallError> = None;
    loop {
        // Who is refused once looks again at once; who is refused again comes too early.
        let hold = if waits == 0 && refusals < 2 { Duration::ZERO } else { HOLD };
        let told = Box::pin(Told::by(hosts, order, hold)).await;
        let mut resolved = resolution(Handover::of(order), told.source(), told.destination());
        if resolved == Resolution::Wait {
            // Silence has been waited out already.
            waits += if told.source.is_ok() && told.destination.is_ok() { 1 } else { WAITS / 3 };
            if told.is_moving() && cause.reason.is_silence() && !is_joined {
                is_joined = true;
                // It was not the job that ended, but its answer that was lost.
                if let Ok(moved) = Box::pin(migrate(hosts, order, &[], watch)).await {
                    return Box::pin(complete(hosts, order, cause, Some(moved), watch)).await;
                }
                continue;
            }
            if waits <= WAITS {
                continue;
            }
            resolved = undecided(&told);
        } else {
            steps += 1;
        }
        if steps > STEPS {
            return Err(held::refused(order, refusal.as_ref(), cause));
        }
        let refused = match resolved {
            Resolution::Wait => return Err(held::waiting(order, cause)),
            Resolution::Held(hold) => return Err(held::held(order, hold, &told, refusal.as_ref(), cause)),
            Resolution::Forward(Step::Post(_)) | Resolution::Settled(End::Forward) => {
                match Box::pin(post(hosts, order, statistics, watch)).await {
                    Ok(completed) => return Ok(completed),
                    Err(refused) => refused,
                }
            }
            Resolution::Forward(Step::Release | Step::Resume) => match Box::pin(start(hosts, order, &told)).await {
                Ok(()) => continue,
                Err(Unstarted::Gone(error)) => error,
                Err(Unstarted::Unheard(error)) => return Err(held::unheard(order, &error, cause)),
                Err(Unstarted::Held(hold)) => return Err(held::held(order, hold, &told, refusal.as_ref(), cause)),
            },
            Resolution::Back(Step::Cleanup(Side::Source)) | Resolution::Settled(End::Back) => {
                match Box::pin(go_back(hosts, order, &cause, told.is_given_up(), watch)).await {
                    Ok(taken_back) => return Err(taken_back),
                    Err(refused) => refused,
                }
            }
            Resolution::Back(Step::Cleanup(Side::Destination)) if told.is_kept() => {
                match Box::pin(go_back(hosts, order, &cause, false, watch)).await {
                    Ok(taken_back) => return Err(taken_back),
                    Err(refused) => refused,
                }
            }
            Resolution::Back(Step::Cleanup(Side::Destination)) => {
                watch.phase(Phase::Cleanup);
                match give_up(hosts, order, &cause).await {
                    Ok(()) => continue,
                    // It has forgotten what has ended long ago, or never heard of it: there is nothing that it could let run.
                    Err(error)
                        if error.reason == Reason::MigrationNotFound && told.theirs() == Some(GuestCopy::None) =>
                    {
                        match Box::pin(go_back(hosts, order, &cause, true, watch)).await {
                            Ok(taken_back) => return Err(taken_back),
                            Err(refused) => refused,
                        }
                    }
                    Err(error) => error,
                }
            }
            // The destination's agent does so by itself, when it is sure that its source is not heard.
            Resolution::Forward(_) | Resolution::Back(_) => {
                return Err(held::held(order, Hold::SourceSilent, &told, refusal.as_ref(), cause));
            }
        };
        refusals += 1;
        refusal = Some(refused);
    }
}

/// libvirt decides nothing for too long. A job that nobody attends any more is ended by the source, which judges anew then.
fn undecided(told: &Told) -> Resolution {
    match told.source().told() {
        Some(here) if here.mark == SourceMark::Moving && told.ours() == Some(GuestCopy::Runs) => {
            Resolution::Back(Step::Cleanup(Side::Source))
        }
        _ => Resolution::Wait,
    }
}

/// The job has said that the guest is on the destination.
pub(super) async fn complete<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: Cause,
    statistics: Option<Statistics>,
    watch: &impl Watch,
) -> Result<Completed, Failure> {
    match post(hosts, order, statistics, watch).await {
        Ok(completed) => Ok(completed),
        Err(refusal) => {
            let told = Told::by(hosts, order, Duration::ZERO).await;
            Err(match resolution(Handover::of(order), told.source(), told.destination()) {
                Resolution::Held(hold) => held::held(order, hold, &told, Some(&refusal), cause),
                _ => held::refused(order, Some(&refusal), cause),
            })
        }
    }
}

/// Why a guest that may run on the destination was not let run there.
enum Unstarted {
    /// There is none that could.
    Gone(CallError),
    /// It was told to let it run.
    Unheard(CallError),
    Held(Hold),
}

/// The source has no copy any more that could run: the one that has arrived may. Whether it has been journaled there or not, the source
/// takes nothing back once its copy is gone.
async fn start<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, told: &Told) -> Result<(), Unstarted> {
    let is_released = told.source().told().is_some_and(|here| here.mark == SourceMark::Released);
    let is_resuming = told.destination().told().is_some_and(|there| there.mark == DestinationMark::Resuming);
    let is_gone = matches!(told.ours(), Some(GuestCopy::None | GuestCopy::Off));
    if !order.is_strict() {
        return Err(Unstarted::Held(Hold::RunsNowhere));
    }
    if !(is_released || is_resuming || is_gone) {
        return Err(Unstarted::Held(Hold::Unreleased));
    }
    match hosts.destination.start(order).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason == Reason::StartFailed => Err(Unstarted::Gone(error)),
        Err(error) => Err(Unstarted::Unheard(error)),
    }
}

/// The destination alone, before the source: it says whether its copy may have run.
async fn give_up<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, cause: &Cause) -> Result<(), CallError> {
    let rollback = Rollback { side: Side::Destination, cause: cause.clone(), released: false, kept: false };
    hosts.destination.cleanup(order, &rollback).await.map(drop)
}

/// The source first: once its half has ended it starts no job any more and releases nothing, whoever asks. An error is what a host refused.
pub(super) async fn go_back<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    cause: &Cause,
    released: bool,
    watch: &impl Watch,
) -> Result<Failure, CallError> {
    watch.phase(Phase::Cleanup);
    let is_refused = |error: &CallError| error.reason == Reason::PhaseOutOfOrder;
    let rollback = |side, kept| Rollback { side, cause: cause.clone(), released, kept };
    let source = hosts.source.cleanup(order, &rollback(Side::Source, false)).await;
    if let Err(refusal) = &source
        && is_refused(refusal)
    {
        // It may have let go of the guest: the destination says whether that can run there, and the source takes its half back after that.
        if order.is_strict()
            && !released
            && let Err(other) = give_up(hosts, order, cause).await
        {
            return Err(other);
        }
        return Err(refusal.clone());
    }
    let destination = hosts.destination.cleanup(order, &rollback(Side::Destination, source.is_ok())).await;
    match &destination {
        Err(refusal) if is_refused(refusal) => Err(refusal.clone()),
        _ => Ok(taken_back(hosts, order, cause.clone(), [source, destination]).await),
    }
}
