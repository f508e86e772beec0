//! This host and its domains, as people see them.

use futures::future::join_all;
use jiff::Timestamp;
use vmferry_core::{
    agent::Sighting,
    compatibility::version_text,
    host::{Claims, Cordon, Host, HostPolicy, host_policies},
    instance::Instance,
};

use super::{LibvirtHost, room::memory};
use crate::{
    hypervisor::{Fault, Reporting, instance_of},
    libvirt::DomainReading,
};

impl Reporting for LibvirtHost {
    fn policies(&self) -> Vec<HostPolicy> {
        host_policies(&self.policies)
    }

    async fn facts(
        &self,
        zone: &str,
        claims: &Claims,
        cordon: Option<Cordon>,
        migrations_active: u32,
        certificate_expires: Timestamp,
    ) -> Result<Host, Fault> {
        let (reading, domains) = futures::try_join!(self.libvirt.host(), self.libvirt.domains())?;
        let active =
            domains.iter().filter(|domain| matches!(domain.sighting, Sighting::Running | Sighting::Incomplete)).count();
        let (room, space) = self.room(reading.capabilities.clone(), &domains, claims).await?;
        Ok(Host {
            name: self.name.clone(),
            zone: zone.to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            libvirt_version: version_text(reading.libvirt_version),
            qemu_version: version_text(reading.qemu_version),
            architecture: reading.capabilities.architecture,
            cpu_model: reading.capabilities.cpu_model,
            cpus: reading.cpus,
            memory_total: memory()?.total,
            memory_available: space.memory_available,
            instances_active: u32::try_from(active).unwrap_or(u32::MAX),
            instances_total: u32::try_from(domains.len()).unwrap_or(u32::MAX),
            migrations_active,
            certificate_expires,
            cordon,
            room: Some(room),
            answered: Some(Timestamp::now()),
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>, Fault> {
        let domains = self.libvirt.domains().await?;
        Ok(join_all(domains.into_iter().map(|domain| self.sized_instance_of(domain))).await)
    }

    async fn instance(&self, name_or_id: &str) -> Result<Option<Instance>, Fault> {
        match self.libvirt.domain(name_or_id).await? {
            Some(domain) => Ok(Some(self.sized_instance_of(domain).await)),
            None => Ok(None),
        }
    }
}

impl LibvirtHost {
    async fn sized_instance_of(&self, domain: DomainReading) -> Instance {
        let runs = domain.sighting != Sighting::Shutoff;
        let mut instance = instance_of(self.name.clone(), domain);
        let mut volumes: Vec<_> =
            instance.disks.iter_mut().filter_map(|disk| Some((&disk.target, disk.volume.as_mut()?))).collect();
        if runs && !volumes.is_empty() {
            let targets = volumes.iter().map(|(target, _)| (*target).clone()).collect();
            for (target, size) in self.libvirt.sizes(instance.id, targets).await {
                volumes
                    .iter_mut()
                    .filter(|(other, _)| **other == target)
                    .for_each(|(_, volume)| volume.size = Some(size));
            }
        }
        instance
    }
}
