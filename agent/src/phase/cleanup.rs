//! cleanup: the guest runs on the source; this host takes back what it did.

use vmferry_core::{
    agent::Sighting,
    migration::{Order, Side},
    reason::Reason,
};

use super::Steps;
use crate::hypervisor::{Fault, Hypervisor};

/// Either half. Returns what could not be taken back.
pub async fn undo(
    host: &impl Hypervisor,
    order: &Order,
    side: Side,
    steps: &mut Steps<'_>,
) -> Result<Vec<String>, Fault> {
    // I1: once the guest has run here its copy here is the guest, whatever the caller believes.
    if side == Side::Destination && host.sighting(order.instance).await? == Sighting::Running {
        return Err(Fault::new(
            Reason::PhaseOutOfOrder,
            format!("{} runs on {}; its move cannot be taken back", order.instance_name, host.name()),
        ));
    }
    Ok(steps.unwind(host).await)
}
