//! Disks that are volumes.

use super::{Disks, Resolution, VolumeSight};
use crate::{
    compatibility::Refusal,
    domain_xml::DiskDefinition,
    id::HostName,
    reason::Reason,
    volume::{Attachment, Found, Volume},
};

impl Disks<'_> {
    /// The volume as the source finds it.
    pub(super) fn shown_volume(&self, disk: &DiskDefinition, volume: &Volume) -> Result<&Found, Refusal> {
        let is_cached = !disk.disk.read_only && !matches!(disk.cache.as_str(), "none" | "directsync");
        if volume.attachment == Attachment::ByHost && is_cached {
            let (guest, target, cache) = (self.guest, &disk.disk.target, &disk.cache);
            return Err(Refusal {
                reason: Reason::DiskCacheUnsafe,
                message: format!(
                    "disk {target} of {guest} ({}) has cache mode {cache}: what {} keeps in its cache, another host would \
                     not see",
                    volume.connection, self.source
                ),
                remedy: format!("set cache='none' in the <driver> of {target} (virsh edit {guest}), stop and start it"),
            });
        }
        let found = self.sighted(disk, self.source, &self.shown.volumes)?;
        if let Some(other) = self.twin(disk, volume, found) {
            let (guest, target, connection) = (self.guest, &disk.disk.target, &volume.connection);
            return Err(Refusal {
                reason: Reason::DiskUsedTwice,
                message: format!("disk {target} of {guest}: {connection} is its disk {other}, too, and is written to"),
                remedy: "detach one of them, or mark both as <shareable/>".into(),
            });
        }
        Ok(found)
    }

    /// Another disk of the guest that is the same volume, if one of the two writes to it, unless both are meant to share it. The
    /// name alone does not tell: two clusters may have an image of one name.
    fn twin<'a>(&'a self, disk: &DiskDefinition, volume: &Volume, found: &Found) -> Option<&'a str> {
        let is_twin = |other: &&DiskDefinition| {
            other.disk.target != disk.disk.target
                && !(other.shareable && disk.shareable)
                && !(other.disk.read_only && disk.disk.read_only)
                && other.volume.as_ref().is_some_and(|other| other.connection.is_same_volume(&volume.connection))
                && self.sighted(other, self.source, &self.shown.volumes).is_ok_and(|other| other == found)
        };
        self.disks.iter().find(is_twin).map(|other| other.disk.target.as_str())
    }

    pub(super) fn arriving_volume(&self, disk: &DiskDefinition, volume: &Volume) -> Result<Resolution, Refusal> {
        let here = self.shown_volume(disk, volume)?;
        let there = self.sighted(disk, self.destination, &self.sight.volumes)?;
        let (guest, target, source, destination) = (self.guest, &disk.disk.target, self.source, self.destination);
        let connection = &volume.connection;
        if here.identity != there.identity {
            return Err(Refusal {
                reason: Reason::VolumeDiffers,
                message: format!(
                    "disk {target} of {guest}: {connection} is {} on {source} and {} on {destination}: two volumes",
                    here.identity, there.identity
                ),
                remedy: format!("see that both hosts reach the same storage system at {}", connection.addresses()),
            });
        }
        if here.size != there.size {
            return Err(Refusal {
                reason: Reason::VolumeDiffers,
                message: format!(
                    "disk {target} of {guest}: {connection} has {} bytes on {source} and {} on {destination}",
                    here.size.as_u64(),
                    there.size.as_u64()
                ),
                remedy: format!(
                    "if it was resized, rescan it on the host that sees the old size, {source} or {destination}"
                ),
            });
        }
        let mut users = self.sight.used.iter().filter(|used| used.connection.is_same_volume(connection));
        if let Some(user) = users.find(|used| !(used.shareable && disk.shareable)) {
            return Err(Refusal {
                reason: Reason::VolumeInUse,
                message: format!(
                    "disk {target} of {guest}: {connection} is already disk {} of {} on {destination}",
                    user.target, user.guest
                ),
                remedy: "detach it from one of the two, or mark both as <shareable/>".into(),
            });
        }
        Ok(Resolution::Volume { volume: volume.clone(), found: there.clone() })
    }

    fn sighted<'a>(
        &self,
        disk: &DiskDefinition,
        host: &HostName,
        sights: &'a [VolumeSight],
    ) -> Result<&'a Found, Refusal> {
        match sights.iter().find(|sight| sight.target == disk.disk.target) {
            Some(sight) => sight.found.as_ref().map_err(Clone::clone),
            None => Err(Refusal {
                reason: Reason::Internal,
                message: format!("{host} has not looked for disk {} of {}", disk.disk.target, self.guest),
                remedy: "see that both agents are of the same version".into(),
            }),
        }
    }
}
