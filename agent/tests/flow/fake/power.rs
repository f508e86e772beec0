//! A guest that is shut down, moved while it is off, and started.

use vmferry_agent::hypervisor::{Fault, Power};
use vmferry_core::{
    agent::Sighting, domain_xml::rewrite::Relocation, id::InstanceId, migration::Order, reason::Reason,
};

use super::{disks, host::Fake};

impl Power for Fake {
    async fn autostart(&self, _: InstanceId) -> Result<bool, Fault> {
        self.step("asking for autostart", || self.world.facts().autostart[self.name]).await
    }

    async fn set_autostart(&self, _: InstanceId, autostart: bool) -> Result<(), Fault> {
        self.assert_journaled("restore_autostart");
        let change = || _ = self.world.facts().autostart.insert(self.name, autostart);
        self.step("changing autostart", change).await
    }

    async fn ask_to_shut_down(&self, _: InstanceId) -> Result<(), Fault> {
        self.assert_journaled("start_again");
        self.step("shutting down", || self.world.set(self.name, Some((Sighting::Shutoff, true)))).await
    }

    async fn power_off(&self, _: InstanceId) -> Result<(), Fault> {
        panic!("it does what it is asked to")
    }

    async fn rename(&self, _: InstanceId, name: &str) -> Result<(), Fault> {
        self.assert_journaled("restore_name");
        assert_eq!(self.world.sees(self.name), Sighting::Shutoff, "libvirt renames no guest that runs");
        self.step("renaming", || self.world.facts().name = name.to_owned()).await
    }

    async fn move_definition(&self, order: &Order, relocations: &[Relocation]) -> Result<(), Fault> {
        assert_eq!(relocations, disks::relocations(), "what the destination said in its pre");
        assert!(self.world.facts().complete.contains(&order.id), "its disks are there before it");
        assert_ne!(self.world.facts().name, order.instance_name, "nobody starts it here by mistake");
        self.step("moving the definition", || self.world.set("destination", Some((Sighting::Shutoff, true)))).await
    }

    async fn start(&self, _: InstanceId) -> Result<(), Fault> {
        let start = || {
            let is_there = self.world.sees(self.name) != Sighting::Absent;
            if is_there {
                self.world.set(self.name, Some((Sighting::Running, true)));
            }
            is_there
        };
        match self.step("starting", start).await? {
            true => Ok(()),
            false => Err(Fault::new(Reason::LibvirtFailed, "there is no such domain")),
        }
    }
}
