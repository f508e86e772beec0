//! What a host holds that none of its domains and none of its migrations needs: holdings and needs in, leftovers out.
//!
//! Whoever runs the remedy of a leftover must lose nothing. What somebody else may have made, or may be using, is a [`Level::Note`]
//! at most. Images cannot be judged: a disk that nobody uses looks like one that somebody keeps.

mod elsewhere;
mod fix;
mod judge;

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{elsewhere::elsewhere, fix::Fix, judge::findings};
use crate::{
    agent::{CallError, Sighting},
    domain_xml::FilterDefinition,
    id::{InstanceId, MigrationId},
    migration::{Order, Outcome},
    network::{HeldLink, Holder},
    undo::Undo,
    volume::{Connection, SecretName},
};

/// What is on a host that a migration could have left there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Secrets that libvirt keeps.
    pub secrets: Vec<HeldSecret>,
    /// iSCSI sessions of the kernel.
    pub sessions: Vec<HeldSession>,
    /// Node records of open-iscsi.
    pub records: Vec<HeldRecord>,
    /// RBD images that the kernel has mapped.
    pub images: Vec<HeldImage>,
    /// What lies where migrations have their directories.
    pub directories: Vec<HeldDirectory>,
    /// Lists of probe files.
    pub probes: Vec<HeldProbes>,
    /// Processes that receive images.
    pub receivers: Vec<HeldReceiver>,
    /// Links, and ports of Open vSwitch, that carry VMFerry's mark.
    pub links: Vec<HeldLink>,
    /// Guests that are not as they would be without a migration.
    pub guests: Vec<HeldGuest>,
    /// libvirt's filters, whoever made them.
    pub filters: Vec<FilterDefinition>,
    /// How filters and networks differ from what the host's guests need, a sentence each.
    pub drift: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<(String, String)>,
}

/// A secret that libvirt keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSecret {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its second name.
    pub usage: String,
    /// Whether VMFerry made it.
    pub ours: bool,
}

/// An iSCSI session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSession {
    /// The target's name.
    pub target: String,
    /// `address:port`
    pub portal: String,
    /// Its disks by the kernel's names.
    pub disks: Vec<String>,
    /// The device of it that somebody on this host has open: a mount, a volume group, a guest.
    pub claimed: Option<String>,
    /// Whether it was made by a node record of VMFerry's.
    pub ours: bool,
}

/// A node record of open-iscsi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRecord {
    /// The target's name.
    pub target: String,
    /// `address:port`
    pub portal: String,
    /// Whether VMFerry made it.
    pub ours: bool,
}

/// An RBD image that the kernel has mapped. Who did it, the kernel does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldImage {
    /// The kernel's name of it: `rbd0`.
    pub device: String,
    /// `pool/image` or `pool/namespace/image`.
    pub image: String,
    /// The snapshot of it.
    pub snapshot: Option<String>,
    /// Whether somebody on this host has it open.
    pub claimed: bool,
}

/// What lies where migrations have their directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDirectory {
    /// Its path.
    pub path: String,
    /// Whose it is by its name.
    pub migration: Option<MigrationId>,
}

/// A list of probe files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldProbes {
    /// The list's path.
    pub list: String,
    /// Whose it is by its name.
    pub migration: Option<MigrationId>,
    /// The probe files that it names.
    pub files: Vec<String>,
    /// When it was written.
    pub written: Timestamp,
}

/// A process that receives an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldReceiver {
    /// Its number.
    pub pid: i32,
    /// The migration whose socket it listens on.
    pub migration: MigrationId,
}

/// A guest that comes, goes, or was stopped for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldGuest {
    /// Which.
    pub instance: InstanceId,
    /// Its name.
    pub name: String,
    /// What is to be seen of it.
    pub sighting: Sighting,
    /// The job that libvirt runs on it, in words.
    pub job: Option<String>,
}

