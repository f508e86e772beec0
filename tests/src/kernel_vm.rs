//! Emulated machines: where a test needs a kernel that this machine may not have, with SCSI and RBD, or two of them.
//!
//! ```text
//!  mmdebstrap ─▶ root.img, vmlinuz, initramfs (once per recipe) ─┐
//!  a directory of the caller's, with an init.sh ─▶ a second disk ┴▶ QEMU ─▶ a serial port, or a shell's port
//! ```
//!
//! QEMU is that of the hosts' tree ([`Tree`]), in namespaces of its own: nothing is installed on this machine. What a machine
//! writes to its disk is forgotten with it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::tree::Tree;

mod host;
mod image;

pub use host::KernelHost;

/// In a mount namespace of its own, from which the tree's QEMU sees only the tree and what it needs.
const START: &str = r#"
set -e
tree=$1 kernel=$2 directory=$3; shift 3
mount --bind -o ro "$kernel" "$tree/srv/shared"
mount --bind "$directory" "$tree/srv/local"
# What the machine writes to its disk is forgotten with it.
mount -t tmpfs tmpfs "$tree/tmp"
# A namespace has no taps unless somebody makes some.
mount -t tmpfs tmpfs "$tree/dev"
mkdir "$tree/dev/net"
for device in null urandom net/tun; do touch "$tree/dev/$device" && mount --bind "/dev/$device" "$tree/dev/$device"; done
exec chroot "$tree" env TMPDIR=/tmp "$@"
"#;

/// How much of a machine's console is shown where something went wrong.
const CONSOLE_LINES: usize = 30;

/// What all machines boot from.
#[derive(Debug, Clone)]
pub struct Image {
    tree: Tree,
    directory: PathBuf,
}

impl Image {
    /// Returns it, building it if nobody has yet.
    pub fn ensure() -> Result<Self> {
        let tree = Tree::ensure()?;
        let directory = image::ensure(&tree)?;
        Ok(Self { tree, directory })
    }

    /// QEMU, about to boot a machine with `contents` as its second disk, of which `init.sh` is the first program. `directory`
    /// is for the machine's own files: `console`, and whatever `arguments` name as `/srv/local/…`. `start` is a command that
    /// is to start it, with nothing but the program missing.
    pub fn machine<S: AsRef<OsStr>>(
        &self,
        mut start: Command,
        directory: &Path,
        contents: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        let size = bytes_below(contents)? / 1024 * 5 / 4 + 16 * 1024;
        image::disk(contents, &directory.join("contents.img"), &format!("{size}k"))?;
        File::create(directory.join("console"))?;
        start
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", START, "sh"])
            .args([self.tree.root(), &self.directory, directory])
            .args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-kernel", "/srv/shared/vmlinuz", "-initrd", "/srv/shared/initramfs"])
            .args(["-append", "console=ttyS0 panic=-1 mitigations=off net.ifnames=0"])
            .args(["-drive", "file=/srv/shared/root.img,format=raw,if=virtio,cache=unsafe,snapshot=on"])
            .args(["-drive", "file=/srv/local/contents.img,format=raw,if=virtio,readonly=on"])
            .args(["-serial", "file:/srv/local/console"])
            .args(arguments)
            .stdin(Stdio::null());
        Ok(start)
    }
}

/// The end of what a machine wrote on its console.
pub fn console_end(directory: &Path) -> String {
    let console = fs::read(directory.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<_> = console.lines().collect();
    lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default().join("\n")
}

/// Writes a program or a script for a machine.
pub fn write_program(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn bytes_below(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
