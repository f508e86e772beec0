mod departure;
mod examine;
mod filters;
mod groups;
mod instances;
mod job;
mod labels;
mod measure;
mod network;
mod postcopy;
mod power;
mod reconcile;
mod release;
mod room;
mod sight;
mod storage;
mod volumes;
mod way;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Gid, Group};
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{DestinationFacts, SourceFacts, until_it_stops},
    convergence::Policy,
    disk::Transfer,
    domain_xml::{
        self, Definition,
        rewrite::{Place, Relocation, rewrite},
        without_passwords,
    },
    host::Space,
    id::{HostName, InstanceId, MigrationId},
    migration::{Kind, Limits, Order, Side, Statistics},
    reason::Reason,
    resolution::Seen,
};

use self::{filters::Filters, network::Vifs, room::Housekeeping, volumes::Volumes};
use super::{Control, Fault, Hypervisor, OnRelease, instance_of};
use crate::{
    config::{Config, Direct},
    firewall::Firewall,
    libvirt::{self, Definitions, DomainReading, JobOrder, Libvirt, Stopped},
    network::bridges,
    storage::{digest::Digests, receivers::Receivers, with_causes},
    told::Remembered,
    tunnel::{self, Grants, Listeners},
};

/// How long a job may go on after its agent died; without its tunnel it fails at once.
const ORPHANED_JOB_LIMIT: Duration = Duration::from_secs(30);

/// A real host: its libvirt, its links, its tunnel.
#[derive(Debug)]
pub struct LibvirtHost {
    name: HostName,
    qemu_group: String,
    libvirt: Libvirt,
    listeners: Arc<Listeners>,
    grants: Arc<Grants>,
    receivers: Arc<Receivers>,
    volumes: Volumes,
    vifs: Vifs,
    filters: Filters,
    digests: Arc<Digests>,
    overcommit: bool,
    policies: Vec<Policy>,
    direct: Option<Direct>,
    housekeeping: Housekeeping,
}

