//! cleanup: the guest runs on the source; this host takes back what it did. That is [`Steps::unwind`]; here is only
//! whether it may be done.
//!
//! [`Steps::unwind`]: super::Steps::unwind

use vmferry_core::{agent::Sighting, migration::Side, reason::Reason};

use crate::{
    hypervisor::{Fault, Hypervisor},
    journal::State,
};

/// Whether this host's half may be taken back. A refusal has changed nothing.
pub async fn judge(host: &impl Hypervisor, state: &State) -> Result<(), Fault> {
    let order = state.order();
    let moved = match state.side() {
        Side::Source => state.statistics().is_some(),
        // I1: once the guest has run here its copy here is the guest, whatever the caller believes.
        Side::Destination => host.sighting(order.instance).await? == Sighting::Running,
    };
    if !moved {
        return Ok(());
    }
    let message = format!("{} has moved to {}; that cannot be taken back", order.instance_name, order.destination.host);
    Err(Fault::new(Reason::PhaseOutOfOrder, message))
}
