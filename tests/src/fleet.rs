//! Fleets of agents that are real but for the hosts that they are on, so that a machine has room for hundreds. Each is a process with an
//! address, a certificate and a state of its own.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    binaries::{self, Binaries},
    cost,
    process::run,
    wait::until,
};

/// Where the one coordinator serves.
const COORDINATOR: &str = "127.20.0.1:7444";
const MIB: u64 = 1 << 20;

/// What the hosts of a fleet are.
#[derive(Debug, Clone, Copy)]
pub enum Hosts {
    /// libvirt's own simulated hypervisor, its `test` driver, which has guests and moves none.
    TestDriver {
        /// On each host.
        guests: usize,
    },
    /// Those of `simulated-agent`, which moves them.
    Simulated(Simulated),
}

/// Simulated hosts, all alike.
#[derive(Debug, Clone, Copy)]
pub struct Simulated {
    /// On each host.
    pub guests: usize,
    /// For how many each host has room.
    pub room: usize,
    /// Memory of each guest, in MiB.
    pub guest_memory: u64,
    /// What each guest writes to per second, in MiB.
    pub dirty_rate: u64,
    /// What the network of each host carries per second, in MiB.
    pub bandwidth: u64,
}

/// Agents that run, until the value is dropped.
#[derive(Debug)]
pub struct Fleet {
    directory: TempDir,
    binaries: Binaries,
    hosts: Hosts,
    agents: Vec<Child>,
}

