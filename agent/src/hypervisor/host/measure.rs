//! What a forecast goes by.

use bytesize::ByteSize;
use vmferry_core::{migration::Order, reason::Reason};

use super::LibvirtHost;
use crate::hypervisor::{Fault, Measuring};

impl Measuring for LibvirtHost {
    async fn memory(&self, order: &Order) -> Result<(ByteSize, ByteSize), Fault> {
        let memory = self.domain(order).await?.definition.memory;
        Ok((memory, self.libvirt.resident(order.instance).await?))
    }

    async fn path(&self, order: &Order) -> Result<ByteSize, Fault> {
        self.listeners.probe(&order.destination, order.limits.streams).await.map_err(|error| {
            let message = format!(
                "how much the way from {} to {} carries is not known: {error}",
                self.name, order.destination.host
            );
            Fault::new(Reason::TunnelFailed, message)
        })
    }

    async fn dirty_rate(&self, order: &Order) -> Result<ByteSize, Fault> {
        Ok(self.libvirt.dirty_rate(order.instance).await?)
    }
}
