//! The user's virtual machine, as a host sees it.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::{
    affinity::Membership,
    convergence::GuestLimits,
    id::{HostName, InstanceId, MigrationId},
    network::{NetworkName, VifId, VlanId},
    policy::Policy,
    volume::{Attachment, Connection},
};

/// A domain on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The domain's UUID.
    pub id: InstanceId,
    /// The domain's name.
    pub name: String,
    /// What it does now.
    pub state: InstanceState,
    /// The host that answers.
    pub host: HostName,
    /// Guest memory at most.
    pub memory: ByteSize,
    /// vCPUs.
    pub vcpus: u32,
    /// Whether libvirt keeps the definition when the guest stops.
    pub persistent: bool,
    /// Its disks, in the definition's order.
    pub disks: Vec<Disk>,
    /// Its virtual interfaces, in the definition's order.
    pub vifs: Vec<Vif>,
    /// The migration it is in.
    pub migration: Option<MigrationId>,
    /// What is wrong with its definition, a sentence each.
    pub problems: Vec<String>,
    /// What its definition says of its live migrations.
    pub limits: GuestLimits,
    /// The affinity groups that its definition says it is in, by name.
    #[serde(default)]
    pub affinity: Vec<Membership>,
}

/// An instance's state, in the words users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceState {
    /// The guest runs.
    Active,
    /// The guest is paused.
    Paused,
    /// Defined, not running.
    Shutoff,
    /// A migration moves it; the guest runs.
    Migrating,
    /// The guest crashed.
    Crashed,
    /// Suspended by guest power management.
    Suspended,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
            Self::Shutoff => "SHUTOFF",
            Self::Migrating => "MIGRATING",
            Self::Crashed => "CRASHED",
            Self::Suspended => "SUSPENDED",
        })
    }
}

/// One disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name in the guest's definition, `vda`.
    pub target: String,
    /// What the guest sees.
    pub device: DiskDevice,
    /// Where its bytes are.
    pub source: DiskSource,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// What is known of it as a volume; none if it is a file or a device like any other.
    pub volume: Option<VolumeAttachment>,
}

/// What is known of the volume behind a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAttachment {
    /// Its id, in the words of whoever made it. None: nobody has said.
    pub id: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Whether a guest can start from it. None: nobody has said.
    pub bootable: Option<bool>,
    /// Its size, if libvirt knows it without asking the storage.
    #[serde(rename = "size_bytes", serialize_with = "crate::bytes::exact_if_known")]
    pub size: Option<ByteSize>,
    /// Who opens it. None: the disk is a file, or a device that nobody has said more of.
    pub attachment: Option<Attachment>,
    /// How it is reached; as little known as `attachment`.
    pub connection: Option<Connection>,
}

/// What a disk looks like to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskDevice {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI LUN passed through.
    Lun,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum DiskSource {
    /// No medium in the drive.
    Empty,
    /// A file.
    File {
        /// Path on the host.
        path: String,
    },
    /// A block device.
    Block {
        /// Path on the host.
        path: String,
    },
    /// A network disk that QEMU opens itself.
    Network {
        /// `rbd`, `iscsi`, …
        protocol: String,
        /// Pool and image, target and LUN, …
        name: String,
    },
    /// Anything else, by libvirt's name of it.
    Other {
        /// The disk's `type` attribute.
        kind: String,
    },
}

impl fmt::Display for DiskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("(no medium)"),
            Self::File { path } | Self::Block { path } => f.write_str(path),
            Self::Network { protocol, name } => write!(f, "{protocol}:{name}"),
            Self::Other { kind } => write!(f, "({kind})"),
        }
    }
}

/// One virtual interface of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vif {
    /// The guest's MAC address.
    pub mac: String,
    /// What it is plugged into.
    pub attachment: VifAttachment,
    /// The device model the guest sees.
    pub model: String,
    /// The logical network that this is, as far as the definition or the host's configuration says.
    pub network: Option<NetworkName>,
    /// What the guest may send and receive. None: anything.
    pub policy: Option<Policy>,
    /// The host's end of it; none while the guest is off, or if libvirt does not say.
    pub tap: Option<String>,
    /// The VLAN that libvirt puts its frames in; none: in none.
    pub vlan: Option<VlanId>,
    /// The largest packet in bytes that the guest may send; none: not known.
    pub mtu: Option<u32>,
}

impl Vif {
    /// Which it is among all. None: libvirt has given it no valid MAC address.
    pub fn id(&self, instance: InstanceId) -> Option<VifId> {
        Some(VifId { instance, mac: self.mac.parse().ok()? })
    }
}

/// What a vif is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum VifAttachment {
    /// A bridge of the host.
    Bridge {
        /// Its name.
        bridge: String,
    },
    /// A network of libvirt's.
    Network {
        /// Its name.
        network: String,
    },
    /// Anything else, by libvirt's name of it.
    Other {
        /// The interface's `type` attribute.
        kind: String,
    },
}

impl fmt::Display for VifAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { bridge } => write!(f, "bridge {bridge}"),
            Self::Network { network } => write!(f, "network {network}"),
            Self::Other { kind } => f.write_str(kind),
        }
    }
}
