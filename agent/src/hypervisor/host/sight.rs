//! What this host sees of a guest's disks: of one that leaves, and of one that wants to come. Reads only.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures::future::{join_all, try_join_all};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::Leaving,
    compatibility::Refusal,
    disk::{Disks, Image, Problem, Room, Seen, Shown, Sight, VolumeSight, VolumeUse},
    domain_xml::DiskDefinition,
    instance::DiskSource,
    migration::Kind,
    reason::Reason,
    volume::Connection,
};

use super::{
    LibvirtHost,
    volumes::devices::{self, Unseen},
};
use crate::{
    hypervisor::{Fault, files},
    storage::{image, space, with_causes},
};

/// How long a call waits for the contents of an image: less than its caller waits for it.
const DIGEST_LIMIT: Duration = Duration::from_secs(12);

impl LibvirtHost {
    /// What this host can show of its guest's disks; without probes.
    pub(super) async fn show(&self, disks: &[DiskDefinition]) -> Shown {
        let mut shown = Shown::default();
        for place in paths(disks) {
            let path = place.clone();
            match files::within_limit(move || files::look_at(&path)).await {
                Ok(file) => shown.files.push(file),
                Err(error) => shown.problems.push(Problem { place, why: error.to_string() }),
            }
        }
        let images = disks.iter().filter_map(|disk| match &disk.disk.source {
            DiskSource::File { path } if !disk.disk.read_only => Some((path, &disk.format)),
            _ => None,
        });
        for read in join_all(images.map(|(path, format)| read_image(path, format))).await {
            match read {
                Ok(image) => shown.images.push(image),
                Err(problem) => shown.problems.push(problem),
            }
        }
        shown.volumes = self.sight_volumes(disks).await;
        for disk in disks {
            if let Some(refusal) = self.is_another_device(disk).await {
                let sights = shown.volumes.iter_mut().filter(|sight| sight.target == disk.disk.target);
                sights.for_each(|sight| sight.found = Err(refusal.clone()));
            }
        }
        shown
    }

    /// Why a block device is not the volume that its label says it is. On the destination the guest would get that volume.
    async fn is_another_device(&self, disk: &DiskDefinition) -> Option<Refusal> {
        let (Some(volume), DiskSource::Block { path }) = (&disk.volume, &disk.disk.source) else { return None };
        let connection = &volume.connection;
        let target = &disk.disk.target;
        match is_at(connection, path).await {
            Ok(true) => return None,
            Ok(false) => {}
            Err(unseen) => {
                return Some(Refusal {
                    reason: Reason::ProbeFailed,
                    message: format!(
                        "disk {target} is {path} on {}; whether that is {connection}, as its label says, cannot be told: {}",
                        self.name,
                        with_causes(&unseen)
                    ),
                    remedy: format!("see that the agent of {} can read it", self.name),
                });
            }
        }
        Some(Refusal {
            reason: Reason::VolumeDiffers,
            message: format!(
                "disk {target} is {path} on {}, and that is not {connection}, which its label says it is",
                self.name
            ),
            remedy: "say which volume it is: vmferry volumes set --help".into(),
        })
    }

    /// What this host has of the disks of a guest that wants to come.
    pub(super) async fn see(&self, leaving: &Leaving) -> Result<Sight, Fault> {
        let disks = &leaving.definition.disks;
        let mut sight = Sight { overcommit: self.overcommit, ..Sight::default() };
        let looks = try_join_all(paths(disks).into_iter().map(|path| self.see_file(leaving, path))).await?;
        for look in looks {
            match look {
                Look::Here(seen) => sight.files.push(seen),
                Look::Room(room) => sight.rooms.push(room),
            }
        }
        self.add_digests(leaving, &mut sight).await?;
        sight.volumes = self.sight_volumes(disks).await;
        if disks.iter().any(|disk| disk.volume.is_some()) {
            sight.used = self.volumes_used(leaving).await?;
        }
        Ok(sight)
    }

    async fn see_file(&self, leaving: &Leaving, path: String) -> Result<Look, Fault> {
        if let Some(migration) = self.receivers.of(Path::new(&path)) {
            let message =
                format!("migration {migration} is just copying {path} to {}; migrate when it has ended", self.name);
            return Err(Fault::new(Reason::DiskNotShared, message));
        }
        let shown = leaving.shown.file(&path).cloned();
        let probe = leaving.shown.probe_beside(&path).cloned();
        let asked = path.clone();
        let seen = files::within_limit(move || files::see(&asked, shown.as_ref(), probe.as_ref())).await;
        let cannot =
            |error: String| Fault::new(Reason::ProbeFailed, format!("cannot look at {path} on {}: {error}", self.name));
        if let Some(seen) = seen.map_err(|error| cannot(error.to_string()))? {
            return Ok(Look::Here(seen));
        }
        let directory = Path::new(&path).parent().unwrap_or(Path::new("/"));
        let space = space::available(directory).await.map_err(|error| cannot(with_causes(&error)))?;
        let directory = space.existing.display().to_string();
        let space::Space { device, available, read_only, .. } = space;
        Ok(Look::Room(Room { path, directory, device, available, read_only }))
    }

    /// Of files that must have the contents of the source's. That takes long, so it is done for no other.
    async fn add_digests(&self, leaving: &Leaving, sight: &mut Sight) -> Result<(), Fault> {
        let compared = sight.clone();
        let disks = Disks {
            guest: &leaving.definition.name,
            disks: &leaving.definition.disks,
            source: &leaving.instance.host,
            destination: &self.name,
            shown: &leaving.shown,
            sight: &compared,
            // The same files are compared either way.
            kind: Kind::default(),
        };
        let needed = sight.files.iter_mut().filter(|seen| disks.needs_digest(&seen.file.path));
        let digests = needed.map(|seen| async {
            seen.digest = Some(self.digest_of(&seen.file.path).await?);
            Ok::<_, Fault>(())
        });
        try_join_all(digests).await.map(drop)
    }

