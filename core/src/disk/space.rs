//! Whether the destination has room for what is copied to it.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use super::{Disks, Presence, Resolution, Resolved, Room};
use crate::{compatibility::Refusal, reason::Reason};

/// What is to be written to one file system.
#[derive(Debug, Default)]
struct Need<'a> {
    /// Now: what the images take up on the source.
    allocated: u64,
    /// At most: what they promise their guest, or take up already.
    promised: u64,
    room: Option<&'a Room>,
}

/// The room on each file system of the destination that something is copied to: the directory, and the answer.
pub fn space(disks: &Disks<'_>, resolved: &[Resolved]) -> Vec<(String, Result<String, Refusal>)> {
    let mut needs: BTreeMap<u64, Need<'_>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (path, (allocated, promised)) in copied(resolved) {
        let Some(room) = disks.sight.rooms.iter().find(|room| room.path == path) else {
            unknown.push((path.to_owned(), Err(unmeasured(disks, path))));
            continue;
        };
        let need = needs.entry(room.device).or_default();
        need.allocated = need.allocated.saturating_add(allocated.as_u64());
        need.promised = need.promised.saturating_add(promised.max(allocated).as_u64());
        need.room = Some(room);
    }
    let answer = |need: Need<'_>| need.room.map(|room| (room.directory.clone(), judge(disks, &need, room)));
    needs.into_values().filter_map(answer).chain(unknown).collect()
}

/// Every file that is to be made, once: two disks may have the same base.
fn copied(resolved: &[Resolved]) -> BTreeMap<&str, (ByteSize, ByteSize)> {
    let mut files = BTreeMap::new();
    for Resolved { resolution, .. } in resolved {
        if let Resolution::Copied { image, .. } = resolution {
            files.insert(image.path.as_str(), (image.allocated, image.virtual_size));
        }
        for image in resolution.static_images().iter().filter(|image| image.presence == Presence::Absent) {
            files.insert(&image.path, (image.allocated, image.size));
        }
    }
    files
}

fn unmeasured(disks: &Disks<'_>, path: &str) -> Refusal {
    Refusal {
        reason: Reason::Internal,
        message: format!("{} does not say what room it has for {path} of {}", disks.destination, disks.guest),
        remedy: "see that both agents are of the same version".into(),
    }
}

fn judge(disks: &Disks<'_>, need: &Need<'_>, room: &Room) -> Result<String, Refusal> {
    let (now, most) = (ByteSize::b(need.allocated), ByteSize::b(need.promised));
    let Room { directory, available, read_only, .. } = room;
    let (guest, host) = (disks.guest, disks.destination);
    if *read_only {
        return Err(Refusal {
            reason: Reason::DiskSpaceShort,
            message: format!("the disks of {guest} would be copied to {directory} on {host}, a read-only file system"),
            remedy: format!("mount it so that root of {host} can write to it, or choose another host"),
        });
    }
    if now > *available {
        return Err(Refusal {
            reason: Reason::DiskSpaceShort,
            message: format!("the disks of {guest} take up {now}, {directory} on {host} has {available} available"),
            remedy: format!("make room in {directory} on {host}, or choose another host"),
        });
    }
    if most > *available && !disks.sight.overcommit {
        return Err(Refusal {
            reason: Reason::DiskSpaceShort,
            message: format!(
                "the disks of {guest} may grow to {most}, {directory} on {host} has {available} available"
            ),
            remedy: format!(
                "make room in {directory} on {host}, choose another host, or allow it: storage.disk_overcommit = true in the \
                 configuration of its agent"
            ),
        });
    }
    Ok(format!("{now} to be copied, at most {most}; {available} available"))
}
