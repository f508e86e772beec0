//! How to take a step back: data, named beside its step and journaled before it (I5).

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::id::{HostName, InstanceId};

/// The reverse of one step. Survives a restart, is shown by `vmferry migrations show`, compares in tests.
///
/// Undoing what is not there succeeds: a crash between journal and step leaves an undo too many, never one too few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Removes the migration's directory with its sockets.
    RemoveSockets,
    /// Lets no further tunnel stream in, and cuts those that are open.
    RevokeTunnel {
        /// The source that may open them.
        source: HostName,
    },
    /// Gives back the memory that was kept free for the guest.
    ReleaseMemory {
        /// How much.
        memory: ByteSize,
    },
    /// Destroys the guest that is arriving here, if it never ran here.
    DestroyIncoming {
        /// The guest.
        instance: InstanceId,
    },
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveSockets => f.write_str("remove the migration's sockets"),
            Self::RevokeTunnel { source } => write!(f, "revoke the tunnel granted to {source}"),
            Self::ReleaseMemory { memory } => write!(f, "release the claim on {memory} of memory"),
            Self::DestroyIncoming { instance } => write!(f, "destroy the incoming guest {instance}"),
        }
    }
}
