//! How each disk of a guest gets to the destination: facts of both hosts in, a [`Resolution`] or a refusal out.
//!
//! ```text
//!                    ┌─ no medium ─────────────────────────────────────────▶ Empty
//!                    ├─ a volume: both hosts find the same ────────────────▶ Volume
//!  a disk ───────────┤
//!                    │                 ┌─ the destination has the same file ▶ Shared    (proved)
//!                    ├─ written files ─┴─ the destination has none ─────────▶ Copied    while the guest runs
//!                    │                                                     ▶ Moved     while it is off
//!                    └─ read-only files ───────────────────────────────────▶ Medium    (there, or sent ahead)
//! ```
//!
//! Nothing is guessed from path names or file system types. A file is shared if the destination reads, beside the file that
//! it would open, a probe file that the source has just written beside its own, and if both files are the same inode on the
//! file system of their probe.

mod facts;
mod file;
mod growth;
mod space;
mod transfer;
mod volume;

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::{
    facts::{File, Image, Probe, Problem, Qcow2, Room, Seen, SeenProbe, Shown, Sight, VolumeSight, VolumeUse},
    space::space,
    transfer::{Sharing, Transfer, copied_by_the_job, left_behind, sent, sent_last, to_copy, transfer},
};
use crate::{
    compatibility::Refusal,
    domain_xml::DiskDefinition,
    id::HostName,
    instance::DiskSource,
    migration::Kind,
    reason::Reason,
    volume::{Attachment, Found, Volume},
};

/// How a disk gets to the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Resolution {
    /// There is no medium in the drive.
    Empty,
    /// Both hosts see the same file: it was proved.
    Shared {
        /// Its path, on both hosts.
        path: String,
        /// The images below it, nearest first.
        below: Vec<StaticImage>,
    },
    /// The guest's own image is copied while the guest runs.
    Copied {
        /// It.
        image: Image,
        /// The images below it, nearest first.
        below: Vec<StaticImage>,
    },
    /// The guest's own image is sent while the guest is off: the file as it is, whatever is in it.
    Moved {
        /// Its images, its own first; that is never longer than its size here, which is what it may grow to until the guest
        /// has stopped.
        layers: Vec<StaticImage>,
    },
    /// The guest only reads it.
    Medium {
        /// Its images, the top one first.
        layers: Vec<StaticImage>,
    },
    /// Network storage that both hosts reach.
    Volume {
        /// How.
        volume: Volume,
        /// What both have found there.
        found: Found,
    },
}

/// An image that nobody writes to: read-only media, and what lies below an image that is written to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StaticImage {
    /// Its path, on both hosts.
    pub path: String,
    /// Its format as the definition names it.
    pub format: String,
    /// How large its file is.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub size: ByteSize,
    /// What its file takes up; holes do not.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub allocated: ByteSize,
    /// What the destination has of it.
    pub presence: Presence,
}

/// What the destination has of an image that nobody writes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "presence")]
pub enum Presence {
    /// The same file: it was proved.
    Shared,
    /// A file of the same size. The source must find that its own has the same contents.
    Present {
        /// SHA-256 of the destination's.
        digest: String,
    },
    /// Nothing: it is sent before the guest moves.
    Absent,
}

/// A disk and how it gets to the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The disk.
    pub target: String,
    /// How.
    #[serde(flatten)]
    pub resolution: Resolution,
}

