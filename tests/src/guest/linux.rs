//! A guest with Debian's kernel and one shell script: it answers pings and prints `HB <number> <uptime>` every 100 ms. To a
//! second disk it writes each number into the 4 KiB block of that number, and prints `ACK <number>` when that is stable.
//!
//! If its first disk is a boot volume, all of it comes from there: boot loader, kernel and root file system. A second disk
//! with a file system it mounts at `/mnt/vol01`; then the numbers go into `/mnt/vol01/sequence`, in a process of their own.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, Result};

use super::{Domain, initramfs};
use crate::{layout::SHARED, tree::Tree};

const WITH_TOOL: &str = "initramfs-with-tool";

/// A Linux guest.
#[derive(Debug, Clone)]
pub struct LinuxGuest {
    /// The domain around it.
    pub domain: Domain,
    /// More kernel parameters.
    pub parameters: String,
    kernel: Kernel,
    tools: Vec<Tool>,
}

/// What the guest tool does in a guest, beside the heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Sends frames that no guest may send, and honest ones: see [`frames`](crate::frames).
    Forge,
    /// Sends a frame with its number every few milliseconds (`pause=`), to everybody: see [`frames`](crate::frames).
    Count,
    /// Answers on TCP: see [`stream`](crate::stream).
    Serve,
    /// Asks the address that the kernel parameter `peer=` names: see [`told`](crate::told).
    Ask,
}

impl Tool {
    fn word(self) -> &'static str {
        match self {
            Self::Forge => "forge",
            Self::Count => "count",
            Self::Serve => "serve",
            Self::Ask => "ask",
        }
    }
}

/// Where the kernel is loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Shared,
    BootVolume,
}

impl LinuxGuest {
    /// A guest of 128 MiB with one vif on the hosts' bridge and one small read-only disk.
    pub fn new(name: &str) -> Self {
        Self { domain: Domain::new(name, 128), parameters: String::new(), kernel: Kernel::Shared, tools: Vec::new() }
    }

    /// The same, booted from a volume: a `<disk>` element with the target `vda`. What is in it, see
    /// [`Storage::boot_image`](crate::storage::Storage::boot_image). [`LinuxGuest::parameters`] have no effect then.
    pub fn booted_from(mut self, volume: &str) -> Self {
        self.kernel = Kernel::BootVolume;
        self.rooted_on(volume)
    }

    /// The same with its root file system on such a volume, but with a kernel from the shared directory: up in half the
    /// time, and dependent on that directory.
    pub fn rooted_on(mut self, volume: &str) -> Self {
        self.domain.boot_volume = Some(volume.to_owned());
        self
    }

    /// The same with a tool that runs from its start on. It must be booted from the shared directory.
    pub fn with_tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// The same, asking this address for an answer again and again: see [`Console::pings`](crate::console::Console::pings).
    pub fn pinging(mut self, address: Ipv4Addr) -> Self {
        self.parameters += &format!(" ping={address}");
        self
    }

    /// The same with one more disk, a `<disk>` element.
    pub fn with_disk(mut self, disk: &str) -> Self {
        self.domain.extra_devices += disk;
        self
    }

    /// The domain's XML.
    pub fn xml(&self, address: Option<Ipv4Addr>) -> String {
        if self.kernel == Kernel::BootVolume {
            let mut domain = self.domain.clone();
            let address = address.map_or_else(String::new, |address| format!("address={address}/24"));
            domain.extra +=
                &format!("<sysinfo type='smbios'><system><entry name='serial'>{address}</entry></system></sysinfo>");
            return domain.xml("<boot dev='hd'/><smbios mode='sysinfo'/>");
        }
        let address = address.map_or_else(String::new, |address| format!(" address={address}/24"));
        let tools: Vec<_> = self.tools.iter().map(|tool| tool.word()).collect();
        let tools = if tools.is_empty() { String::new() } else { format!(" tool={}", tools.join(",")) };
        let initramfs = self.initramfs();
        // A kernel message in the middle of a heartbeat would make it unreadable, so only a panic is printed; and a
        // guest that panicked stays as it is, to be looked at.
        let boot = format!(
            "<kernel>{SHARED}/vmlinuz</kernel>
    <initrd>{SHARED}/{initramfs}</initrd>
    <cmdline>console=ttyS0 quiet loglevel=1 panic=0 nokaslr mitigations=off{address}{tools} {}</cmdline>",
            self.parameters
        );
        self.domain.xml(&boot)
    }

    fn initramfs(&self) -> &'static str {
        if self.tools.is_empty() { "initramfs" } else { WITH_TOOL }
    }

    /// What guests with tools boot from, for a host that has no part in the shared directory.
    pub(crate) fn write_boot_files(tree: &Tree, shared: &Path) -> Result<()> {
        place_kernel(tree, shared)?;
        place(&shared.join(WITH_TOOL), || initramfs::build_with_tool(tree))
    }

    pub(super) fn write_files(&self, tree: &Tree, shared: &Path) -> Result<()> {
        let name = &self.domain.name;
        let _ = fs::remove_file(shared.join(format!("{name}.console")));
        if self.kernel == Kernel::BootVolume {
            return Ok(());
        }
        place_kernel(tree, shared)?;
        let build = if self.tools.is_empty() { initramfs::build } else { initramfs::build_with_tool };
        place(&shared.join(self.initramfs()), || build(tree))?;
        if self.domain.boot_volume.is_some() {
            return Ok(());
        }
        let disk = File::create(shared.join(format!("{name}.img")))
            .with_context(|| format!("cannot create the disk of {name}"))?;
        disk.set_len(8 << 20)?;
        Ok(())
    }
}

fn place_kernel(tree: &Tree, shared: &Path) -> Result<()> {
    place(&shared.join("vmlinuz"), || Ok(fs::read(tree.for_guests("vmlinuz"))?))
}

/// Writes a file that guests have in common, once, and never half.
fn place(path: &Path, contents: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let directory = path.parent().context("a file is in a directory")?;
    let draft = tempfile::NamedTempFile::new_in(directory)?;
    fs::write(draft.path(), contents()?)?;
    draft.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    // A temporary file is private; QEMU reads this one as libvirt-qemu.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    Ok(())
}
