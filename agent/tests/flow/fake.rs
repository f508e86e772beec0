//! Two hosts in memory, below the edge: domains, sockets and grants as plain values, and one fault at a chosen place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytesize::ByteSize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vmferry_agent::{
    hypervisor::{Fault, Hypervisor, OnProgress},
    migrations::Migrations,
};
use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Half, Leaving, Sighting},
    compatibility::{DestinationFacts, SourceFacts},
    disk::{File, Probe, Seen, SeenProbe, Sharing, Shown},
    domain_xml::{Definition, DiskDefinition, HostCapabilities},
    id::{HostName, InstanceId, MigrationId},
    instance::{Instance, InstanceState},
    migration::{Cause, Order, Progress, Record, Side, Statistics},
    reason::Reason,
};

pub(crate) const INSTANCE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

const DOMAIN_XML: &str = "<domain type='qemu'><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='MiB'>256</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file'><driver cache='none'/><source file='/srv/web.img'/><target dev='vda'/></disk></devices>
  </domain>";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    /// The effect does not happen; an error is told.
    Fails,
    /// The effect happens; an error is told.
    LosesItsAnswer,
    /// The process dies before the effect.
    DiesBefore,
    /// The process dies after the effect, before it can say so.
    DiesAfter,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Nowhere,
    Step(usize),
    Call(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    place: Place,
    trouble: Trouble,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self { place: Place::Nowhere, trouble: Trouble::Fails }
    }

    pub(crate) fn at_step(step: usize, trouble: Trouble) -> Self {
        Self { place: Place::Step(step), trouble }
    }

    pub(crate) fn at_call(call: usize, trouble: Trouble) -> Self {
        Self { place: Place::Call(call), trouble }
    }
}

