//! What a host can say of the files and volumes that disks lie in.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::{compatibility::Refusal, volume::Found};

/// A file as one host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path in the disk's definition.
    pub path: String,
    /// The directory it is really in, every symbolic link followed.
    pub directory: String,
    /// Its size in bytes.
    pub size: u64,
    /// How many bytes of it take up room; holes do not.
    pub allocated: u64,
    /// Its inode number, the same on every host that shares its file system.
    pub inode: u64,
    /// Its device number, which means something on this host only.
    pub device: u64,
}

/// An image that the guest writes to, as QEMU's tools read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The path in the disk's definition.
    pub path: String,
    /// Its format as the definition names it; never guessed from what the guest wrote.
    pub format: String,
    /// What the guest sees.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub virtual_size: ByteSize,
    /// What its file takes up now.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub allocated: ByteSize,
    /// How it is laid out, if it is a qcow2 image.
    pub qcow2: Option<Qcow2>,
    /// What in it would be lost if what the guest sees were copied: `it has 2 snapshots inside`.
    pub obstacle: Option<String>,
}

/// How a qcow2 image is laid out, as `qemu-img info` says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Qcow2 {
    /// In bytes.
    pub cluster_size: u64,
    /// `0.10` or `1.1`.
    pub compat: String,
    /// Whether reference counts are written late.
    pub lazy_refcounts: bool,
    /// Whether clusters have subclusters.
    pub extended_l2: bool,
    /// The width of a reference count.
    pub refcount_bits: u8,
    /// `zlib` or `zstd`.
    pub compression_type: String,
}

/// A file that the source writes beside disks, for the destination to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The directory, as the source sees it.
    pub directory: String,
    /// Its name there.
    pub file_name: String,
    /// What is in it: random, and no secret.
    pub token: String,
    /// Its device number on the source; 0 until it is written.
    pub device: u64,
}

impl Probe {
    /// How every probe's name begins.
    pub const PREFIX: &str = ".vmferry-probe-";
}

/// Why a file could not be looked at, or a probe not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the file or directory.
    pub place: String,
    /// What the system said.
    pub why: String,
}

/// What a host finds where a disk's volume should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSight {
    /// The disk.
    pub target: String,
    /// The volume, or why it cannot be reached from there.
    pub found: Result<Found, Refusal>,
}

/// What the source shows of a guest's disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Every file of every disk that can be looked at.
    pub files: Vec<File>,
    /// Those that the guest writes to.
    pub images: Vec<Image>,
    /// The probes that were written.
    pub probes: Vec<Probe>,
    /// Every volume.
    pub volumes: Vec<VolumeSight>,
    /// What could not be looked at or written.
    pub problems: Vec<Problem>,
}

impl Shown {
    /// The directories of these files, each once.
    pub fn directories<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> BTreeSet<&str> {
        let paths: BTreeSet<_> = paths.into_iter().collect();
        let files = self.files.iter().filter(|file| paths.contains(file.path.as_str()));
        files.map(|file| file.directory.as_str()).collect()
    }

    /// The name and token of the probe that the source has put beside this file.
    pub fn probe_beside(&self, path: &str) -> Option<&Probe> {
        let file = self.file(path)?;
        self.probes.iter().find(|probe| probe.directory == file.directory)
    }

    /// A file, by its path in the definition.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// What the destination sees where a file should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The file.
    pub file: File,
    /// The probe in that file's directory, as the destination itself finds that directory.
    pub probe: Option<SeenProbe>,
    /// SHA-256 of its contents, where they must be the source's: nobody writes to it, it has the same size, and it is not the
    /// same file.
    pub digest: Option<String>,
}

/// A probe file as the destination reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenProbe {
    /// What is in it.
    pub token: String,
    /// Its device number on the destination.
    pub device: u64,
}

/// Where the destination would put a file that it does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The path in the disk's definition.
    pub path: String,
    /// The nearest directory above it that is there.
    pub directory: String,
    /// That directory's device number.
    pub device: u64,
    /// What can be written there.
    pub available: ByteSize,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// What the destination sees of a guest's disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// The files that it has.
    pub files: Vec<Seen>,
    /// Room for those that it does not have.
    pub rooms: Vec<Room>,
    /// Every volume.
    pub volumes: Vec<VolumeSight>,
    /// Volumes that domains of this host use.
    pub used: Vec<VolumeUse>,
    /// Whether images may promise their guests more than there is room for.
    pub overcommit: bool,
}

/// A volume that a domain of the destination uses already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    /// The domain's name.
    pub guest: String,
    /// The volume's disk in it.
    pub target: String,
    /// How it is reached.
    pub connection: crate::volume::Connection,
    /// Whether that disk may be shared.
    pub shareable: bool,
}
