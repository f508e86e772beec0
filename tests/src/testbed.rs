//! A testbed from `up` to `down`.

use std::{
    ffi::OsStr,
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

pub use crate::options::{HostSpec, Lifetime, Options};
use crate::{
    binaries::Binaries,
    boot,
    guest::{Definition, Guest},
    host::Host,
    layout::Layout,
    network,
    ping::Pinger,
    pki,
    process::Process,
    signals,
    state::{GuestState, HostState, State, StorageState},
    storage::{self, Storage},
    teardown::{tear_down, tear_down_stale},
    tree::Tree,
};

mod wire;

/// Guests' addresses begin here; below are the bridge and whatever tests attach by hand.
const FIRST_GUEST: u8 = 100;

/// A running testbed.
#[derive(Debug)]
pub struct Testbed {
    layout: Layout,
    tree: Tree,
    binaries: Option<Binaries>,
    hosts: Vec<Host>,
    storage: Option<Storage>,
    lifetime: Lifetime,
}

impl Testbed {
    /// Builds it and boots all hosts at once. If that fails, nothing stays.
    pub fn up(options: Options) -> Result<Self> {
        let binaries = options.agents.then(Binaries::locate).transpose()?;
        for host in &options.hosts {
            ensure!((1..=13).contains(&host.name.len()), "host name {:?} is too long or empty", host.name);
            ensure!(host.name != storage::NODE, "{} is the storage node's name", host.name);
        }
        ensure!(options.hosts.len() <= 90, "{} hosts are too many", options.hosts.len());
        let tree = Tree::ensure()?;
        tear_down_stale()?;
        let layout = claim(options.name.as_deref())?;
        signals::guard(&layout);

        let recorded = (0..).zip(&options.hosts).map(|(index, host)| HostState {
            name: host.name.clone(),
            zone: host.zone.clone(),
            address: network::host_address(index),
            supervisor: None,
            init: None,
        });
        let recorded: Vec<_> = recorded.collect();
        let hosts = recorded.iter().map(|host| Host::new(&layout, &tree, binaries.as_ref(), host.clone())).collect();
        let storage = (!options.storage.is_empty()).then(|| Storage::recorded(&options.storage));
        let node = storage.clone().map(|recorded| Storage::new(&layout, &tree, recorded));
        // From here on Drop takes down whatever there is.
        let mut testbed = Self { layout, tree, binaries, hosts, storage: node, lifetime: Lifetime::Process };
        testbed.build(&options, &recorded, storage)?;
        if options.lifetime == Lifetime::Kept {
            State::update(&testbed.layout, |state| {
                state.owner = None;
                Ok(())
            })?;
            signals::release(&testbed.layout);
            testbed.lifetime = Lifetime::Kept;
        }
        Ok(testbed)
    }

    /// A testbed that is up already. Dropping the value leaves it up.
    pub fn open(name: &str) -> Result<Self> {
        let layout = Layout::new(name)?;
        let state = State::read(&layout)?.with_context(|| format!("there is no testbed {name}"))?;
        let (tree, binaries) = (state.tree, state.binaries);
        let hosts = state.hosts.into_iter().map(|host| Host::new(&layout, &tree, binaries.as_ref(), host)).collect();
        let storage = state.storage.map(|recorded| Storage::new(&layout, &tree, recorded));
        Ok(Self { layout, tree, binaries, hosts, storage, lifetime: Lifetime::Kept })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// Its paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its hosts, in order of their addresses.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// One host.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| format!("testbed {} has no host {name}", self.name()))
    }

    /// The storage node; an error if [`Options::storage`] asked for none.
    pub fn storage(&self) -> Result<&Storage> {
        self.storage.as_ref().with_context(|| format!("testbed {} has no storage node", self.name()))
    }

    /// A command in the fabric, where operator and probe are: all hosts and guests are in reach. The child's pid is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = network::command_in(&self.layout.fabric(), program);
        command.env("VMFERRY_INVENTORY", self.layout.inventory());
        command
    }

    /// The CLI as the coordinator `operator`, in the fabric. The child's pid is its own, so that a test can kill it.
    pub fn vmferry<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Command> {
        let binaries = self.binaries.as_ref().context("a testbed without agents has no use for vmferry")?;
        let mut command = self.command(&binaries.vmferry);
        command.args(arguments);
        Ok(command)
    }

    /// The CLI as `watcher`, a viewer.
    pub fn vmferry_as_viewer<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = self.vmferry(arguments)?;
        command.env("VMFERRY_INVENTORY", self.layout.viewer_inventory());
        Ok(command)
    }

    /// The directory of the `vmferry` program, for a `PATH`.
    pub fn program_directory(&self) -> Option<PathBuf> {
        self.binaries.as_ref().and_then(|binaries| binaries.vmferry.parent()).map(PathBuf::from)
    }

    /// Defines a guest on a host and starts it. Returns at once: see [`Guest::wait_until_up`].
    pub fn launch(&self, definition: impl Into<Definition>, host: &str) -> Result<Guest> {
        let definition = definition.into();
        let host = self.host(host)?;
        let guest = self.define(definition, host.name())?;
        host.virsh(["start", guest.name()])?;
        Ok(guest)
    }

    /// Defines a guest on a host, starts it, and waits until it is up.
    pub fn start(&self, definition: impl Into<Definition>, host: &str) -> Result<Guest> {
        let guest = self.launch(definition, host)?;
        guest.wait_until_up(Duration::from_secs(60))?;
        Ok(guest)
    }

    /// Defines a guest on a host, with the files it needs in the shared directory.
    pub fn define(&self, definition: impl Into<Definition>, host: &str) -> Result<Guest> {
        let definition = definition.into();
        let address = self.record_guest(definition.name(), definition.wants_address())?;
        definition.write_files(&self.tree, &self.layout.shared())?;
        self.host(host)?.define(&definition.xml(address))?;
        Ok(Guest::new(definition.name(), address, definition.kind(), &self.layout))
    }

    /// The hosts that run this domain: at any time there must be at most one (I1).
    pub fn runners(&self, domain: &str) -> Result<Vec<&str>> {
        let mut runners = Vec::new();
        for host in self.hosts.iter().filter(|host| host.is_up()) {
            if host.domain_state(domain)?.as_deref() == Some("running") {
                runners.push(host.name());
            }
        }
        Ok(runners)
    }

    /// Pings an address of the guests' network every 5 ms from now on.
    pub fn ping(&self, address: Ipv4Addr) -> Result<Pinger> {
        Pinger::start(&self.layout, address)
    }

    /// Takes it down and says what went wrong, which dropping cannot.
    pub fn down(mut self) -> Result<()> {
        self.lifetime = Lifetime::Kept;
        signals::release(&self.layout);
        tear_down(&self.layout)
    }

    fn build(&self, options: &Options, recorded: &[HostState], storage: Option<StorageState>) -> Result<()> {
        let state = State {
            name: self.name().to_owned(),
            owner: Some(Process::own()),
            tree: self.tree.clone(),
            binaries: self.binaries.clone(),
            hosts: recorded.to_vec(),
            storage,
            guests: Vec::new(),
        };
        state.write(&self.layout)?;
        let shared = self.layout.shared();
        fs::create_dir_all(&shared)?;
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))?;
        if let Some(binaries) = &self.binaries {
            pki::create(&self.layout, binaries, recorded)?;
        }
        network::create_fabric(&self.layout)?;
        for (host, spec) in recorded.iter().zip(&options.hosts) {
            network::create_host(&self.layout, host)?;
            boot::prepare(&self.layout, host, recorded)?;
            if options.agents {
                boot::install_agent(&self.layout, host, &spec.configuration)?;
            }
        }
        if let Some(storage) = &self.storage {
            storage.prepare(&self.layout, recorded)?;
        }
        thread::scope(|scope| {
            let boots = self.hosts.iter().map(|host| scope.spawn(|| host.power_on()));
            let storage = self.storage.iter().map(|storage| scope.spawn(|| storage.start()));
            let boots: Vec<_> = boots.chain(storage).collect();
            let results = boots.into_iter().map(|boot| boot.join().unwrap_or_else(|_| Err(anyhow!("a boot panicked"))));
            results.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
        })
    }

    /// The guest's address: as before if the name is known, else the next free one.
    fn record_guest(&self, name: &str, wants_address: bool) -> Result<Option<Ipv4Addr>> {
        State::update(&self.layout, |state| {
            if let Some(known) = state.guests.iter().find(|guest| guest.name == name) {
                return Ok(known.address);
            }
            let free = (FIRST_GUEST..=254).map(network::guest_address);
            let mut free = free.filter(|address| state.guests.iter().all(|guest| guest.address != Some(*address)));
            let address =
                if wants_address { Some(free.next().context("no address is free for a guest")?) } else { None };
            state.guests.push(GuestState { name: name.to_owned(), address });
            Ok(address)
        })
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Process {
            signals::release(&self.layout);
            if thread::panicking() {
                self.print_journals();
            }
            if let Err(error) = tear_down(&self.layout) {
                eprintln!("testbed: {error:#}");
            }
        }
    }
}

impl Testbed {
    /// A test has failed and its hosts are about to vanish: shows what their agents said last.
    fn print_journals(&self) {
        for host in self.hosts.iter().filter(|host| self.binaries.is_some() && host.is_up()) {
            let journal = host.agent().journal().unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<_> = journal.lines().collect();
            let tail = &lines[lines.len().saturating_sub(50)..];
            eprintln!("--- the end of the agent's journal on {}\n{}", host.name(), tail.join("\n"));
        }
    }
}

/// Takes the name by making its directory, which only one process can.
fn claim(name: Option<&str>) -> Result<Layout> {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    fs::create_dir_all(Layout::root())?;
    loop {
        let layout = match name {
            Some(name) => Layout::new(name)?,
            None => Layout::new(&format!("t{}x{}", id(), COUNTER.fetch_add(1, Ordering::Relaxed)))?,
        };
        match fs::create_dir(layout.run_dir()) {
            Ok(()) => return Ok(layout),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && name.is_none() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("testbed {} exists already: `testbed down --name {0}` removes it", layout.name())
            }
            Err(error) => return Err(error).context("cannot create a testbed: it needs root"),
        }
    }
}
