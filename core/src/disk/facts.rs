//! What a host can say of the files that disks lie in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A file as one host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path in the disk's definition.
    pub path: String,
    /// The directory it is really in, every symbolic link followed.
    pub directory: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its inode number, the same on every host that shares its file system.
    pub inode: u64,
    /// Its device number, which means something on this host only.
    pub device: u64,
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

/// What the source shows of a guest's disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Every file of every disk that can be looked at.
    pub files: Vec<File>,
    /// The probes that were written.
    pub probes: Vec<Probe>,
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
        let file = self.files.iter().find(|file| file.path == path)?;
        self.probes.iter().find(|probe| probe.directory == file.directory)
    }
}

/// What the destination sees where a file should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The file.
    pub file: File,
    /// The probe in that file's directory, as the destination itself finds that directory.
    pub probe: Option<SeenProbe>,
}

/// A probe file as the destination reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenProbe {
    /// What is in it.
    pub token: String,
    /// Its device number on the destination.
    pub device: u64,
}
