//! Why a volume could not be connected or disconnected.

use std::{io, path::PathBuf, time::Duration};

use vmferry_core::volume::SecretName;

use crate::storage::tool;

/// A volume that could not be connected or disconnected. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// What the volume's description says cannot be so.
    #[error("volume {volume} cannot be attached by this host: {problem}")]
    Description {
        /// The volume.
        volume: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The login needs a secret that the caller did not have.
    #[error("volume {volume}: there is no secret {secret:?}; define it on this host")]
    NoSecret {
        /// The volume.
        volume: String,
        /// Its name.
        secret: SecretName,
    },
    /// A portal or a cluster that does not answer.
    #[error("volume {volume}: cannot reach {at}; check the network, and that the storage serves there")]
    Unreachable {
        /// The volume.
        volume: String,
        /// The portal, or the monitors.
        at: String,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// The storage does not accept the login.
    #[error("volume {volume}: {at} refuses the login of {user}; check the user's secret, and what it may use there")]
    WrongCredentials {
        /// The volume.
        volume: String,
        /// The portal, or the monitors.
        at: String,
        /// The user's name; how a host without one is known.
        user: String,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// The storage answers, and has no such target or image.
    #[error("volume {volume}: there is no such target or image at {at}")]
    Missing {
        /// The volume.
        volume: String,
        /// The portal, or the monitors.
        at: String,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// The target has shown no such LUN to this host.
    #[error(
        "volume {volume}: {portal} has shown no LUN {lun} within {timeout:?}; check that it is there, and that this host may see it"
    )]
    LunMissing {
        /// The volume.
        volume: String,
        /// The portal.
        portal: String,
        /// Its logical unit number.
        lun: u16,
        /// How long it had.
        timeout: Duration,
    },
    /// The LUN or image is there; its device, or its stable name, is not.
    #[error("volume {volume}: {device} did not appear within {timeout:?}; check the kernel's log and udev")]
    DeviceTimeout {
        /// The volume.
        volume: String,
        /// The device, as far as it is known.
        device: String,
        /// How long it had.
        timeout: Duration,
    },
    /// A device that was told to go, and did not.
    #[error("volume {volume}: {device} is still there after {timeout:?}; check the kernel's log")]
    DeviceStays {
        /// The volume.
        volume: String,
        /// The device.
        device: String,
        /// How long it had.
        timeout: Duration,
    },
    /// A device that says nothing by which it could be told from another.
    #[error("volume {volume}: {device} has neither a WWN nor a serial number; give it one on the storage")]
    NoIdentity {
        /// The volume.
        volume: String,
        /// The device.
        device: String,
    },
    /// What should be one volume is several.
    #[error("volume {volume} is {one} on one way and {other} on another; check what the portals serve")]
    Ambiguous {
        /// The volume.
        volume: String,
        /// One identity.
        one: String,
        /// Another identity.
        other: String,
    },
    /// Multipath is enforced, and its daemon is not there.
    #[error("volume {volume}: multipath is enforced but multipathd does not run; start it")]
    MultipathNotRunning {
        /// The volume.
        volume: String,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// Somebody holds the device: a mount, a volume group, a process.
    #[error("volume {volume}: {device} is in use on this host; end its use first")]
    InUse {
        /// The volume.
        volume: String,
        /// The device.
        device: String,
    },
    /// The kernel's RBD client did not take the image.
    #[error(
        "volume {volume}: the kernel cannot map it from {at}; its log has the reason, often a feature of the image that it lacks"
    )]
    MapFailed {
        /// The volume.
        volume: String,
        /// The monitors.
        at: String,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// A program failed in a way that has no name here.
    #[error("volume {volume}: cannot {doing}")]
    Tool {
        /// The volume.
        volume: String,
        /// What it was about to do.
        doing: &'static str,
        /// What the program said.
        #[source]
        source: tool::Failed,
    },
    /// A program wrote what cannot be understood.
    #[error("volume {volume}: `{command}` said something unexpected; is it another version?")]
    Unintelligible {
        /// The volume.
        volume: String,
        /// The program.
        command: &'static str,
        /// Where it departs.
        #[source]
        source: serde_json::Error,
    },
    /// A file of the kernel's or of open-iscsi's cannot be used.
    #[error("volume {volume}: cannot use {}", .path.display())]
    File {
        /// The volume.
        volume: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
