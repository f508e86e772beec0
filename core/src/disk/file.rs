//! Disks that lie in files.

use bytesize::ByteSize;

use super::{Disks, File, Image, Presence, Probe, Resolution, Seen, StaticImage, growth};
use crate::{compatibility::Refusal, domain_xml::DiskDefinition, instance::DiskSource, reason::Reason};

const MOUNT_ITS_DIRECTORY: &str = "mount the directory that it is in, not the file alone";

/// How the destination sees a file of the source.
enum Look<'a> {
    /// It has none.
    Absent,
    /// It has the very same.
    Same,
    /// It has one that is not known to be the same.
    Other { seen: &'a Seen, doubt: Doubt },
}

/// Why two files are not known to be the same, and what would help.
struct Doubt {
    why: String,
    remedy: String,
}

impl Disks<'_> {
    /// What the source alone can refuse.
    pub(super) fn leaving_files(&self, disk: &DiskDefinition) -> Result<(), Refusal> {
        if let Some(layer) = disk.layers().find(|layer| !matches!(layer, DiskSource::File { .. })) {
            let what = if *layer == disk.disk.source {
                format!("lies on {}", kind(layer))
            } else {
                format!("needs an image, {layer}, that lies on {}", kind(layer))
            };
            let remedy = match layer {
                DiskSource::Block { .. } if *layer == disk.disk.source => format!(
                    "if it is a volume, say how hosts reach it: vmferry volumes set {} {} --help",
                    self.guest, disk.disk.target
                ),
                _ => "this version moves guests whose disks are files, and RBD and iSCSI volumes".to_owned(),
            };
            return Err(self.unsupported(disk, &what, &remedy));
        }
        if let Some((path, writer)) = self.rival(disk) {
            let (guest, target) = (self.guest, &disk.disk.target);
            return Err(Refusal {
                reason: Reason::DiskUsedTwice,
                message: format!("disk {target} of {guest} uses {path}, which its disk {writer} writes to"),
                remedy: "detach one of them, or mark both as <shareable/>".into(),
            });
        }
        disk.files().try_for_each(|path| self.file(disk, path).map(drop))
    }

    pub(super) fn arriving_files(&self, disk: &DiskDefinition) -> Result<Resolution, Refusal> {
        let own = disk.disk.source.to_string();
        if disk.disk.read_only {
            return Ok(Resolution::Medium { layers: self.static_images(disk, 0)? });
        }
        match self.look(disk, &own)? {
            Look::Same => {
                // A guest that is off has nothing in a cache: its QEMU has ended.
                if !self.kind.is_cold() {
                    self.is_uncached(disk)?;
                }
                Ok(Resolution::Shared { path: own, below: self.static_images(disk, 1)? })
            }
            Look::Absent if disk.shareable => Err(Refusal {
                reason: Reason::DiskNotShared,
                message: format!(
                    "disk {} of {}, {own}, may be written to by several guests, and {} does not see it",
                    disk.disk.target, self.guest, self.destination
                ),
                remedy: self.mount_it(),
            }),
            Look::Absent => {
                let image = self.shown.images.iter().find(|image| image.path == own).cloned();
                let image = image.ok_or_else(|| self.unreadable(disk, &own))?;
                if let Some(obstacle) = &image.obstacle {
                    let what = format!("cannot be copied: {obstacle}");
                    return Err(self.unsupported(disk, &what, &self.mount_it()));
                }
                let below = self.static_images(disk, 1)?;
                if self.kind.is_cold() {
                    let own = self.moved(disk, &image)?;
                    return Ok(Resolution::Moved { layers: std::iter::once(own).chain(below).collect() });
                }
                Ok(Resolution::Copied { image, below })
            }
            Look::Other { doubt: Doubt { why, remedy }, .. } => Err(Refusal {
                reason: Reason::DiskNotShared,
                message: format!(
                    "disk {} of {}, {own}, is not known to be the same file on {}: {why}",
                    disk.disk.target, self.guest, self.destination
                ),
                remedy,
            }),
        }
    }

    /// The guest's own image as the file that is sent once the guest has stopped.
    fn moved(&self, disk: &DiskDefinition, image: &Image) -> Result<StaticImage, Refusal> {
        let file = self.file(disk, &image.path)?;
        Ok(StaticImage {
            path: image.path.clone(),
            format: image.format.clone(),
            size: growth::longest(image, file.size),
            allocated: image.allocated,
            presence: Presence::Absent,
        })
    }

    /// Whether its contents must be known: nobody writes to it, it is as large as the source's and not the same file.
    pub fn needs_digest(&self, path: &str) -> bool {
        let is_static = |disk: &DiskDefinition| {
            disk.volume.is_none() && disk.files().skip(usize::from(!disk.disk.read_only)).any(|layer| layer == path)
        };
        let Some(disk) = self.disks.iter().find(|disk| is_static(disk)) else { return false };
        let Ok(Look::Other { seen, .. }) = self.look(disk, path) else { return false };
        self.shown.file(path).is_some_and(|file| file.size == seen.file.size)
    }

    fn static_images(&self, disk: &DiskDefinition, skip: usize) -> Result<Vec<StaticImage>, Refusal> {
        let below =
            disk.images().skip(skip).map(|(source, format)| self.static_image(disk, &source.to_string(), format));
        below.collect()
    }

    fn static_image(&self, disk: &DiskDefinition, path: &str, format: &str) -> Result<StaticImage, Refusal> {
        let here = self.file(disk, path)?;
        let presence = match self.look(disk, path)? {
            Look::Same => Presence::Shared,
            Look::Absent => Presence::Absent,
            Look::Other { seen: Seen { file, digest, .. }, .. } => match digest {
                Some(digest) if file.size == here.size => Presence::Present { digest: digest.clone() },
                _ => return Err(self.differs(disk, path, here.size, file.size)),
            },
        };
        let (size, allocated) = (ByteSize::b(here.size), ByteSize::b(here.allocated));
        Ok(StaticImage { path: path.to_owned(), format: format.to_owned(), size, allocated, presence })
    }

    fn differs(&self, disk: &DiskDefinition, path: &str, here: u64, there: u64) -> Refusal {
        let (target, guest, source, destination) = (&disk.disk.target, self.guest, self.source, self.destination);
        let message = if here == there {
            format!(
                "disk {target} of {guest}, {path}, has {here} bytes on {source} and on {destination}, which does not \
                 say what is in them"
            )
        } else {
            format!("disk {target} of {guest}, {path}, has {here} bytes on {source} and {there} on {destination}")
        };
        let remedy =
            format!("if nothing on {destination} needs the file that is there, move it away: it is then copied");
        Refusal { reason: Reason::DiskDiffers, message, remedy }
    }

    /// How the destination sees a file.
    fn look(&self, disk: &DiskDefinition, path: &str) -> Result<Look<'_>, Refusal> {
        let here = self.file(disk, path)?;
        let Some(seen) = self.sight.files.iter().find(|seen| seen.file.path == path) else { return Ok(Look::Absent) };
        let doubt = match self.probe(here) {
            Ok(probe) => difference(self, disk, seen, here, probe),
            Err(doubt) => Some(doubt),
        };
        Ok(doubt.map_or(Look::Same, |doubt| Look::Other { seen, doubt }))
    }

    /// Only `cache='none'` and `directsync` keep nothing in the host's page cache, so only they let two hosts hand a file
    /// over: libvirt's own rule. How QEMU does its I/O (`io=`) does not matter for that.
    fn is_uncached(&self, disk: &DiskDefinition) -> Result<(), Refusal> {
        let (guest, target, source) = (self.guest, &disk.disk.target, &disk.disk.source);
        if matches!(disk.cache.as_str(), "none" | "directsync") {
            return Ok(());
        }
        Err(Refusal {
            reason: Reason::DiskCacheUnsafe,
            message: format!(
                "disk {target} of {guest} ({source}) has cache mode {}: what {} keeps in its cache, {} would not see",
                disk.cache, self.source, self.destination
            ),
            remedy: format!("set cache='none' in the <driver> of {target} (virsh edit {guest}), stop and start it"),
        })
    }

    /// A file as the source sees it.
    fn file(&self, disk: &DiskDefinition, path: &str) -> Result<&File, Refusal> {
        self.shown.file(path).ok_or_else(|| self.unreadable(disk, path))
    }

    fn unreadable(&self, disk: &DiskDefinition, path: &str) -> Refusal {
        let (target, guest, source) = (&disk.disk.target, self.guest, self.source);
        let why = self.problem(path);
        Refusal {
            reason: Reason::ProbeFailed,
            message: format!("disk {target} of {guest}: the agent of {source} cannot look at {path}: {why}"),
            remedy: "keep disks where the agent sees them: not in /tmp, /var/tmp, /home or /root".into(),
        }
    }

    /// The probe beside a file, or why there is none that proves anything.
    fn probe(&self, file: &File) -> Result<&Probe, Doubt> {
        let source = self.source;
        let directory = &file.directory;
        let Some(probe) = self.shown.probes.iter().find(|probe| probe.directory == *directory) else {
            let why = self.problem(directory);
            return Err(Doubt {
                why: format!("nothing proves it, since {source} cannot write a probe file to {directory}: {why}"),
                remedy: format!("let root of {source} write to {directory}"),
            });
        };
        if probe.device == file.device {
            return Ok(probe);
        }
        Err(Doubt {
            why: format!("{} is a mount of its own on {source}, which no probe file beside it proves", file.path),
            remedy: MOUNT_ITS_DIRECTORY.into(),
        })
    }

    fn mount_it(&self) -> String {
        format!("mount the file system that holds it on {} at the same path", self.destination)
    }

    /// What helps if the directory there is another one. Only then is it safe to touch the file in it.
    fn elsewhere(&self, disk: &DiskDefinition) -> String {
        let mount = self.mount_it();
        if disk.shareable {
            mount
        } else {
            format!("{mount}; or, if the file there is a leftover, move it away: this one is then copied")
        }
    }

    /// A file of the disk that another disk of the guest writes to, and which, unless both are meant to share it. Neither would
    /// arrive as it was.
    fn rival<'a>(&'a self, disk: &'a DiskDefinition) -> Option<(&'a str, &'a str)> {
        // Two paths may lead to one file.
        let identity = |path: &str| match self.shown.file(path) {
            Some(file) => (String::new(), file.device, file.inode),
            None => (path.to_owned(), 0, 0),
        };
        let writes = |other: &DiskDefinition, path: &str| match &other.disk.source {
            DiskSource::File { path: own } => !other.disk.read_only && identity(own) == identity(path),
            _ => false,
        };
        let mut others = self
            .disks
            .iter()
            .filter(|other| other.disk.target != disk.disk.target && !(other.shareable && disk.shareable));
        others.find_map(|other| {
            let path = disk.files().find(|path| writes(other, path))?;
            Some((path, other.disk.target.as_str()))
        })
    }

    fn problem(&self, place: &str) -> &str {
        self.shown.problems.iter().find(|problem| problem.place == place).map_or("unknown", |problem| &problem.why)
    }
}

/// Why what is seen is not what is here; `None` if it is.
fn difference(disks: &Disks<'_>, disk: &DiskDefinition, seen: &Seen, here: &File, probe: &Probe) -> Option<Doubt> {
    let directory = &seen.file.directory;
    let (why, remedy) = match &seen.probe {
        None => {
            (format!("the probe file that {} wrote is not in {directory} there", disks.source), disks.elsewhere(disk))
        }
        Some(found) if found.token != probe.token => {
            (format!("the probe file in {directory} is another"), disks.elsewhere(disk))
        }
        Some(found) if found.device != seen.file.device => {
            ("the file there is a mount of its own".to_owned(), MOUNT_ITS_DIRECTORY.to_owned())
        }
        Some(_) if seen.file.inode != here.inode => {
            let why = format!("the file there is another (inode {}, not {})", seen.file.inode, here.inode);
            (why, "mount the file system so that both hosts see its own inode numbers (CIFS: serverino)".to_owned())
        }
        // The guest may make its image larger at any time; never smaller.
        Some(_) if seen.file.size < here.size => {
            (format!("the file there is smaller ({} bytes, not {})", seen.file.size, here.size), disks.mount_it())
        }
        Some(_) => return None,
    };
    Some(Doubt { why, remedy })
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
