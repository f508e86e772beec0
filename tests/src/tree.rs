//! The Debian tree under all hosts: built once per recipe, never changed, shared read-only by all testbeds.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{state::lock, tree::sources::sources};

mod sources;

const CACHE: &str = "/var/cache/vmferry-testbed";
const SUITE: &str = "bookworm";
/// The whole of it, apart from what a package needs in order to run. Recommended packages stay out.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "iproute2",
    "iputils-ping",
    "procps",
    "nftables",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "busybox-static",
    // How a host reaches volumes.
    "qemu-block-extra",
    "ceph-common",
    "libiscsi-bin",
    "open-iscsi",
    // A host whose clock is wrong: nothing but what a test starts with it.
    "libfaketime",
    // Runs only where a test starts it.
    "openvswitch-switch",
    // What is in a volume, and the libraries of the storage node's daemons: see customize.sh.
    "e2fsprogs",
    "libaio1",
    "libfuse2",
    "libleveldb1d",
    "libpmem1",
    "libsnappy1v5",
];
const CUSTOMIZE: &str = include_str!("tree/customize.sh");
/// Documentation nobody reads in a test host, and programs nobody runs.
const WITHOUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/iso-codes/*",
    "/usr/share/xml/iso-codes/*",
    "/lib/udev/hwdb.d/*",
    "/usr/bin/qemu-system-x86_64-microvm",
    "/usr/bin/radosgw-admin",
    "/usr/bin/cephfs-*",
];

/// A tree that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Returns the tree, building it if no process has yet. Whoever comes second waits for the first.
    pub fn ensure() -> Result<Self> {
        let root = Path::new(CACHE).join(format!("tree-{:016x}", recipe()));
        if !root.exists() {
            ensure!(nix::unistd::geteuid().is_root(), "a testbed needs root");
            fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
            let _lock = lock(&Path::new(CACHE).join("lock"))?;
            if !root.exists() {
                build(&root)?;
            }
        }
        Ok(Self { root })
    }

    /// Its root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file that the recipe put aside for guests: `vmlinuz`, a kernel module, or a half of the boot loader.
    pub fn for_guests(&self, file: &str) -> PathBuf {
        self.root.join("usr/lib/vmferry-testbed").join(file)
    }
}

/// Names the tree: another recipe is another tree. FNV-1a, which no release of Rust will change.
fn recipe() -> u64 {
    let parts = PACKAGES.iter().chain(WITHOUT).chain([&SUITE, &CUSTOMIZE]);
    parts
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn build(root: &Path) -> Result<()> {
    eprintln!("testbed: building {} (once; about a minute)", root.display());
    // Under the lock, so that any draft is one of a build that died.
    for entry in fs::read_dir(CACHE)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("draft-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let draft = tempfile::Builder::new().prefix("draft-").tempdir_in(CACHE)?;
    let tree = draft.path().join("tree");
    let customize = draft.path().join("customize");
    fs::write(&customize, CUSTOMIZE)?;
    fs::set_permissions(&customize, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=apt", "--mode=root", "--quiet"])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args(WITHOUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--customize-hook={}", customize.display()))
        .arg(SUITE)
        .arg(&tree)
        .arg("-")
        .stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot start mmdebstrap; `make setup` installs it")?;
    child.stdin.take().context("stdin was asked for")?.write_all(sources(SUITE).as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "mmdebstrap: {status}");
    // The directory is the root of every host, and QEMU does not run as root.
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
    fs::rename(&tree, root).with_context(|| format!("cannot create {}", root.display()))
}
