//! The disk, kernel and initramfs that emulated machines boot from: made once per recipe, never changed.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::{process::run, tree::Tree};

const CACHE: &str = "/var/cache/vmferry-testbed";
const DRAFT: &str = "kernel-draft-";
/// Recommended packages stay out.
const PACKAGES: &[&str] = &[
    "udev",
    "kmod",
    "iproute2",
    "procps",
    "sysvinit-utils",
    "busybox-static",
    // An initiator.
    "open-iscsi",
    "multipath-tools",
    "ceph-common",
    "libvirt0",
    // Storage for the agent's own tests.
    "tgt",
    "ceph-mon",
    "ceph-osd",
    // A hypervisor.
    "systemd",
    "systemd-sysv",
    "dbus",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "libiscsi-bin",
    "nftables",
];
const SUITE: &str = "bookworm";
const SIZE: &str = "3G";
const WITHOUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
const CUSTOMIZE: &str = include_str!("../../kernel/customize.sh");

/// Returns the directory of `root.img`, `vmlinuz` and `initramfs`, building them if nobody has yet.
pub(super) fn ensure(tree: &Tree) -> Result<PathBuf> {
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
    let parts = PACKAGES.iter().chain(WITHOUT).chain([&SUITE, &SIZE, &CUSTOMIZE]);
    parts
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn build(tree: &Tree, directory: &Path) -> Result<()> {
    eprintln!("kernel tests: building {} (once; three to four minutes)", directory.display());
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
    disk(&root, &result.join("root.img"), SIZE)?;
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
pub(super) fn disk(directory: &Path, image: &Path, size: &str) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(directory).arg(image).arg(size);
    run(&mut command).map(|_| ())
}
