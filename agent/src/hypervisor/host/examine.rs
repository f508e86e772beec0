//! What this host holds, and what its domains need. What follows from it is decided in `vmferry_core::leftovers`.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use procfs::process::all_processes;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};
use vmferry_core::{
    agent::Sighting,
    id::MigrationId,
    instance::DiskSource,
    leftovers::{Fix, HeldGuest, HeldReceiver, Holdings, Needs},
    network::HeldLink,
    reason::Reason,
};

use super::{LibvirtHost, filters};
use crate::{
    hypervisor::{Examining, Fault, Hypervisor as _, files},
    libvirt::DomainReading,
    storage::{by_host, with_causes},
    tunnel,
};

/// How long a receiver that is told to end may take: what it has is on the disk by then, or is of no use to anybody.
const END_LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

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
        let held_guest = |guest: DomainReading| {
            let passes = matches!(guest.sighting, Sighting::Arriving | Sighting::Departing | Sighting::Incomplete);
            let is_on_its_way = passes || (guest.sighting == Sighting::Paused && guest.crosses);
            let DomainReading { id: instance, name, sighting, job, .. } = guest;
            is_on_its_way.then_some(HeldGuest { instance, name, sighting, job })
        };
        held.guests = self.libvirt.domains().await?.into_iter().filter_map(held_guest).collect();
        held.drift = seen("filters", self.reconcile(false).await.map_err(told), &mut unseen);
        held.unseen = unseen;
        Ok(held)
    }

    async fn debris(&self) -> Result<Holdings, Fault> {
        let unread = |error: io::Error| Fault::new(Reason::Internal, format!("{}: {error}", self.name));
        let links = self.vifs.plumber.held().await?;
        Ok(Holdings {
            directories: files::within_limit(tunnel::directories).await.map_err(unread)?,
            receivers: files::within_limit(receivers).await.map_err(unread)?,
            links: links.into_iter().filter(|link| link.holder.is_none()).collect(),
            ..Holdings::default()
        })
    }

    async fn remove(&self, fix: &Fix) -> Result<(), Fault> {
        let settings = self.volumes.settings();
        let not_gone = |error: by_host::Failed| {
            let message = format!("{} (on {})", with_causes(&error), self.name);
            Fault::new(Reason::VolumeConnectFailed, message)
        };
        match fix {
            Fix::UndefineSecret { uuid } => self.volumes.remove_secret(*uuid).await,
            Fix::EndSession { target, portal } => {
                by_host::end_session(target, portal, settings).await.map_err(not_gone)
            }
            Fix::DeleteRecord { target, portal } => {
                by_host::delete_record(target, portal, settings).await.map_err(not_gone)
            }
            Fix::RemoveDirectory { migration } => self.remove_sockets(*migration).await,
            // The lists are the agent's, not the host's.
            Fix::RemoveProbes { .. } => Ok(()),
            Fix::EndReceiver { pid, migration } => self.end_receiver(*pid, *migration).await,
            Fix::RemoveLink(link) => self.remove_link(link).await,
            Fix::UndefineFilter { name } => self.remove_filter(name).await,
        }
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
            Fault::new(Reason::Internal, message)
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

impl LibvirtHost {
    async fn remove_link(&self, link: &HeldLink) -> Result<(), Fault> {
        let _changing = self.vifs.changing.lock().await;
        let needed = self.holders(&self.libvirt.definitions().await?);
        if link.holder.as_ref().is_some_and(|holder| needed.contains(holder)) {
            return Ok(());
        }
        self.vifs.plumber.remove(link).await
    }

    /// Ends a process if it is what it is said to be, and waits until it is gone.
    async fn end_receiver(&self, pid: i32, migration: MigrationId) -> Result<(), Fault> {
        let failed = |why: &str| {
            let message = format!("qemu-nbd, process {pid} of {}: {why}", self.name);
            Fault::new(Reason::CopyFailed, message)
        };
        let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
        // First the process, then the look: what it is then cannot become another.
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return Ok(()) };
        let is_it = || {
            let process = procfs::process::Process::new(pid).ok()?;
            receives_for(&process.cmdline().ok()?).filter(|other| *other == migration)
        };
        let begun = Instant::now();
        while is_it().is_some() {
            let signal = if begun.elapsed() < END_LIMIT { Signal::TERM } else { Signal::KILL };
            if begun.elapsed() > 2 * END_LIMIT {
                return Err(failed("it does not end, though it was killed"));
            }
            // It may have ended just now.
            _ = pidfd_send_signal(&process, signal);
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
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
