//! What the source has to do for the disks, once the destination has said how each of them gets there.

use std::collections::BTreeSet;

use bytesize::ByteSize;

use super::{Presence, Resolution, Resolved, StaticImage};
use crate::{domain_xml::DiskDefinition, instance::DiskSource, undo::Undo};

/// Who answers for the disks while the guest moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: no file that the guest writes to stays where it is.
    Unneeded,
    /// The checks did: what libvirt thinks of the file systems does not matter.
    Proved,
}

/// What libvirt's job is told of the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Who answers for those that stay where they are.
    pub sharing: Sharing,
    /// The disks that the job copies.
    pub copied: Vec<String>,
}

/// What the job is told, if the guest's disks are still those that were resolved.
///
/// A disk that was attached or exchanged since then was never judged; its target is the error.
pub fn transfer(disks: &[DiskDefinition], resolved: &[Resolved]) -> Result<Transfer, String> {
    let mut transfer = Transfer { sharing: Sharing::Unneeded, copied: Vec::new() };
    for disk in disks {
        let target = &disk.disk.target;
        let resolution =
            resolved.iter().find(|resolved| resolved.target == *target).map(|resolved| &resolved.resolution);
        match resolution.filter(|resolution| is_of(resolution, disk)).ok_or_else(|| target.clone())? {
            Resolution::Shared { .. } => transfer.sharing = Sharing::Proved,
            Resolution::Copied { .. } => transfer.copied.push(target.clone()),
            Resolution::Empty | Resolution::Moved { .. } | Resolution::Medium { .. } | Resolution::Volume { .. } => {}
        }
    }
    Ok(transfer)
}

/// Whether it says how the disk as it is now gets there.
fn is_of(resolution: &Resolution, disk: &DiskDefinition) -> bool {
    let below = |images: &[StaticImage], skip: usize| {
        let is_at = |(layer, image): (&DiskSource, &StaticImage)| is_file(layer, &image.path);
        disk.layers().skip(skip).count() == images.len() && disk.layers().skip(skip).zip(images).all(is_at)
    };
    let own = |path: &str| disk.volume.is_none() && !disk.disk.read_only && is_file(&disk.disk.source, path);
    match resolution {
        Resolution::Empty => disk.disk.source == DiskSource::Empty,
        Resolution::Shared { path, below: images } => own(path) && below(images, 1),
        Resolution::Copied { image, below: images } => own(&image.path) && below(images, 1),
        Resolution::Moved { layers } => {
            layers.split_first().is_some_and(|(image, images)| own(&image.path) && below(images, 1))
        }
        Resolution::Medium { layers } => disk.disk.read_only && disk.volume.is_none() && below(layers, 0),
        Resolution::Volume { volume, .. } => disk.volume.as_ref() == Some(volume),
    }
}

fn is_file(source: &DiskSource, expected: &str) -> bool {
    matches!(source, DiskSource::File { path } if path == expected)
}

/// The images that are sent before the guest moves, in the order in which both hosts number them: those below come first.
pub fn sent(resolved: &[Resolved]) -> Vec<&StaticImage> {
    let mut known = BTreeSet::new();
    let images = resolved.iter().flat_map(|resolved| resolved.resolution.static_images().iter().rev());
    images.filter(|image| image.presence == Presence::Absent && known.insert(&image.path)).collect()
}

/// Of those that are sent, the paths that the guest itself writes to until it has stopped.
pub fn sent_last(resolved: &[Resolved]) -> BTreeSet<&str> {
    let own = resolved.iter().map(|disk| match &disk.resolution {
        Resolution::Moved { layers } => layers.first().map(|image| image.path.as_str()),
        _ => None,
    });
    own.flatten().collect()
}

/// How many bytes of disks must go through the network, not counting those that the guest writes again meanwhile.
pub fn to_copy(resolved: &[Resolved]) -> ByteSize {
    let own = resolved.iter().map(|disk| match &disk.resolution {
        Resolution::Copied { image, .. } => image.allocated,
        _ => ByteSize::default(),
    });
    // Two disks may lie on one base, which is sent once.
    let sent = sent(resolved).into_iter().map(|image| image.allocated);
    ByteSize::b(own.chain(sent).fold(0, |sum, size| sum.saturating_add(size.as_u64())))
}

/// What libvirt's job copies of disks while the guest runs, and how large each of them may get.
pub fn copied_by_the_job(resolved: &[Resolved]) -> (ByteSize, Vec<ByteSize>) {
    let copied = resolved.iter().filter_map(|disk| match &disk.resolution {
        Resolution::Copied { image, .. } => Some((image.allocated, image.virtual_size)),
        _ => None,
    });
    let (allocated, sizes): (Vec<_>, Vec<_>) = copied.unzip();
    let sum = allocated.into_iter().fold(0, |sum: u64, size| sum.saturating_add(size.as_u64()));
    (ByteSize::b(sum), sizes)
}

/// What of its disks must go from the source once the guest runs on the destination. What nobody writes to stays: other
/// guests may read it, and it shortens the way back.
pub fn left_behind(resolved: &[Resolved]) -> Vec<Undo> {
    let undo = |resolved: &Resolved| match &resolved.resolution {
        Resolution::Copied { image, .. } => Some(Undo::RemoveImage { path: image.path.clone() }),
        Resolution::Moved { layers } => layers.first().map(|image| Undo::RemoveImage { path: image.path.clone() }),
        Resolution::Volume { volume, .. } => volume.undo(),
        Resolution::Empty | Resolution::Shared { .. } | Resolution::Medium { .. } => None,
    };
    resolved.iter().filter_map(undo).collect()
}
