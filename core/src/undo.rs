//! How to take a step back: data, named beside its step and journaled before it (I5).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    host::Claim,
    id::{HostName, InstanceId},
    network::{LinkName, Plug},
    volume::Connection,
};

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
    /// Gives back what was kept free for the guest. (The name under which journals of before have it knew of memory only.)
    #[serde(alias = "release_memory")]
    ReleaseClaim(Claim),
    /// Destroys the guest that is arriving here, if it never ran here.
    DestroyIncoming {
        /// The guest.
        instance: InstanceId,
    },
    /// Forgets the secret that VMFerry gave to libvirt for a volume, unless a domain of this host needs it.
    ReleaseSecret {
        /// The volume.
        connection: Connection,
    },
    /// Detaches a volume from this host, unless a domain of this host uses it.
    DisconnectVolume {
        /// Which.
        connection: Connection,
    },
    /// Removes an image, unless a domain of this host uses it.
    RemoveImage {
        /// Its path.
        path: String,
    },
    /// Removes a directory that was made for images, if nothing is in it.
    RemoveDirectory {
        /// Its path.
        path: String,
    },
    /// Ends what receives images that are sent here.
    StopReceivers,
    /// Starts a guest again that was shut down to be moved.
    StartAgain {
        /// The guest.
        instance: InstanceId,
    },
    /// Has the host start a guest with itself again.
    RestoreAutostart {
        /// The guest.
        instance: InstanceId,
    },
    /// Gives a guest that is off its name back.
    RestoreName {
        /// The guest.
        instance: InstanceId,
        /// Its name.
        name: String,
    },
    /// Takes away what was made for a vif, as far as no vif of this host needs it.
    Unplug {
        /// What it was made for.
        plug: Box<Plug>,
    },
    /// Lets go of a tap that was filtered, unless a domain of this host has it.
    DropFilters {
        /// The tap.
        tap: LinkName,
    },
    /// Lets go of a filter of libvirt's: if VMFerry has made it and nobody on this host needs it any more, it is taken away.
    UndefineFilter {
        /// Its name.
        name: String,
    },
    /// Forgets the definition of a guest that does not run here: one that has moved, or one that came while it was off.
    ForgetDefinition {
        /// The guest.
        instance: InstanceId,
    },
}

impl Undo {
    /// Whether it would take from a guest that has arrived what it has now.
    pub fn takes_what_arrived(&self) -> bool {
        matches!(
            self,
            Self::DestroyIncoming { .. }
                | Self::DisconnectVolume { .. }
                | Self::RemoveImage { .. }
                | Self::RemoveDirectory { .. }
                | Self::Unplug { .. }
                | Self::DropFilters { .. }
                | Self::UndefineFilter { .. }
                | Self::ForgetDefinition { .. }
        )
    }

    /// Whether it would bring up again a guest that was taken out of service to be moved.
    pub fn brings_up_again(&self) -> bool {
        matches!(self, Self::StartAgain { .. } | Self::RestoreAutostart { .. } | Self::RestoreName { .. })
    }

    /// Whether the guest must not come again before this is done: it would be done to it.
    pub fn bars_its_return(&self) -> bool {
        matches!(
            self,
            Self::DestroyIncoming { .. }
                | Self::ForgetDefinition { .. }
                | Self::StartAgain { .. }
                | Self::RestoreName { .. }
                | Self::RemoveImage { .. }
                | Self::DisconnectVolume { .. }
        )
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveSockets => f.write_str("remove the migration's sockets"),
            Self::RevokeTunnel { source } => write!(f, "revoke the tunnel granted to {source}"),
            Self::ReleaseClaim(Claim { memory, vcpus: 0, .. }) => write!(f, "release the claim on {memory} of memory"),
            Self::ReleaseClaim(Claim { memory, vcpus, .. }) => {
                write!(f, "release the claim on {memory} of memory and {vcpus} vCPUs")
            }
            Self::DestroyIncoming { instance } => write!(f, "destroy the incoming guest {instance}"),
            Self::ReleaseSecret { connection } => write!(f, "release the secret of volume {connection}"),
            Self::DisconnectVolume { connection } => write!(f, "disconnect volume {connection}"),
            Self::RemoveImage { path } => write!(f, "remove image {path}"),
            Self::RemoveDirectory { path } => write!(f, "remove directory {path}"),
            Self::StopReceivers => f.write_str("end what receives images"),
            Self::StartAgain { instance } => write!(f, "start guest {instance} again"),
            Self::RestoreAutostart { instance } => write!(f, "have guest {instance} start with its host again"),
            Self::RestoreName { instance, name } => write!(f, "name guest {instance} {name} again"),
            Self::Unplug { plug } => write!(f, "take away what was made for {} on {}", plug.vif, plug.network.carrier),
            Self::DropFilters { tap } => write!(f, "let go of tap {tap}"),
            Self::UndefineFilter { name } => write!(f, "let go of libvirt's filter {name}"),
            Self::ForgetDefinition { instance } => {
                write!(f, "forget the definition of guest {instance}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn a_claim_comes_back_as_it_was_written_and_as_it_was_written_before() {
        let claim = Claim {
            memory: ByteSize::mib(256),
            vcpus: 2,
            pages: [(2_048, 128)].into(),
            groups: ["db".parse().expect("valid")].into(),
            name: "web".into(),
        };
        let undo = Undo::ReleaseClaim(claim);
        let text = serde_json::to_string(&undo).expect("it can be");
        assert_eq!(serde_json::from_str::<Undo>(&text).expect("its own words"), undo);
        let old: Undo = serde_json::from_str(r#"{"release_memory":{"memory":268435456}}"#).expect("known");
        assert_eq!(old, Undo::ReleaseClaim(Claim { memory: ByteSize::mib(256), ..Claim::default() }));
    }
}
