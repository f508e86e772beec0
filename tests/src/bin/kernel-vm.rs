//! Runs the agent's kernel tests (`storage::by_host::kernel_tests`) where there is a kernel for them: in a small Debian machine
//! under QEMU, which is also its own storage. This machine's kernel may have neither SCSI nor RBD.
//!
//! ```text
//!  mmdebstrap ─▶ root.img, kernel (once per recipe) ─┐
//!  cargo test --no-run ─▶ agent-tests, init.sh ──────┴▶ QEMU ─▶ the second serial port ─▶ what is printed here
//! ```
//!
//! QEMU is that of the hosts' tree ([`Tree`]), in namespaces of its own: nothing is installed, and nothing outlives this program.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
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
use nix::fcntl::{Flock, FlockArg};
use vmferry_tests::{process::run, tree::Tree};

const CACHE: &str = "/var/cache/vmferry-testbed";
const DRAFT: &str = "kernel-draft-";
/// What the initiator needs, then what the storage needs.
const PACKAGES: &[&str] = &[
    "udev",
    "kmod",
    "iproute2",
    "procps",
    "sysvinit-utils",
    "busybox-static",
    "open-iscsi",
    "multipath-tools",
    "ceph-common",
    "libvirt0",
    "tgt",
    "ceph-mon",
    "ceph-osd",
];
const SUITE: &str = "bookworm";
const IMAGE_SIZE: &str = "2G";
const WITHOUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
const CUSTOMIZE: &str = include_str!("../../kernel/customize.sh");
const INIT: &str = include_str!("../../kernel/init.sh");
const CEPH: &str = include_str!("../../kernel/ceph.sh");
/// It takes four to five minutes on two busy processors; more than this is a fault.
const LIMIT: Duration = Duration::from_secs(12 * 60);

/// How much of the kernel's own log is shown where there is no result.
const CONSOLE_LINES: usize = 30;

/// In a mount namespace of its own, from which the tree's QEMU sees only the tree and what it needs.
const START: &str = r#"
set -e
tree=$1 kernel=$2 directory=$3; shift 3
mount --bind -o ro "$kernel" "$tree/srv/shared"
mount --bind "$directory" "$tree/srv/local"
# What the machine writes to its disk is forgotten with it.
mount -t tmpfs tmpfs "$tree/tmp"
exec chroot "$tree" env TMPDIR=/tmp "$@"
"#;

fn main() -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "the kernel tests need root");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let tests = agent_tests()?;
    let tree = Tree::ensure()?;
    let kernel = ensure_image(&tree)?;
    let directory = tempfile::Builder::new().prefix("vmferry-kernel-").tempdir()?;
    program_disk(&tests, directory.path())?;
    let started = Instant::now();
    let mut machine = boot(&tree, &kernel, directory.path())?;
    let ended = follow(&mut machine, directory.path(), &interrupted);
    let _ = machine.kill();
    machine.wait()?;
    let log = ended.inspect_err(|_| {
        let console = fs::read(directory.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        let last = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
        eprintln!("the end of the machine's console:\n{}", last.join("\n"));
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

/// Builds the agent's unit tests and returns the program.
fn agent_tests() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--package", "vmferry-agent", "--lib", "--no-run", "--message-format", "json"]);
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
    let mut programs = messages.filter(|message| message["profile"]["test"] == true);
    let program = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo has built no test program")
}

/// Returns the directory of the machine's disk, kernel and initramfs, building them if nobody has yet.
fn ensure_image(tree: &Tree) -> Result<PathBuf> {
    let directory = Path::new(CACHE).join(format!("kernel-{:016x}", recipe()));
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(Path::new(CACHE).join("kernel.lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if !directory.exists() {
        build(tree, &directory)?;
    }
    Ok(directory)
}

/// FNV-1a over all that the image is made of, as for the hosts' tree.
fn recipe() -> u64 {
    let parts = PACKAGES.iter().chain(WITHOUT).chain([&SUITE, &IMAGE_SIZE, &CUSTOMIZE]);
    parts
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn build(tree: &Tree, directory: &Path) -> Result<()> {
    eprintln!("kernel tests: building {} (once; two minutes)", directory.display());
    // Under the lock, so that any draft is one of a build that died.
    for entry in fs::read_dir(CACHE)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(CACHE)?;
    let (root, result, hook) = (draft.path().join("root"), draft.path().join("result"), draft.path().join("customize"));
    fs::write(&hook, CUSTOMIZE)?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let mut child = Command::new("mmdebstrap")
        .args(["--variant=apt", "--mode=root", "--quiet"])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args(WITHOUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--customize-hook={}", hook.display()))
        .arg(SUITE)
        .arg(&root)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start mmdebstrap; `make setup` installs it")?;
    let sources = sources(tree)?;
    child.stdin.take().context("stdin was asked for")?.write_all(sources.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "mmdebstrap: {status}");
    fs::rename(root.join("kernel"), &result)?;
    disk(&root, &result.join("root.img"), IMAGE_SIZE)?;
    fs::rename(&result, directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// The hosts' tree is from the machine's own apt sources, and says which.
fn sources(tree: &Tree) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(tree.root().join("etc/apt/sources.list.d"))?.flatten() {
        text += &fs::read_to_string(entry.path())?;
        text += "\n";
    }
    ensure!(!text.trim().is_empty(), "the hosts' tree has no apt sources");
    Ok(text)
}

/// Makes a file system of a directory. It needs neither mounting nor a journal.
fn disk(directory: &Path, image: &Path, size: &str) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(directory).arg(image).arg(size);
    run(&mut command).map(|_| ())
}

/// What the machine runs, on a disk of its own.
fn program_disk(tests: &Path, directory: &Path) -> Result<()> {
    let contents = directory.join("program");
    fs::create_dir(&contents)?;
    fs::copy(tests, contents.join("agent-tests")).with_context(|| format!("cannot copy {}", tests.display()))?;
    for (name, text) in [("init.sh", INIT), ("ceph.sh", CEPH)] {
        fs::write(contents.join(name), text)?;
        fs::set_permissions(contents.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let size = fs::metadata(tests)?.len() / 1024 * 5 / 4 + 16 * 1024;
    disk(&contents, &directory.join("program.img"), &format!("{size}k"))
}

fn boot(tree: &Tree, kernel: &Path, directory: &Path) -> Result<Child> {
    for name in ["log", "console"] {
        File::create(directory.join(name))?;
    }
    let mut command = Command::new("setpriv");
    // However this program ends, the machine ends with it.
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["sh", "-c", START, "sh"])
        .args([tree.root(), kernel, directory])
        .args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-kernel", "/srv/shared/vmlinuz", "-initrd", "/srv/shared/initramfs"])
        .args(["-append", "console=ttyS0 panic=-1 mitigations=off"])
        .args(["-drive", "file=/srv/shared/root.img,format=raw,if=virtio,cache=unsafe,snapshot=on"])
        .args(["-drive", "file=/srv/local/program.img,format=raw,if=virtio,readonly=on"])
        .args(["-serial", "file:/srv/local/console", "-serial", "file:/srv/local/log"])
        .stdin(Stdio::null());
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
