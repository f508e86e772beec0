//! The block devices that volumes are on this host, and what lies below others. A look that fails is an error: taken for no
//! device, a volume that a domain uses would be taken away from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use vmferry_core::{domain_xml::DiskDefinition, instance::DiskSource, volume::Connection};

use crate::{hypervisor::files, storage::by_host};

/// By the kernel's names.
pub(in crate::hypervisor::host) type Devices = BTreeSet<String>;

/// What could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be read")]
pub(in crate::hypervisor::host) struct Unseen {
    what: String,
    source: io::Error,
}

/// The devices that a volume is on this host: one for each path.
pub(in crate::hypervisor::host) async fn devices_of(connection: &Connection) -> Result<Devices, Unseen> {
    let place = match connection {
        Connection::Iscsi(_) => "/sys/class/iscsi_session",
        Connection::Rbd(_) => "/sys/bus/rbd/devices",
    };
    let unseen = |source| Unseen { what: format!("{place}, where volume {connection} would be,"), source };
    by_host::devices_of(connection).await.map_err(unseen)
}

/// The devices at these paths, with all that each lies on.
pub(in crate::hypervisor::host) async fn devices_below(
    paths: BTreeSet<String>,
) -> Result<BTreeMap<String, Devices>, Unseen> {
    let what = paths.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let look = move || paths.into_iter().map(|path| below(&path).map(|devices| (path, devices))).collect();
    files::within_limit(look).await.map_err(|source| Unseen { what, source })
}

fn below(path: &str) -> io::Result<Devices> {
    match fs::canonicalize(path) {
        Ok(_) => Ok(by_host::devices_below(path)),
        // Of a domain that is off, the device need not be there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Devices::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

/// Where disks are block devices that nobody has said of which volume they are.
pub(in crate::hypervisor::host) fn unlabelled<'a>(
    disks: impl IntoIterator<Item = &'a DiskDefinition>,
) -> BTreeSet<String> {
    let path = |disk: &DiskDefinition| match (&disk.volume, &disk.disk.source) {
        (None, DiskSource::Block { path }) => Some(path.clone()),
        _ => None,
    };
    disks.into_iter().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::with_causes;

    #[tokio::test]
    async fn what_cannot_be_looked_at_is_no_absence() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("file"), "").expect("ours");
        let absent = devices_below([path("absent")].into()).await.expect("nothing is there");
        assert_eq!(absent, [(path("absent"), Devices::new())].into());
        // Not a directory.
        let unseen = devices_below([path("file/device")].into()).await.expect_err("it cannot be told");
        let said = with_causes(&unseen);
        assert!(said.contains(&path("file/device")) && said.contains("Not a directory"), "{said}");
    }
}