/// `vmferry serve` of a fleet. It dies with the value.
#[derive(Debug)]
pub struct Serving(Child);

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
        }
        for agent in &mut self.agents {
            let _ = agent.wait();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serving {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// Gives the calling thread, and what it starts, a network of its own.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    run(Command::new("ip").args(["link", "set", "lo", "up"])).map(drop)
}

impl Fleet {
    /// Starts so many agents, in the network of the calling thread; they are `node-0` and so on, in three zones.
    pub fn up(agents: usize, hosts: Hosts) -> Result<Self> {
        let mut binaries = Binaries::locate()?;
        if let Hosts::Simulated(_) = hosts {
            binaries.agent = binaries::simulated_agent()?;
        }
        let mut fleet = Self { directory: TempDir::new()?, binaries, hosts, agents: Vec::new() };
        fs::create_dir(fleet.path("storage"))?;
        fleet.pki(&["init", "--cluster", "fleet"])?;
        fleet.pki(&["issue", "coordinator", "operator"])?;
        let mut inventory = fleet.tls("coordinator-operator");
        for number in 0..agents {
            let name = node(number);
            fleet.pki(&["issue", "agent", &name])?;
            writeln!(inventory, "[[host]]\nname = \"{name}\"\naddress = \"{}:7443\"", address(number)?)?;
            fleet.start(number)?;
        }
        fs::write(fleet.inventory(), inventory)?;
        until("all agents", Duration::from_secs(120), || Ok((fleet.answering()? == agents).then_some(())))?;
        Ok(fleet)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn inventory(&self) -> PathBuf {
        self.path("inventory.toml")
    }

    fn pki(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binaries.vmferry);
        run(command.arg("pki").args(arguments).arg("--directory").arg(self.path("pki"))).map(drop)
    }

    fn tls(&self, whose: &str) -> String {
        let at = self.path("pki").join(whose);
        let at = at.display();
        format!("[tls]\nca = \"{at}/ca.pem\"\ncertificate = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n")
    }

    fn start(&mut self, number: usize) -> Result<()> {
        let name = node(number);
        let mut configuration = format!(
            "name = \"{name}\"\nzone = \"zone-{}\"\nlisten = \"{}:7443\"\nstate_directory = \"{}\"\n{}",
            number % 3,
            address(number)?,
            self.path(&format!("state-{number}")).display(),
            self.tls(&format!("agent-{name}"))
        );
        let mut command = Command::new(&self.binaries.agent);
        match self.hosts {
            Hosts::TestDriver { guests } => {
                let domains = self.path(&format!("libvirt-{number}.xml"));
                fs::write(&domains, node_xml(number, guests))?;
                write!(configuration, "[libvirt]\nuri = \"test://{}\"\nqemu_group = \"root\"\n", domains.display())?;
            }
            Hosts::Simulated(host) => {
                let socket = self.path(&format!("hypervisor-{number}.sock"));
                write!(
                    configuration,
                    "[libvirt]\nsocket = \"{}\"\nqemu_group = \"root\"\n[capacity]\nmemory_reserve = \"0B\"\n",
                    socket.display()
                )?;
                self.populate(number, host)?;
                let memory = host.guest_memory * u64::try_from(host.room)?;
                command.arg("--world").arg(self.world()).arg("--memory").arg(format!("{memory}MiB"));
                command.arg("--bandwidth").arg(format!("{}MiB", host.bandwidth));
            }
        }
        let file = self.path(&format!("agent-{number}.toml"));
        fs::write(&file, configuration)?;
        let log = fs::File::create(self.path(&format!("agent-{number}.log")))?;
        command.arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agents.push(command.spawn().with_context(|| format!("cannot start {}", self.binaries.agent.display()))?);
        Ok(())
    }

    /// A directory for each simulated host, with a file for each guest that runs there.
    fn world(&self) -> PathBuf {
        self.path("world")
    }

    fn populate(&self, number: usize, host: Simulated) -> Result<()> {
        let directory = self.world().join(node(number));
        fs::create_dir_all(&directory)?;
        for guest in 0..host.guests {
            let (name, uuid) = (guest_name(number, guest), uuid(number, guest));
            let disk = self.path("storage").join(format!("{name}.img"));
            fs::File::create(&disk)?;
            let domain_xml = format!(
                "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{}</memory><vcpu>1</vcpu>\
                 <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file' device='disk'>\
                 <driver name='qemu' type='raw' cache='none'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
                 <interface type='bridge'><mac address='52:54:00:{:02x}:{:02x}:{guest:02x}'/><source bridge='br0'/>\
                 <model type='virtio'/></interface></devices></domain>",
                host.guest_memory,
                disk.display(),
                number >> 8,
                number & 0xff
            );
            let file = json!({ "domain_xml": domain_xml, "dirty_rate": host.dirty_rate * MIB });
            fs::write(directory.join(format!("{uuid}.json")), serde_json::to_vec(&file)?)?;
        }
        Ok(())
    }

    /// `vmferry` with these arguments, as the operator.
    pub fn vmferry(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.vmferry);
        command.args(arguments).env("VMFERRY_INVENTORY", self.inventory()).stdin(Stdio::null());
        command
    }

    /// What `vmferry` answers a program, whatever its exit code.
    pub fn document(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.vmferry(arguments).args(["-o", "json"]).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts the one coordinator that stays, and returns it and its address once it is ready.
    pub fn serve(&self) -> Result<(Serving, &'static str)> {
        let (host, _) = COORDINATOR.split_once(':').context("it has a port")?;
        self.pki(&["issue", "coordinator", "fleet", "--address", host])?;
        let inventory = fs::read_to_string(self.inventory())?;
        let own = self.path("inventory-fleet.toml");
        fs::write(&own, inventory.replace("coordinator-operator", "coordinator-fleet"))?;
        let log = self.path("serve.log");
        let mut command = self.vmferry(&["serve", "--listen", COORDINATOR]);
        command.env("VMFERRY_INVENTORY", own).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let serving = Serving(command.spawn()?);
        let is_ready = || Ok(fs::read_to_string(&log)?.contains("is ready on").then_some(()));
        until("the coordinator to be ready", Duration::from_secs(30), is_ready)?;
        Ok((serving, COORDINATOR))
    }

    /// How many hosts answer.
    pub fn answering(&self) -> Result<usize> {
        let document = self.document(&["hypervisors"])?;
        let hosts = document["hypervisors"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(hosts.iter().filter(|host| host["state"] == "up").count())
    }

    /// Has an agent refuse connections.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.agents[number].kill()?;
        self.agents[number].wait()?;
        Ok(())
    }

    /// Has an agent take connections and say nothing.
    pub fn freeze(&self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGSTOP)
    }

    /// Has it go on.
    pub fn thaw(&self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.agents[number].id())?), signal)?)
    }

    /// Memory that is an agent's own, in KiB, on the average.
    pub fn memory(&self) -> Result<u64> {
        let mut all = 0;
        for agent in &self.agents {
            let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
            all += own.and_then(|own| own.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(all / u64::try_from(self.agents.len().max(1))?)
    }

    /// The time of CPUs that all agents together have had so far, but for those that are dead.
    pub fn cpu(&self) -> Duration {
        self.agents.iter().filter_map(|agent| cost::cpu(agent.id()).ok()).sum()
    }

    /// Which guests run on each simulated host, by the files alone, without asking any agent. Fails if one that was there at the beginning
    /// is nowhere, or on two hosts. Only while nobody moves.
    pub fn census(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut census = BTreeMap::new();
        for number in 0..self.agents.len() {
            let guests = files(&self.world().join(node(number)))?;
            for guest in &guests {
                places.entry(guest.clone()).or_default().push(node(number));
            }
            census.insert(node(number), guests);
        }
        let Hosts::Simulated(host) = self.hosts else { bail!("libvirt's test driver has its guests in memory") };
        for (number, guest) in
            (0..self.agents.len()).flat_map(|number| (0..host.guests).map(move |guest| (number, guest)))
        {
            let on = places.remove(&uuid(number, guest)).unwrap_or_default();
            ensure!(on.len() == 1, "{} runs on {} hosts: {on:?}", guest_name(number, guest), on.len());
        }
        ensure!(places.is_empty(), "nobody knows these guests: {places:?}");
        Ok(census)
    }

    /// The hosts that have more guests now than there is room for; at any time.
    pub fn overfilled(&self) -> Result<Vec<String>> {
        let Hosts::Simulated(host) = self.hosts else { bail!("libvirt's test driver has its guests in memory") };
        let mut overfilled = Vec::new();
        for number in 0..self.agents.len() {
            let directory = self.world().join(node(number));
            let most = || Ok::<_, anyhow::Error>(files(&directory)?.len() > host.room);
            // One may have left and another have come while it was read.
            if most()? && most()? && most()? {
                overfilled.push(node(number));
            }
        }
        Ok(overfilled)
    }

    /// What migrations have left, now that none goes on: open halves, claims, directories; a sentence each. Of those that are dead nothing
    /// is known.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let hosts = self.document(&["hypervisors"])?;
        for host in hosts["hypervisors"].as_array().context("a list of hosts")? {
            let taken = &host["room"]["taken"];
            let claims = [&host["migrations_active"], &taken["migrations_incoming"], &taken["migrations_outgoing"]];
            if host["state"] != "down" && claims.iter().any(|claims| **claims != 0) {
                left.push(format!("{} has migrations: {host}", host["name"]));
            }
        }
        for number in 0..self.agents.len() {
            let directory = self.path(&format!("state-{number}"));
            let probes = fs::read_dir(directory.join("probes"))?.count();
            if probes > 0 {
                left.push(format!("{} has {probes} lists of probe files", node(number)));
            }
        }
        for entry in fs::read_dir(self.path("storage"))? {
            let name = entry?.file_name();
            if Path::new(&name).extension().is_none_or(|extension| extension != "img") {
                left.push(format!("{} lies beside the disks", name.display()));
            }
        }
        Ok(left)
    }
}

/// The name of a host.
pub fn node(number: usize) -> String {
    format!("node-{number}")
}

/// The name of a guest, by the host that it was on at the beginning.
pub fn guest_name(number: usize, guest: usize) -> String {
    format!("guest-{number}-{guest}")
}

fn uuid(number: usize, guest: usize) -> String {
    format!("00000000-0000-4000-8000-{:012x}", number * 1_000 + guest + 1)
}

/// Each has an address of its own, as hosts do.
fn address(number: usize) -> Result<Ipv4Addr> {
    let [high, low] = u16::try_from(number)?.to_be_bytes();
    Ok(Ipv4Addr::new(127, 10, high, low))
}

/// The names of the guests' files in a directory, without their ends.
fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("their names are UUIDs")?;
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A host of libvirt's `test` driver with guests that run.
fn node_xml(number: usize, guests: usize) -> String {
    let mut node = "<node>".to_owned();
    for guest in 0..guests {
        let _ = write!(
            node,
            "<domain type='test'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>64</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os></domain>",
            guest_name(number, guest),
            uuid(number, guest)
        );
    }
    node + "</node>"
}
