//! Runs the agent's kernel tests (`storage::by_host::kernel_tests`, `network::kernel_tests`) where there is a kernel for them: in an emulated machine,
//! which is also its own storage. This machine's kernel may have neither SCSI nor RBD nor VLANs. Of the firewall's tests
//! (`agent/tests/firewall`) all are run there once more: its rules must hold on the kernel that hypervisors have.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vmferry_tests::kernel_vm::{Image, console_end, write_program};

const INIT: &str = include_str!("../../kernel/attach.sh");
const CEPH: &str = include_str!("../../kernel/ceph.sh");
/// It takes four to five minutes on two busy processors; more than this is a fault.
const LIMIT: Duration = Duration::from_secs(12 * 60);

fn main() -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "the kernel tests need root");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let tests = Tests::build()?;
    let image = Image::ensure()?;
    let directory = tempfile::Builder::new().prefix("vmferry-kernel-").tempdir()?;
    let started = Instant::now();
    let mut machine = boot(&image, &tests, directory.path())?;
    let ended = follow(&mut machine, directory.path(), &interrupted);
    let _ = machine.kill();
    machine.wait()?;
    let log = ended.inspect_err(|_| {
        eprintln!("the end of the machine's console:\n{}", console_end(directory.path()));
    })?;
    let passed = log.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    let is_success = passed > 0 && log.lines().any(|line| line.starts_with("RESULT 0 "));
    println!(
        "kernel tests: {}; {passed} passed, {:.0?} with the machine's boot",
        if is_success { "success" } else { "FAILURE" },
        started.elapsed()
    );
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The agent's test programs.
struct Tests {
    unit: PathBuf,
    firewall: PathBuf,
}

impl Tests {
    /// Builds them.
    fn build() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--package", "vmferry-agent", "--lib", "--test", "firewall"]);
        command.args(["--no-run", "--message-format", "json"]);
        // What cargo says to the programs that it runs would make some crates build again, ring above all.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo: {}", output.status);
        let messages = String::from_utf8(output.stdout)?;
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let programs: Vec<_> = messages.filter(|message| message["profile"]["test"] == true).collect();
        let program = |kind: &str| {
            let built = programs.iter().find(|message| message["target"]["kind"][0] == kind);
            let path = built.and_then(|message| message["executable"].as_str());
            path.map(PathBuf::from).with_context(|| format!("cargo has built no test program, {kind}"))
        };
        Ok(Self { unit: program("lib")?, firewall: program("test")? })
    }
}

/// The machine, with the tests on a disk of their own.
fn boot(image: &Image, tests: &Tests, directory: &Path) -> Result<Child> {
    let contents = directory.join("contents");
    fs::create_dir(&contents)?;
    for (program, name) in [(&tests.unit, "agent-tests"), (&tests.firewall, "firewall-tests")] {
        fs::copy(program, contents.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    write_program(&contents.join("init.sh"), INIT)?;
    write_program(&contents.join("ceph.sh"), CEPH)?;
    File::create(directory.join("log"))?;
    // However this program ends, the machine ends with it.
    let mut start = Command::new("setpriv");
    start.args(["--pdeathsig", "KILL", "unshare", "--net"]);
    let mut command = image.machine(start, directory, &contents, ["-m", "2048", "-serial", "file:/srv/local/log"])?;
    command.spawn().context("cannot start the machine")
}

/// Prints what the tests say as they say it, until the machine is off. Returns all of it.
fn follow(machine: &mut Child, directory: &Path, interrupted: &AtomicBool) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    let mut file = File::open(directory.join("log"))?;
    let mut log = String::new();
    loop {
        // Before the last look into the log.
        let ended = machine.try_wait()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        print!("{text}");
        std::io::stdout().flush()?;
        log += &text;
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if let Some(status) = ended {
            ensure!(log.contains("RESULT "), "the machine ended without a result: {status}");
            return Ok(log);
        }
        ensure!(Instant::now() < deadline, "the tests did not end within {LIMIT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}
