//! Steps on this host's files and volumes.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use vmferry_core::{
    agent::Sighting,
    disk::{Image, Probe, StaticImage},
    domain_xml::rewrite::Relocation,
    id::MigrationId,
    instance::DiskSource,
    migration::Order,
    reason::Reason,
    volume::{Connection, Found, Volume},
};

use super::LibvirtHost;
use crate::{
    hypervisor::{Fault, OnSent, Storage, files},
    libvirt::DomainReading,
    storage::{
        copy,
        image::{self, Layout, NewImage, Ownership},
        space, with_causes,
    },
    tunnel,
};

/// Device and inode of a file, whichever of its names leads there.
fn identity(path: &str) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// QEMU may write to it.
const WRITABLE: u32 = 0o660;
/// QEMU may read it.
const READABLE: u32 = 0o640;

impl Storage for LibvirtHost {
    async fn place_probe(&self, probe: &Probe) -> Result<u64, Fault> {
        let probe = probe.clone();
        let placed = files::within_limit(move || files::place(&probe)).await;
        placed.map_err(|error| Fault::new(Reason::ProbeFailed, error.to_string()))
    }

    async fn remove_probe(&self, probe: &Probe) -> Result<(), Fault> {
        let owned = probe.clone();
        files::within_limit(move || files::remove(&owned)).await.map_err(|error| {
            let Probe { directory, file_name, .. } = probe;
            Fault::new(Reason::ProbeFailed, format!("cannot remove {directory}/{file_name} on {}: {error}", self.name))
        })
    }

    async fn digest(&self, path: &str) -> Result<String, Fault> {
        self.digest_of(path).await
    }

    async fn connect_volumes(
        &self,
        migration: MigrationId,
        volumes: &[&Volume],
    ) -> Vec<Result<(Found, Option<Relocation>), Fault>> {
        self.volumes.connect(migration, volumes).await
    }

    async fn release_secret(&self, migration: MigrationId, connection: &Connection) -> Result<(), Fault> {
        self.volumes.release_secret(migration, connection).await
    }

    async fn disconnect_volume(&self, connection: &Connection) -> Result<(), Fault> {
        self.volumes.disconnect(connection).await
    }

    async fn missing_directories(&self, path: &str) -> Result<Vec<String>, Fault> {
        let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
        let missing = space::missing_directories(directory).await.map_err(|error| self.cannot_copy(&error))?;
        Ok(missing.into_iter().map(|directory| directory.display().to_string()).collect())
    }

    async fn make_image_directory(&self, path: &str) -> Result<(), Fault> {
        space::make_directories(Path::new(path)).await.map(drop).map_err(|error| self.cannot_copy(&error))
    }

    async fn remove_image_directory(&self, path: &str) -> Result<(), Fault> {
        space::remove_directories(&[path.into()]).await.map_err(|error| self.cannot_copy(&error))
    }

