//! One host at the edge, but for its disks.

use std::{fs, sync::Arc, time::Duration};

use tokio::time::Instant;
use vmferry_agent::hypervisor::{Control, Fault, Hypervisor, OnRelease};
use vmferry_core::{
    agent::{Leaving, Sighting},
    compatibility::{DestinationFacts, SourceFacts, VifSight},
    convergence::Action,
    disk::{Sharing, Transfer},
    domain_xml::{Definition, HostCapabilities, rewrite::Relocation},
    host::Space,
    id::{HostName, InstanceId, MigrationId},
    instance::{Instance, InstanceState},
    migration::{Kind, Order, Statistics},
    network::Carried,
    policy::{Memberships, Told},
    reason::Reason,
    resolution::Seen,
};

use super::{
    chance::Bug,
    disks, filter, measure, network,
    world::{Place, Trouble, World},
};

/// One host at the edge.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(super) name: &'static str,
    host: HostName,
    /// Which of the host's processes drives it.
    process: u32,
    pub(super) world: Arc<World>,
}

impl Fake {
    pub(crate) fn new(name: &'static str, world: Arc<World>) -> Self {
        Self { name, host: name.parse().expect("valid"), process: world.process(name), world }
    }

    /// One thing done at the edge: here the fault strikes, if this is its place.
    pub(super) async fn step<T>(&self, what: &str, effect: impl FnOnce() -> T) -> Result<T, Fault> {
        if !self.is_alive() {
            // The dead do nothing.
            return std::future::pending().await;
        }
        if self.world.is_simulated() {
            return Box::pin(self.chancy_step(what, effect)).await;
        }
        let struck = {
            let mut facts = self.world.facts();
            let here = match facts.faults.place {
                Place::Nowhere | Place::Call(_) => false,
                Place::EveryStep => true,
                Place::Step(step) => step == facts.steps,
                Place::Named(name) => name == what,
            };
            facts.steps += 1;
            here.then(|| {
                facts.struck = Some(format!("{}: {what}", self.name));
                facts.faults.trouble
            })
        };
        let broken = || Fault::new(Reason::LibvirtFailed, format!("{what} failed on {}, as asked for", self.name));
        match struck {
            None => Ok(effect()),
            Some(Trouble::Fails) => Err(broken()),
            Some(Trouble::LosesItsAnswer) => {
                effect();
                Err(broken())
            }
            Some(Trouble::DiesBefore) => self.die().await,
            Some(Trouble::DiesAfter) => {
                effect();
                self.die().await
            }
        }
    }

    /// Whether the host has no later process than the one that this drives it for.
    fn is_alive(&self) -> bool {
        self.world.process(self.name) == self.process
    }

    async fn die<T>(&self) -> T {
        self.world.death.notify_one();
        std::future::pending().await
    }

    /// I5: what is about to be done stands in the journal on disk.
    pub(super) fn assert_journaled(&self, undo: &str) {
        self.assert_on_disk("journal", undo);
    }

    pub(super) fn assert_on_disk(&self, directory: &str, undo: &str) {
        let directory = self.world.state_directory(self.name).join(directory);
        let files = fs::read_dir(directory).expect("the agent made it");
        let journaled =
            files.flatten().any(|file| fs::read_to_string(file.path()).is_ok_and(|text| text.contains(undo)));
        assert!(journaled, "I5: {undo} is not in a journal of {}", self.name);
    }
}

impl Hypervisor for Fake {
    fn name(&self) -> &HostName {
        &self.host
    }

    async fn leaving(&self, order: &Order) -> Result<(SourceFacts, Leaving), Fault> {
        let state = match self.world.sees(self.name) {
            Sighting::Shutoff => InstanceState::Shutoff,
            _ => InstanceState::Active,
        };
        let definition = Definition::parse(&disks::domain_xml()).expect("valid");
        let shown = disks::shown();
        let facts = SourceFacts {
            host: self.host.clone(),
            kind: order.kind,
            limits: order.limits.clone(),
            direct: None,
            qemu_version: 7_002_000,
            state,
            crosses: false,
            persistent: true,
            saved: false,
            passing: vec![],
            migration: None,
            job: None,
            snapshots: 0,
            definition: definition.clone(),
            misplaced: vec![],
            filters_missing: Ok(vec![]),
            shown: shown.clone(),
            postcopy: None,
            policy: None,
        };
        let instance = Instance {
            id: definition.id,
            name: definition.name.clone(),
            state,
            host: self.host.clone(),
            memory: definition.memory,
            vcpus: 1,
            persistent: true,
            disks: Vec::new(),
            vifs: Vec::new(),
            migration: None,
            problems: vec![],
            affinity: vec![],
            limits: Default::default(),
        };
        let leaving = Leaving {
            instance,
            domain_xml: disks::domain_xml(),
            definition,
            qemu_version: 7_002_000,
            shown,
            autostart: true,
            members: Told([(self.host.clone(), Memberships::new())].into()),
            filters: filter::filters(),
        };
        self.step("reading the guest", || (facts, leaving)).await
    }

