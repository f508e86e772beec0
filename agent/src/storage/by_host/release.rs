//! What a LUN holds on this host, and how it is given back: the same way for a disconnect and for a connect that failed.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    failed::Failed,
    multipath::{self, Map},
    node::Node,
    portal::Portal,
    scsi,
    session::{SYS, Session, sessions},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// udev and multipathd look into new disks; they are no users, and soon done.
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);

/// A LUN, by the words that errors need.
#[derive(Debug, Clone)]
pub(super) struct Lun<'a> {
    pub(super) volume: String,
    pub(super) target: &'a str,
    pub(super) lun: u16,
    pub(super) device_timeout: Duration,
}

/// Things on this host that are there for a LUN.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) disks: Vec<String>,
    pub(super) sessions: Vec<Portal>,
    pub(super) records: Vec<Portal>,
}

impl Holdings {
    pub(super) fn extend(&mut self, other: Self) {
        self.disks.extend(other.disks);
        self.sessions.extend(other.sessions);
        self.records.extend(other.records);
    }
}

impl Lun<'_> {
    /// The session to the target at this portal.
    pub(super) fn session(&self, portal: &Portal) -> Result<Option<Session>, Failed> {
        let found = sessions(Path::new(SYS)).map_err(|source| Failed::File {
            volume: self.volume.clone(),
            path: SYS.into(),
            source,
        })?;
        Ok(found.into_iter().find(|session| session.target == self.target && session.portal.is(portal)))
    }

    /// Gives back all of it, from the guest's end to the storage's. Stops at the first thing that does not go: what is beneath
    /// is still needed then. Sessions that another LUN has come to need stay, and their records.
    pub(super) async fn release(&self, holdings: &Holdings) -> Result<(), Failed> {
        self.remove_disks(&holdings.disks).await?;
        for portal in &holdings.sessions {
            if self.session(portal)?.is_some_and(|session| session.is_needed_without(self.lun)) {
                continue;
            }
            let node = Node { target: self.target, portal };
            node.log_out().await.map_err(|source| self.tool("log out", source))?;
        }
        for portal in &holdings.records {
            if self.session(portal)?.is_none() {
                let node = Node { target: self.target, portal };
                node.delete().await.map_err(|source| self.tool("delete the node record", source))?;
            }
        }
        Ok(())
    }

    async fn remove_disks(&self, disks: &[String]) -> Result<(), Failed> {
        let sys = Path::new(SYS);
        let maps: Vec<_> = disks.iter().map(|disk| multipath::map_over(sys, disk)).collect();
        for map in different(maps.iter().flatten()) {
            if map.paths.iter().all(|path| disks.contains(path)) {
                self.check_unclaimed(&map.device).await?;
                multipath::flush(map)
                    .await
                    .map_err(|source| self.tool("flush and remove the multipath map", source))?;
                self.wait_gone(&map.device).await?;
            } else {
                // It lives on with paths that are not ours.
                scsi::flush(&map.device).await.map_err(|source| self.tool("flush the multipath map", source))?;
            }
        }
        // A map is what was used: its paths have nothing to flush.
        for (disk, _) in disks.iter().zip(&maps).filter(|(_, map)| map.is_none()) {
            if sys.join("block").join(disk).exists() {
                self.check_unclaimed(disk).await?;
                scsi::flush(disk).await.map_err(|source| self.tool("flush the disk", source))?;
            }
        }
        for disk in disks {
            multipath::remove_path(disk).await;
            if let Err((path, source)) = scsi::write(scsi::deletion(disk)).await
                && source.kind() != std::io::ErrorKind::NotFound
            {
                return Err(Failed::File { volume: self.volume.clone(), path, source });
            }
        }
        for disk in disks {
            self.wait_gone(disk).await?;
        }
        Ok(())
    }

    async fn check_unclaimed(&self, device: &str) -> Result<(), Failed> {
        let deadline = Instant::now() + CLAIM_PATIENCE;
        while scsi::is_claimed(device).await {
            if Instant::now() >= deadline {
                return Err(Failed::InUse { volume: self.volume.clone(), device: format!("/dev/{device}") });
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    async fn wait_gone(&self, device: &str) -> Result<(), Failed> {
        let deadline = Instant::now() + self.device_timeout;
        while !scsi::is_gone(device) {
            if Instant::now() >= deadline {
                let (volume, device) = (self.volume.clone(), format!("/dev/{device}"));
                return Err(Failed::DeviceStays { volume, device, timeout: self.device_timeout });
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// A program that failed for no reason that has a name.
    pub(super) fn tool(&self, doing: &'static str, source: crate::storage::tool::Failed) -> Failed {
        Failed::Tool { volume: self.volume.clone(), doing, source }
    }
}

fn different<'a>(maps: impl Iterator<Item = &'a Map>) -> Vec<&'a Map> {
    let mut different: Vec<&Map> = Vec::new();
    for map in maps {
        if different.iter().all(|one| one.device != map.device) {
            different.push(map);
        }
    }
    different
}
