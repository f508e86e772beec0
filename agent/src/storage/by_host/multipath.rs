//! Multipath maps: several paths to one LUN as one device. multipathd makes them; the kernel tells of them in sysfs, in fewer
//! words than `multipath -ll`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    scsi,
    session::{SYS, value},
};
use crate::storage::tool::{self, Tool};

/// In the name that the device mapper has for each map of multipath's.
const PREFIX: &str = "mpath-";
/// Between two attempts at a map that is busy: udev or multipathd itself may have it open for a moment.
const PAUSE: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;
/// How long a map may take to come or to get its paths. multipathd looks at events as they come, but at most every second.
const PATIENCE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(200);

/// A map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// The block device: `dm-0`.
    pub(super) device: String,
    /// Its name: a WWID, or what the administrator calls it.
    pub(super) name: String,
    /// What multipath knows its paths by.
    pub(super) wwid: String,
    /// Its paths: `sda`.
    pub(super) paths: Vec<String>,
}

/// Asks whether multipathd answers.
pub(super) async fn running() -> Result<(), tool::Failed> {
    Tool::new("multipathd").args(["show", "daemon"]).limit(PATIENCE).run().await.map(|_| ())
}

/// The map over a disk.
pub(super) fn map_over(sys: &Path, disk: &str) -> Option<Map> {
    let holders = fs::read_dir(sys.join("block").join(disk).join("holders")).ok()?;
    holders.flatten().find_map(|holder| {
        let device = holder.file_name().into_string().ok()?;
        let directory = sys.join("block").join(&device);
        let uuid = value(directory.join("dm/uuid"))?;
        let mut paths: Vec<_> = fs::read_dir(directory.join("slaves"))
            .ok()?
            .flatten()
            .filter_map(|path| path.file_name().into_string().ok())
            .collect();
        paths.sort();
        Some(Map {
            name: value(directory.join("dm/name"))?,
            wwid: uuid.strip_prefix(PREFIX)?.to_owned(),
            device,
            paths,
        })
    })
}

/// Tells multipath that a disk is a path, though it may be the only one yet, and waits for a map. Whether there is one, and
/// what it has not taken, [`settled`] says.
pub(super) async fn add_path(disk: &str) -> Result<(), tool::Failed> {
    let deadline = Instant::now() + PATIENCE;
    // Multipath tells disks by what udev knows about them.
    while scsi::stable_path(disk).is_none() && Instant::now() < deadline {
        sleep(INTERVAL).await;
    }
    // Else `find_multipaths strict`, Debian's default, leaves a disk alone.
    acceptance(disk).run().await?;
    // multipathd comes to it by itself, from udev's next event on. Until it has heard of the first, it refuses.
    while map_over(Path::new(SYS), disk).is_none() && Instant::now() < deadline {
        let _ = addition(disk).run().await;
        sleep(INTERVAL).await;
    }
    Ok(())
}

fn acceptance(disk: &str) -> Tool {
    Tool::new("multipath").args(["-a", &format!("/dev/{disk}")])
}

fn addition(disk: &str) -> Tool {
    Tool::new("multipathd").args(["add", "path", disk])
}

/// Waits for a map that has all these disks as its paths. Returns the last one seen, which may have fewer.
pub(super) async fn settled(disks: &[String]) -> Option<Map> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let map = disks.iter().find_map(|disk| map_over(Path::new(SYS), disk));
        let complete = map.as_ref().is_some_and(|map| disks.iter().all(|disk| map.paths.contains(disk)));
        if complete || Instant::now() >= deadline {
            return map;
        }
        sleep(INTERVAL).await;
    }
}

/// Writes back what is cached of a map, takes it away, and makes multipath forget it.
pub(super) async fn flush(map: &Map) -> Result<(), tool::Failed> {
    scsi::flush(&map.device).await?;
    let mut attempt = 1;
    while let Err(failed) = removal(map).run().await {
        if attempt == ATTEMPTS {
            return Err(failed);
        }
        attempt += 1;
        sleep(PAUSE).await;
    }
    oblivion(map).run().await.map(|_| ())
}

fn removal(map: &Map) -> Tool {
    Tool::new("multipath").args(["-f", &map.name])
}

fn oblivion(map: &Map) -> Tool {
    Tool::new("multipath").args(["-w", &map.wwid])
}

/// Makes multipathd forget a disk that is about to go. One that does not run has nothing to forget.
pub(super) async fn remove_path(disk: &str) {
    let _ = Tool::new("multipathd").args(["del", "path", disk]).run().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::by_host::sysfs_recording::recorded;

    fn map() -> Map {
        Map {
            device: "dm-0".to_owned(),
            name: "360000000000000000e00000000010001".to_owned(),
            wwid: "360000000000000000e00000000010001".to_owned(),
            paths: vec!["sda".to_owned(), "sdc".to_owned()],
        }
    }

    #[test]
    fn a_map_is_found_from_each_of_its_paths() {
        let sys = recorded();
        assert_eq!(map_over(sys.path(), "sda"), Some(map()));
        assert_eq!(map_over(sys.path(), "sdc"), Some(map()));
        assert_eq!(map_over(sys.path(), "sdb"), None);
    }

    #[test]
    fn what_holds_a_disk_without_being_multipath_is_no_map() {
        let sys = recorded();
        fs::write(sys.path().join("block/dm-0/dm/uuid"), "LVM-abcdef\n").expect("it was recorded");
        assert_eq!(map_over(sys.path(), "sda"), None);
    }

    #[test]
    fn multipath_is_told_of_one_path_and_of_one_map() {
        assert_eq!(acceptance("sda").command_line(), "multipath -a /dev/sda");
        assert_eq!(addition("sda").command_line(), "multipathd add path sda");
        assert_eq!(removal(&map()).command_line(), "multipath -f 360000000000000000e00000000010001");
        assert_eq!(oblivion(&map()).command_line(), "multipath -w 360000000000000000e00000000010001");
    }
}
