//! cleanup: the guest runs on the source; this host takes back what it did. That is [`Steps::unwind`]; here is only
//! whether it may be done.
//!
//! [`Steps::unwind`]: super::Steps::unwind

use vmferry_core::{
    agent::Sighting,
    migration::{Kind, Phase, Side},
    reason::Reason,
    resolution::{Domain, Job},
};

use crate::{
    hypervisor::{Fault, Hypervisor},
    journal::State,
};

/// Whether this host's half may be taken back. A refusal has changed nothing.
///
/// `released`: the destination of a cold migration, or of a strict hand-over, has taken its half back, so that its copy never runs. `kept`:
/// the source has.
pub async fn judge(host: &impl Hypervisor, state: &State, released: bool, kept: bool) -> Result<(), Fault> {
    let order = state.order();
    if may_be_moving(state) && host.seen(order.instance).await?.job == Job::Outgoing {
        // Nobody attends it any more. It may still come to its end.
        host.await_job_end(order.instance).await?;
    }
    let moved = match state.side() {
        // From the switch to postcopy on the guest runs there, whatever has become of it since.
        Side::Source if state.switched => true,
        Side::Source if order.is_strict() => !released && is_given_away(host, state).await?,
        Side::Source if order.kind.is_cold() => state.statistics().is_some() && !released,
        Side::Source => state.statistics().is_some() || has_left(host, state, released).await?,
        // I1: once the guest has run here its copy here is the guest, whatever the caller believes. A cold one may have run
        // and stopped since.
        Side::Destination if order.kind.shutdown().is_some() => {
            let seen = host.sighting(order.instance).await?;
            let never_ran = state.cause().is_some_and(|cause| cause.reason == Reason::StartFailed);
            let may_have_run = state.has_begun(Phase::Migrate) && !never_ran;
            may_have_run || matches!(seen, Sighting::Running | Sighting::Paused)
        }
        // Told to let it run, this host may have. Until then its copy goes if the source keeps the guest.
        Side::Destination if order.is_strict() => match host.sighting(order.instance).await? {
            Sighting::Running | Sighting::Incomplete => true,
            Sighting::Paused => state.has_begun(Phase::Migrate) || !(kept || state.kept),
            Sighting::Absent | Sighting::Shutoff | Sighting::Arriving | Sighting::Departing => {
                state.has_done(Phase::Migrate)
            }
        },
        Side::Destination => {
            matches!(host.sighting(order.instance).await?, Sighting::Running | Sighting::Incomplete)
        }
    };
    if !moved {
        return Ok(());
    }
    let message = format!("{} has moved to {}; that cannot be taken back", order.instance_name, order.destination.host);
    Err(Fault::new(Reason::PhaseOutOfOrder, message))
}

/// Whether libvirt's job may still go on.
fn may_be_moving(state: &State) -> bool {
    let is_known = state.statistics().is_some() || state.switched || state.released || state.unmoved;
    state.side() == Side::Source && state.order().kind == Kind::Live && state.has_begun(Phase::Migrate) && !is_known
}

/// Whether libvirt has handed the guest over, and nobody was there to hear it: its agent was restarted meanwhile, or lost its libvirt. One that
/// was stopped for it and left so may run on the destination, unless that has given up its copy.
async fn has_left(host: &impl Hypervisor, state: &State, given_up: bool) -> Result<bool, Fault> {
    if state.unmoved || !state.has_begun(Phase::Migrate) {
        return Ok(false);
    }
    Ok(match host.seen(state.order().instance).await?.domain {
        Domain::Absent => true,
        Domain::PausedToMove => !given_up,
        _ => false,
    })
}

/// Whether the source of a strict hand-over has let go of the guest, or is about to: its copy was there when the job began, and is not any
/// more.
async fn is_given_away(host: &impl Hypervisor, state: &State) -> Result<bool, Fault> {
    if state.statistics().is_some() || state.released {
        return Ok(true);
    }
    // One that went off by itself before it was stopped is nowhere else.
    if state.unmoved || !state.has_begun(Phase::Migrate) {
        return Ok(false);
    }
    Ok(matches!(host.sighting(state.order().instance).await?, Sighting::Absent | Sighting::Shutoff))
}
