//! Guests that are off: steps on them, and what libvirt does not say of their disks.

use std::path::Path;

use vmferry_core::{
    domain_xml::{Definition, DiskDefinition, Layer, rewrite::Relocation},
    id::InstanceId,
    instance::DiskSource,
    migration::Order,
    reason::Reason,
};

use super::LibvirtHost;
use crate::{
    hypervisor::{Fault, Power},
    libvirt::{DefinitionOrder, Error},
    storage::{image, with_causes},
    tunnel,
};

impl Power for LibvirtHost {
    async fn autostart(&self, instance: InstanceId) -> Result<bool, Fault> {
        Ok(self.libvirt.autostart(instance).await?)
    }

    async fn set_autostart(&self, instance: InstanceId, autostart: bool) -> Result<(), Fault> {
        Ok(self.libvirt.set_autostart(instance, autostart).await?)
    }

    async fn ask_to_shut_down(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.ask_to_shut_down(instance).await?)
    }

    async fn power_off(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.power_off(instance).await?)
    }

    async fn rename(&self, instance: InstanceId, name: &str) -> Result<(), Fault> {
        Ok(self.libvirt.rename(instance, name.to_owned()).await?)
    }

    async fn move_definition(&self, order: &Order, relocations: &[Relocation]) -> Result<(), Fault> {
        let definition = self.relocated(order, relocations).await?.map(|definitions| definitions.persistent);
        let job = DefinitionOrder {
            instance: order.instance,
            name: order.instance_name.clone(),
            libvirt_socket: tunnel::libvirt_socket(order.id),
            memory_socket: tunnel::memory_socket(order.id),
            definition,
        };
        self.libvirt.move_definition(job).await.map_err(|error| {
            let (name, to) = (&order.instance_name, &order.destination.host);
            let message = format!("{name} could not be defined on {to}: {}", with_causes(&error));
            Fault::new(Reason::MigrationFailed, message)
        })
    }

    async fn start(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.start(instance).await?)
    }
}

impl LibvirtHost {
    /// As it will be when it is started again. `None` if it is gone.
    pub(super) async fn definition_when_off(&self, order: &Order) -> Result<Option<Definition>, Fault> {
        let xml = match self.libvirt.persistent_migratable_xml(order.instance).await {
            Ok(xml) => xml,
            Err(Error::NoDomain { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut definition = Definition::parse(&xml).map_err(|error| {
            Fault::new(Reason::LibvirtFailed, format!("libvirt's definition of {}: {error}", order.instance_name))
        })?;
        find_backing(&mut definition.disks).await;
        Ok(Some(definition))
    }
}

/// Adds the images below each disk's own, which libvirt looks for only when it starts the guest. It reads them from the images,
/// as is done here; what cannot be read is left for the look at the files to tell.
pub(super) async fn find_backing(disks: &mut [DiskDefinition]) {
    for disk in disks.iter_mut().filter(|disk| disk.backing.is_empty()) {
        let DiskSource::File { path } = &disk.disk.source else { continue };
        let (chain, _) = image::chain(Path::new(path), &disk.format).await;
        disk.backing = chain.into_iter().map(|(name, format)| Layer { source: named(name), format }).collect();
    }
}

/// What an image names as the one below it: a file, or something that only QEMU opens.
fn named(name: String) -> DiskSource {
    if name.starts_with('/') { DiskSource::File { path: name } } else { DiskSource::Other { kind: name } }
}
