//! Takes away what a migration has left of a target, of which nobody knows any more which LUNs it was for.

use std::{fs, path::Path};

use super::{
    Settings,
    failed::Failed,
    node::{self, Node},
    portal::Portal,
    release::{Holdings, Lun},
    session::{SYS, Session, sessions},
    turns,
};

/// Ends a session that was made by a node record of VMFerry's, if nobody has a claim on any of its disks; its record goes with it. There
/// being none is success, and one of somebody else's stays.
///
/// # Errors
/// Somebody uses a disk of it, or it does not end.
pub async fn end_session(target: &str, portal: &str, settings: &Settings) -> Result<(), Failed> {
    let _turn = turns::take_named(target).await;
    let lun = lun(target, settings);
    let Some(session) = session(&lun, portal)? else { return Ok(()) };
    if !is_ours(target, &session.portal) {
        return Ok(());
    }
    let disks = session.devices.iter().filter_map(|device| device.disk.clone()).collect();
    let portals = vec![session.portal];
    lun.release(&Holdings { disks, sessions: portals.clone(), records: portals }).await
}

/// Deletes a node record of VMFerry's by which nobody is logged in. There being none is success, and one of somebody else's stays.
///
/// # Errors
/// It cannot be deleted.
pub async fn delete_record(target: &str, portal: &str, settings: &Settings) -> Result<(), Failed> {
    let _turn = turns::take_named(target).await;
    let lun = lun(target, settings);
    let Some(record) = Portal::parse(portal) else { return Ok(()) };
    if session(&lun, portal)?.is_some() || !is_ours(target, &record) {
        return Ok(());
    }
    lun.release(&Holdings { records: vec![record], ..Holdings::default() }).await
}

fn lun<'a>(target: &'a str, settings: &Settings) -> Lun<'a> {
    Lun { volume: format!("iscsi:{target}"), target, lun: 0, device_timeout: settings.device_timeout }
}

/// That which the kernel names so.
fn session(lun: &Lun<'_>, portal: &str) -> Result<Option<Session>, Failed> {
    let failed = |source| Failed::File { volume: lun.volume.clone(), path: SYS.into(), source };
    let found = sessions(Path::new(SYS)).map_err(failed)?;
    Ok(found.into_iter().find(|session| session.target == lun.target && session.portal.to_string() == portal))
}

fn is_ours(target: &str, portal: &Portal) -> bool {
    let record = Node { target, portal }.record().and_then(|record| fs::read_to_string(record).ok());
    record.is_some_and(|record| node::is_ours(&record))
}
