//! How each disk of a guest gets to the destination: facts of both hosts in, a [`Resolution`] or a refusal out.
//!
//! Nothing is guessed from path names or file system types. A disk that the guest writes to is shared if the
//! destination reads, beside the file that it would open, a probe file that the source has just written beside its own,
//! and if both files are the same inode on the file system of their probe.

mod facts;

pub use facts::{File, Probe, Problem, Seen, SeenProbe, Shown};

use std::fmt;

use crate::{compatibility::Refusal, domain_xml::DiskDefinition, id::HostName, instance::DiskSource, reason::Reason};

/// How a disk gets to the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// There is no medium in the drive.
    Empty,
    /// The guest only reads it, and the destination has a file there of the same size. Their contents are not compared.
    ReadOnlyFile {
        /// Its path, on both hosts.
        path: String,
    },
    /// Both hosts see the same file: it was proved.
    SharedFile {
        /// Its path, on both hosts.
        path: String,
    },
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no medium"),
            Self::ReadOnlyFile { path } => write!(f, "{path}, read-only: of the same size on both hosts"),
            Self::SharedFile { path } => write!(f, "{path}, shared: the probe file was seen"),
        }
    }
}

/// What the destination must have for a disk, by its definition alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Files of the same size.
    SameSize,
    /// The same files, proved.
    Proof,
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
    pub seen: &'a [Seen],
}

