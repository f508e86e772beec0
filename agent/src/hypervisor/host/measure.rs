//! What a forecast goes by.

use vmferry_core::{convergence::Measured, migration::Order, reason::Reason};

use super::LibvirtHost;
use crate::{hypervisor::Fault, libvirt::MemoryLoad};

impl LibvirtHost {
    /// What the guest writes to, and what the way to its destination carries: one after the other, so that neither is seen in the
    /// other. What was sent before the journals have.
    pub async fn measure(&self, order: &Order) -> Result<Measured, Fault> {
        let memory = self.domain(order).await?.definition.memory;
        let path = self.listeners.probe(&order.destination, order.limits.streams).await.map_err(|error| {
            let message = format!(
                "how much the way from {} to {} carries is not known: {error}",
                self.name, order.destination.host
            );
            Fault::new(Reason::TunnelFailed, message)
        })?;
        let MemoryLoad { resident, dirty_rate } = self.libvirt.memory_load(order.instance).await?;
        Ok(Measured { memory, resident: resident.min(memory), dirty_rate, path, usual: None })
    }
}
