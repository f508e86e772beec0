//! LUNs of iSCSI targets: by open-iscsi, one portal or several.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use secrecy::SecretString;
use tokio::time::sleep;
use vmferry_core::volume::{Found, Iscsi};

use self::{
    description::{Wanted, described, wanted},
    path::Attached,
};
use super::{
    Connected, Multipath, Settings,
    failed::Failed,
    multipath::{self, Map},
    node::{self, Node},
    release::Holdings,
    scsi,
    session::SYS,
};

mod description;
mod path;

const INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn connect(
    iscsi: &Iscsi,
    secret: Option<&SecretString>,
    settings: &Settings,
) -> Result<Connected, Failed> {
    let wanted = wanted(iscsi, secret, settings)?;
    let mut warnings = Vec::new();
    let by_multipath = match (settings.multipath, multipath::running().await) {
        (Multipath::Off, _) => false,
        (Multipath::Wanted | Multipath::Enforced, Ok(())) => true,
        (Multipath::Wanted, Err(_)) => {
            warnings.push("multipathd does not run: one path is used, and a fault of it is the guest's".to_owned());
            false
        }
        (Multipath::Enforced, Err(source)) => {
            return Err(Failed::MultipathNotRunning { volume: wanted.lun.volume, source });
        }
    };
    let attached = if by_multipath {
        wanted.all_paths(&mut warnings).await?
    } else {
        vec![wanted.first_path(&mut warnings).await?]
    };
    let mut created = Holdings::default();
    let mut disks = Vec::new();
    for one in attached {
        created.extend(one.created);
        disks.push(one.disk);
    }
    match wanted.present(&disks, by_multipath, &mut warnings).await {
        Ok((path, found)) => Ok(Connected { path, found, warnings }),
        Err(failed) => {
            wanted.give_back(&created).await;
            Err(failed)
        }
    }
}

pub(super) async fn disconnect(iscsi: &Iscsi, settings: &Settings) -> Result<(), Failed> {
    let (lun, portals) = described(iscsi, settings)?;
    let mut holdings = Holdings::default();
    for portal in portals {
        let node = Node { target: lun.target, portal: &portal };
        let record = node.record().and_then(|record| fs::read_to_string(record).ok());
        if record.is_some_and(|record| node::is_ours(&record)) {
            holdings.records.push(portal.clone());
        }
        if let Some(session) = lun.session(&portal)? {
            holdings.disks.extend(session.device(lun.lun).and_then(|device| device.disk.clone()));
            holdings.sessions.push(portal);
        }
    }
    lun.release(&holdings).await
}

impl Wanted<'_> {
    /// One portal after the other, until a disk appears.
    async fn first_path(&self, warnings: &mut Vec<String>) -> Result<Attached, Failed> {
        let mut first_failure = None;
        for portal in &self.portals {
            match self.attach(portal).await {
                Ok(attached) => return Ok(attached),
                Err(failed) => {
                    warnings.push(in_full(&failed));
                    // The preferred portal's is the one to tell.
                    first_failure.get_or_insert(failed);
                }
            }
        }
        Err(first_failure.expect("there is a portal, and none served"))
    }

    /// All portals at once. Each disk becomes a path as it comes, so that the map is there from the first on.
    async fn all_paths(&self, warnings: &mut Vec<String>) -> Result<Vec<Attached>, Failed> {
        let attempts = self.portals.iter().map(async |portal| {
            let attached = self.attach(portal).await?;
            let added = multipath::add_path(&attached.disk).await;
            Ok((attached, added))
        });
        let (mut attached, mut first_failure) = (Vec::new(), None);
        for result in join_all(attempts).await {
            match result {
                Ok((one, added)) => {
                    warnings.extend(added.err().map(|failed| failed.to_string()));
                    attached.push(one);
                }
                Err(failed) => {
                    warnings.push(in_full(&failed));
                    first_failure.get_or_insert(failed);
                }
            }
        }
        match first_failure {
            Some(failed) if attached.is_empty() => Err(failed),
            _ => Ok(attached),
        }
    }

    /// Makes one device of the disks, and tells what it is.
    async fn present(
        &self,
        disks: &[String],
        by_multipath: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(String, Found), Failed> {
        let (sys, volume) = (Path::new(SYS), &self.lun.volume);
        let mut identity: Option<String> = None;
        for disk in disks {
            let device = format!("/dev/{disk}");
            let own = scsi::identity(sys, disk).ok_or(Failed::NoIdentity { volume: volume.clone(), device })?;
            match &identity {
                Some(one) if *one != own => {
                    return Err(Failed::Ambiguous { volume: volume.clone(), one: one.clone(), other: own });
                }
                _ => identity = Some(own),
            }
        }
        let map = if by_multipath {
            multipath::settled(disks).await
        } else {
            // Somebody else may have made one; then the disk itself cannot be used.
            disks.iter().find_map(|disk| multipath::map_over(sys, disk))
        };
        warnings.extend(complaint(by_multipath, map.as_ref(), disks));
        let candidates = map.map_or_else(|| disks.to_vec(), |map| vec![map.device]);
        let deadline = Instant::now() + self.lun.device_timeout;
        loop {
            // Of several paths without a map, one has the names.
            for device in &candidates {
                if let (Some(path), Some(size)) = (scsi::stable_path(device), scsi::size(sys, device)) {
                    return Ok((path, Found { size, identity: identity.unwrap_or_default() }));
                }
            }
            if Instant::now() >= deadline {
                let device = format!("a name below /dev/disk/by-id for {}", candidates.join(" or "));
                return Err(Failed::DeviceTimeout { volume: volume.clone(), device, timeout: self.lun.device_timeout });
            }
            sleep(INTERVAL).await;
        }
    }
}

/// What is to be said about a map that is not as it should be.
fn complaint(by_multipath: bool, map: Option<&Map>, disks: &[String]) -> Option<String> {
    match map {
        None if by_multipath => Some("multipath has made no map: one path is used; see `multipath -v3`".to_owned()),
        None => None,
        Some(map) => {
            let missing: Vec<_> = disks.iter().filter(|disk| !map.paths.contains(disk)).map(String::as_str).collect();
            (!missing.is_empty()).then(|| format!("multipath has not taken {} into its map", missing.join(", ")))
        }
    }
}

/// A failure with its cause, where only a text can hold it.
fn in_full(failed: &Failed) -> String {
    match std::error::Error::source(failed) {
        Some(source) => format!("{failed}: {source}"),
        None => failed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_lacks_a_path_or_is_missing_is_worth_a_word() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let map = Map { device: "dm-0".into(), name: "m".into(), wwid: "3600".into(), paths: names(&["sda", "sdc"]) };
        assert_eq!(complaint(true, Some(&map), &names(&["sda", "sdc"])), None);
        assert!(complaint(true, Some(&map), &names(&["sda", "sdd"])).is_some_and(|text| text.contains("sdd")));
        assert!(complaint(true, None, &names(&["sda"])).is_some_and(|text| text.contains("one path")));
        assert_eq!(complaint(false, None, &names(&["sda"])), None);
    }
}
