//! How an agent removes a leftover: data, so that what is decided can be compared with what is shown.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{id::MigrationId, network::HeldLink};

/// Removes one leftover, and names all of it. Each is carried out only while the thing still has VMFerry's mark and nobody has come to need
/// it; removing what is gone succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fix {
    /// Undefines a secret of libvirt's.
    UndefineSecret {
        /// Its UUID.
        uuid: Uuid,
    },
    /// Takes a session's disks off the host, flushed, logs out, and deletes the node record.
    EndSession {
        /// The target's name.
        target: String,
        /// `address:port`
        portal: String,
    },
    /// Deletes a node record by which nobody is logged in.
    DeleteRecord {
        /// The target's name.
        target: String,
        /// `address:port`
        portal: String,
    },
    /// Removes a migration's directory with its sockets.
    RemoveDirectory {
        /// Whose it is.
        migration: MigrationId,
    },
    /// Removes the probe files of a list, then the list.
    RemoveProbes {
        /// Whose they are.
        migration: MigrationId,
    },
    /// Ends a process that receives an image.
    EndReceiver {
        /// Its number.
        pid: i32,
        /// The migration whose socket it listens on.
        migration: MigrationId,
    },
    /// Removes a link, or a port of Open vSwitch.
    RemoveLink(HeldLink),
    /// Undefines a filter of libvirt's.
    UndefineFilter {
        /// Its name.
        name: String,
    },
}

impl Fix {
    /// Whether nothing but a migration could ever need it, one that does not go on: an agent removes that without being asked.
    ///
    /// The rest may have been a guest's that was undefined by hand, and is defined again in a moment.
    pub fn needs_no_asking(&self) -> bool {
        match self {
            Self::RemoveDirectory { .. } | Self::EndReceiver { .. } => true,
            // Its maker was cut off before it could say whose it is.
            Self::RemoveLink(link) => link.holder.is_none(),
            // Probe files have a clock of their own.
            Self::UndefineSecret { .. }
            | Self::EndSession { .. }
            | Self::DeleteRecord { .. }
            | Self::RemoveProbes { .. }
            | Self::UndefineFilter { .. } => false,
        }
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UndefineSecret { uuid } => write!(f, "undefine libvirt's secret {uuid}"),
            Self::EndSession { target, portal } => write!(f, "log out of {target} at {portal}"),
            Self::DeleteRecord { target, portal } => write!(f, "delete the node record of {target} at {portal}"),
            Self::RemoveDirectory { migration } => write!(f, "remove the directory of migration {migration}"),
            Self::RemoveProbes { migration } => write!(f, "remove the probe files of migration {migration}"),
            Self::EndReceiver { pid, .. } => write!(f, "end qemu-nbd, process {pid}"),
            Self::RemoveLink(link) => write!(f, "remove link {}", link.name),
            Self::UndefineFilter { name } => write!(f, "undefine libvirt's filter {name}"),
        }
    }
}