#[derive(Debug)]
struct Facts {
    faults: Faults,
    steps: usize,
    calls: usize,
    struck: Option<String>,
    domains: BTreeMap<&'static str, (Sighting, bool)>,
    directories: BTreeSet<(&'static str, MigrationId)>,
    listening: BTreeSet<(&'static str, MigrationId)>,
    granted: BTreeMap<MigrationId, HostName>,
    /// In the one directory that both hosts see, by name.
    probes: BTreeMap<String, Probe>,
}

/// Everything that outlives an agent's process.
#[derive(Debug)]
pub(crate) struct World {
    journals: PathBuf,
    facts: Mutex<Facts>,
    death: Arc<Notify>,
}

impl World {
    pub(crate) fn new(journals: &Path, faults: Faults) -> Arc<Self> {
        let facts = Facts {
            faults,
            steps: 0,
            calls: 0,
            struck: None,
            domains: BTreeMap::from([("source", (Sighting::Running, true))]),
            directories: BTreeSet::new(),
            listening: BTreeSet::new(),
            granted: BTreeMap::new(),
            probes: BTreeMap::new(),
        };
        Arc::new(Self { journals: journals.to_owned(), facts: Mutex::new(facts), death: Arc::default() })
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().expect("no test panics while it holds the world")
    }

    pub(crate) fn calm(&self) {
        self.facts().faults = Faults::none();
    }

    pub(crate) fn struck(&self) -> Option<String> {
        self.facts().struck.clone()
    }

    /// Steps that changed something or tried to.
    pub(crate) fn steps(&self) -> usize {
        self.facts().steps
    }

    pub(crate) fn sees(&self, host: &str) -> Sighting {
        self.facts().domains.get(host).map_or(Sighting::Absent, |(sighting, _)| *sighting)
    }

    pub(crate) fn is_persistent(&self, host: &str) -> bool {
        self.facts().domains.get(host).is_some_and(|(_, persistent)| *persistent)
    }

    pub(crate) fn leftovers(&self) -> Vec<String> {
        let facts = self.facts();
        let directories = facts.directories.iter().map(|left| format!("directory {left:?}"));
        let listening = facts.listening.iter().map(|left| format!("listener {left:?}"));
        let granted = facts.granted.iter().map(|left| format!("grant {left:?}"));
        let probes = facts.probes.keys().map(|left| format!("probe {left}"));
        let lists = fs::read_dir(self.journals.join("source/probes")).expect("the agent made it").flatten();
        let lists = lists.map(|left| format!("list {}", left.path().display()));
        directories.chain(listening).chain(granted).chain(probes).chain(lists).collect()
    }

    /// Listeners and grants live in the process; so does the data path of a guest that is arriving.
    pub(crate) fn drop_process(&self, host: &'static str) {
        let mut facts = self.facts();
        facts.listening.retain(|(of, _)| *of != host);
        if host == "destination" {
            facts.granted.clear();
        }
        facts.domains.retain(|_, (sighting, _)| *sighting != Sighting::Arriving);
    }

    pub(crate) fn wait_for_death(&self) -> impl Future<Output = ()> + use<> {
        let death = Arc::clone(&self.death);
        async move { death.notified().await }
    }

    /// I1, whenever a domain changes.
    fn set(&self, host: &'static str, domain: Option<(Sighting, bool)>) {
        let mut facts = self.facts();
        match domain {
            Some(domain) => _ = facts.domains.insert(host, domain),
            None => _ = facts.domains.remove(host),
        }
        let running = facts.domains.values().filter(|(sighting, _)| *sighting == Sighting::Running).count();
        assert!(running <= 1, "I1: the guest runs {running} times");
    }
}

/// The guest's disk, as both hosts see it.
fn image() -> File {
    File { path: "/srv/web.img".into(), directory: "/srv".into(), size: 1 << 20, inode: 7, device: 1 }
}

/// One host at the edge.
#[derive(Debug)]
pub(crate) struct Fake {
    name: &'static str,
    host: HostName,
    world: Arc<World>,
}

impl Fake {
    pub(crate) fn new(name: &'static str, world: Arc<World>) -> Self {
        Self { name, host: name.parse().expect("valid"), world }
    }

    /// One thing done at the edge: here the fault strikes, if this is its place.
    async fn step<T>(&self, what: &str, effect: impl FnOnce() -> T) -> Result<T, Fault> {
        let struck = {
            let mut facts = self.world.facts();
            let here = facts.faults.place == Place::Step(facts.steps);
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

    async fn die<T>(&self) -> T {
        self.world.death.notify_one();
        std::future::pending().await
    }

    /// I5: what is about to be done stands in the journal on disk.
    fn assert_journaled(&self, undo: &str) {
        self.assert_on_disk("journal", undo);
    }

    fn assert_on_disk(&self, directory: &str, undo: &str) {
        let directory = self.world.journals.join(self.name).join(directory);
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

    async fn leaving(&self, _: &Order) -> Result<(SourceFacts, Leaving), Fault> {
        let definition = Definition::parse(DOMAIN_XML).expect("valid");
        let shown = Shown { files: vec![image()], ..Shown::default() };
        let facts = SourceFacts {
            host: self.host.clone(),
            state: InstanceState::Active,
            migration: None,
            job: None,
            snapshots: 0,
            definition: definition.clone(),
            shown: shown.clone(),
        };
        let instance = Instance {
            id: definition.id,
            name: definition.name.clone(),
            state: InstanceState::Active,
            host: self.host.clone(),
            memory: definition.memory,
            vcpus: 1,
            persistent: true,
            disks: Vec::new(),
            vifs: Vec::new(),
            migration: None,
        };
        let leaving = Leaving { instance, domain_xml: DOMAIN_XML.into(), definition, qemu_version: 7_002_000, shown };
        self.step("reading the guest", || (facts, leaving)).await
    }

    async fn arriving(&self, leaving: &Leaving) -> Result<DestinationFacts, Fault> {
        let probe = leaving.shown.probe_beside(&image().path).and_then(|probe| {
            let found = self.world.facts().probes.get(&probe.file_name)?.token.clone();
            Some(SeenProbe { token: found, device: 1 })
        });
        let machines = [("x86_64".to_owned(), "qemu".to_owned(), "q35".to_owned())].into();
        let facts = DestinationFacts {
            host: self.host.clone(),
            migration: None,
            same_id: None,
            same_name: false,
            memory_available: ByteSize::gib(4),
            capabilities: HostCapabilities { architecture: "x86_64".into(), cpu_model: "EPYC".into(), machines },
            vcpus_max: Some(64),
            cpu: None,
            bridges: Vec::new(),
            networks: Vec::new(),
            lacks_emulator: false,
            seen: vec![Seen { file: image(), probe }],
            qemu_version: 7_002_000,
        };
        self.step("reading the host", || facts).await
    }

    async fn place_probe(&self, probe: &Probe) -> Result<u64, Fault> {
        self.assert_on_disk("probes", &probe.file_name);
        let place = || _ = self.world.facts().probes.insert(probe.file_name.clone(), probe.clone());
        self.step("placing a probe", place).await.map(|()| 1)
    }

    async fn remove_probe(&self, probe: &Probe) -> Result<(), Fault> {
        self.step("removing a probe", || _ = self.world.facts().probes.remove(&probe.file_name)).await
    }

    async fn disks(&self, _: InstanceId) -> Result<Vec<DiskDefinition>, Fault> {
        self.step("reading the disks", || Definition::parse(DOMAIN_XML).expect("valid").disks).await
    }

    async fn sighting(&self, _: InstanceId) -> Result<Sighting, Fault> {
        self.step("looking for the guest", || self.world.sees(self.name)).await
    }

    async fn open_sockets(&self, order: &Order) -> Result<(), Fault> {
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
            let mut facts = self.world.facts();
            facts.directories.remove(&(self.name, migration));
            facts.listening.remove(&(self.name, migration));
        })
        .await
    }

    fn grant_tunnel(&self, migration: MigrationId, source: &HostName) -> Result<(), Fault> {
        self.assert_journaled("revoke_tunnel");
        self.world.facts().granted.insert(migration, source.clone());
        Ok(())
    }

    fn revoke_tunnel(&self, migration: MigrationId) -> Result<(), Fault> {
        self.world.facts().granted.remove(&migration);
        Ok(())
    }

    async fn migrate(
        &self,
        order: &Order,
        sharing: Sharing,
        _: OnProgress,
        _: CancellationToken,
    ) -> Result<Statistics, Fault> {
        assert_eq!(sharing, Sharing::Proved, "libvirt cannot know it");
        {
            let facts = self.world.facts();
            assert!(facts.listening.contains(&("source", order.id)), "the way out is open");
            assert!(facts.directories.contains(&("destination", order.id)), "QEMU has a place for its socket");
            assert_eq!(facts.granted.get(&order.id), Some(&self.host), "the way in is granted to the source");
        }
        self.step("copying memory", || self.world.set("destination", Some((Sighting::Arriving, false))))
            .await
            .inspect_err(|_| {
                // libvirt takes back what it began.
                self.world.set("destination", None);
            })?;
        let handover = || {
            self.world.set("source", None);
            self.world.set("destination", Some((Sighting::Running, true)));
        };
        self.step("handing over", handover).await.map_err(|fault| {
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

    async fn await_job_end(&self, _: InstanceId) -> Result<(), Fault> {
        self.step("waiting for the job", || ()).await
    }

    async fn make_persistent(&self, _: InstanceId) -> Result<(), Fault> {
        self.step("keeping the definition", || {
            let sighting = self.world.sees(self.name);
            self.world.set(self.name, Some((sighting, true)));
        })
        .await
    }

    async fn undefine(&self, _: InstanceId) -> Result<(), Fault> {
        assert_ne!(self.world.sees(self.name), Sighting::Running, "I4: the guest's only definition");
        self.step("undefining", || self.world.set(self.name, None)).await
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

/// An agent as the coordinator reaches it, with calls that can be lost on the way.
pub(crate) struct Local<'a> {
    pub(crate) migrations: &'a Migrations<Fake>,
    pub(crate) world: &'a World,
}

impl Local<'_> {
    async fn call<T>(&self, what: &str, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let struck = {
            let mut facts = self.world.facts();
            let here = facts.faults.place == Place::Call(facts.calls);
            facts.calls += 1;
            here.then(|| {
                facts.struck = Some(format!("{}: {what}", self.host()));
                facts.faults.trouble
            })
        };
        let silence = || CallError {
            host: self.host().clone(),
            reason: Reason::AgentUnreachable,
            message: format!("{} did not answer, as asked for", self.host()),
        };
        match struck {
            None => call.await,
            Some(Trouble::LosesItsAnswer) => {
                _ = call.await;
                Err(silence())
            }
            Some(_) => Err(silence()),
        }
    }
}

impl Agent for Local<'_> {
    fn host(&self) -> &HostName {
        self.migrations.host().name()
    }

    async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        self.call("check", self.migrations.check(order, side, leaving)).await
    }

    async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        self.call("end_check", self.migrations.end_check(order)).await
    }

    async fn pre(&self, order: &Order, half: &Half) -> Result<(), CallError> {
        let by = "vmferry://test/coordinator/flow".to_owned();
        let pre = async { self.migrations.open(order, half.side(), by)?.pre(half).await };
        self.call("pre", pre).await
    }

    async fn migrate(&self, order: &Order, _: &(dyn Fn(Progress) + Sync)) -> Result<Statistics, CallError> {
        self.call("migrate", async { self.migrations.of(order)?.migrate().await }).await
    }

    async fn post(&self, order: &Order, _: Side) -> Result<Vec<String>, CallError> {
        self.call("post", async { self.migrations.of(order)?.post().await }).await
    }

    async fn cleanup(&self, order: &Order, _: Side, cause: &Cause) -> Result<Vec<String>, CallError> {
        self.call("cleanup", async { self.migrations.of(order)?.cleanup(cause.clone()).await }).await
    }

    async fn locate(&self, order: &Order) -> Result<Sighting, CallError> {
        self.call("locate", self.migrations.locate(order.instance)).await
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        let record = async { Ok(self.migrations.get(order.id).ok().map(|migration| migration.state().record())) };
        self.call("record", record).await
    }
}
