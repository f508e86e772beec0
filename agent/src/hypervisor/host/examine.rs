//! What this host holds, and what its domains need. What follows from it is decided in `vmferry_core::leftovers`.

use std::{collections::BTreeSet, io, path::Path};

use procfs::process::all_processes;
use vmferry_core::{
    id::MigrationId,
    instance::DiskSource,
    leftovers::{HeldReceiver, Holdings, Needs},
};

use super::{LibvirtHost, filters};
use crate::{
    hypervisor::{Examining, Fault, files},
    storage::by_host,
    tunnel,
};

impl Examining for LibvirtHost {
    async fn holdings(&self) -> Result<Holdings, Fault> {
        let mut held = Holdings { secrets: self.libvirt.secrets().await?, ..Holdings::default() };
        let mut unseen = Vec::new();
        held.sessions = seen("iSCSI sessions", by_host::iscsi_sessions().await, &mut unseen);
        let records = files::within_limit(by_host::iscsi_records).await;
        held.records = seen("node records of open-iscsi", records, &mut unseen);
        held.images = seen("mapped RBD images", by_host::rbd_images().await, &mut unseen);
        held.directories = seen(tunnel::DIRECTORY, files::within_limit(tunnel::directories).await, &mut unseen);
        held.receivers = seen("processes", files::within_limit(receivers).await, &mut unseen);
        let told = |fault: Fault| io::Error::other(fault.message);
        held.links = seen("network links", self.vifs.plumber.held().await.map_err(told), &mut unseen);
        held.links.extend(seen("Open vSwitch", self.vifs.plumber.held_ports().await.map_err(told), &mut unseen));
        held.filters = match self.libvirt.filters().await.map_err(io::Error::other) {
            // A host whose guests have none needs nothing that keeps them.
            Ok(Err(_)) if filters::named(&self.libvirt.definitions().await?).is_empty() => Vec::new(),
            filters => {
                let filters = filters.and_then(|filters| filters.map_err(io::Error::other));
                seen("libvirt filters", filters, &mut unseen)
            }
        };
        held.drift = seen("filters", self.reconcile(false).await.map_err(told), &mut unseen);
        held.unseen = unseen;
        Ok(held)
    }

    async fn needs(&self) -> Result<Needs, Fault> {
        let definitions = self.libvirt.definitions().await?;
        let disks: Vec<_> = definitions.iter().flat_map(|definition| &definition.disks).collect();
        let paths: BTreeSet<_> = disks
            .iter()
            .flat_map(|disk| disk.layers())
            .filter_map(|source| if let DiskSource::Block { path } = source { Some(path.clone()) } else { None })
            .collect();
        let below = move || Ok(paths.iter().flat_map(|path| by_host::devices_below(path)).collect());
        let devices = files::within_limit(below).await.map_err(|error| {
            let message = format!("cannot tell which devices the domains of {} use: {error}", self.name);
            Fault::new(vmferry_core::reason::Reason::Internal, message)
        })?;
        let volumes = disks.iter().filter_map(|disk| disk.volume.as_ref()).map(|volume| volume.connection.clone());
        Ok(Needs {
            secrets: self.libvirt.secrets_in_use().await?,
            volumes: volumes.collect(),
            devices,
            holders: self.holders(&definitions),
            filters: filters::named(&definitions),
            ..Needs::default()
        })
    }
}

fn seen<T>(what: &str, read: io::Result<Vec<T>>, unseen: &mut Vec<(String, String)>) -> Vec<T> {
    read.unwrap_or_else(|error| {
        unseen.push((what.to_owned(), error.to_string()));
        Vec::new()
    })
}

/// Processes that listen in a migration's directory to receive an image.
fn receivers() -> io::Result<Vec<HeldReceiver>> {
    let processes = all_processes().map_err(io::Error::other)?;
    let receiver = |process: procfs::process::Process| {
        let arguments = process.cmdline().ok()?;
        let migration = receives_for(&arguments)?;
        Some(HeldReceiver { pid: process.pid(), migration })
    };
    // One that ends meanwhile is none.
    Ok(processes.filter_map(|process| receiver(process.ok()?)).collect())
}

fn receives_for(arguments: &[String]) -> Option<MigrationId> {
    let program = Path::new(arguments.first()?).file_name()?;
    let inside = |argument: &String| {
        let rest = Path::new(argument).strip_prefix(tunnel::DIRECTORY).ok()?;
        rest.iter().next()?.to_str()?.parse().ok()
    };
    arguments.iter().find_map(inside).filter(|_| program == "qemu-nbd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_known_by_its_socket() {
        const ID: &str = "0197a000-0000-7000-8000-000000000001";
        let of = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
            receives_for(&arguments).map(|id| id.to_string())
        };
        let socket = format!("{}/{ID}/image-0.sock", tunnel::DIRECTORY);
        assert_eq!(of(&format!("qemu-nbd --format=raw --socket {socket} /srv/a")).as_deref(), Some(ID));
        assert_eq!(of(&format!("rm {socket}")), None);
        assert_eq!(of("qemu-nbd --socket /run/other.sock /srv/a"), None);
    }
}
