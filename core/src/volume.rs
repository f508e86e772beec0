//! Volumes: disks on network storage, and what a host must know to reach one. Never the secrets themselves, only their names.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::undo::Undo;

/// A volume as it is attached to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    /// The disk it is in the guest: `vda`.
    pub target: String,
    /// Who opens it.
    pub attachment: Attachment,
    /// How it is reached.
    pub connection: Connection,
}

/// Who opens a volume for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// QEMU itself, with librbd or libiscsi: a network disk.
    ByQemu,
    /// The host's kernel: the guest's disk is a block device.
    ByHost,
}

/// How a volume is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "protocol")]
pub enum Connection {
    /// An image in a Ceph cluster.
    Rbd(Rbd),
    /// A LUN of an iSCSI target.
    Iscsi(Iscsi),
}

/// An image in a Ceph cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rbd {
    /// `address:port` each. None: the host's `configuration` names them.
    pub monitors: Vec<String>,
    /// The path of Ceph's configuration on the host. None: `/etc/ceph/ceph.conf`.
    #[serde(default)]
    pub configuration: Option<String>,
    /// `pool/image` or `pool/namespace/image`.
    pub image: String,
    /// A snapshot of it, which can only be read.
    pub snapshot: Option<String>,
    /// Who opens it; none where the cluster asks nobody.
    pub login: Option<Login>,
}

/// A LUN of an iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Iscsi {
    /// `address:port` each, the preferred one first. At least one.
    pub portals: Vec<String>,
    /// The target's name, an IQN.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
    /// The initiator's name, an IQN. None: the host's own; what QEMU opens always has one.
    pub initiator: Option<String>,
    /// Who logs in by CHAP; none where the target asks nobody.
    pub login: Option<Login>,
}

/// Who logs in to a storage system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Login {
    /// The user's name: cephx's without `client.`, or CHAP's.
    pub user: String,
    /// Which secret, by libvirt's and the agents' name of it.
    pub secret: SecretName,
}

/// Names a secret, as libvirt does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretName {
    /// By its UUID.
    Uuid(Uuid),
    /// By what it is for.
    Usage(String),
}

/// A volume as a host finds it. Both hosts must find the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its size.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub size: ByteSize,
    /// What tells it from every other: an RBD image's id, a LUN's WWN or serial number.
    pub identity: String,
}

impl Volume {
    /// What takes back whatever a host does to have it: nothing, where QEMU opens it and nobody is asked for a secret.
    pub fn undo(&self) -> Option<Undo> {
        let connection = self.connection.clone();
        match self.attachment {
            Attachment::ByHost => Some(Undo::DisconnectVolume { connection }),
            Attachment::ByQemu => self.connection.login().map(|_| Undo::ReleaseSecret { connection }),
        }
    }
}

impl Connection {
    /// Where it is reached, for people.
    pub fn addresses(&self) -> String {
        match self {
            Self::Rbd(Rbd { monitors, .. }) if monitors.is_empty() => {
                "the monitors that Ceph's configuration names".into()
            }
            Self::Rbd(Rbd { monitors, .. }) => monitors.join(", "),
            Self::Iscsi(Iscsi { portals, .. }) => portals.join(", "),
        }
    }

    /// Who opens it.
    pub fn login(&self) -> Option<&Login> {
        match self {
            Self::Rbd(rbd) => rbd.login.as_ref(),
            Self::Iscsi(iscsi) => iscsi.login.as_ref(),
        }
    }

    /// Whether both lead to one volume, by whatever way and as whomever. Two clusters with an image of the same name are
    /// told apart by what is [`Found`] there.
    pub fn is_same_volume(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rbd(one), Self::Rbd(other)) => one.image == other.image && one.snapshot == other.snapshot,
            (Self::Iscsi(one), Self::Iscsi(other)) => one.target == other.target && one.lun == other.lun,
            (Self::Rbd(_), Self::Iscsi(_)) | (Self::Iscsi(_), Self::Rbd(_)) => false,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rbd(rbd) => rbd.fmt(f),
            Self::Iscsi(iscsi) => iscsi.fmt(f),
        }
    }
}

impl fmt::Display for Rbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rbd:{}", self.image)?;
        self.snapshot.as_ref().map_or(Ok(()), |snapshot| write!(f, "@{snapshot}"))
    }
}

impl fmt::Display for Iscsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi:{}/{}", self.target, self.lun)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Usage(usage) => f.write_str(usage),
        }
    }
}