/// What a host's domains and migrations need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// Secrets of its domains, as they run and as they will start.
    pub secrets: BTreeSet<SecretName>,
    /// Volumes of its domains, likewise.
    pub volumes: Vec<Connection>,
    /// The devices that its domains have for disks, and all that those lie on, by the kernel's names.
    pub devices: BTreeSet<String>,
    /// Whom links of VMFerry's are for: its domains' networks and vifs.
    pub holders: BTreeSet<Holder>,
    /// libvirt's filters that vifs of its domains name, as they run and as they will start.
    pub filters: BTreeSet<String>,
    /// Its halves of migrations.
    pub halves: Vec<Half>,
    /// The same before the holdings were looked at: what ended meanwhile may have been seen still.
    pub halves_before: Vec<Half>,
}

/// This host's half of a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct Half {
    /// What was asked for.
    pub order: Order,
    /// When it began.
    pub started: Timestamp,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// Steps that are to be taken back.
    pub pending: Vec<Undo>,
}

/// Something that is there and not needed, or that nobody ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// What it is.
    pub kind: Kind,
    /// How sure it is that somebody should do something.
    pub level: Level,
    /// Which one.
    pub subject: String,
    /// Why it should not be there.
    pub problem: String,
    /// The command that removes it, on that host; or what to do.
    pub remedy: String,
    /// Whether its agent removes it when it is asked to. Then it is VMFerry's, and nobody needs it.
    pub removable: bool,
}

impl Leftover {
    /// What tells it from all others of its host.
    pub fn name(&self) -> LeftoverName {
        LeftoverName { kind: self.kind, subject: self.subject.clone() }
    }
}

/// A leftover by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverName {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub subject: String,
}

impl fmt::Display for LeftoverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.subject)
    }
}

/// A leftover, and how the agent of its host removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is left.
    pub leftover: Leftover,
    /// None: that is not for an agent to do, or it does so anyway.
    pub fix: Option<Fix>,
}

/// What became of a leftover that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// It was none any more when it was looked at again: it had gone, or somebody has come to need it. Nothing was done.
    NotFound,
    /// It is still there, or what is left of it.
    Failed(CallError),
}

/// How sure it is that something must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is VMFerry's, and it is in nobody's use.
    Problem,
    /// It may be somebody else's.
    Note,
}

/// What a leftover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A migration that does not end.
    Migration,
    /// Steps of a migration that ended and could not take them back.
    Steps,
    /// A secret of libvirt's.
    Secret,
    /// An iSCSI session.
    IscsiSession,
    /// A node record of open-iscsi.
    IscsiRecord,
    /// An RBD image that the kernel has mapped.
    RbdImage,
    /// A migration's directory.
    Directory,
    /// Probe files beside disks.
    Probes,
    /// A process that receives an image.
    Receiver,
    /// A link that VMFerry has made, or a port of Open vSwitch.
    Link,
    /// A filter of libvirt's.
    Filter,
    /// A guest that is on its way, and no migration knows of it.
    Guest,
    /// A definition of a guest that is on another host. No agent can tell: it takes a look at several hosts.
    Definition,
    /// Filters or networks that are not what the guests need.
    Drift,
    /// Something that could not be looked at.
    Unseen,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Migration => "migration",
            Self::Steps => "steps to take back",
            Self::Secret => "libvirt secret",
            Self::IscsiSession => "iSCSI session",
            Self::IscsiRecord => "iSCSI node record",
            Self::RbdImage => "mapped RBD image",
            Self::Directory => "directory",
            Self::Probes => "probe files",
            Self::Receiver => "receiver of images",
            Self::Link => "network link",
            Self::Filter => "libvirt filter",
            Self::Guest => "guest",
            Self::Definition => "definition",
            Self::Drift => "network drift",
            Self::Unseen => "not looked at",
        })
    }
}

/// Migrations that are open for longer deserve a look.
pub const LONG_OPEN: Duration = Duration::from_secs(24 * 3600);

/// Probe files live for a minute, and the agent tries again each minute to remove them.
pub const LONG_PROBED: Duration = Duration::from_secs(10 * 60);
