//! Two hosts with kernels of their own, storage for both, and the CLI. All tests share them, one after the other.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    kernel_vm::{Image, KernelHost},
    layout::SHARED,
    storage::{Backend, Target},
};

use crate::{guest::Guest, vlans::NETWORKS};

/// How long a thing may take that takes seconds.
pub(crate) const SOON: Duration = Duration::from_secs(180);

/// What a host holds of volumes, guests and migrations, a line for each.
const HOLDINGS: &str = "
for session in /sys/class/iscsi_session/*; do [ ! -e $session ] || echo session $(cat $session/targetname); done
for disk in $(ls /sys/block); do case $disk in sd*|dm-*|rbd*) echo disk $disk;; esac; done
find /etc/iscsi/nodes -type f -printf 'record %P\\n' 2>/dev/null || true
find /etc/iscsi -name '.vmferry*' -printf 'draft %P\\n'
find /run/vmferry/migrations -mindepth 1 -printf 'file %P\\n' 2>/dev/null || true
virsh -q -c qemu:///system list --all --name | sed -n 's/./domain &/p'
virsh -q -c qemu:///system secret-list | sed 's/^/secret /'
pgrep -c qemu-system | sed '/^0$/d; s/$/ QEMU/'
true";

static RIG: Mutex<Weak<Rig>> = Mutex::new(Weak::new());
static TURN: Mutex<()> = Mutex::new(());
static BROKEN: AtomicBool = AtomicBool::new(false);

/// The hosts go before the testbed that they are part of.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) hosts: [KernelHost; 2],
    /// On the first host between two tests, once a test has started it.
    guest: Mutex<Option<Guest>>,
    pub(crate) target: Target,
    pub(crate) testbed: Testbed,
}

/// What `vmferry … -o json` said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) exit: Option<i32>,
    pub(crate) document: Value,
    pub(crate) stderr: String,
}

/// Runs a test with the hosts to itself. The first boots them; they end with the last test that waits for its turn.
pub(crate) fn alone(test: impl FnOnce(&Rig) -> Result<()>) -> Result<()> {
    let _turn;
    let rig = {
        let mut known = RIG.lock().unwrap_or_else(PoisonError::into_inner);
        match known.upgrade() {
            Some(rig) => rig,
            None => {
                let rig = Arc::new(Rig::up()?);
                *known = Arc::downgrade(&rig);
                rig
            }
        }
    };
    _turn = TURN.lock().map_err(|_| anyhow!("an earlier test has failed, and left the hosts as they were then"))?;
    ensure!(!BROKEN.load(Ordering::Relaxed), "an earlier test has failed, and left the hosts as they were then");
    let result = test(&rig);
    if result.is_err() {
        BROKEN.store(true, Ordering::Relaxed);
        for host in &rig.hosts {
            let log = host.agent_log().unwrap_or_else(|error| format!("{error:#}\nits console:\n{}", host.console()));
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the agent's log on {}\n{}", host.name(), lines[lines.len().saturating_sub(40)..].join("\n"));
            let held = host.sh(HOLDINGS).unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("--- held by {}\n{held}", host.name());
            // Without what they say all the time.
            let consoles = host.sh(&format!("grep -Ev '^(TOLD|HB) ' {SHARED}/*.console | tail --lines=60 || true"));
            eprintln!("--- the guests' consoles on {}\n{}", host.name(), consoles.unwrap_or_default());
        }
    }
    result
}

impl Rig {
    fn up() -> Result<Self> {
        let (image, started) = (Image::ensure()?, Instant::now());
        let storage = vec![Backend::Ceph, Backend::Iscsi];
        let testbed = Testbed::up(Options { hosts: Vec::new(), storage, ..Options::default() })?;
        let target = testbed.storage()?.iscsi()?.create_target("san")?;
        let secrets = [&target.secret, &testbed.storage()?.ceph()?.secret()?];
        // A device that does not come should not take up half of the test.
        let configuration = format!("[storage]\nmultipath = \"off\"\ndevice_timeout = \"15s\"\n{NETWORKS}");
        let mut inventory = fs::read_to_string(testbed.layout().inventory())?;
        let mut start = |name: &str, last: u8| {
            let address = Ipv4Addr::new(192, 0, 2, last);
            write!(inventory, "\n[[host]]\nname = \"{name}\"\naddress = \"{address}:7443\"\n")?;
            KernelHost::start(&testbed, &image, name, address, &configuration, &secrets)
        };
        let hosts = [start("node-a", 20)?, start("node-b", 21)?];
        inventory += "\n[policy.slow]\ndowntime = \"10s\"\nsteps = [{ after = \"10m\", do = \"abort\" }]\n";
        fs::write(testbed.layout().inventory(), inventory)?;
        thread::scope(|scope| {
            let boots = [&hosts[0], &hosts[1]].map(|host| scope.spawn(|| host.wait_until_up()));
            boots.into_iter().try_for_each(|boot| boot.join().unwrap_or_else(|_| Err(anyhow!("a boot panicked"))))
        })?;
        println!("both hosts are up after {:.0?}", started.elapsed());
        Ok(Self { hosts, guest: Mutex::new(None), target, testbed })
    }

    /// Runs a part of a test with the guest, which is on the first host, and must be there again in the end.
    pub(crate) fn with_guest(&self, test: impl FnOnce(&mut Guest) -> Result<()>) -> Result<()> {
        let mut guest = self.guest.lock().map_err(|_| anyhow!("an earlier test has failed with it"))?;
        if guest.is_none() {
            *guest = Some(timed("the guest is started", || Guest::start(self))?);
        }
        test(guest.as_mut().context("it has just been started")?)
    }

    /// `vmferry ARGUMENTS`
    pub(crate) fn vmferry(&self, arguments: &str) -> Result<Answer> {
        let mut command = self.testbed.vmferry(arguments.split(' '))?;
        let output = command.args(["-o", "json"]).stdin(Stdio::null()).output().context("cannot start vmferry")?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let document = match stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("stdout is no document: {text}"))?,
        };
        Ok(Answer { exit: output.status.code(), document, stderr })
    }

    /// The same, which must succeed.
    pub(crate) fn done(&self, arguments: &str) -> Result<Value> {
        let answer = self.vmferry(arguments)?;
        ensure!(answer.exit == Some(0), "vmferry {arguments}: {answer:#?}");
        Ok(answer.document)
    }

    /// What `vmferry doctor` has found on a host.
    pub(crate) fn leftovers(&self, host: &KernelHost) -> Result<Vec<Value>> {
        let document = self.vmferry("doctor")?.document;
        let hosts = document["hosts"].as_array().context("a list of hosts")?;
        ensure!(hosts.len() == self.hosts.len(), "{document:#}");
        let found = hosts.iter().find(|found| found["host"] == host.name()).context("it was asked")?;
        Ok(found["leftovers"].as_array().context("a list")?.clone())
    }
}

/// Says how long it took: the machines are slow, and it should show where.
pub(crate) fn timed<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = step().with_context(|| format!("not so: {what}"));
    println!("  {:>4.0?}  {what}", started.elapsed());
    result
}

/// What a host holds, to be compared.
pub(crate) fn holdings(host: &KernelHost) -> Result<BTreeSet<String>> {
    Ok(host.sh(HOLDINGS)?.lines().map(str::to_owned).collect())
}
