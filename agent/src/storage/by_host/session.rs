//! iSCSI sessions and their devices, from sysfs: `iscsiadm -m session -P 3` says the same in prose.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::portal::Portal;

/// Where the kernel tells of its devices. Reading it does not wait for any device.
pub(super) const SYS: &str = "/sys";

/// A session as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// The kernel's number of it.
    pub(super) id: u32,
    /// The target's name.
    pub(super) target: String,
    /// Where it was logged in to, which the target may have redirected since.
    pub(super) portal: Portal,
    /// Its SCSI host.
    pub(super) host: u32,
    /// The target's number on that host.
    pub(super) target_id: u32,
    /// What was found on it so far.
    pub(super) devices: Vec<Device>,
}

/// A LUN that the kernel has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// Its logical unit number.
    pub(super) lun: u64,
    /// SCSI's peripheral device type: 0 is a disk.
    pub(super) kind: u32,
    /// The block device, `sda`. None: not a disk, or not yet one.
    pub(super) disk: Option<String>,
}

impl Session {
    /// What the kernel knows about a LUN.
    pub(super) fn device(&self, lun: u16) -> Option<&Device> {
        self.devices.iter().find(|device| device.lun == u64::from(lun))
    }

    /// Whether it is needed apart from this LUN: another is used, or could be.
    pub(super) fn is_needed_without(&self, lun: u16) -> bool {
        self.devices.iter().any(|device| device.lun != u64::from(lun) && !device.is_furniture())
    }
}

impl Device {
    /// Targets show such LUNs of themselves to everybody: their controller, an enclosure, well-known LUNs.
    fn is_furniture(&self) -> bool {
        matches!(self.kind, 0x0c | 0x0d | 0x1e | 0x1f)
    }
}

/// All sessions of this host, by number. One that ends meanwhile is left out.
pub(super) fn sessions(sys: &Path) -> io::Result<Vec<Session>> {
    let entries = match fs::read_dir(sys.join("class/iscsi_session")) {
        Ok(entries) => entries,
        // Without the module there is no session.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut sessions: Vec<_> = entries.flatten().filter_map(|entry| session(sys, &entry.path())).collect();
    sessions.sort_by_key(|session| session.id);
    Ok(sessions)
}

fn session(sys: &Path, class: &Path) -> Option<Session> {
    let id = numbered(class, "session")?;
    let connection = sys.join(format!("class/iscsi_connection/connection{id}:0"));
    let device = fs::canonicalize(class.join("device")).ok()?;
    // …/hostH/sessionS/targetH:C:T/H:C:T:L
    let host = numbered(device.parent()?, "host")?;
    let mut devices = Vec::new();
    for target in children(&device).filter(|path| name(path).starts_with("target")) {
        devices.extend(children(&target).filter_map(|path| lun(&path)));
    }
    devices.sort_by_key(|device| device.lun);
    Some(Session {
        id,
        target: value(class.join("targetname"))?,
        portal: Portal {
            address: value(connection.join("persistent_address"))?,
            port: value(connection.join("persistent_port"))?.parse().ok()?,
        },
        host,
        // Only offload cards have more than one target per host; older kernels don't say.
        target_id: value(class.join("target_id")).and_then(|id| id.parse().ok()).unwrap_or(0),
        devices,
    })
}

fn lun(path: &Path) -> Option<Device> {
    let [_, _, _, lun] = name(path).split(':').collect::<Vec<_>>()[..] else { return None };
    Some(Device {
        lun: lun.parse().ok()?,
        kind: value(path.join("type"))?.parse().ok()?,
        disk: children(&path.join("block")).next().map(|disk| name(&disk).to_owned()),
    })
}

fn numbered(path: &Path, prefix: &str) -> Option<u32> {
    name(path).strip_prefix(prefix)?.parse().ok()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What a file of sysfs says; none if it is not there, says nothing or says `(null)`.
pub(super) fn value(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty() && text != "(null)").then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::by_host::sysfs_recording::recorded;

    #[test]
    fn sessions_are_read_with_their_portals_and_disks() {
        let sys = recorded();
        let sessions = sessions(sys.path()).expect("it was recorded");
        let seen: Vec<_> = sessions
            .iter()
            .map(|session| {
                let disks: Vec<_> =
                    session.devices.iter().map(|device| (device.lun, device.kind, device.disk.as_deref())).collect();
                (session.id, session.portal.to_string(), session.host, session.target_id, disks)
            })
            .collect();
        let expected = vec![
            (1, "10.9.0.1:3260".to_owned(), 0, 0, vec![(0, 12, None), (1, 0, Some("sda")), (2, 0, Some("sdb"))]),
            (2, "10.9.0.2:3260".to_owned(), 1, 0, vec![(0, 12, None), (1, 0, Some("sdc"))]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(sessions[0].target, "iqn.2026-01.example:disks");
    }

    #[test]
    fn a_session_is_needed_as_long_as_a_foreign_lun_is_on_it() {
        let sys = recorded();
        let sessions = sessions(sys.path()).expect("it was recorded");
        assert!(sessions[0].is_needed_without(1), "LUN 2 is somebody's");
        assert!(!sessions[1].is_needed_without(1), "LUN 0 is only the target's controller");
        assert!(sessions[1].is_needed_without(7), "LUN 1 is somebody's");
    }

    #[test]
    fn without_the_module_there_is_no_session() {
        let nothing = tempfile::tempdir().expect("a directory");
        assert_eq!(sessions(nothing.path()).expect("no error"), []);
    }
}
