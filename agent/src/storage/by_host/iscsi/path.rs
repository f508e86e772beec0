//! One way to a LUN: by one portal, from the node record to the disk.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{INTERVAL, description::Wanted, in_full};
use crate::storage::by_host::{
    failed::Failed,
    node::{self, Meaning, Node},
    portal::Portal,
    release::{Holdings, Lun},
    scsi,
    session::Session,
};

/// What iscsiadm may take longer than the logins that it waits for.
const LOGIN_SLACK: Duration = Duration::from_secs(15);
const SCAN: &str = "node.session.scan";

/// A disk, and what it took to get it.
pub(super) struct Attached {
    pub(super) disk: String,
    pub(super) created: Holdings,
}

impl Wanted<'_> {
    /// Makes the LUN a disk by one portal. After an error, what this has created is gone again.
    pub(super) async fn attach(&self, portal: &Portal) -> Result<Attached, Failed> {
        let mut created = Holdings::default();
        let result = async {
            let session = match self.lun.session(portal)? {
                Some(session) => session,
                None => self.log_in(portal, &mut created).await?,
            };
            self.find(&session, &mut created).await
        };
        match result.await {
            Ok(disk) => Ok(Attached { disk, created }),
            Err(failed) => {
                self.give_back(&created).await;
                Err(failed)
            }
        }
    }

    async fn log_in(&self, portal: &Portal, created: &mut Holdings) -> Result<Session, Failed> {
        let (lun, node) = (&self.lun, Node { target: self.lun.target, portal });
        let mut former_scan = None;
        match node.record() {
            None => {
                created.records.push(portal.clone());
                let made = node.create(lun.device_timeout).await;
                made.map_err(|source| lun.tool("make a node record", source))?;
                let record = node.record().unwrap_or_default();
                node::mark(&record).map_err(|source| self.file(&record, source))?;
            }
            // Somebody else's stays as it was, but for the login data; only this login shall not find every LUN there is.
            Some(record) => {
                let record = fs::read_to_string(&record).map_err(|source| self.file(&record, source))?;
                let scan = node::setting(&record, SCAN).unwrap_or("auto");
                if scan != "manual" {
                    former_scan = Some(scan.to_owned());
                    let set = node.set(SCAN, "manual").await;
                    set.map_err(|source| lun.tool("change the node record", source))?;
                }
            }
        }
        if let Some((user, password)) = self.chap {
            let set = node.set_chap_user(user).await;
            set.map_err(|source| lun.tool("change the node record", source))?;
            let record = node.record().unwrap_or_default();
            node::write_password(&record, password).map_err(|source| self.file(&record, source))?;
        }
        // Noted first: a login that was given up may still come true.
        created.sessions.push(portal.clone());
        let logged_in = node.log_in(lun.device_timeout + LOGIN_SLACK).await;
        if let Some(scan) = former_scan {
            node.set(SCAN, &scan).await.map_err(|source| lun.tool("change the node record back", source))?;
        }
        let (volume, at) = (lun.volume.clone(), portal.to_string());
        logged_in.map_err(|source| match node::meaning(source.code) {
            Meaning::WrongCredentials => {
                let user = self.chap.map_or("a host without a user", |(user, _)| user).to_owned();
                Failed::WrongCredentials { volume, at, user, source }
            }
            Meaning::NoTarget => Failed::Missing { volume, at, source },
            Meaning::Unreachable => Failed::Unreachable { volume, at, source },
            Meaning::Unknown => lun.tool("log in", source),
        })?;
        let timeout = lun.device_timeout;
        let device = format!("the session at {portal}");
        lun.session(portal)?.ok_or_else(|| Failed::DeviceTimeout { volume: lun.volume.clone(), device, timeout })
    }

    /// Waits for the LUN's disk, and asks for it from time to time.
    async fn find(&self, session: &Session, created: &mut Holdings) -> Result<String, Failed> {
        let Lun { lun, device_timeout: timeout, ref volume, .. } = self.lun;
        let deadline = Instant::now() + timeout;
        let (mut pauses, mut next_scan) = (scsi::pauses(), Instant::now());
        let mut is_new = false;
        loop {
            let session = self.lun.session(&session.portal)?;
            let device = session.as_ref().and_then(|session| session.device(lun));
            if let Some(disk) = device.and_then(|device| device.disk.clone()) {
                if is_new {
                    created.disks.push(disk.clone());
                }
                return Ok(disk);
            }
            is_new |= device.is_none();
            if Instant::now() >= deadline {
                let portal = session.as_ref().map_or_else(String::new, |session| session.portal.to_string());
                let (volume, device_name) = (volume.clone(), format!("the disk of LUN {lun}"));
                return Err(match device {
                    Some(_) => Failed::DeviceTimeout { volume, device: device_name, timeout },
                    None => Failed::LunMissing { volume, portal, lun, timeout },
                });
            }
            if let Some(session) = session.filter(|_| Instant::now() >= next_scan) {
                next_scan = Instant::now() + pauses.next().unwrap_or(timeout);
                let scanned = scsi::write(scsi::scan_line(&session, lun)).await;
                scanned.map_err(|(path, source)| self.file(&path, source))?;
            } else {
                sleep(INTERVAL).await;
            }
        }
    }

    /// Takes back what a failed call has created. What does not go is logged: the call has its own error to tell.
    pub(super) async fn give_back(&self, created: &Holdings) {
        if let Err(failed) = self.lun.release(created).await {
            tracing::warn!(volume = self.lun.volume, leftover = ?created, "{}", in_full(&failed));
        }
    }

    fn file(&self, path: &Path, source: std::io::Error) -> Failed {
        Failed::File { volume: self.lun.volume.clone(), path: path.to_owned(), source }
    }
}
