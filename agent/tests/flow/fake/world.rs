//! Everything that outlives an agent's process, as plain values; and one fault at a chosen place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};
use vmferry_agent::hypervisor::OnRelease;
use vmferry_core::{
    agent::Sighting,
    disk::Probe,
    host::Capacity,
    id::{HostName, MigrationId},
};

use super::{chance::Chance, disks, filter, housing, libvirt::Libvirts, network};

/// The guest's.
const NAME: &str = "web";

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
pub(super) enum Place {
    Nowhere,
    Step(usize),
    EveryStep,
    Named(&'static str),
    Call(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(super) place: Place,
    pub(super) trouble: Trouble,
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

pub(super) struct Facts {
    pub(super) faults: Faults,
    pub(super) steps: usize,
    pub(super) calls: usize,
    pub(super) struck: Option<String>,
    pub(super) domains: BTreeMap<&'static str, (Sighting, bool)>,
    pub(super) directories: BTreeSet<(&'static str, MigrationId)>,
    pub(super) listening: BTreeSet<(&'static str, MigrationId)>,
    pub(super) granted: BTreeMap<MigrationId, HostName>,
    /// What the destination does when it is told that a guest is released.
    pub(super) released: BTreeMap<MigrationId, OnRelease>,
    /// Where the source says that the groups of the guest are.
    pub(super) noted: Option<HostName>,
    /// The host whose agent nobody hears.
    pub(super) silent: &'static str,
    /// Whether agents are of a version that does not say what it sees of the guest as it ends its half.
    pub(super) is_older: bool,
    /// Where the guest has run.
    pub(super) has_run: BTreeSet<&'static str>,
    /// The guest's name on the source, which may be taken from it for a while.
    pub(super) name: String,
    /// Whether a host starts it with itself.
    pub(super) autostart: BTreeMap<&'static str, bool>,
    /// In the one directory that both hosts see, by name.
    pub(super) probes: BTreeMap<String, Probe>,
    /// What each host has of the guest's disks: paths of files and directories, volumes, secrets.
    pub(super) has: BTreeSet<(&'static str, String)>,
    /// Migrations whose images may be written to.
    pub(super) receiving: BTreeSet<MigrationId>,
    /// Migrations whose images were all received.
    pub(super) complete: BTreeSet<MigrationId>,
    /// Whether nobody can say what the guest writes to.
    pub(super) is_unmeasurable: bool,
    /// What the hosts give their guests.
    pub(super) capacity: Capacity,
    /// How many processes each host's agent has had before the one that it has now.
    pub(super) processes: BTreeMap<&'static str, u32>,
    /// Only in a simulation.
    pub(super) chance: Option<Chance>,
    pub(super) libvirts: Libvirts,
}

/// Everything that outlives an agent's process.
pub(crate) struct World {
    root: PathBuf,
    facts: Mutex<Facts>,
    pub(super) death: Arc<Notify>,
    /// How often the destination's process was dropped: who talks to one hears no more of it.
    pub(super) dropped: watch::Sender<u32>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("root", &self.root).finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(root: &Path, faults: Faults, at_first: Sighting) -> Arc<Self> {
        let facts = Facts {
            faults,
            steps: 0,
            calls: 0,
            struck: None,
            domains: BTreeMap::from([("source", (at_first, true))]),
            directories: BTreeSet::new(),
            listening: BTreeSet::new(),
            granted: BTreeMap::new(),
            released: BTreeMap::new(),
            noted: None,
            silent: "nobody",
            is_older: false,
            has_run: BTreeSet::new(),
            name: NAME.to_owned(),
            autostart: BTreeMap::from([("source", true)]),
            probes: BTreeMap::new(),
            has: disks::OF_THE_SOURCE
                .iter()
                .map(|thing| (*thing).to_owned())
                .chain(network::of_the_source())
                .chain(filter::of_the_guest())
                .map(|thing| ("source", thing))
                .collect(),
            receiving: BTreeSet::new(),
            complete: BTreeSet::new(),
            is_unmeasurable: false,
            capacity: housing::PLENTY,
            processes: BTreeMap::new(),
            chance: None,
            libvirts: Libvirts::default(),
        };
        Arc::new(Self {
            root: root.to_owned(),
            facts: Mutex::new(facts),
            death: Arc::default(),
            dropped: watch::Sender::new(0),
        })
    }

    pub(super) fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Where the source says that the groups of the guest are.
    pub(crate) fn noted(&self) -> Option<HostName> {
        self.facts().noted.clone()
    }

    pub(crate) fn leftovers(&self) -> Vec<String> {
        let facts = self.facts();
        let directories = facts.directories.iter().map(|left| format!("directory {left:?}"));
        let listening = facts.listening.iter().map(|left| format!("listener {left:?}"));
        let granted = facts.granted.iter().map(|left| format!("grant {left:?}"));
        let probes = facts.probes.keys().map(|left| format!("probe {left}"));
        let lists = fs::read_dir(directory_of(&self.root, &facts, "source").join("probes"))
            .expect("the agent made it")
            .flatten();
        let lists = lists.map(|left| format!("list {}", left.path().display()));
        let receiving = facts.receiving.iter().map(|left| format!("receiver {left:?}"));
        let disks = facts.has.iter().filter(|(host, thing)| disks::is_left(&facts.domains, host, thing));
        let disks = disks.map(|left| format!("disk {left:?}"));
        let is_retired = facts.domains.contains_key("source") && facts.name != NAME;
        let is_left_off = facts.domains.keys().any(|host| facts.autostart.get(host) != Some(&true));
        let retired = (is_retired || is_left_off)
            .then(|| format!("the guest is {}, autostart {:?}", facts.name, facts.autostart));
        directories
            .chain(retired)
            .chain(listening)
            .chain(granted)
            .chain(probes)
            .chain(lists)
            .chain(receiving)
            .chain(disks)
            .collect()
    }

    /// Where the agent has its journals whose process this host has now.
    pub(crate) fn state_directory(&self, host: &str) -> PathBuf {
        directory_of(&self.root, &self.facts(), host)
    }

    /// Which process the host has now.
    pub(super) fn process(&self, host: &str) -> u32 {
        self.facts().process(host)
    }

    /// The process is gone, and whatever of it goes on in this one writes to journals that nobody reads: its successor has them as they
    /// are now. In truth a lock and its death see to that.
    ///
    /// Listeners and grants live in the process; so does the data path of a guest that is arriving.
    pub(crate) fn drop_process(&self, host: &'static str) {
        let mut facts = self.facts();
        let before = directory_of(&self.root, &facts, host);
        *facts.processes.entry(host).or_default() += 1;
        copy(&before, &directory_of(&self.root, &facts, host)).expect("the agent made it");
        facts.listening.retain(|(of, _)| *of != host);
        if host == "destination" {
            facts.granted.clear();
            facts.released.clear();
            self.dropped.send_modify(|times| *times += 1);
            facts.receiving.clear();
        }
        facts.domains.retain(|_, (sighting, _)| *sighting != Sighting::Arriving);
    }

    /// From now on either host gives its guests so much.
    pub(crate) fn give(&self, capacity: Capacity) {
        self.facts().capacity = capacity;
    }

    /// From the next step at the edge on nothing happens any more.
    pub(crate) fn stop(&self) {
        let mut facts = self.facts();
        facts.faults = Faults { place: Place::EveryStep, trouble: Trouble::DiesBefore };
    }

    /// From now on this is not done.
    pub(crate) fn fail(&self, what: &'static str) {
        self.facts().faults = Faults { place: Place::Named(what), trouble: Trouble::Fails };
    }

    /// From now on nobody can say what the guest writes to.
    pub(crate) fn hide_load(&self) {
        self.facts().is_unmeasurable = true;
    }

    /// From now on nobody hears this host's agent.
    pub(crate) fn silence(&self, host: &'static str) {
        self.facts().silent = host;
    }

    /// From now on agents are of a version that does not say what it sees of the guest as it ends its half.
    pub(crate) fn age(&self) {
        self.facts().is_older = true;
    }

    /// An administrator lets it run, or destroys it.
    pub(crate) fn by_hand(&self, host: &'static str, seen: Sighting) {
        self.set(host, (seen != Sighting::Absent).then_some((seen, true)));
    }

    /// Both hosts show a guest that runs, as after an answer that was lost. Nothing may be done to either.
    pub(crate) fn seem_to_run_twice(&self) {
        self.facts().domains.insert("destination", (Sighting::Running, true));
    }

    /// The guest shuts itself down, of its own will.
    pub(crate) fn goes_off(&self, host: &'static str) {
        self.set(host, Some((Sighting::Shutoff, true)));
    }

    pub(crate) fn wait_for_death(&self) -> impl Future<Output = ()> + use<> {
        let death = Arc::clone(&self.death);
        async move { death.notified().await }
    }

    /// I1, whenever a domain changes.
    pub(super) fn set(&self, host: &'static str, domain: Option<(Sighting, bool)>) {
        let mut facts = self.facts();
        match domain {
            Some(domain) => _ = facts.domains.insert(host, domain),
            None => _ = facts.domains.remove(host),
        }
        let is_left = facts.domains.values().any(|(sighting, _)| *sighting != Sighting::Arriving);
        assert!(is_left || facts.chance.is_none(), "I4: no copy of the guest is left");
        let running = facts.domains.values().filter(|(sighting, _)| *sighting == Sighting::Running).count();
        assert!(running <= 1, "I1: the guest runs {running} times");
        if domain.is_some_and(|(sighting, _)| sighting == Sighting::Running) {
            let elsewhere = facts.has_run.contains("destination") && host == "source";
            assert!(!elsewhere, "I4: what the guest has written on the destination is lost");
            facts.has_run.insert(host);
        }
        disks::assert_whole(&facts);
    }
}

impl Facts {
    pub(super) fn process(&self, host: &str) -> u32 {
        self.processes.get(host).copied().unwrap_or_default()
    }
}

fn directory_of(root: &Path, facts: &Facts, host: &str) -> PathBuf {
    root.join(format!("{host}-{}", facts.process(host)))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &there)?;
        } else {
            fs::copy(entry.path(), there)?;
        }
    }
    Ok(())
}
