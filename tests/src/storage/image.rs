//! What is in a volume: a partition table, one ext4 file system, and, on a boot volume, all that boots a guest.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{Storage, new_uuid};
use crate::{guest, tree::Tree};

const SECTOR: usize = 512;
/// Where the one partition begins, as partitioning programs have it; the boot loader is before it.
const PARTITION: u64 = 1 << 20;
/// A boot sector's code ends here, and the partition table begins 6 bytes later.
const CODE_END: usize = 440;
const TABLE: usize = 446;
const LINUX: u8 = 0x83;
/// One number to a block: see heartbeat.sh.
const RECORD: usize = 4096;

impl Storage {
    /// Makes a raw image from which a [`LinuxGuest`](crate::guest::LinuxGuest) boots: boot loader, kernel and root file
    /// system in `vda1`. At least 48 MiB.
    pub fn boot_image(&self, mib: u64) -> Result<PathBuf> {
        let (root, on_node) = self.file(&format!("root-{}", new_uuid()?));
        fill_root(&self.tree, &root)?;
        let image = self.make_image(mib, Some(&on_node))?;
        let core = fs::read(self.tree.for_guests("core.img"))?;
        ensure!(SECTOR + core.len() <= usize::try_from(PARTITION)?, "the boot loader does not fit");
        let file = fs::File::options().write(true).open(&image)?;
        file.write_all_at(&fs::read(self.tree.for_guests("boot.img"))?[..CODE_END], 0)?;
        file.write_all_at(&core, SECTOR as u64)?;
        fs::remove_dir_all(root)?;
        Ok(image)
    }

    /// Makes a raw image with an empty file system in its one partition: a Linux guest that has it as `vdb` mounts it at
    /// `/mnt/vol01` and writes to it.
    pub fn data_image(&self, mib: u64) -> Result<PathBuf> {
        self.make_image(mib, None)
    }

    /// Makes a raw image from the memory of this program.
    pub fn raw_image(&self, contents: &[u8]) -> Result<PathBuf> {
        let (image, _) = self.file(&format!("image-{}", new_uuid()?));
        fs::write(&image, contents)?;
        Ok(image)
    }

    fn make_image(&self, mib: u64, root: Option<&str>) -> Result<PathBuf> {
        let (image, on_node) = self.file(&format!("image-{}", new_uuid()?));
        let file = fs::File::create_new(&image)?;
        file.set_len(mib << 20)?;
        file.write_all_at(&partition_table(mib)?, TABLE as u64)?;
        let from = root.map_or_else(String::new, |root| format!("-d {root}"));
        let (offset, kib) = (PARTITION, (mib << 10) - (PARTITION >> 10));
        self.node.sh(&format!("mke2fs -q -F -t ext4 -b 4096 -E offset={offset} {from} {on_node} {kib}k"))?;
        Ok(image)
    }

    /// The numbers in the file that a Linux guest writes on its second volume, as its file system has it after a crash.
    pub(super) fn sequence(&self, image: &Path) -> Result<Vec<u64>> {
        let name = image.file_name().and_then(|name| name.to_str()).context("an image has a name")?;
        let (dump, dump_on_node) = self.file(&format!("{name}.dump"));
        let (_, on_node) = self.file(name);
        // A part of a file is no file system to e2fsck. 1: it corrected errors, as which a journal that is replayed counts.
        let script = format!(
            "tail -c +{} {on_node} >{on_node}.part
            e2fsck -p {on_node}.part >&2 || [ $? = 1 ]
            debugfs -R 'dump /sequence {dump_on_node}' {on_node}.part
            rm {on_node}.part
            test -e {dump_on_node}",
            PARTITION + 1
        );
        self.node.sh(&script)?;
        let contents = fs::read(&dump)?;
        fs::remove_file(dump)?;
        Ok(contents.chunks(RECORD).filter_map(|block| std::str::from_utf8(block).ok()?.trim().parse().ok()).collect())
    }
}

/// The tail of a sector 0 with one Linux partition up to the end of the disk.
fn partition_table(mib: u64) -> Result<Vec<u8>> {
    let first = u32::try_from(PARTITION / SECTOR as u64)?;
    let sectors = u32::try_from((mib << 20) / SECTOR as u64)? - first;
    // Active; the ends in cylinders, heads and sectors are beyond what those can say.
    let mut table = vec![0x80, 0xfe, 0xff, 0xff, LINUX, 0xfe, 0xff, 0xff];
    table.extend(first.to_le_bytes());
    table.extend(sectors.to_le_bytes());
    table.resize(64, 0);
    table.extend([0x55, 0xaa]);
    Ok(table)
}

fn fill_root(tree: &Tree, root: &Path) -> Result<()> {
    for directory in ["bin", "sbin", "boot", "dev", "proc", "sys", "mnt/vol01"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(tree.root().join("usr/bin/busybox"), root.join("bin/busybox")).context("the tree has no busybox")?;
    symlink("busybox", root.join("bin/sh"))?;
    fs::copy(tree.for_guests("vmlinuz"), root.join("boot/vmlinuz"))?;
    fs::write(root.join("boot/initramfs"), guest::initramfs(tree)?)?;
    let init = root.join("sbin/init");
    fs::write(&init, guest::HEARTBEAT)?;
    fs::set_permissions(init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_begins_at_one_mib_and_ends_with_the_disk() {
        let table = partition_table(64).expect("64 MiB fit");
        assert_eq!(table.len(), SECTOR - TABLE);
        assert_eq!(table[8..12], 2048_u32.to_le_bytes());
        assert_eq!(table[12..16], (64 * 2048 - 2048_u32).to_le_bytes());
    }
}
