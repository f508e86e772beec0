//! A simulated host at the edge.

mod absent;
mod disks;
mod handover;
mod shown;

use std::{fs, io, sync::Arc};

use bytesize::ByteSize;
use nix::unistd::getgid;
use vmferry_agent::{
    config::{Capacity, Config},
    hypervisor::{Control, Fault, Hypervisor, OnRelease, instance_of},
    tunnel::{self, Grants, Listeners},
};
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{DestinationFacts, SourceFacts, VifSight},
    convergence::Policy,
    disk::Transfer,
    domain_xml::{Definition, HostCapabilities, rewrite::Relocation},
    host::Space,
    id::{HostName, InstanceId, MigrationId},
    instance::InstanceState,
    migration::{Kind, Limits, Order, Statistics},
    policy::Told,
    reason::Reason,
    resolution::{self, Domain, Seen},
};

use crate::{
    guests::{Guest, Guests},
    job::Job,
};

const QEMU: u64 = 7_002_000;
const LIBVIRT: u64 = 9_000_000;
const ARCHITECTURE: &str = "x86_64";
const CPU_MODEL: &str = "EPYC";
const BRIDGE: &str = "br0";

/// What a simulated host has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    pub(crate) memory: ByteSize,
    pub(crate) cpus: u32,
    /// Per second.
    pub(crate) bandwidth: ByteSize,
}

/// A simulated host.
#[derive(Debug)]
pub(crate) struct SimulatedHost {
    name: HostName,
    capacity: Capacity,
    policies: Vec<Policy>,
    hardware: Hardware,
    guests: Arc<Guests>,
    listeners: Listeners,
    grants: Arc<Grants>,
}

impl SimulatedHost {
    pub(crate) fn new(
        config: &Config,
        hardware: Hardware,
        guests: Arc<Guests>,
        listeners: Listeners,
        grants: Arc<Grants>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            capacity: config.capacity,
            policies: config.policies.clone(),
            hardware,
            guests,
            listeners,
            grants,
        }
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        Fault::new(Reason::LibvirtFailed, format!("the guests of {} cannot be read: {error}", self.name))
    }

    fn guest(&self, id: InstanceId) -> Result<Arc<Guest>, Fault> {
        self.guests.running(id).map_err(|error| self.unreadable(&error))?.ok_or_else(|| {
            let message = format!("{} has no instance {id}; `vmferry instances` tells where it is", self.name);
            Fault::new(Reason::InstanceNotFound, message)
        })
    }

    fn capabilities(&self) -> HostCapabilities {
        let machines = ["q35", "pc"].map(|machine| (ARCHITECTURE.to_owned(), "kvm".to_owned(), machine.to_owned()));
        HostCapabilities {
            architecture: ARCHITECTURE.to_owned(),
            cpu_model: CPU_MODEL.to_owned(),
            machines: machines.into(),
        }
    }

    fn socket_failed(&self, action: &str, migration: MigrationId, error: &io::Error) -> Fault {
        let directory = tunnel::directory(migration);
        Fault::new(Reason::TunnelFailed, format!("cannot {action} {} on {}: {error}", directory.display(), self.name))
    }
}

/// What a simulated host cannot do, and never has to where tests do not ask for it.
fn not_simulated(what: &str) -> Fault {
    Fault::new(Reason::InvalidRequest, format!("{what} is not simulated"))
}

impl Hypervisor for SimulatedHost {
    fn name(&self) -> &HostName {
        &self.name
    }

    async fn leaving(&self, order: &Order) -> Result<(SourceFacts, Leaving), Fault> {
        if order.kind.is_cold() {
            return Err(not_simulated("a guest that is off"));
        }
        if order.limits.policy.may_postcopy() {
            return Err(not_simulated("postcopy"));
        }
        let guest = self.guest(order.instance)?;
        let definition = guest.definition.clone();
        let shown = self.show(&definition.disks).await;
        let facts = SourceFacts {
            host: self.name.clone(),
            kind: order.kind,
            state: InstanceState::Active,
            persistent: true,
            saved: false,
            passing: Vec::new(),
            crosses: false,
            migration: None,
            job: None,
            snapshots: 0,
            definition: definition.clone(),
            misplaced: Vec::new(),
            filters_missing: Ok(Vec::new()),
            shown: shown.clone(),
            limits: order.limits.clone(),
            direct: None,
            qemu_version: QEMU,
            postcopy: None,
            policy: None,
        };
        let instance = instance_of(self.name.clone(), shown::reading(Sighting::Running, &guest));
        let leaving = Leaving {
            instance,
            domain_xml: guest.file.domain_xml.clone(),
            definition,
            qemu_version: QEMU,
            shown,
            autostart: false,
            members: Told::default(),
            filters: Vec::new(),
        };
        Ok((facts, leaving))
    }