    /// It outlives the call that wants it: who asks again finds it further on, or done.
    pub(super) async fn digest_of(&self, path: &str) -> Result<String, Fault> {
        let (digests, file) = (Arc::clone(&self.digests), path.to_owned());
        let read = tokio::spawn(async move { digests.of(Path::new(&file), &CancellationToken::new()).await });
        match timeout(DIGEST_LIMIT, read).await {
            Ok(Ok(Ok(digest))) => Ok(digest.to_string()),
            Ok(Ok(Err(error))) => {
                Err(Fault::new(Reason::ProbeFailed, format!("{} on {}", with_causes(&error), self.name)))
            }
            Ok(Err(panic)) => {
                Err(Fault::new(Reason::Internal, format!("cannot read {path} on {}: {panic}", self.name)))
            }
            Err(_) => {
                let message = format!(
                    "{} is still reading {path}, to compare it with that of the other host; migrate again in a minute",
                    self.name
                );
                Err(Fault::new(Reason::ProbeFailed, message))
            }
        }
    }

    /// Every volume at once.
    async fn sight_volumes(&self, disks: &[DiskDefinition]) -> Vec<VolumeSight> {
        let volumes: Vec<_> = disks.iter().filter_map(|disk| disk.volume.as_ref()).collect();
        let sights = self.volumes.find(&volumes).await.into_iter().zip(volumes);
        let sights = sights.map(|(sight, volume)| VolumeSight {
            target: volume.target.clone(),
            found: sight.map(|sighting| sighting.found),
        });
        sights.collect()
    }

    /// By domains other than the guest.
    async fn volumes_used(&self, leaving: &Leaving) -> Result<Vec<VolumeUse>, Fault> {
        let domains = self.libvirt.domains().await?;
        let others: Vec<_> = domains.into_iter().filter(|domain| domain.id != leaving.definition.id).collect();
        let unseen = |error: Unseen| {
            let message =
                format!("cannot tell which volumes the domains of {} use already: {}", self.name, with_causes(&error));
            Fault::new(Reason::ProbeFailed, message)
        };
        let unlabelled = devices::unlabelled(others.iter().flat_map(|domain| &domain.definition.disks));
        // Where nobody has such a disk, the kernel need not be asked.
        let is_asked = !unlabelled.is_empty();
        let below = devices::devices_below(unlabelled).await.map_err(unseen)?;
        let mut devices = Vec::new();
        for volume in leaving.definition.disks.iter().filter_map(|disk| disk.volume.as_ref()).filter(|_| is_asked) {
            let connection = &volume.connection;
            devices.push((connection, devices::devices_of(connection).await.map_err(unseen)?));
        }
        let volume_at = |path: &str| {
            let below = below.get(path)?;
            let found = devices.iter().find(|(_, devices)| !devices.is_disjoint(below));
            found.map(|(connection, _)| (*connection).clone())
        };
        let uses = others.into_iter().flat_map(|domain| {
            let (guest, disks) = (domain.name, domain.definition.disks);
            disks.into_iter().map(move |disk| (guest.clone(), disk))
        });
        let mut used = Vec::new();
        for (guest, disk) in uses {
            let known = disk.volume.as_ref().map(|volume| volume.connection.clone());
            // A device that nobody has labelled may be one of them all the same.
            let connection = match (known, &disk.disk.source) {
                (Some(connection), _) => Some(connection),
                (None, DiskSource::Block { path }) => volume_at(path),
                (None, _) => None,
            };
            let (target, shareable) = (disk.disk.target, disk.shareable);
            used.extend(connection.map(|connection| VolumeUse { guest, target, connection, shareable }));
        }
        Ok(used)
    }
}

/// Whether the device at this path is this volume.
async fn is_at(connection: &Connection, path: &str) -> Result<bool, Unseen> {
    let devices = devices::devices_of(connection).await?;
    let below = devices::devices_below([path.to_owned()].into()).await?;
    Ok(below.values().any(|below| !devices.is_disjoint(below)))
}

enum Look {
    Here(Seen),
    Room(Room),
}

/// Every file that these disks lie in, once.
fn paths(disks: &[DiskDefinition]) -> BTreeSet<String> {
    disks.iter().flat_map(DiskDefinition::files).map(str::to_owned).collect()
}

/// An image that a guest writes to.
async fn read_image(path: &str, format: &str) -> Result<Image, Problem> {
    let info = image::info(Path::new(path), format).await;
    let info = info.map_err(|error| Problem { place: path.to_owned(), why: with_causes(&error) })?;
    let obstacle = if info.snapshots > 0 {
        let plural = if info.snapshots == 1 { "" } else { "s" };
        Some(format!("it has {} snapshot{plural} inside", info.snapshots))
    } else if info.encrypted {
        Some("it is encrypted".to_owned())
    } else if let Some(file) = info.data_file {
        Some(format!("its data are in another file, {file}"))
    } else if !matches!(format, "raw" | "qcow2") {
        Some(format!("its format is {format}"))
    } else {
        None
    };
    Ok(Image {
        path: path.to_owned(),
        format: format.to_owned(),
        virtual_size: info.virtual_size,
        allocated: info.allocated,
        qcow2: info.qcow2,
        obstacle,
    })
}