impl LibvirtHost {
    /// A host with nothing opened yet. `receivers` and `firewall` are those that `grants` lead to.
    pub fn new(
        config: &Config,
        libvirt: Libvirt,
        listeners: Listeners,
        grants: Arc<Grants>,
        receivers: Arc<Receivers>,
        firewall: Arc<Firewall>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            qemu_group: config.qemu_group.clone(),
            volumes: Volumes::new(config, libvirt.clone()),
            vifs: Vifs::new(config.networks.clone(), firewall, Remembered::load(&config.state_directory)),
            filters: Filters::default(),
            libvirt,
            listeners: Arc::new(listeners),
            grants,
            receivers,
            digests: Arc::default(),
            overcommit: config.storage.disk_overcommit,
            policies: config.policies.clone(),
            direct: config.direct.clone(),
            housekeeping: Housekeeping::new(config),
        }
    }

    /// Has libvirt probe its emulators, as it does when it is first asked: that takes seconds, which nobody's first
    /// migration should wait for.
    pub async fn warm_up(&self) {
        if let Err(error) = self.libvirt.host().await {
            tracing::warn!("libvirt does not answer yet: {error}");
        }
    }

    /// A directory for root and, within `mode`, for QEMU's group.
    fn make_directory_for(&self, migration: MigrationId, mode: u32) -> Result<(), Fault> {
        let directory = tunnel::directory(migration);
        let made = self.qemu_gid().and_then(|gid| {
            fs::create_dir_all(&directory)?;
            chown(&directory, None, Some(gid.as_raw()))?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode))
        });
        made.map_err(|error| {
            Fault::new(Reason::TunnelFailed, format!("cannot make {} on {}: {error}", directory.display(), self.name))
        })
    }

    /// The group as which QEMU opens what is made for it.
    fn qemu_gid(&self) -> io::Result<Gid> {
        let group = &self.qemu_group;
        Ok(Group::from_name(group)?.ok_or_else(|| io::Error::other(format!("there is no group `{group}`")))?.gid)
    }

    /// The guest as the destination shall define it, if disks are elsewhere there.
    async fn relocated(&self, order: &Order, relocations: &[Relocation]) -> Result<Option<Definitions>, Fault> {
        if relocations.is_empty() {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| {
            Fault::new(Reason::LibvirtFailed, format!("libvirt's definition of {}: {error}", order.instance_name))
        };
        let rewritten = |xml: String| {
            let definition = Definition::parse(&xml).map_err(|error| failed(&error))?;
            // A vif may be there only until the guest stops.
            let there = |change: &&Relocation| {
                let is_vif = matches!(change.place, Place::Bridge { .. });
                !is_vif || definition.vifs.iter().any(|vif| vif.mac == change.target)
            };
            let changes: Vec<_> = relocations.iter().filter(there).cloned().collect();
            rewrite(&xml, &changes).map_err(|error| failed(&error))
        };
        Ok(Some(Definitions {
            live: rewritten(self.libvirt.migratable_xml(order.instance).await?)?,
            persistent: rewritten(self.libvirt.persistent_migratable_xml(order.instance).await?)?,
        }))
    }

    /// Does what is to be done beside libvirt's job until that is over.
    async fn attend<F>(
        &self,
        order: &Order,
        relocations: &[Relocation],
        mut control: Control,
        job: impl FnOnce(Control, Arc<Stopped>) -> F,
    ) -> Result<Statistics, Fault>
    where
        F: Future<Output = Result<Statistics, libvirt::JobError>>,
    {
        let stopped = Arc::new(Stopped::new(None));
        self.expect_departure(order).await;
        let mut watcher = release::Watcher::new(order, control.released.take());
        let flow = way::Flow::default();
        let job = job(flow.seen_by(control), Arc::clone(&stopped));
        let moved = tokio::select! {
            moved = job => moved,
            never = watcher.watch(&stopped) => match never {},
            never = self.see_it_off(order, relocations, &stopped) => match never {},
            never = self.listeners.watch(order, || flow.idle()), if way::holds_several(order) => match never {},
        };
        watcher.settle(self, order, &stopped, &moved).await;
        if moved.is_err() {
            self.forget_departure(order).await;
        }
        moved.map_err(|error| job::fault(order, error))
    }

    fn not_carried(&self, action: &str, migration: MigrationId, error: &io::Error) -> Fault {
        let message = format!("cannot {action} the tunnel of migration {migration} on {}: {error}", self.name);
        Fault::new(Reason::TunnelFailed, message)
    }

    async fn domain(&self, order: &Order) -> Result<DomainReading, Fault> {
        self.libvirt.domain(&order.instance.to_string()).await?.ok_or_else(|| {
            let message = format!(
                "{} has no instance {} ({}); `vmferry instances` tells where it is",
                self.name, order.instance_name, order.instance
            );
            Fault::new(Reason::InstanceNotFound, message)
        })
    }
}

impl Hypervisor for LibvirtHost {
    fn name(&self) -> &HostName {
        &self.name
    }

