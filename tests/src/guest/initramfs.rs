//! The initramfs of a Linux guest: busybox, a few modules and two scripts, packed as cpio (newc) without further programs.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{binaries::guest_tool, process::run, tree::Tree};

const INIT: &str = include_str!("init.sh");
/// Runs from the initramfs, or from a boot volume.
pub(crate) const HEARTBEAT: &str = include_str!("heartbeat.sh");
/// In the order in which they can be loaded.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "button",
    "evdev",
];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// What a program of ours needs, where its loader looks for it.
const LIBRARIES: &[&str] =
    &["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libgcc_s.so.1"];

/// The same archive with the guest tool in it.
pub(crate) fn build_with_tool(tree: &Tree) -> Result<Vec<u8>> {
    let mut archive = common(tree)?;
    for name in ["lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.add(name, DIRECTORY, (0, 0), &[]);
    }
    for library in LIBRARIES {
        // The loader is an absolute link, which would lead out of the tree.
        let file = if library.starts_with("lib64") {
            library.replace("lib64", "lib/x86_64-linux-gnu")
        } else {
            (*library).to_owned()
        };
        let contents = fs::read(tree.root().join(&file)).with_context(|| format!("the tree has no {file}"))?;
        archive.add(library, PROGRAM, (0, 0), &contents);
    }
    archive.add("bin/guest-tool", PROGRAM, (0, 0), &tool()?);
    Ok(archive.finish())
}

/// The guest tool without its symbols: they are twenty times what is left, and all of it is unpacked by each guest, and moves
/// with it.
pub(crate) fn tool() -> Result<Vec<u8>> {
    let stripped = tempfile::NamedTempFile::new()?;
    run(Command::new("strip").arg("-o").arg(stripped.path()).arg(guest_tool()?))?;
    Ok(fs::read(stripped.path())?)
}

/// Builds the archive. The kernel takes it uncompressed, which is quicker than gzip under TCG.
pub(crate) fn build(tree: &Tree) -> Result<Vec<u8>> {
    Ok(common(tree)?.finish())
}

fn common(tree: &Tree) -> Result<Archive> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "modules", "mnt", "mnt/vol01", "volume"] {
        archive.add(name, DIRECTORY, (0, 0), &[]);
    }
    // The kernel opens it before /init runs and mounts a devtmpfs.
    archive.add("dev/console", CONSOLE, (5, 1), &[]);
    let busybox = tree.root().join("usr/bin/busybox");
    archive.add("bin/busybox", PROGRAM, (0, 0), &fs::read(&busybox).context("the tree has no busybox")?);
    archive.add("init", PROGRAM, (0, 0), INIT.as_bytes());
    archive.add("heartbeat.sh", PROGRAM, (0, 0), HEARTBEAT.as_bytes());
    for module in MODULES {
        let file = format!("{module}.ko");
        let contents = fs::read(tree.for_guests(&file)).with_context(|| format!("the tree has no {file}"))?;
        archive.add(&format!("modules/{file}"), PROGRAM, (0, 0), &contents);
    }
    Ok(archive)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(contents.len()).expect("a file in an initramfs is small");
        let name_size = u32::try_from(name.len() + 1).expect("a name is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_by_the_script_in_the_order_of_the_list() {
        let words: Vec<_> = INIT.split_whitespace().map(|word| word.trim_end_matches(';')).collect();
        assert!(
            words
                .iter()
                .filter(|word| **word != "\\")
                .copied()
                .collect::<Vec<_>>()
                .windows(MODULES.len())
                .any(|w| w == MODULES)
        );
    }

    #[test]
    fn entries_are_aligned_as_cpio_wants_them() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, (0, 0), b"hello");
        assert_eq!(&archive.bytes[..14], b"07070100000001");
        // 110 bytes of header and 5 of name make 116; 5 bytes of contents make 8.
        assert_eq!(archive.bytes.len(), 116 + 8);
    }
}