impl Resolution {
    /// Its images that nobody writes to.
    pub fn static_images(&self) -> &[StaticImage] {
        match self {
            Self::Shared { below, .. } | Self::Copied { below, .. } => below,
            Self::Moved { layers } | Self::Medium { layers } => layers,
            Self::Empty | Self::Volume { .. } => &[],
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => return f.write_str("no medium"),
            Self::Shared { path, .. } => write!(f, "{path}, shared: the probe file was seen")?,
            Self::Copied { image: Image { path, virtual_size, allocated, .. }, .. } => {
                write!(f, "{path}, local: {allocated} of {virtual_size} to be copied")?;
            }
            Self::Moved { layers } => {
                let Some((own, below)) = layers.split_first() else { return Ok(()) };
                write!(f, "{}, local: {} to be copied while the guest is off", own.path, own.allocated)?;
                return below.iter().try_for_each(|image| write!(f, "; below it {image}"));
            }
            Self::Medium { layers } => {
                for (index, image) in layers.iter().enumerate() {
                    write!(f, "{}{image}", if index == 0 { "" } else { "; below it " })?;
                }
                return Ok(());
            }
            Self::Volume { volume, found } => {
                let opened = match volume.attachment {
                    Attachment::ByQemu => "QEMU opens it",
                    Attachment::ByHost => "the host attaches it",
                };
                return write!(f, "{}, a volume of {}, {}: {opened}", volume.connection, found.size, found.identity);
            }
        }
        self.static_images().iter().try_for_each(|image| write!(f, "; below it {image}"))
    }
}

impl fmt::Display for StaticImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, read-only: ", self.path)?;
        match self.presence {
            Presence::Shared => f.write_str("shared"),
            Presence::Present { .. } => f.write_str("on both hosts"),
            Presence::Absent => write!(f, "{} to be copied", self.allocated),
        }
    }
}

/// A guest's disks and what is known of them. On the source nothing is seen yet.
#[derive(Debug, Clone, Copy)]
pub struct Disks<'a> {
    /// The guest's name.
    pub guest: &'a str,
    /// Its disks.
    pub disks: &'a [DiskDefinition],
    /// The host it leaves.
    pub source: &'a HostName,
    /// The host it shall run on.
    pub destination: &'a HostName,
    /// What the source shows.
    pub shown: &'a Shown,
    /// What the destination sees.
    pub sight: &'a Sight,
    /// Whether the guest runs meanwhile.
    pub kind: Kind,
}

impl Disks<'_> {
    /// The source's answer for a disk: what it is, or why it cannot leave wherever it should go.
    pub fn leaving(&self, disk: &DiskDefinition) -> Result<String, Refusal> {
        let source = &disk.disk.source;
        if *source == DiskSource::Empty {
            return Ok(Resolution::Empty.to_string());
        }
        // What is in that file goes with the shutdown anyway.
        if disk.transient && !self.kind.is_cold() {
            let what = "is transient: what was written to it is in a file of its host";
            return Err(self.unsupported(disk, what, "make it permanent, or move the guest with --cold"));
        }
        if let Some(volume) = &disk.volume {
            if let Some(below) = disk.backing.first() {
                // Nobody would look whether the destination has it, or another under its name.
                let what = format!("is a volume that needs another image, {}", below.source);
                return Err(self.unsupported(disk, &what, "merge that image into it (virsh blockpull)"));
            }
            return self.shown_volume(disk, volume).map(|found| format!("{}, {}", volume.connection, found.size));
        }
        self.leaving_files(disk)?;
        Ok(format!("{source}, {}", if disk.disk.read_only { "read-only" } else { "written to" }))
    }

    /// The destination's answer for a disk. `None` if the source refuses it: what would become of it cannot be said.
    pub fn arriving(&self, disk: &DiskDefinition) -> Option<Result<Resolution, Refusal>> {
        self.leaving(disk).ok()?;
        Some(match &disk.volume {
            _ if disk.disk.source == DiskSource::Empty => Ok(Resolution::Empty),
            Some(volume) => self.arriving_volume(disk, volume),
            None => self.arriving_files(disk),
        })
    }

    /// Every disk for which there is a way.
    pub fn resolved(&self) -> Vec<Resolved> {
        let resolve = |disk: &DiskDefinition| match self.arriving(disk) {
            Some(Ok(resolution)) => Some(Resolved { target: disk.disk.target.clone(), resolution }),
            _ => None,
        };
        self.disks.iter().filter_map(resolve).collect()
    }

    fn unsupported(&self, disk: &DiskDefinition, what: &str, remedy: &str) -> Refusal {
        let (guest, target, source) = (self.guest, &disk.disk.target, &disk.disk.source);
        Refusal {
            reason: Reason::DiskKindUnsupported,
            message: format!("disk {target} of {guest} ({source}) {what}"),
            remedy: remedy.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