    async fn arriving(&self, leaving: &Leaving) -> Result<DestinationFacts, Fault> {
        if self.world.has_bug(Bug::ActsInTheCheck) {
            self.assert_journaled("remove_sockets");
        }
        let sight = disks::sight(leaving, &self.world);
        let carried = Carried { mtu: 1450, hindrances: vec![] };
        let machines = [("x86_64".to_owned(), "qemu".to_owned(), "q35".to_owned())].into();
        let facts = DestinationFacts {
            host: self.host.clone(),
            kind: Kind::Live,
            migration: None,
            same_id: None,
            same_name: false,
            space: Space::default(),
            cordon: None,
            capabilities: HostCapabilities { architecture: "x86_64".into(), cpu_model: "EPYC".into(), machines },
            vcpus_max: Some(64),
            cpu: None,
            bridges: Vec::new(),
            networks: Vec::new(),
            vifs: vec![VifSight { network: Some((network::blue(self.name), carried)), ..VifSight::default() }],
            firewall: None,
            filters: Ok(self.filters_here()),
            lacks_emulator: false,
            sight,
            qemu_version: 7_002_000,
            limits: Default::default(),
            direct: None,
            postcopy: None,
        };
        self.step("reading the host", || facts).await
    }

    async fn definition(&self, _: &Order) -> Result<Option<Definition>, Fault> {
        self.step("reading the disks", || Some(Definition::parse(&disks::domain_xml()).expect("valid"))).await
    }

    async fn sighting(&self, _: InstanceId) -> Result<Sighting, Fault> {
        self.step("looking for the guest", || self.world.sees(self.name)).await
    }

    async fn seen(&self, _: InstanceId) -> Result<Seen, Fault> {
        self.step("looking at the guest", || self.world.seen(self.name)).await
    }

    async fn open_sockets(&self, order: &Order, images: usize) -> Result<(), Fault> {
        assert_eq!(images, if order.kind.is_cold() { 2 } else { 1 }, "one for the base, one for what lies on it");
        self.assert_journaled("remove_sockets");
        self.step("opening sockets", || {
            let mut facts = self.world.facts();
            facts.directories.insert((self.name, order.id));
            facts.listening.insert((self.name, order.id));
        })
        .await
    }

    async fn make_directory(&self, migration: MigrationId) -> Result<(), Fault> {
        self.assert_journaled("remove_sockets");
        self.step("making the directory", || _ = self.world.facts().directories.insert((self.name, migration))).await
    }

    async fn remove_sockets(&self, migration: MigrationId) -> Result<(), Fault> {
        self.step("removing sockets", || {
            if self.world.has_bug(Bug::ForgetsSockets) {
                return;
            }
            let mut facts = self.world.facts();
            facts.directories.remove(&(self.name, migration));
            facts.listening.remove(&(self.name, migration));
        })
        .await
    }

    async fn grant_tunnel(&self, order: &Order, release: OnRelease) -> Result<(), Fault> {
        if !self.is_alive() {
            return Err(Fault::new(Reason::Internal, "the process is gone"));
        }
        self.assert_journaled("revoke_tunnel");
        let mut facts = self.world.facts();
        facts.granted.insert(order.id, order.source.host.clone());
        facts.released.insert(order.id, release);
        Ok(())
    }