impl Disks<'_> {
    /// What the destination must have for this disk.
    ///
    /// Only `cache='none'` and `directsync` keep nothing in the host's page cache, so only they let two hosts hand a file
    /// over: libvirt's own rule. How QEMU does its I/O (`io=`) does not matter for that.
    pub fn need(&self, disk: &DiskDefinition) -> Result<Need, Refusal> {
        let (guest, target, source) = (self.guest, &disk.disk.target, &disk.disk.source);
        if *source == DiskSource::Empty {
            return Ok(Need::Nothing);
        }
        let unsupported = |what: String, remedy: &str| {
            let message = format!("disk {target} of {guest} ({source}) {what}");
            Err(Refusal { reason: Reason::DiskKindUnsupported, message, remedy: remedy.to_owned() })
        };
        if disk.transient {
            let what = "is transient: what was written to it is in a file of its host".to_owned();
            return unsupported(what, "make it permanent, or move the guest while it is off");
        }
        if let Some(layer) = disk.layers().find(|layer| !matches!(layer, DiskSource::File { .. })) {
            let what = format!("lies on {}", kind(layer));
            return unsupported(what, "this version moves guests whose disks are files");
        }
        if disk.disk.read_only {
            return Ok(Need::SameSize);
        }
        if !matches!(disk.cache.as_str(), "none" | "directsync") {
            return Err(Refusal {
                reason: Reason::DiskCacheUnsafe,
                message: format!(
                    "disk {target} of {guest} ({source}) has cache mode {}: what {} keeps in its cache, {} would not see",
                    disk.cache, self.source, self.destination
                ),
                remedy: format!("set cache='none' in the <driver> of {target} (virsh edit {guest}), stop and start it"),
            });
        }
        if let Some(other) = self.rival(disk) {
            return Err(Refusal {
                reason: Reason::DiskUsedTwice,
                message: format!("disks {target} and {other} of {guest} both write to {source}"),
                remedy: "detach one of them, or mark both as <shareable/>".into(),
            });
        }
        Ok(Need::Proof)
    }

    /// The source's answer for a disk: what is to be proved, or why it never can be.
    pub fn leaving(&self, disk: &DiskDefinition) -> Result<String, Refusal> {
        let source = &disk.disk.source;
        match self.need(disk)? {
            Need::Nothing => return Ok(Resolution::Empty.to_string()),
            Need::SameSize => {
                disk.files().try_for_each(|path| self.file(disk, path).map(drop))?;
                return Ok(format!("{source}, read-only"));
            }
            Need::Proof => {}
        }
        for path in disk.files() {
            self.probe(disk, self.file(disk, path)?)?;
        }
        Ok(format!("{source}, written to: {} must see the probe file beside it", self.destination))
    }

    /// The destination's answer for a disk. `None` if the source refuses it and nothing is missing here: what would become
    /// of it cannot be said.
    pub fn arriving(&self, disk: &DiskDefinition) -> Option<Result<Resolution, Refusal>> {
        if let Some(path) = disk.files().find(|path| self.seen(path).is_none()) {
            return Some(Err(self.missing(disk, path)));
        }
        let need = self.leaving(disk).and_then(|_| self.need(disk)).ok()?;
        let path = disk.disk.source.to_string();
        Some(match need {
            Need::Nothing => Ok(Resolution::Empty),
            Need::SameSize => {
                disk.files().try_for_each(|path| self.same_size(disk, path)).map(|()| Resolution::ReadOnlyFile { path })
            }
            Need::Proof => {
                disk.files().try_for_each(|path| self.same_file(disk, path)).map(|()| Resolution::SharedFile { path })
            }
        })
    }

    /// The files of every disk that was proved to be shared.
    pub fn proven(&self) -> Vec<String> {
        let shared =
            self.disks.iter().filter(|disk| matches!(self.arriving(disk), Some(Ok(Resolution::SharedFile { .. }))));
        shared.flat_map(DiskDefinition::files).map(str::to_owned).collect()
    }

    fn same_size(&self, disk: &DiskDefinition, path: &str) -> Result<(), Refusal> {
        let here = self.file(disk, path)?.size;
        let there = self.seen(path).ok_or_else(|| self.missing(disk, path))?.file.size;
        if here == there {
            return Ok(());
        }
        Err(Refusal {
            reason: Reason::DiskDiffers,
            message: format!(
                "disk {} of {}, {path}, has {here} bytes on {} and {there} on {}",
                disk.disk.target, self.guest, self.source, self.destination
            ),
            remedy: format!("copy the file of {} to {}", self.source, self.destination),
        })
    }

    fn same_file(&self, disk: &DiskDefinition, path: &str) -> Result<(), Refusal> {
        let here = self.file(disk, path)?;
        let probe = self.probe(disk, here)?;
        let seen = self.seen(path).ok_or_else(|| self.missing(disk, path))?;
        let directory = &seen.file.directory;
        let why = match &seen.probe {
            Some(found) if found.token != probe.token => format!("the probe file in {directory} is another"),
            Some(found) if found.device != seen.file.device => "the file there is a mount of its own".to_owned(),
            Some(_) if seen.file.inode != here.inode => {
                format!("the file there is another (inode {}, not {})", seen.file.inode, here.inode)
            }
            // The guest may make its image larger at any time; never smaller.
            Some(_) if seen.file.size < here.size => {
                format!("the file there is smaller ({} bytes, not {})", seen.file.size, here.size)
            }
            Some(_) => return Ok(()),
            None => format!("the probe file that {} wrote is not in {directory} there", self.source),
        };
        Err(Refusal {
            reason: Reason::DiskNotShared,
            message: format!(
                "disk {} of {}, {path}, is not the same file on {}: {why}",
                disk.disk.target, self.guest, self.destination
            ),
            remedy: format!("mount the file system that holds it on {} at the same path", self.destination),
        })
    }

    /// A file as the source sees it.
    fn file(&self, disk: &DiskDefinition, path: &str) -> Result<&File, Refusal> {
        self.shown.files.iter().find(|file| file.path == path).ok_or_else(|| {
            let message = format!(
                "disk {} of {}: the agent of {} cannot look at {path}: {}",
                disk.disk.target,
                self.guest,
                self.source,
                self.problem(path)
            );
            let remedy = "keep disks where the agent sees them: not in /tmp, /var/tmp, /home or /root".into();
            Refusal { reason: Reason::ProbeFailed, message, remedy }
        })
    }

    /// The probe beside a file.
    fn probe(&self, disk: &DiskDefinition, file: &File) -> Result<&Probe, Refusal> {
        let (target, guest, source) = (&disk.disk.target, self.guest, self.source);
        let Some(probe) = self.shown.probes.iter().find(|probe| probe.directory == file.directory) else {
            return Err(Refusal {
                reason: Reason::ProbeFailed,
                message: format!(
                    "disk {target} of {guest}: {source} cannot write a probe file to {}: {}",
                    file.directory,
                    self.problem(&file.directory)
                ),
                remedy: format!("let root on {source} write there; nothing else proves that two hosts share it"),
            });
        };
        if probe.device == file.device {
            return Ok(probe);
        }
        Err(Refusal {
            reason: Reason::DiskNotShared,
            message: format!("disk {target} of {guest}, {}, is a mount of its own on {source}", file.path),
            remedy: "mount the directory that holds it, not the file".into(),
        })
    }

    fn missing(&self, disk: &DiskDefinition, path: &str) -> Refusal {
        let destination = self.destination;
        Refusal {
            reason: Reason::DiskMissing,
            message: format!("disk {} of {}, {path}, does not exist on {destination}", disk.disk.target, self.guest),
            remedy: format!("mount the file system that holds it on {destination}, or copy the file there"),
        }
    }

    /// Another disk of the guest that writes to the same file, unless both are meant to.
    fn rival(&self, disk: &DiskDefinition) -> Option<&str> {
        let file = |disk: &DiskDefinition| {
            let path = disk.files().next()?;
            let shown = self.shown.files.iter().find(|file| file.path == path);
            // Two paths may lead to one file.
            Some(shown.map_or_else(|| (path.to_owned(), 0, 0), |file| (String::new(), file.device, file.inode)))
        };
        let others = self.disks.iter().filter(|other| other.disk.target != disk.disk.target && !other.disk.read_only);
        let mut rivals = others.filter(|other| !(other.shareable && disk.shareable) && file(other) == file(disk));
        rivals.next().map(|other| other.disk.target.as_str())
    }

    fn problem(&self, place: &str) -> &str {
        self.shown.problems.iter().find(|problem| problem.place == place).map_or("unknown", |problem| &problem.why)
    }

    fn seen(&self, path: &str) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.file.path == path)
    }
}

/// Who answers for the disks while the guest moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: the guest writes to none.
    Unneeded,
    /// The checks did: what libvirt thinks of the file systems does not matter.
    Proved,
}

/// Whether every file that the guest may write to now is among those that the checks have proved.
///
/// A disk that was attached since then was never proved; its target is the error.
pub fn sharing(disks: &[DiskDefinition], proven: &[String]) -> Result<Sharing, String> {
    let written = |disk: &&DiskDefinition| !disk.disk.read_only && disk.disk.source != DiskSource::Empty;
    let mut sharing = Sharing::Unneeded;
    for disk in disks.iter().filter(written) {
        let are_files = disk.layers().all(|layer| matches!(layer, DiskSource::File { .. }));
        if !are_files || !disk.files().all(|path| proven.iter().any(|proven| proven == path)) {
            return Err(disk.disk.target.clone());
        }
        sharing = Sharing::Proved;
    }
    Ok(sharing)
}

fn kind(source: &DiskSource) -> &'static str {
    match source {
        DiskSource::Empty => "nothing",
        DiskSource::File { .. } => "a file",
        DiskSource::Block { .. } => "a block device",
        DiskSource::Network { .. } => "network storage",
        DiskSource::Other { .. } => "storage of another kind",
    }
}

#[cfg(test)]
mod tests;
