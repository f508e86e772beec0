//! What the kernel and open-iscsi have of volumes on this host, whoever made it. Reads only, and asks no storage.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use vmferry_core::{
    leftovers::{HeldImage, HeldRecord, HeldSession},
    volume::Connection,
};

use super::{
    multipath,
    node::{self, DIRECTORIES, Node},
    portal::Portal,
    scsi,
    session::{SYS, Session, sessions, value},
};

/// A device that does not say so soon whether it can be claimed is taken for claimed.
const LIMIT: Duration = Duration::from_secs(2);

/// The iSCSI sessions of this host.
pub async fn iscsi_sessions() -> io::Result<Vec<HeldSession>> {
    let mut held = Vec::new();
    for session in sessions(Path::new(SYS))? {
        let disks: Vec<_> = session.devices.iter().filter_map(|device| device.disk.clone()).collect();
        let ours = is_ours(&Node { target: &session.target, portal: &session.portal });
        let claimed = first_claimed(&disks).await;
        let Session { target, portal, .. } = session;
        held.push(HeldSession { target, portal: portal.to_string(), disks, claimed, ours });
    }
    Ok(held)
}

/// The node records of open-iscsi. Without it there are none.
pub fn iscsi_records() -> io::Result<Vec<HeldRecord>> {
    let sessions = sessions(Path::new(SYS))?;
    let mut held = Vec::new();
    for directory in DIRECTORIES {
        for (target, portal) in nodes(Path::new(directory))? {
            let ours = is_ours(&Node { target: &target, portal: &portal });
            // An address that is written otherwise is no other portal.
            let session = sessions.iter().find(|session| session.target == target && session.portal.is(&portal));
            let portal = session.map_or(&portal, |session| &session.portal).to_string();
            held.push(HeldRecord { target, portal, ours });
        }
    }
    Ok(held)
}

/// The RBD images that the kernel has mapped.
pub async fn rbd_images() -> io::Result<Vec<HeldImage>> {
    let mut held = Vec::new();
    for device in children(Path::new("/sys/bus/rbd/devices"))? {
        let said = |name: &str| value(device.join(name)).filter(|text| !text.is_empty());
        // One that is unmapped just now is left out.
        let (Some(number), Some(pool), Some(name)) = (name_of(&device), said("pool"), said("name")) else { continue };
        let image = match said("pool_ns") {
            Some(namespace) => format!("{pool}/{namespace}/{name}"),
            None => format!("{pool}/{name}"),
        };
        let device = format!("rbd{number}");
        let claimed = is_claimed(&device).await;
        held.push(HeldImage { device, image, snapshot: said("current_snap").filter(|snap| snap != "-"), claimed });
    }
    Ok(held)
}

/// The kernel's names of the devices that a volume is on this host: one for each path.
pub async fn devices_of(connection: &Connection) -> io::Result<BTreeSet<String>> {
    Ok(match connection {
        Connection::Iscsi(iscsi) => sessions(Path::new(SYS))?
            .into_iter()
            .filter(|session| session.target == iscsi.target)
            .flat_map(|session| session.devices)
            .filter(|device| device.lun == u64::from(iscsi.lun))
            .filter_map(|device| device.disk)
            .collect(),
        Connection::Rbd(rbd) => rbd_images()
            .await?
            .into_iter()
            .filter(|held| held.image == rbd.image && held.snapshot == rbd.snapshot)
            .map(|held| held.device)
            .collect(),
    })
}

/// The kernel's names of a device and of all that it lies on: partitions' disks, the paths of a map.
pub fn devices_below(path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Some(name) = fs::canonicalize(path).ok().as_deref().and_then(name_of) {
        add_below(Path::new(SYS), name, &mut found);
    }
    found
}

fn add_below(sys: &Path, name: String, found: &mut BTreeSet<String>) {
    let class = sys.join("class/block").join(&name);
    if !found.insert(name) {
        return;
    }
    if class.join("partition").exists()
        && let Some(disk) = fs::canonicalize(&class).ok().as_deref().and_then(Path::parent).and_then(name_of)
    {
        add_below(sys, disk, found);
    }
    for slave in children(&class.join("slaves")).unwrap_or_default() {
        if let Some(slave) = name_of(&slave) {
            add_below(sys, slave, found);
        }
    }
}

/// Targets and portals, by the names of the files.
fn nodes(directory: &Path) -> io::Result<Vec<(String, Portal)>> {
    let mut found = Vec::new();
    for target in children(directory)? {
        for record in children(&target)? {
            let (Some(target), Some(name)) = (name_of(&target), name_of(&record)) else { continue };
            // `ADDRESS,PORT`, or `ADDRESS,PORT,GROUP`.
            let mut parts = name.split(',');
            let (Some(address), Some(Ok(port))) = (parts.next(), parts.next().map(str::parse)) else { continue };
            found.push((target, Portal { address: address.to_owned(), port }));
        }
    }
    Ok(found)
}

fn is_ours(node: &Node<'_>) -> bool {
    node.record().and_then(|record| fs::read_to_string(record).ok()).is_some_and(|record| node::is_ours(&record))
}

/// The first of these disks, or of the maps over them, that somebody has a claim on.
async fn first_claimed(disks: &[String]) -> Option<String> {
    for disk in disks {
        let map = multipath::map_over(Path::new(SYS), disk);
        let device = map.map_or_else(|| disk.clone(), |map| map.device);
        if is_claimed(&device).await {
            return Some(device);
        }
    }
    None
}

async fn is_claimed(device: &str) -> bool {
    timeout(LIMIT, scsi::is_claimed(device)).await.unwrap_or(true)
}

/// What is in a directory; one that is not there is empty.
fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        entries => entries?,
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nodes_are_found_whoever_made_them() {
        let nodes_directory = tempfile::tempdir().expect("a directory");
        assert_eq!(nodes(&nodes_directory.path().join("none")).expect("no error"), []);
        let target = nodes_directory.path().join("iqn.2026-01.example:disks");
        fs::create_dir_all(target.join("fd00::1,3260,1")).expect("ours");
        fs::write(target.join("10.9.0.1,3260"), "").expect("ours");
        fs::write(target.join("notes"), "").expect("ours");
        let found = nodes(nodes_directory.path()).expect("readable");
        let portals: Vec<_> = found.iter().map(|(_, portal)| portal.to_string()).collect();
        assert_eq!(portals, ["10.9.0.1:3260", "[fd00::1]:3260"]);
    }

    #[test]
    fn what_a_device_lies_on_is_in_use_with_it() {
        let sys = tempfile::tempdir().expect("a directory");
        let disk = sys.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).expect("ours");
        fs::write(disk.join("sda1/partition"), "1").expect("ours");
        fs::create_dir_all(sys.path().join("devices/dm-0/slaves/sda1")).expect("ours");
        fs::create_dir_all(sys.path().join("class/block")).expect("ours");
        for (name, device) in [("sda", "sda"), ("sda1", "sda/sda1"), ("dm-0", "dm-0")] {
            symlink(sys.path().join("devices").join(device), sys.path().join("class/block").join(name)).expect("ours");
        }
        let mut found = BTreeSet::new();
        add_below(sys.path(), "dm-0".into(), &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["dm-0", "sda", "sda1"]);
    }
}
