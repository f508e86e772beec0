//! SCSI disks, by sysfs and `blockdev`: how one is found, told from others, flushed and taken away.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;

use super::session::{SYS, Session, value};
use crate::storage::{
    blocking::within,
    tool::{self, Tool},
};

/// How long the storage may take to answer what the kernel asks while we write to sysfs.
const LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to write back what the host has cached.
const FLUSH_LIMIT: Duration = Duration::from_secs(300);
const SECTOR: u64 = 512;

/// How long to wait before a LUN that has not appeared is asked for again: 4, 9, 16 … s.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    (2_u64..).map(|number| Duration::from_secs(number * number))
}

/// What makes the kernel ask one target for one LUN. Channel 0 is the only one that iSCSI has.
pub(super) fn scan_line(session: &Session, lun: u16) -> (PathBuf, String) {
    let file = Path::new(SYS).join(format!("class/scsi_host/host{}/scan", session.host));
    (file, format!("0 {} {lun}", session.target_id))
}

/// What makes the kernel forget a disk.
pub(super) fn deletion(disk: &str) -> (PathBuf, String) {
    (Path::new(SYS).join(format!("block/{disk}/device/delete")), "1".to_owned())
}

/// Writes to a file of sysfs. The kernel may talk to the storage before it returns.
pub(super) async fn write((file, line): (PathBuf, String)) -> Result<(), (PathBuf, io::Error)> {
    let path = file.clone();
    within(LIMIT, move || fs::write(file, line)).await.map_err(|error| (path, error))
}

/// What tells a disk from every other, the same on every host: its WWN, else vendor, model and serial number.
pub(super) fn identity(sys: &Path, disk: &str) -> Option<String> {
    let device = sys.join("block").join(disk).join("device");
    value(device.join("wwid")).or_else(|| {
        let serial = serial(&fs::read(device.join("vpd_pg80")).ok()?)?;
        let [vendor, model] = ["vendor", "model"].map(|name| value(device.join(name)).unwrap_or_default());
        Some(format!("{vendor}:{model}:{serial}"))
    })
}

/// The unit serial number of SCSI's vital product data page 0x80.
fn serial(page: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(page.get(4..)?).ok()?.trim_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// The size of a block device.
pub(super) fn size(sys: &Path, device: &str) -> Option<ByteSize> {
    let sectors: u64 = value(sys.join("block").join(device).join("size"))?.parse().ok()?;
    Some(ByteSize::b(sectors * SECTOR))
}

/// Of the names that udev gives a disk, the one that is most likely the same on every host.
pub(super) fn stable_name(names: impl IntoIterator<Item = String>) -> Option<String> {
    const BEST_FIRST: [&str; 5] = ["dm-uuid-mpath-", "wwn-", "scsi-3", "scsi-", ""];
    let rank = |name: &str| BEST_FIRST.iter().position(|prefix| name.starts_with(prefix));
    names.into_iter().min_by_key(|name| (rank(name), name.clone()))
}

/// The stable path of a block device, once udev has made one.
pub(super) fn stable_path(device: &str) -> Option<String> {
    let directory = Path::new("/dev/disk/by-id");
    let device = Path::new("/dev").join(device);
    let names = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| fs::canonicalize(entry.path()).is_ok_and(|target| target == device));
    let name = stable_name(names.filter_map(|entry| entry.file_name().into_string().ok()))?;
    Some(format!("{}/{name}", directory.display()))
}

/// Whether nothing is left of a block device: neither itself nor a name of it.
pub(super) fn is_gone(device: &str) -> bool {
    let node = Path::new("/dev").join(device);
    let named =
        |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|target| target.file_name() == node.file_name());
    !Path::new(SYS).join("block").join(device).exists()
        && !node.exists()
        && !fs::read_dir("/dev/disk/by-id").into_iter().flatten().flatten().any(named)
}

/// Whether somebody has a claim on a block device: a mount, a volume group, a map. A mere reader has none.
pub(super) async fn is_claimed(device: &str) -> bool {
    let node = Path::new("/dev").join(device);
    let opened = within(LIMIT, move || OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(node)).await;
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Writes back what the host has cached of a block device.
pub(super) async fn flush(device: &str) -> Result<(), tool::Failed> {
    flush_command(device).run().await.map(|_| ())
}

fn flush_command(device: &str) -> Tool {
    Tool::new("blockdev").args(["--flushbufs", &format!("/dev/{device}")]).limit(FLUSH_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::by_host::{session::sessions, sysfs_recording::recorded};

    #[test]
    fn a_lun_is_asked_for_again_after_4_9_16_seconds() {
        assert_eq!(pauses().take(4).map(|pause| pause.as_secs()).collect::<Vec<_>>(), [4, 9, 16, 25]);
    }

    #[test]
    fn a_scan_names_one_lun_of_one_target() {
        let sessions = sessions(recorded().path()).expect("it was recorded");
        let (file, line) = scan_line(&sessions[1], 7);
        assert_eq!((file.to_str(), line.as_str()), (Some("/sys/class/scsi_host/host1/scan"), "0 0 7"));
    }

    #[test]
    fn a_disk_is_told_by_its_wwn_or_else_by_its_serial_number() {
        let sys = recorded();
        assert_eq!(identity(sys.path(), "sda").as_deref(), Some("naa.60000000000000000e00000000010001"));
        assert_eq!(size(sys.path(), "sda"), Some(ByteSize::mib(64)));
        fs::remove_file(sys.path().join("block/sda/device/wwid")).expect("it was recorded");
        assert_eq!(identity(sys.path(), "sda").as_deref(), Some("IET:VIRTUAL-DISK:beaf11"));
        fs::remove_file(sys.path().join("block/sda/device/vpd_pg80")).expect("it was recorded");
        assert_eq!(identity(sys.path(), "sda"), None);
    }

    #[test]
    fn the_name_of_a_disk_is_one_that_other_hosts_give_it_too() {
        // `ls /dev/disk/by-id` in the kernel tests' machine: one path, then a map.
        let path = [
            "scsi-1IET_00010001",
            "scsi-33000000100000001",
            "scsi-360000000000000000e00000000010001",
            "scsi-SIET_VIRTUAL-DISK_beaf11",
            "wwn-0x60000000000000000e00000000010001",
        ];
        let name = stable_name(path.map(str::to_owned));
        assert_eq!(name.as_deref(), Some("wwn-0x60000000000000000e00000000010001"));
        let map = [
            "dm-name-360000000000000000e00000000010001",
            "dm-uuid-mpath-360000000000000000e00000000010001",
            "scsi-360000000000000000e00000000010001",
            "wwn-0x60000000000000000e00000000010001",
        ];
        let name = stable_name(map.map(str::to_owned));
        assert_eq!(name.as_deref(), Some("dm-uuid-mpath-360000000000000000e00000000010001"));
        assert_eq!(stable_name([]), None);
    }

    #[test]
    fn only_the_named_disk_is_flushed_and_deleted() {
        assert_eq!(flush_command("sdb").command_line(), "blockdev --flushbufs /dev/sdb");
        assert_eq!(deletion("sdb").0.to_str(), Some("/sys/block/sdb/device/delete"));
    }
}
