//! What a host does for a guest that may be switched to postcopy.

use std::{fs, sync::Arc};

use futures::future::BoxFuture;
use vmferry_core::{
    compatibility::Postcopy,
    disk::{Sharing, Transfer},
    migration::Order,
};

use super::LibvirtHost;
use crate::{
    hypervisor::Fault,
    libvirt::{JobOrder, Lifeline, Standing, Way},
    tunnel::{self, Listeners},
};

/// Whether processes without privileges, as QEMU is one, may take page faults of their own.
const PAGE_FAULTS: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// What this host can do of it.
pub(super) fn able(libvirt_version: u64) -> Postcopy {
    // A kernel that does not know the setting lets everybody.
    let takes_page_faults = fs::read_to_string(PAGE_FAULTS).map_or(true, |setting| setting.trim() != "0");
    Postcopy { libvirt_version, takes_page_faults }
}

impl LibvirtHost {
    /// The job, as it is without disks that are copied, and with the definition that the guest has here.
    pub(super) async fn ordered(&self, order: &Order) -> Result<JobOrder, Fault> {
        Ok(JobOrder {
            instance: order.instance,
            libvirt_socket: tunnel::libvirt_socket(order.id),
            way: self.way(order).await?,
            transfer: Transfer { sharing: Sharing::Unneeded, copied: Vec::new() },
            memory: self.domain(order).await?.definition.memory,
            definitions: None,
            limits: order.limits.clone(),
            paused: order.is_strict(),
        })
    }

    /// The job, as far as it matters once it runs. What is not known any more, because the guest has just gone, nobody asks for.
    pub(super) async fn joined(&self, order: &Order) -> JobOrder {
        JobOrder {
            instance: order.instance,
            libvirt_socket: tunnel::libvirt_socket(order.id),
            way: Way::Tunnel {
                memory_socket: tunnel::memory_socket(order.id),
                disk_socket: tunnel::disk_socket(order.id),
            },
            transfer: Transfer { sharing: Sharing::Unneeded, copied: Vec::new() },
            memory: self.domain(order).await.map(|domain| domain.definition.memory).unwrap_or_default(),
            definitions: None,
            limits: order.limits.clone(),
            paused: order.is_strict(),
        }
    }

    /// The way to the destination.
    pub(super) fn lifeline(&self, order: &Order) -> Arc<dyn Lifeline> {
        Arc::new(ToDestination { listeners: Arc::clone(&self.listeners), order: order.clone() })
    }
}

struct ToDestination {
    listeners: Arc<Listeners>,
    order: Order,
}

impl Lifeline for ToDestination {
    fn is_there(&self) -> BoxFuture<'_, Result<(), String>> {
        // Over a new connection, and whether it will take the rest over new ones.
        Box::pin(async {
            match self.listeners.standing(&self.order).await? {
                Standing::Incomplete => Ok(()),
                Standing::Complete | Standing::Gone | Standing::Unknown => {
                    Err(format!("{} does not await the guest", self.order.destination.host))
                }
            }
        })
    }

    fn carries_memory(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.listeners.carries_memory(self.order.id))
    }

    fn standing(&self) -> BoxFuture<'_, Result<Standing, String>> {
        Box::pin(self.listeners.standing(&self.order))
    }

    fn renew(&self) -> BoxFuture<'_, Result<Standing, String>> {
        Box::pin(self.listeners.renew(&self.order))
    }
}