    async fn retire_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.revoke_tunnel(migration).await
    }

    async fn revoke_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        if !self.is_alive() {
            return Err(Fault::new(Reason::Internal, "the process is gone"));
        }
        let mut facts = self.world.facts();
        facts.granted.remove(&migration);
        facts.released.remove(&migration);
        Ok(())
    }

    async fn migrate(
        &self,
        order: &Order,
        transfer: &Transfer,
        relocations: &[Relocation],
        mut control: Control,
    ) -> Result<Statistics, Fault> {
        assert_eq!(*transfer, Transfer { sharing: Sharing::Proved, copied: vec!["vdb".into()] });
        assert_eq!(relocations, disks::relocations(), "what the destination said in its pre");
        if self.world.is_simulated() {
            return Box::pin(self.attend_job(order, control)).await;
        }
        {
            let facts = self.world.facts();
            assert!(facts.complete.contains(&order.id), "what is sent ahead is there before the guest");
            assert!(facts.listening.contains(&("source", order.id)), "the way out is open");
            assert!(facts.directories.contains(&("destination", order.id)), "QEMU has a place for its socket");
            assert_eq!(facts.granted.get(&order.id), Some(&self.host), "the way in is granted to the source");
        }
        self.step("copying memory and disks", || self.world.set("destination", Some((Sighting::Arriving, false))))
            .await
            .inspect_err(|_| {
                // libvirt takes back what it began.
                self.world.set("destination", None);
            })?;
        control.foresight.show(&control.ladder);
        measure::samples().into_iter().for_each(|sample| (control.progress)(sample));
        (control.deed)(Action::Downtime(Duration::from_millis(100)));
        let stopped = Instant::now();
        if order.is_strict() {
            // A lost answer lets the source go on, and the copy wait.
            self.step("arriving", || self.world.set("destination", Some((Sighting::Paused, true)))).await.map_err(
                |fault| {
                    if self.world.sees("destination") == Sighting::Arriving {
                        self.world.set("destination", None);
                    }
                    Fault::new(Reason::HandoverFailed, fault.message)
                },
            )?;
        }
        let handover = || {
            self.world.set("source", None);
            if !order.is_strict() {
                self.world.set("destination", Some((Sighting::Running, true)));
            }
        };
        let handed_over = self.step("handing over", handover).await;
        if self.world.sees("source") == Sighting::Absent
            && let Some(released) = control.released.take()
        {
            _ = released.send(stopped);
        }
        handed_over.map_err(|fault| {
            if self.world.sees("destination") == Sighting::Arriving {
                self.world.set("destination", None);
            }
            Fault::new(Reason::HandoverFailed, fault.message)
        })?;
        Ok(Statistics {
            total_time: Duration::from_secs(1),
            downtime: Duration::from_millis(50),
            ..Statistics::default()
        })
    }

    async fn resume_migration(&self, _: &Order, _: Control) -> Result<Statistics, Fault> {
        unreachable!("nothing is switched to postcopy here")
    }

    async fn is_leaving(&self, _: InstanceId) -> Result<bool, Fault> {
        // What carried its data path has died with the process, and so has the job.
        Ok(false)
    }

    async fn join_migration(&self, _: &Order, _: &[Relocation], _: bool, _: Control) -> Result<Statistics, Fault> {
        unreachable!("no job outlives a process here")
    }

    async fn await_job_end(&self, _: InstanceId) -> Result<(), Fault> {
        if self.world.is_simulated() {
            return self.outwait_job().await;
        }
        self.step("waiting for the job", || ()).await
    }

    async fn make_persistent(&self, _: InstanceId) -> Result<(), Fault> {
        self.step("keeping the definition", || {
            let sighting = self.world.sees(self.name);
            if sighting != Sighting::Absent {
                self.world.set(self.name, Some((sighting, true)));
            }
        })
        .await
    }

    async fn undefine(&self, _: InstanceId) -> Result<(), Fault> {
        if self.world.has_bug(Bug::KeepsDefinition) {
            return Err(Fault::new(Reason::LibvirtFailed, "it is not forgotten, as asked for"));
        }
        self.step("undefining", || {
            assert_ne!(self.world.sees(self.name), Sighting::Running, "I4: the guest's only definition");
            if self.world.sees(self.name) != Sighting::Absent {
                self.world.set(self.name, None);
            }
        })
        .await
    }

    async fn destroy_arriving(&self, _: InstanceId) -> Result<(), Fault> {
        self.step("destroying what arrives", || {
            if self.world.sees(self.name) == Sighting::Arriving {
                self.world.set(self.name, None);
            }
        })
        .await
    }
}
