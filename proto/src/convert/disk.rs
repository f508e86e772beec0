use bytesize::ByteSize;
use vmferry_core::{
    compatibility::Refusal,
    disk::{File, Image, Presence, Probe, Problem, Qcow2, Resolution, Resolved, Shown, StaticImage, VolumeSight},
    domain_xml::{DiskDefinition, Layer},
    instance::DiskSource,
};

use super::{Invalid, all, invalid, required};
use crate::v1::{self, resolved_disk, static_image, volume_sight};

impl From<File> for v1::DiskFile {
    fn from(file: File) -> Self {
        Self {
            path: file.path,
            directory: file.directory,
            size_bytes: file.size,
            inode: file.inode,
            device: file.device,
            allocated_bytes: file.allocated,
        }
    }
}

impl From<v1::DiskFile> for File {
    fn from(file: v1::DiskFile) -> Self {
        Self {
            path: file.path,
            directory: file.directory,
            size: file.size_bytes,
            allocated: file.allocated_bytes,
            inode: file.inode,
            device: file.device,
        }
    }
}

impl From<Probe> for v1::Probe {
    fn from(probe: Probe) -> Self {
        Self { directory: probe.directory, file_name: probe.file_name, token: probe.token, device: probe.device }
    }
}

impl TryFrom<v1::Probe> for Probe {
    type Error = Invalid;

    /// The destination opens a file of this name: it must be a probe's, and lead nowhere else.
    fn try_from(probe: v1::Probe) -> Result<Self, Invalid> {
        if !probe.file_name.starts_with(Self::PREFIX) || probe.file_name.contains('/') {
            return Err(Invalid { field: "leaving.probes.file_name" });
        }
        Ok(Self { directory: probe.directory, file_name: probe.file_name, token: probe.token, device: probe.device })
    }
}

impl From<Problem> for v1::DiskProblem {
    fn from(problem: Problem) -> Self {
        Self { place: problem.place, why: problem.why }
    }
}

impl From<v1::DiskProblem> for Problem {
    fn from(problem: v1::DiskProblem) -> Self {
        Self { place: problem.place, why: problem.why }
    }
}

