//! What a fleet costs: listing and choosing among 500 agents of which 20 are dead, and a host that is drained beside `virsh migrate` in a
//! row. Run by `make bench`; prints what it measured.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tempfile::TempDir;
use vmferry_tests::{
    Options, Testbed, alone, binaries::Binaries, guest::BootSectorGuest, process::run, testbed::HostSpec, wait::until,
};

const AGENTS: usize = 500;
const DEAD: usize = 20;
/// Runs of each command.
const RUNS: usize = 5;
/// Guests that are drained, and times that they are.
const GUESTS: usize = 8;
const DRAINS: usize = 5;

fn main() -> Result<()> {
    // In a network of their own, which the thread and its children are in.
    let listed = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        many_agents()
    });
    listed.join().map_err(|_| anyhow!("the listing of many agents panicked"))??;
    drains()
}

/// Real agents, each with libvirt's own simulated hypervisor: its `test` driver, which has guests and moves none.
struct Fleet {
    directory: TempDir,
    binaries: Binaries,
    agents: Vec<Child>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

impl Fleet {
    fn up() -> Result<Self> {
        let directory = TempDir::new()?;
        let binaries = Binaries::locate()?;
        let mut fleet = Self { directory, binaries, agents: Vec::new() };
        let pki = fleet.path("pki");
        fleet.pki(&["init", "--cluster", "fleet"])?;
        fleet.pki(&["issue", "coordinator", "operator"])?;
        let at = pki.join("coordinator-operator").display().to_string();
        let mut inventory =
            format!("[tls]\nca = \"{at}/ca.pem\"\ncertificate = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n");
        for number in 0..AGENTS {
            let name = format!("node-{number}");
            fleet.pki(&["issue", "agent", &name])?;
            writeln!(inventory, "[[host]]\nname = \"{name}\"\naddress = \"{}:7443\"", address(number)?)?;
            fleet.start(number, &name, &pki)?;
        }
        fs::write(fleet.path("inventory.toml"), inventory)?;
        Ok(fleet)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pki(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binaries.vmferry);
        run(command.arg("pki").args(arguments).arg("--directory").arg(self.path("pki"))).map(drop)
    }

    fn start(&mut self, number: usize, name: &str, pki: &Path) -> Result<()> {
        let (pki, state) = (pki.join(format!("agent-{name}")), self.path(&format!("state-{number}")));
        let (pki, zone) = (pki.display(), number % 3);
        let domains = self.path(&format!("libvirt-{number}.xml"));
        fs::write(&domains, node(number))?;
        let configuration = format!(
            "name = \"{name}\"\nzone = \"zone-{zone}\"\nlisten = \"{}:7443\"\nstate_directory = \"{}\"\n\
             [tls]\nca = \"{pki}/ca.pem\"\ncertificate = \"{pki}/cert.pem\"\nkey = \"{pki}/key.pem\"\n\
             [libvirt]\nuri = \"test://{}\"\nqemu_group = \"root\"\n",
            address(number)?,
            state.display(),
            domains.display()
        );
        let file = self.path(&format!("agent-{number}.toml"));
        fs::write(&file, configuration)?;
        let log = fs::File::create(self.path(&format!("agent-{number}.log")))?;
        let agent = Command::new(&self.binaries.agent)
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.agents.push(agent);
        Ok(())
    }

    fn vmferry(&self, arguments: &[&str]) -> Result<(Duration, Value)> {
        let begun = Instant::now();
        let output = Command::new(&self.binaries.vmferry)
            .args(arguments)
            .args(["-o", "json", "--inventory"])
            .arg(self.path("inventory.toml"))
            .output()?;
        let took = begun.elapsed();
        let document = serde_json::from_slice(&output.stdout);
        Ok((took, document.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?))
    }