    async fn arriving(&self, leaving: &Leaving) -> Result<DestinationFacts, Fault> {
        let definition = &leaving.definition;
        let guests = self.guests.all().map_err(|error| self.unreadable(&error))?;
        let (same_id, others): (Vec<_>, Vec<_>) =
            guests.iter().partition(|(_, guest)| guest.definition.id == definition.id);
        let same_id = same_id.first().map(|(_, guest)| (guest.definition.name.clone(), InstanceState::Active));
        let vif = VifSight { bridge_mtu: Some(1_500), ..VifSight::default() };
        Ok(DestinationFacts {
            host: self.name.clone(),
            kind: Kind::default(),
            migration: None,
            same_id,
            same_name: others.iter().any(|(_, guest)| guest.definition.name == definition.name),
            space: Space::default(),
            cordon: None,
            capabilities: self.capabilities(),
            vcpus_max: Some(self.hardware.cpus),
            cpu: None,
            bridges: vec![BRIDGE.to_owned()],
            networks: Vec::new(),
            vifs: vec![vif; definition.vifs.len()],
            firewall: None,
            filters: Ok(Vec::new()),
            lacks_emulator: false,
            sight: self.see(leaving).await?,
            qemu_version: QEMU,
            limits: Limits::default(),
            direct: None,
            postcopy: None,
        })
    }

    async fn definition(&self, order: &Order) -> Result<Option<Definition>, Fault> {
        let guest = self.guests.running(order.instance).map_err(|error| self.unreadable(&error))?;
        Ok(guest.map(|guest| guest.definition.clone()))
    }

    async fn sighting(&self, instance: InstanceId) -> Result<Sighting, Fault> {
        self.guests.sighting(instance).map_err(|error| self.unreadable(&error))
    }

    async fn seen(&self, instance: InstanceId) -> Result<Seen, Fault> {
        let (domain, job) = match self.sighting(instance).await? {
            Sighting::Running => (Domain::Running, resolution::Job::None),
            Sighting::Arriving => (Domain::PausedToMove, resolution::Job::Incoming),
            _ => (Domain::Absent, resolution::Job::None),
        };
        Ok(Seen { domain, job, qemu: None })
    }

    async fn open_sockets(&self, order: &Order, images: usize) -> Result<(), Fault> {
        let opened = match fs::create_dir_all(tunnel::directory(order.id)) {
            Ok(()) => self.listeners.open(order, images, getgid()).await,
            Err(error) => Err(error),
        };
        opened.map_err(|error| self.socket_failed("listen in", order.id, &error))
    }

    async fn make_directory(&self, migration: MigrationId) -> Result<(), Fault> {
        fs::create_dir_all(tunnel::directory(migration)).map_err(|error| self.socket_failed("make", migration, &error))
    }

    async fn remove_sockets(&self, migration: MigrationId) -> Result<(), Fault> {
        self.listeners.close(migration).await.map_err(|error| self.socket_failed("close", migration, &error))?;
        match fs::remove_dir_all(tunnel::directory(migration)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.socket_failed("remove", migration, &error))
            }
            _ => Ok(()),
        }
    }

    async fn grant_tunnel(&self, order: &Order, release: OnRelease) -> Result<(), Fault> {
        let granted = self.grants.grant(order, [].into(), order.is_strict().then_some(release)).await;
        granted.map_err(|error| self.socket_failed("let the source into", order.id, &error))
    }

    async fn revoke_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.grants.revoke(migration).await.map_err(|error| self.socket_failed("close", migration, &error))
    }

    async fn retire_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.grants.retire(migration).await.map_err(|error| self.socket_failed("close", migration, &error))
    }

    async fn migrate(
        &self,
        order: &Order,
        transfer: &Transfer,
        _: &[Relocation],
        control: Control,
    ) -> Result<Statistics, Fault> {
        if !transfer.copied.is_empty() {
            return Err(not_simulated("a disk that is copied"));
        }
        let guest = self.guest(order.instance)?;
        Job::run(order, &self.name, &guest, self.hardware.bandwidth, control).await
    }

    async fn resume_migration(&self, _: &Order, _: Control) -> Result<Statistics, Fault> {
        Err(not_simulated("postcopy"))
    }

    async fn is_leaving(&self, _: InstanceId) -> Result<bool, Fault> {
        // Nor does it outlive the process that runs it.
        Ok(false)
    }

    async fn join_migration(&self, _: &Order, _: &[Relocation], _: bool, _: Control) -> Result<Statistics, Fault> {
        Err(not_simulated("a job that outlives its agent"))
    }

    async fn await_job_end(&self, _: InstanceId) -> Result<(), Fault> {
        // It ended with the process that ran it.
        Ok(())
    }

    async fn make_persistent(&self, _: InstanceId) -> Result<(), Fault> {
        Ok(())
    }

    async fn undefine(&self, instance: InstanceId) -> Result<(), Fault> {
        match self.sighting(instance).await? {
            Sighting::Absent => Ok(()),
            seen => Err(Fault::new(Reason::LibvirtFailed, format!("{instance} is on {} ({seen:?})", self.name))),
        }
    }

    async fn destroy_arriving(&self, instance: InstanceId) -> Result<(), Fault> {
        self.guests.give_up(instance, None);
        Ok(())
    }
}