    async fn is_free(&self, path: &str) -> Result<(), Fault> {
        let asked = path.to_owned();
        // Not `exists`: a link that leads nowhere is there, too.
        match files::within_limit(move || std::fs::symlink_metadata(asked)).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(self.is_taken(path)),
            Err(error) => Err(Fault::new(Reason::CopyFailed, format!("{path} on {}: {error}", self.name))),
        }
    }

    async fn make_image(&self, image: &Image, below: Option<&StaticImage>) -> Result<(), Fault> {
        let layout = match &image.qcow2 {
            Some(qcow2) => Layout::Qcow2 {
                qcow2: qcow2.clone(),
                backing: below.map(|below| (below.path.clone(), below.format.clone())),
            },
            None => Layout::Raw,
        };
        self.create(&image.path, layout, image.virtual_size, WRITABLE).await
    }

    async fn remove_image(&self, path: &str) -> Result<(), Fault> {
        let image = path.to_owned();
        let Ok(identity) = files::within_limit(move || identity(&image)).await else {
            // It is not there, or the removal tells why it cannot be seen.
            return image::remove(Path::new(path)).await.map_err(|error| self.cannot_copy(&error));
        };
        for domain in self.libvirt.domains().await? {
            if self.lies_on(&domain, identity).await? {
                tracing::warn!("{path} stays: domain {} uses it", domain.name);
                return Ok(());
            }
        }
        image::remove(Path::new(path)).await.map_err(|error| self.cannot_copy(&error))
    }

    async fn receive_image(
        &self,
        migration: MigrationId,
        index: usize,
        image: &StaticImage,
        written: bool,
    ) -> Result<(), Fault> {
        self.create(&image.path, Layout::Raw, image.size, if written { WRITABLE } else { READABLE }).await?;
        let socket = tunnel::image_socket(migration, index);
        let started = self.receivers.start(migration, &socket, Path::new(&image.path)).await;
        started.map_err(|error| self.cannot_copy(&error))
    }

    async fn stop_receivers(&self, migration: MigrationId) -> Result<(), Fault> {
        // What was received is about to be removed, or complete: how they end does not matter.
        if let Err(error) = self.receivers.finish(migration, &[]).await {
            tracing::debug!("{error}");
        }
        Ok(())
    }

    async fn send_image(
        &self,
        order: &Order,
        index: usize,
        image: &StaticImage,
        sent: OnSent,
        cancel: CancellationToken,
    ) -> Result<(), Fault> {
        let socket = tunnel::image_socket(order.id, index);
        let copied = copy::send(Path::new(&image.path), &socket, |bytes| sent(bytes), &cancel).await;
        copied.map_err(|error| match error {
            copy::Error::Cancelled(_) => {
                let message = format!("the migration of {} was aborted", order.instance_name);
                Fault::new(Reason::MigrationAborted, message)
            }
            error => {
                let (path, from, to) = (&image.path, &self.name, &order.destination.host);
                let message = format!("{path} could not be copied from {from} to {to}: {}", with_causes(&error));
                Fault::new(Reason::CopyFailed, message)
            }
        })
    }

    async fn image_length(&self, path: &str) -> Result<ByteSize, Fault> {
        let asked = path.to_owned();
        let length = files::within_limit(move || image::length(Path::new(&asked))).await;
        length
            .map(ByteSize::b)
            .map_err(|error| Fault::new(Reason::CopyFailed, format!("cannot read {path} on {}: {error}", self.name)))
    }

    async fn await_images(&self, order: &Order, lengths: &[ByteSize]) -> Result<(), Fault> {
        self.listeners.await_images(order, lengths).await.map_err(|error| {
            let message =
                format!("images that were copied to {} are not complete there: {error}", order.destination.host);
            Fault::new(Reason::CopyFailed, message)
        })
    }
}

impl LibvirtHost {
    async fn create(&self, path: &str, layout: Layout, size: ByteSize, mode: u32) -> Result<(), Fault> {
        let group = self.qemu_gid().map_err(|error| Fault::new(Reason::CopyFailed, error.to_string()))?;
        // libvirt gives it to the user of the QEMU that opens it, unless it was told to leave owners alone.
        let ownership = Ownership { user: 0, group: group.as_raw(), mode };
        let image = NewImage { layout, virtual_size: size, ownership };
        image::create(Path::new(path), &image).await.map_err(|error| match error {
            image::Error::Exists(_) => self.is_taken(path),
            error => self.cannot_copy(&error),
        })
    }

    /// Whether one of the domain's disks has this file in it, by whatever name. That of a guest that is off only its images say.
    async fn lies_on(&self, domain: &DomainReading, wanted: (u64, u64)) -> Result<bool, Fault> {
        let mut layers: Vec<String> = Vec::new();
        for disk in &domain.definition.disks {
            layers.extend(disk.files().map(str::to_owned));
            if let (DiskSource::File { path }, []) = (&disk.disk.source, disk.backing.as_slice())
                && domain.sighting == Sighting::Shutoff
                && Path::new(path).exists()
            {
                let (below, read) = image::chain(Path::new(path), &disk.format).await;
                layers.extend(below.into_iter().map(|(name, _)| name));
                read.map_err(|error| self.cannot_copy(&error))?;
            }
        }
        let is_it = move || Ok(layers.iter().any(|layer| identity(layer).is_ok_and(|found| found == wanted)));
        files::within_limit(is_it)
            .await
            .map_err(|error| Fault::new(Reason::CopyFailed, format!("images of {}: {error}", domain.name)))
    }

    fn is_taken(&self, path: &str) -> Fault {
        let message = format!("{path} is there on {} since the checks; migrate again", self.name);
        Fault::new(Reason::DiskNotShared, message)
    }

    fn cannot_copy(&self, error: &dyn std::error::Error) -> Fault {
        Fault::new(Reason::CopyFailed, format!("{} on {}", with_causes(error), self.name))
    }
}
