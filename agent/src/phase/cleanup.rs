//! cleanup: the guest runs on the source; this host takes back what it did. That is [`Steps::unwind`]; here is only
//! whether it may be done.
//!
//! [`Steps::unwind`]: super::Steps::unwind

use vmferry_core::{
    agent::Sighting,
    migration::{Phase, Side},
    reason::Reason,
};

use crate::{
    hypervisor::{Fault, Hypervisor},
    journal::State,
};

/// Whether this host's half may be taken back. A refusal has changed nothing.
///
/// `released`: the destination of a cold migration has taken its half back, so that its copy never runs.
pub async fn judge(host: &impl Hypervisor, state: &State, released: bool) -> Result<(), Fault> {
    let order = state.order();
    let moved = match state.side() {
        // From the switch to postcopy on the guest runs there, whatever has become of it since.
        Side::Source if state.switched => true,
        Side::Source => state.statistics().is_some() && !(order.kind.is_cold() && released),
        // I1: once the guest has run here its copy here is the guest, whatever the caller believes. A cold one may have run
        // and stopped since.
        Side::Destination if order.kind.shutdown().is_some() => {
            let seen = host.sighting(order.instance).await?;
            let never_ran = state.cause().is_some_and(|cause| cause.reason == Reason::StartFailed);
            let may_have_run = state.has_begun(Phase::Migrate) && !never_ran;
            may_have_run || matches!(seen, Sighting::Running | Sighting::Paused)
        }
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