    async fn leaving(&self, order: &Order) -> Result<(SourceFacts, Leaving), Fault> {
        let domain = self.domain(order).await?;
        let host = self.libvirt.host().await?;
        let unreadable = |error: domain_xml::Error| {
            Fault::new(Reason::LibvirtFailed, format!("libvirt's definition of {}: {error}", domain.name))
        };
        let migratable = match order.kind {
            Kind::Live => self.libvirt.migratable_xml(order.instance).await?,
            Kind::Cold { .. } => self.libvirt.persistent_migratable_xml(order.instance).await?,
        };
        // I6: it goes through the coordinator, who has no use for them.
        let domain_xml = without_passwords(&migratable).map_err(unreadable)?;
        let mut definition = Definition::parse(&domain_xml).map_err(unreadable)?;
        // The migratable definition leaves out the images below a disk's own.
        match order.kind {
            Kind::Live => definition.disks.clone_from(&domain.definition.disks),
            Kind::Cold { .. } => power::find_backing(&mut definition.disks).await,
        }
        let passing = match order.kind {
            Kind::Cold { shutdown: Some(_) } => until_it_stops(&domain.definition, &definition),
            Kind::Cold { shutdown: None } | Kind::Live => Vec::new(),
        };
        let saved = order.kind.is_cold() && self.libvirt.has_saved_memory(order.instance).await?;
        let autostart = domain.persistent && self.libvirt.autostart(order.instance).await?;
        // A guest that runs takes both of its definitions along.
        let next = match order.kind {
            Kind::Live if domain.persistent => {
                let xml = self.libvirt.persistent_migratable_xml(order.instance).await?;
                Some(Definition::parse(&xml).map_err(unreadable)?)
            }
            Kind::Live | Kind::Cold { .. } => None,
        };
        let gathered = self.gather_filters([&definition].into_iter().chain(&next)).await?;
        let shown = self.show(&definition.disks).await;
        let misplaced = self.complete(order.instance, &mut definition.vifs).await?;
        let members = self.members_for(&definition.vifs).await?;
        let facts = SourceFacts {
            host: self.name.clone(),
            kind: order.kind,
            state: domain.state,
            crosses: domain.crosses,
            persistent: domain.persistent,
            saved,
            passing,
            migration: None,
            job: domain.job.clone(),
            snapshots: domain.snapshots,
            definition: definition.clone(),
            misplaced,
            filters_missing: gathered.clone().map(|gathered| gathered.missing),
            shown: shown.clone(),
            limits: order.limits.clone(),
            direct: self.look_at_direct(Side::Source).await,
            qemu_version: host.qemu_version,
            postcopy: Some(postcopy::able(host.libvirt_version)),
            policy: None,
        };
        let instance = instance_of(self.name.clone(), domain);
        let qemu_version = host.qemu_version;
        let filters = gathered.unwrap_or_default().filters;
        Ok((facts, Leaving { instance, domain_xml, definition, qemu_version, shown, autostart, members, filters }))
    }

    async fn arriving(&self, leaving: &Leaving) -> Result<DestinationFacts, Fault> {
        let definition = &leaving.definition;
        let id = definition.id.to_string();
        let (host, same_id, same_name, capabilities, cpu, networks, sight, bridges, vifs, filters) = futures::try_join!(
            async { Ok(self.libvirt.host().await?) },
            async { Ok(self.libvirt.domain(&id).await?) },
            async { Ok(self.libvirt.domain(&definition.name).await?) },
            async { Ok(self.libvirt.domain_capabilities(definition).await?) },
            async { Ok::<_, Fault>(self.libvirt.compare_cpu(definition).await?) },
            async { Ok(self.libvirt.active_networks().await?) },
            self.see(leaving),
            async {
                bridges().await.map_err(|error| {
                    Fault::new(Reason::Internal, format!("cannot list the bridges of {}: {error}", self.name))
                })
            },
            self.see_vifs(definition),
            self.see_filters(leaving),
        )?;
        Ok(DestinationFacts {
            host: self.name.clone(),
            kind: Kind::default(),
            migration: None,
            same_name: same_name.is_some_and(|domain| domain.id != definition.id),
            same_id: same_id.map(|domain| (domain.name, domain.state)),
            space: Space::default(),
            cordon: None,
            vcpus_max: capabilities.map(|capabilities| capabilities.vcpus_max),
            capabilities: host.capabilities,
            cpu,
            bridges,
            networks,
            vifs,
            firewall: self.filters(definition).await,
            filters,
            lacks_emulator: definition.emulator.as_ref().is_some_and(|path| !Path::new(path).exists()),
            sight,
            qemu_version: host.qemu_version,
            limits: Limits::default(),
            direct: self.look_at_direct(Side::Destination).await,
            postcopy: Some(postcopy::able(host.libvirt_version)),
        })
    }

    async fn definition(&self, order: &Order) -> Result<Option<Definition>, Fault> {
        match order.kind {
            Kind::Live => Ok(self.libvirt.domain(&order.instance.to_string()).await?.map(|domain| domain.definition)),
            Kind::Cold { .. } => self.definition_when_off(order).await,
        }
    }

