//! What a forecast goes by.

use bytesize::ByteSize;
use vmferry_core::{convergence::Measured, migration::Order, reason::Reason};

use super::LibvirtHost;
use crate::hypervisor::{Fault, Measuring};

impl LibvirtHost {
    /// What the guest writes to, and what the way to its destination carries: one after the other, so that neither is seen in the
    /// other. What was sent before the journals have.
    pub async fn measure(&self, order: &Order) -> Result<Measured, Fault> {
        let path = self.listeners.probe(&order.destination, order.limits.streams).await.map_err(|error| {
            let message = format!(
                "how much the way from {} to {} carries is not known: {error}",
                self.name, order.destination.host
            );
            Fault::new(Reason::TunnelFailed, message)
        })?;
        let dirty_rate = self.dirty_rate(order).await?;
        let (memory, resident) = self.memory(order).await?;
        Ok(Measured { memory, resident: resident.min(memory), dirty_rate, path, usual: None })
    }
}

impl Measuring for LibvirtHost {
    async fn memory(&self, order: &Order) -> Result<(ByteSize, ByteSize), Fault> {
        let memory = self.domain(order).await?.definition.memory;
        Ok((memory, self.libvirt.resident(order.instance).await?))
    }

    async fn dirty_rate(&self, order: &Order) -> Result<ByteSize, Fault> {
        Ok(self.libvirt.dirty_rate(order.instance).await?)
    }
}