impl From<Image> for v1::Image {
    fn from(image: Image) -> Self {
        Self {
            path: image.path,
            format: image.format,
            virtual_size_bytes: image.virtual_size.as_u64(),
            allocated_bytes: image.allocated.as_u64(),
            qcow2: image.qcow2.map(Into::into),
            obstacle: image.obstacle.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Image> for Image {
    type Error = Invalid;

    fn try_from(image: v1::Image) -> Result<Self, Invalid> {
        Ok(Self {
            path: image.path,
            format: image.format,
            virtual_size: ByteSize::b(image.virtual_size_bytes),
            allocated: ByteSize::b(image.allocated_bytes),
            qcow2: image.qcow2.map(TryInto::try_into).transpose()?,
            obstacle: Some(image.obstacle).filter(|obstacle| !obstacle.is_empty()),
        })
    }
}

impl From<Qcow2> for v1::Qcow2 {
    fn from(qcow2: Qcow2) -> Self {
        Self {
            cluster_size: qcow2.cluster_size,
            compat: qcow2.compat,
            lazy_refcounts: qcow2.lazy_refcounts,
            extended_l2: qcow2.extended_l2,
            refcount_bits: qcow2.refcount_bits.into(),
            compression_type: qcow2.compression_type,
        }
    }
}

impl TryFrom<v1::Qcow2> for Qcow2 {
    type Error = Invalid;

    fn try_from(qcow2: v1::Qcow2) -> Result<Self, Invalid> {
        Ok(Self {
            cluster_size: qcow2.cluster_size,
            compat: qcow2.compat,
            lazy_refcounts: qcow2.lazy_refcounts,
            extended_l2: qcow2.extended_l2,
            refcount_bits: qcow2.refcount_bits.try_into().map_err(invalid("qcow2.refcount_bits"))?,
            compression_type: qcow2.compression_type,
        })
    }
}

impl From<StaticImage> for v1::StaticImage {
    fn from(image: StaticImage) -> Self {
        let presence = match image.presence {
            Presence::Shared => static_image::Presence::Shared(static_image::Shared {}),
            Presence::Present { digest } => static_image::Presence::Digest(digest),
            Presence::Absent => static_image::Presence::Absent(static_image::Absent {}),
        };
        Self {
            path: image.path,
            format: image.format,
            size_bytes: image.size.as_u64(),
            allocated_bytes: image.allocated.as_u64(),
            presence: Some(presence),
        }
    }
}

impl TryFrom<v1::StaticImage> for StaticImage {
    type Error = Invalid;

    fn try_from(image: v1::StaticImage) -> Result<Self, Invalid> {
        let presence = match image.presence.ok_or(Invalid { field: "static_image.presence" })? {
            static_image::Presence::Shared(_) => Presence::Shared,
            static_image::Presence::Digest(digest) => Presence::Present { digest },
            static_image::Presence::Absent(_) => Presence::Absent,
        };
        Ok(Self {
            path: image.path,
            format: image.format,
            size: ByteSize::b(image.size_bytes),
            allocated: ByteSize::b(image.allocated_bytes),
            presence,
        })
    }
}

impl From<VolumeSight> for v1::VolumeSight {
    fn from(sight: VolumeSight) -> Self {
        let result = match sight.found {
            Ok(found) => volume_sight::Result::Found(found.into()),
            Err(refusal) => volume_sight::Result::Refused(refusal.into()),
        };
        Self { target: sight.target, result: Some(result) }
    }
}

impl TryFrom<v1::VolumeSight> for VolumeSight {
    type Error = Invalid;

    fn try_from(sight: v1::VolumeSight) -> Result<Self, Invalid> {
        let found = match sight.result.ok_or(Invalid { field: "volumes.result" })? {
            volume_sight::Result::Found(found) => Ok(found.into()),
            volume_sight::Result::Refused(refusal) => Err(refusal.try_into()?),
        };
        Ok(Self { target: sight.target, found })
    }
}

impl From<Resolved> for v1::ResolvedDisk {
    fn from(Resolved { target, resolution }: Resolved) -> Self {
        use resolved_disk::Resolution as Wire;
        let images = |images: Vec<StaticImage>| images.into_iter().map(Into::into).collect();
        let resolution = match resolution {
            Resolution::Empty => Wire::Empty(resolved_disk::Empty {}),
            Resolution::Shared { path, below } => Wire::Shared(v1::SharedDisk { path, below: images(below) }),
            Resolution::Copied { image, below } => {
                Wire::Copied(v1::CopiedDisk { image: Some(image.into()), below: images(below) })
            }
            Resolution::Moved { layers } => Wire::Moved(v1::MovedDisk { layers: images(layers) }),
            Resolution::Medium { layers } => Wire::Medium(v1::Medium { layers: images(layers) }),
            Resolution::Volume { volume, found } => {
                Wire::Volume(v1::VolumeDisk { volume: Some(volume.into()), found: Some(found.into()) })
            }
        };
        Self { target, resolution: Some(resolution) }
    }
}

impl TryFrom<v1::ResolvedDisk> for Resolved {
    type Error = Invalid;

    fn try_from(disk: v1::ResolvedDisk) -> Result<Self, Invalid> {
        use resolved_disk::Resolution as Wire;
        let resolution = match disk.resolution.ok_or(Invalid { field: "resolved.resolution" })? {
            Wire::Empty(_) => Resolution::Empty,
            Wire::Shared(shared) => Resolution::Shared { path: shared.path, below: all(shared.below)? },
            Wire::Copied(copied) => {
                Resolution::Copied { image: required(copied.image, "copied.image")?, below: all(copied.below)? }
            }
            Wire::Moved(moved) => Resolution::Moved { layers: all(moved.layers)? },
            Wire::Medium(medium) => Resolution::Medium { layers: all(medium.layers)? },
            Wire::Volume(volume) => Resolution::Volume {
                volume: required(volume.volume, "volume.volume")?,
                found: required(volume.found, "volume.found")?,
            },
        };
        Ok(Self { target: disk.target, resolution })
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason.to_string(), message: refusal.message, remedy: refusal.remedy }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = Invalid;

    fn try_from(refusal: v1::Refusal) -> Result<Self, Invalid> {
        let reason = refusal.reason.parse().map_err(invalid("refusal.reason"))?;
        Ok(Self { reason, message: refusal.message, remedy: refusal.remedy })
    }
}

/// What the destination must know of the disks besides the domain's definition.
pub(super) fn wire_shown(leaving: &mut v1::Leaving, shown: Shown) {
    leaving.files = shown.files.into_iter().map(Into::into).collect();
    leaving.images = shown.images.into_iter().map(Into::into).collect();
    leaving.probes = shown.probes.into_iter().map(Into::into).collect();
    leaving.volumes = shown.volumes.into_iter().map(Into::into).collect();
    leaving.problems = shown.problems.into_iter().map(Into::into).collect();
}

/// The reverse.
pub(super) fn shown(leaving: &mut v1::Leaving) -> Result<Shown, Invalid> {
    Ok(Shown {
        files: all(std::mem::take(&mut leaving.files))?,
        images: all(std::mem::take(&mut leaving.images))?,
        probes: all(std::mem::take(&mut leaving.probes))?,
        volumes: all(std::mem::take(&mut leaving.volumes))?,
        problems: all(std::mem::take(&mut leaving.problems))?,
    })
}

/// The files below those of the disks. Disks with anything else below are refused where they are.
pub(super) fn backing(disks: &[DiskDefinition]) -> Vec<v1::BackingFile> {
    let of = |disk: &DiskDefinition| {
        let target = disk.disk.target.clone();
        let files = disk.backing.iter().filter_map(|layer| match &layer.source {
            DiskSource::File { path } => {
                Some(v1::BackingFile { target: target.clone(), path: path.clone(), format: layer.format.clone() })
            }
            _ => None,
        });
        files.collect::<Vec<_>>()
    };
    disks.iter().flat_map(of).collect()
}

/// The reverse.
pub(super) fn set_backing(disks: &mut [DiskDefinition], backing: Vec<v1::BackingFile>) {
    for disk in disks {
        let below = backing.iter().filter(|file| file.target == disk.disk.target);
        let layer = |file: &v1::BackingFile| Layer {
            source: DiskSource::File { path: file.path.clone() },
            format: file.format.clone(),
        };
        disk.backing = below.map(layer).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_cannot_lead_elsewhere() {
        let named = |name: &str| Probe::try_from(v1::Probe { file_name: name.into(), ..v1::Probe::default() });
        assert!(named(".vmferry-probe-1-0").is_ok());
        for name in ["", "shadow", "../.vmferry-probe-1-0", ".vmferry-probe-/../shadow"] {
            assert!(named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_images_below_arrive_with_their_disks() {
        let domain = "<domain><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><memory>1</memory>
            <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
            <disk type='file'><source file='/a'/><target dev='vda'/>
              <backingStore type='file'><format type='qcow2'/><source file='/b'/>
                <backingStore type='file'><source file='/c'/></backingStore>
              </backingStore></disk>
            <disk type='file'><source file='/d'/><target dev='vdb'/></disk></devices></domain>";
        let disks = vmferry_core::domain_xml::Definition::parse(domain).expect("valid").disks;
        let mut bare = disks.clone();
        bare[0].backing.clear();
        set_backing(&mut bare, backing(&disks));
        assert_eq!(bare, disks);
    }

    #[test]
    fn every_way_of_a_disk_arrives_as_it_was_sent() {
        let image = |presence| StaticImage {
            path: "/srv/base".into(),
            format: "qcow2".into(),
            size: ByteSize::kib(4),
            allocated: ByteSize::kib(1),
            presence,
        };
        let below =
            vec![image(Presence::Shared), image(Presence::Present { digest: "00ff".into() }), image(Presence::Absent)];
        let own = Image {
            path: "/srv/a".into(),
            format: "raw".into(),
            virtual_size: ByteSize::mib(1),
            allocated: ByteSize::kib(8),
            qcow2: Some(Qcow2 {
                cluster_size: 65_536,
                compat: "1.1".into(),
                lazy_refcounts: true,
                extended_l2: false,
                refcount_bits: 16,
                compression_type: "zlib".into(),
            }),
            obstacle: Some("it has 2 snapshots inside".into()),
        };
        let resolutions = [
            Resolution::Empty,
            Resolution::Shared { path: "/srv/a".into(), below: below.clone() },
            Resolution::Copied { image: own, below: below.clone() },
            Resolution::Medium { layers: below },
        ];
        for resolution in resolutions {
            let resolved = Resolved { target: "vda".into(), resolution };
            assert_eq!(Resolved::try_from(v1::ResolvedDisk::from(resolved.clone())), Ok(resolved));
        }
        assert!(Resolved::try_from(v1::ResolvedDisk::default()).is_err());
    }
}