    async fn sighting(&self, instance: InstanceId) -> Result<Sighting, Fault> {
        Ok(self.libvirt.sighting(instance).await?)
    }

    async fn seen(&self, instance: InstanceId) -> Result<Seen, Fault> {
        Ok(self.libvirt.seen(instance).await?)
    }

    async fn open_sockets(&self, order: &Order, images: usize) -> Result<(), Fault> {
        // The guest's QEMU finds its own socket here and may not look around.
        self.make_directory_for(order.id, 0o710)?;
        let opened = match self.qemu_gid() {
            Ok(gid) => self.listeners.open(order, images, gid).await,
            Err(error) => Err(error),
        };
        opened.map_err(|error| {
            let directory = tunnel::directory(order.id);
            Fault::new(
                Reason::TunnelFailed,
                format!("cannot listen in {} on {}: {error}", directory.display(), self.name),
            )
        })
    }

    async fn make_directory(&self, migration: MigrationId) -> Result<(), Fault> {
        self.make_directory_for(migration, 0o2770)
    }

    async fn remove_sockets(&self, migration: MigrationId) -> Result<(), Fault> {
        self.listeners.close(migration).await.map_err(|error| self.not_carried("close", migration, &error))?;
        let directory = tunnel::directory(migration);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::new(
                Reason::TunnelFailed,
                format!("cannot remove {} on {}: {error}", directory.display(), self.name),
            )),
            _ => Ok(()),
        }
    }

    async fn grant_tunnel(&self, order: &Order, release: OnRelease) -> Result<(), Fault> {
        let granted = self.grants.grant(order, self.vifs.awaited_by(order.id), order.is_strict().then_some(release));
        granted.await.map_err(|error| self.not_carried("grant", order.id, &error))
    }

    async fn revoke_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.grants.revoke(migration).await.map_err(|error| self.not_carried("revoke", migration, &error))
    }

    async fn retire_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.grants.retire(migration).await.map_err(|error| self.not_carried("retire", migration, &error))
    }

    async fn migrate(
        &self,
        order: &Order,
        transfer: &Transfer,
        relocations: &[Relocation],
        control: Control,
    ) -> Result<Statistics, Fault> {
        let ordered = JobOrder {
            transfer: transfer.clone(),
            definitions: self.relocated(order, relocations).await?,
            ..self.ordered(order).await?
        };
        let job = |control, stopped| self.libvirt.migrate(&ordered, control, self.lifeline(order), stopped);
        self.attend(order, relocations, control, job).await
    }

    async fn is_leaving(&self, instance: InstanceId) -> Result<bool, Fault> {
        Ok(self.libvirt.is_leaving(instance).await?)
    }

    async fn join_migration(
        &self,
        order: &Order,
        relocations: &[Relocation],
        begun: bool,
        control: Control,
    ) -> Result<Statistics, Fault> {
        let ordered = self.joined(order).await;
        let job =
            |control, stopped| self.libvirt.join_migration(&ordered, begun, control, self.lifeline(order), stopped);
        self.attend(order, relocations, control, job).await
    }

    async fn resume_migration(&self, order: &Order, control: Control) -> Result<Statistics, Fault> {
        let ordered = self.ordered(order).await?;
        let resumed = self.libvirt.resume_migration(&ordered, control, self.lifeline(order)).await;
        resumed.map_err(|error| job::fault(order, error))
    }

    async fn await_job_end(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.await_job_end(instance, ORPHANED_JOB_LIMIT).await?)
    }

    async fn make_persistent(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.make_persistent(instance).await?)
    }

    async fn undefine(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.undefine(instance).await?)
    }

    async fn destroy_arriving(&self, instance: InstanceId) -> Result<(), Fault> {
        Ok(self.libvirt.destroy_if_arriving(instance).await?)
    }
}

impl From<libvirt::Error> for Fault {
    fn from(error: libvirt::Error) -> Self {
        Self::new(Reason::LibvirtFailed, with_causes(&error))
    }
}
