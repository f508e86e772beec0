//! One hypervisor of a testbed: programs run on it, its libvirt, its power and its cables.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    binaries::Binaries,
    boot,
    capture::{Capture, Direction},
    layout::{Layout, SHARED},
    leaks::Snapshot,
    network::{self, GUEST_BRIDGE, Link},
    process::{self, Process, run, run_with_input},
    state::{HostState, State},
    tree::Tree,
    wait,
};

/// A host. Its processes are in a container; `root` on it is root in there.
#[derive(Debug)]
pub struct Host {
    layout: Layout,
    tree: Tree,
    binaries: Option<Binaries>,
    recorded: Mutex<HostState>,
    name: String,
}

impl Host {
    pub(crate) fn new(layout: &Layout, tree: &Tree, binaries: Option<&Binaries>, recorded: HostState) -> Self {
        let name = recorded.name.clone();
        let binaries = binaries.cloned();
        Self { layout: layout.clone(), tree: tree.clone(), binaries, recorded: Mutex::new(recorded), name }
    }

    /// Its name: in the inventory, in its certificate, and its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its availability zone.
    pub fn zone(&self) -> String {
        self.recorded().zone
    }

    /// Its address on the underlay.
    pub fn address(&self) -> std::net::Ipv4Addr {
        self.recorded().address
    }

