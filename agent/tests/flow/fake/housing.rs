//! What a host has left: its capacity is a value that tests change.

use std::{collections::BTreeSet, time::Duration};

use bytesize::ByteSize;
use tokio::time::sleep;
use vmferry_agent::hypervisor::{Fault, Housing};
use vmferry_core::host::{Capacity, Claims, Resident, Space};

use super::{disks, host::Fake};

pub(super) const PLENTY: Capacity =
    Capacity { memory: ByteSize::gib(4), vcpus: 64, instances: None, incoming: 4, outgoing: 4 };

impl Housing for Fake {
    async fn space(&self, claims: &Claims) -> Result<Space, Fault> {
        let id = disks::INSTANCE.parse().expect("valid");
        let (memory, groups) = (ByteSize::mib(256), BTreeSet::new());
        let name = "web".to_owned();
        let web = Resident { id, name, sighting: self.world.sees(self.name), memory, vcpus: 1, groups };
        let capacity = self.world.facts().capacity;
        let space = Space { capacity, memory_available: ByteSize::gib(4), ..Space::default() }.after(&[web], claims);
        // Somebody else may look meanwhile, unless the agent sees to it that nobody does.
        sleep(Duration::from_millis(1)).await;
        self.step("looking at what is left", || space).await
    }
}