    /// The hosts that answer.
    fn up_now(&self) -> Result<usize> {
        let (_, document) = self.vmferry(&["hypervisors"])?;
        let hosts = document["hypervisors"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(hosts.iter().filter(|host| host["state"] == "up").count())
    }

    /// Memory that is an agent's own, in KiB.
    fn memory(&self) -> Result<u64> {
        let mut all = 0;
        for agent in &self.agents {
            let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
            all += own.and_then(|own| own.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(all / u64::try_from(self.agents.len().max(1))?)
    }
}

/// Each has an address of its own, as hosts do.
fn address(number: usize) -> Result<Ipv4Addr> {
    let [high, low] = u16::try_from(number)?.to_be_bytes();
    Ok(Ipv4Addr::new(127, 10, high, low))
}

/// A host of libvirt's `test` driver with ten guests that run.
fn node(number: usize) -> String {
    let mut node = "<node>".to_owned();
    for guest in 0..10 {
        let uuid = format!("00000000-0000-4000-8000-{:012x}", number * 10 + guest + 1);
        let _ = write!(
            node,
            "<domain type='test'><name>guest-{number}-{guest}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os></domain>"
        );
    }
    node + "</node>"
}

fn many_agents() -> Result<()> {
    let begun = Instant::now();
    let mut fleet = Fleet::up()?;
    until("all agents", Duration::from_secs(120), || Ok((fleet.up_now()? == AGENTS).then_some(())))?;
    println!("{AGENTS} real agents with libvirt's test driver, up after {:.0} s", begun.elapsed().as_secs_f64());
    for agent in &mut fleet.agents[..DEAD / 2] {
        agent.kill()?;
        agent.wait()?;
    }
    // Half of the dead refuse connections, the others take them and say nothing.
    for agent in &fleet.agents[DEAD / 2..DEAD] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP)?;
    }
    ensure!(fleet.up_now()? == AGENTS - DEAD, "those that live are listed");
    println!("{DEAD} of them are dead: half refuse, half say nothing. Times in ms, least to most of {RUNS}");
    for arguments in [&["hypervisors"] as &[_], &["instances"], &["migrations"], &["check", "guest-100-3"]] {
        let mut times = (0..RUNS).map(|_| Ok(fleet.vmferry(arguments)?.0.as_millis())).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        println!("{:>28}  {} ({} to {})", arguments.join(" "), times[RUNS / 2], times[0], times[RUNS - 1]);
    }
    println!("{:>28}  {} KiB of its own", "an agent has", fleet.memory()?);
    for agent in &fleet.agents[DEAD / 2..DEAD] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT)?;
    }
    Ok(())
}

fn drains() -> Result<()> {
    let testbed = Testbed::up(Options { hosts: HostSpec::defaults(3), ..Options::default() })?;
    alone::open(&testbed)?;
    let [first, second, _] = testbed.hosts() else { anyhow::bail!("three hosts were asked for") };
    let names: Vec<_> = (1..=GUESTS).map(|number| format!("web-{number}")).collect();
    for name in &names {
        testbed.start(BootSectorGuest::new(name), first.name())?;
    }
    let (mut drained, mut in_a_row) = (Vec::new(), Vec::new());
    let vmferry = |arguments: &[&str]| -> Result<Duration> {
        let begun = Instant::now();
        run(testbed.vmferry(arguments)?.stdin(Stdio::null()))?;
        Ok(begun.elapsed())
    };
    for _ in 0..DRAINS {
        drained.push(vmferry(&["drain", first.name()])?);
        vmferry(&["undrain", first.name(), "--return"])?;
        let begun = Instant::now();
        for name in &names {
            alone::migrate(name, first, second, &[])?;
        }
        in_a_row.push(begun.elapsed());
        for name in &names {
            alone::migrate(name, second, first, &[])?;
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (ours, theirs) = (median(&mut drained), median(&mut in_a_row));
    println!(
        "\n{GUESTS} guests leave a host, medians of {DRAINS} by turns: `vmferry drain` {} ms ({} to {}), `virsh migrate` in a row {} ms ({} to \
         {}): {:.2} times",
        ours.as_millis(),
        drained[0].as_millis(),
        drained[DRAINS - 1].as_millis(),
        theirs.as_millis(),
        in_a_row[0].as_millis(),
        in_a_row[DRAINS - 1].as_millis(),
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
    testbed.down()
}