    /// A command on the host, as root, in a clean environment. nsenter stays as its parent: to kill a program on
    /// the host, kill it there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let init = self.init()?;
        let mut command = Command::new("/usr/bin/nsenter");
        command.arg(format!("--target={}", init.pid));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"]).arg(program);
        command.env_clear().envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// Runs a program on the host to its end and returns its stdout.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        run(self.command(program)?.args(arguments)).with_context(|| format!("on {}", self.name))
    }

    /// Runs a shell script on the host.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run("sh", ["-ec", script])
    }

    /// `virsh -q` on the host's system connection.
    pub fn virsh<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.command("virsh")?;
        command.args(["-q", "-c", "qemu:///system"]).args(arguments);
        run(&mut command).with_context(|| format!("on {}", self.name))
    }

    /// Defines a persistent domain from its XML.
    pub fn define(&self, xml: &str) -> Result<()> {
        let mut command = self.command("virsh")?;
        command.args(["-q", "-c", "qemu:///system", "define", "/dev/stdin"]);
        run_with_input(&mut command, xml).with_context(|| format!("on {}", self.name))?;
        Ok(())
    }

    /// The state of a domain in libvirt's words (`running`, `shut off`, `paused` …); `None` if this host has no such domain.
    pub fn domain_state(&self, domain: &str) -> Result<Option<String>> {
        let names = self.virsh(["list", "--all", "--name"])?;
        if !names.lines().any(|line| line == domain) {
            return Ok(None);
        }
        // Gone in between: a migration may be finishing.
        Ok(self.virsh(["domstate", domain]).ok().map(|state| state.trim().to_owned()))
    }

    /// Restarts libvirtd. Guests run on.
    pub fn restart_libvirtd(&self) -> Result<()> {
        self.run("systemctl", ["restart", "libvirtd.service"]).map(drop)
    }

    /// The host's agent.
    pub fn agent(&self) -> Agent<'_> {
        Agent::new(self)
    }

    /// Its processes of this name (of its first 15 letters), as this machine counts: to be sent signals from outside, at once.
    pub fn processes(&self, name: &str) -> Result<Vec<Process>> {
        self.processes_that(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name))
    }

    /// The process that has this number there.
    pub fn process(&self, pid: i32) -> Result<Process> {
        let is_it = |path: &Path| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.and_then(|numbers| numbers.split_ascii_whitespace().last()?.parse().ok()) == Some(pid)
        };
        self.processes_that(is_it)?.pop().with_context(|| format!("{} has no process {pid}", self.name))
    }

    fn processes_that(&self, wanted: impl Fn(&Path) -> bool) -> Result<Vec<Process>> {
        let inside = |path: &Path| fs::read_link(path.join("ns/pid")).ok();
        let own = inside(Path::new(&format!("/proc/{}", self.init()?.pid)));
        ensure!(own.is_some(), "{} is going down", self.name);
        Ok(process::all(|path| wanted(path) && inside(path) == own))
    }

    /// The host's journal since boot, of one unit or of all.
    pub fn journal(&self, unit: Option<&str>) -> Result<String> {
        let mut arguments = vec!["--no-pager", "--output=short-precise"];
        arguments.extend(unit.iter().flat_map(|unit| ["--unit", unit]));
        self.run("journalctl", arguments)
    }

    /// A path on the host, as the machine sees it. Valid while the host is up.
    pub fn path(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.init()?.pid));
        Ok(root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref())))
    }

    /// Writes a file on the host, with the directories above it.
    pub fn write(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path)?;
        fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What is on the host now, to be compared with later: see [`Snapshot`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self)
    }

    /// Looks at what passes one of its ports.
    pub fn capture(&self, port: &str, direction: Direction) -> Result<Capture> {
        Capture::start(&self.layout.machine(&self.name), port, direction)
    }

    /// Takes a cable out.
    pub fn cut(&self, link: Link) -> Result<()> {
        network::set_link(&self.layout, &self.name, link, false)
    }

    /// Puts a cable back.
    pub fn mend(&self, link: Link) -> Result<()> {
        network::set_link(&self.layout, &self.name, link, true)
    }

    /// Forgets links that were made and filters, as a reboot does. Only while it is off.
    pub fn forget_network(&self) -> Result<()> {
        ensure!(!self.is_up(), "{} is up", self.name);
        network::forget(&self.layout, &self.name)
    }

    /// Gives the bridge that it has for guests another name.
    pub fn rename_guest_bridge(&self, name: &str) -> Result<()> {
        self.sh(&format!(
            "ip link set {GUEST_BRIDGE} down; ip link set {GUEST_BRIDGE} name {name}; ip link set {name} up"
        ))
        .map(drop)
    }

    /// Starts Open vSwitch, with one bridge that forwards in user space, and gives it the guests' link as a port of a VLAN.
    pub fn start_open_vswitch(&self, bridge: &str, vlan: u16) -> Result<()> {
        self.sh(&format!(
            "systemctl start openvswitch-switch
             ovs-vsctl add-br {bridge} -- set bridge {bridge} datapath_type=netdev
             ip link set guests0 nomaster
             ovs-vsctl add-port {bridge} guests0 tag={vlan}
             ip link set {bridge} up"
        ))
        .map(drop)
    }

    /// Whether its systemd runs.
    pub fn is_up(&self) -> bool {
        self.recorded().init.is_some_and(|init| init.is_alive())
    }

    /// Takes the power away: every process dies at once, the disk stays.
    pub fn power_off(&self) -> Result<()> {
        let recorded = self.recorded();
        if let Some(init) = recorded.init {
            init.signal(Signal::SIGKILL)?;
        }
        if let Some(supervisor) = recorded.supervisor {
            ensure!(supervisor.wait_gone(wait::SOON), "nspawn of {} does not end", self.name);
        }
        Ok(())
    }

    /// Boots the host, and waits until it is up with its agent ready, if it has one.
    pub fn power_on(&self) -> Result<()> {
        ensure!(!self.is_up(), "{} is up already", self.name);
        let booted = boot::boot(&self.layout, &self.recorded(), &self.tree, self.binaries.as_ref())?;
        let recorded = State::update(&self.layout, |state| {
            let host = state.machine_mut(&self.name).context("the host is not recorded")?;
            host.supervisor = Some(booted.supervisor);
            host.init = Some(booted.init);
            Ok(host.clone())
        })?;
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = recorded;
        wait::until(&format!("libvirt's socket on {}", self.name), wait::SOON, || {
            Ok(self.path("/run/libvirt/libvirt-sock")?.exists().then_some(()))
        })?;
        if self.binaries.is_some() {
            self.agent().wait_ready(wait::SOON)?;
        }
        Ok(())
    }

    /// Where this host sees a file of [`Layout::shared`].
    pub fn shared(&self, file: &str) -> String {
        format!("{SHARED}/{file}")
    }

    fn recorded(&self) -> HostState {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn init(&self) -> Result<Process> {
        let init = self.recorded().init.with_context(|| format!("{} was never up", self.name))?;
        ensure!(init.is_alive(), "{} is down", self.name);
        Ok(init)
    }
}
