//! Volumes attached by the host's kernel: thin edges to open-iscsi, multipath-tools and Ceph's `rbd`, and to what the kernel
//! says of its devices in sysfs.
//!
//! ```text
//!  connect ─▶ iscsi ─▶ portal ─▶ node (iscsiadm), session (sysfs)
//!  disconnect   │ ────▶ release ─▶ scsi (sysfs, blockdev), multipath
//!               └▶ rbd
//! ```
//!
//! Both are idempotent, and `disconnect` of what is not connected succeeds: the caller journals the undo first (I5).

use std::time::Duration;

use secrecy::SecretString;
use vmferry_core::volume::{Connection, Found};

pub use self::{
    failed::Failed,
    leftover::{delete_record, end_session},
    listing::{devices_below, devices_of, iscsi_records, iscsi_sessions, rbd_images},
};

mod failed;
mod iscsi;
#[cfg(test)]
mod kernel_tests;
mod leftover;
mod listing;
mod multipath;
mod node;
mod portal;
mod rbd;
mod release;
mod scsi;
mod session;
#[cfg(test)]
mod sysfs_recording;
mod turns;

/// How this host connects volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether several portals become one device.
    pub multipath: Multipath,
    /// How long a device may take to appear, or to go.
    pub device_timeout: Duration,
}

/// Whether several portals become one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multipath {
    /// One portal after the other, until one serves.
    Off,
    /// If multipathd runs; else one path, with a warning.
    Wanted,
    /// Without multipathd nothing is connected.
    Enforced,
}

/// A volume that is a block device now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The device, by the name that is most likely the same on another host: below `/dev/disk/by-id` or `/dev/rbd`.
    pub path: String,
    /// What was found there.
    pub found: Found,
    /// What is not as it should be, though the volume can be used: a portal that does not answer, say. For people.
    pub warnings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { multipath: Multipath::Wanted, device_timeout: Duration::from_secs(30) }
    }
}

/// The name under which open-iscsi logs in from this host, if it is set up.
pub fn initiator() -> Option<String> {
    let file = std::fs::read_to_string("/etc/iscsi/initiatorname.iscsi").ok()?;
    let name = file.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Makes a volume a block device of this host, or finds that it is one already. `secret` is the one that its login names.
///
/// After an error, what this call has created is gone again, and what was there before is still there; a leftover is logged.
/// Takes as long as logins take, and the device timeout; dropped before its end, it leaves its work to `disconnect`.
pub async fn connect(
    connection: &Connection,
    secret: Option<&SecretString>,
    settings: &Settings,
) -> Result<Connected, Failed> {
    let _turn = turns::take(connection).await;
    match connection {
        Connection::Iscsi(iscsi) => iscsi::connect(iscsi, secret, settings).await,
        Connection::Rbd(rbd) => rbd::connect(rbd, secret, settings).await,
    }
}

/// Flushes a volume and takes it off this host. Who else uses it here is for the caller to know: they lose it too.
///
/// Sessions that other volumes need stay. After an error, what is still there can be disconnected again.
pub async fn disconnect(connection: &Connection, settings: &Settings) -> Result<(), Failed> {
    let _turn = turns::take(connection).await;
    match connection {
        Connection::Iscsi(iscsi) => iscsi::disconnect(iscsi, settings).await,
        Connection::Rbd(rbd) => rbd::disconnect(rbd).await,
    }
}
