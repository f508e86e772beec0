//! What a simulated host says of itself and its guests.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::time::sleep;
use vmferry_agent::{
    hypervisor::{Examining, Fault, Grouping, Housing, Hypervisor as _, Measuring, Reporting, files, instance_of},
    libvirt::DomainReading,
    tunnel,
};
use vmferry_core::{
    agent::Sighting,
    compatibility::version_text,
    host::{Claims, Cordon, Host, HostPolicy, Offers, Resident, Room, Space, host_policies},
    instance::{Instance, InstanceState},
    leftovers::{Fix, Holdings, Needs},
    migration::Order,
    policy::{GroupReport, Memberships, Told},
    reason::Reason,
};

use super::{ARCHITECTURE, BRIDGE, CPU_MODEL, LIBVIRT, QEMU, SimulatedHost, not_simulated};
use crate::guests::Guest;

/// For how long a guest is looked at, as with libvirt.
const LOOK: Duration = Duration::from_secs(1);

/// A guest as libvirt would show it.
pub(super) fn reading(sighting: Sighting, guest: &Guest) -> DomainReading {
    let definition = guest.definition.clone();
    // Until it runs here it must not be seen running twice.
    let state = if sighting == Sighting::Running { InstanceState::Active } else { InstanceState::Paused };
    DomainReading {
        id: definition.id,
        name: definition.name.clone(),
        state,
        sighting,
        persistent: sighting == Sighting::Running,
        snapshots: 0,
        job: None,
        crosses: sighting == Sighting::Arriving,
        definition,
    }
}

impl SimulatedHost {
    fn readings(&self) -> Result<Vec<DomainReading>, Fault> {
        let guests = self.guests.all().map_err(|error| self.unreadable(&error))?;
        Ok(guests.iter().map(|(sighting, guest)| reading(*sighting, guest)).collect())
    }

    fn space_among(&self, domains: &[DomainReading], claims: &Claims) -> Space {
        let residents: Vec<_> =
            domains.iter().map(|domain| Resident::new(domain.id, domain.sighting, &domain.definition)).collect();
        let running = residents.iter().filter(|resident| resident.sighting == Sighting::Running);
        let used: u64 = running.map(|resident| resident.memory.as_u64()).sum();
        let cpus = self.hardware.cpus;
        let space = Space {
            capacity: self.capacity.of(self.hardware.memory, cpus as usize),
            memory_available: ByteSize::b(self.hardware.memory.as_u64().saturating_sub(used)),
            cpus: (0..cpus).collect(),
            ..Space::default()
        };
        space.after(&residents, claims)
    }
}

impl Housing for SimulatedHost {
    async fn space(&self, claims: &Claims) -> Result<Space, Fault> {
        Ok(self.space_among(&self.readings()?, claims))
    }
}

impl Reporting for SimulatedHost {
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
        let domains = self.readings()?;
        let space = self.space_among(&domains, claims);
        let active = domains.iter().filter(|domain| domain.sighting == Sighting::Running).count();
        let offers = Offers {
            machines: self.capabilities().machines.into(),
            cpu_models: [CPU_MODEL.to_owned()].into_iter().collect::<std::collections::BTreeSet<_>>().into(),
            bridges: [BRIDGE.to_owned()].into(),
            cpus: space.cpus.clone(),
            groups: space.group_sizes(),
            ..Offers::default()
        };
        Ok(Host {
            name: self.name.clone(),
            zone: zone.to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            libvirt_version: version_text(LIBVIRT),
            qemu_version: version_text(QEMU),
            architecture: ARCHITECTURE.to_owned(),
            cpu_model: CPU_MODEL.to_owned(),
            cpus: self.hardware.cpus,
            memory_total: self.hardware.memory,
            memory_available: space.memory_available,
            instances_active: u32::try_from(active).unwrap_or(u32::MAX),
            instances_total: u32::try_from(domains.len()).unwrap_or(u32::MAX),
            migrations_active,
            certificate_expires,
            cordon,
            room: Some(Room { capacity: space.capacity, taken: space.taken, offers }),
            answered: Some(Timestamp::now()),
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>, Fault> {
        Ok(self.readings()?.into_iter().map(|domain| instance_of(self.name.clone(), domain)).collect())
    }

    async fn instance(&self, name_or_id: &str) -> Result<Option<Instance>, Fault> {
        let is_meant = |domain: &DomainReading| domain.name == name_or_id || domain.id.to_string() == name_or_id;
        Ok(self.readings()?.into_iter().find(is_meant).map(|domain| instance_of(self.name.clone(), domain)))
    }
}

impl Measuring for SimulatedHost {
    async fn memory(&self, order: &Order) -> Result<(ByteSize, ByteSize), Fault> {
        let memory = self.guest(order.instance)?.definition.memory;
        Ok((memory, memory))
    }

    async fn path(&self, _: &Order) -> Result<ByteSize, Fault> {
        Ok(self.hardware.bandwidth)
    }

    async fn dirty_rate(&self, order: &Order) -> Result<ByteSize, Fault> {
        let rate = self.guest(order.instance)?.file.dirty_rate;
        sleep(LOOK).await;
        Ok(rate)
    }
}

impl Grouping for SimulatedHost {
    async fn groups(&self) -> Result<GroupReport, Fault> {
        let here = self.readings()?.into_iter().map(|domain| domain.id).collect();
        Ok(GroupReport { host: self.name.clone(), here, own: Memberships::new(), told: Told::default() })
    }

    async fn tell_groups(&self, _: Told) -> Result<(), Fault> {
        Err(not_simulated("a security group"))
    }
}

impl Examining for SimulatedHost {
    async fn holdings(&self) -> Result<Holdings, Fault> {
        let directories = files::within_limit(tunnel::directories).await.map_err(|error| {
            Fault::new(Reason::Internal, format!("{} of {}: {error}", tunnel::DIRECTORY, self.name))
        })?;
        Ok(Holdings { directories, ..Holdings::default() })
    }

    async fn debris(&self) -> Result<Holdings, Fault> {
        self.holdings().await
    }

    async fn remove(&self, fix: &Fix) -> Result<(), Fault> {
        match fix {
            Fix::RemoveDirectory { migration } => self.remove_sockets(*migration).await,
            _ => Err(not_simulated("what is to be removed")),
        }
    }

    async fn needs(&self) -> Result<Needs, Fault> {
        Ok(Needs::default())
    }
}
