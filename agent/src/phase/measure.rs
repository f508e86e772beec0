//! measure: what a forecast goes by. No phase of a migration; changes nothing.

use vmferry_core::{convergence::Measured, migration::Order};

use crate::hypervisor::{Fault, Hypervisor};

/// What the guest writes to, and what the way to its destination carries: one after the other, so that neither is seen in the
/// other. What was sent before the journals have.
pub async fn source(host: &impl Hypervisor, order: &Order) -> Result<Measured, Fault> {
    let path = host.path(order).await?;
    let dirty_rate = host.dirty_rate(order).await?;
    let (memory, resident) = host.memory(order).await?;
    Ok(Measured { memory, resident: resident.min(memory), dirty_rate, path, usual: None })
}
