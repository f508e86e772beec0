//! Disks of simulated guests: files on storage that all hosts share, which is proved as it is anywhere.

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use vmferry_agent::hypervisor::{Fault, OnSent, Storage, files};
use vmferry_core::{
    agent::Leaving,
    disk::{Image, Probe, Problem, Shown, Sight, StaticImage},
    domain_xml::{DiskDefinition, rewrite::Relocation},
    id::MigrationId,
    migration::Order,
    reason::Reason,
    volume::{Connection, Found, Volume},
};

use super::{SimulatedHost, not_simulated};

const COPIED: &str = "a disk that is copied";
const VOLUME: &str = "a volume";

impl SimulatedHost {
    pub(super) async fn show(&self, disks: &[DiskDefinition]) -> Shown {
        let mut shown = Shown::default();
        for disk in disks {
            for path in disk.files() {
                let place = path.to_owned();
                match files::within_limit(move || files::look_at(&place)).await {
                    Ok(file) => {
                        shown.images.push(Image {
                            path: path.to_owned(),
                            format: disk.format.clone(),
                            virtual_size: ByteSize::b(file.size),
                            allocated: ByteSize::b(file.allocated),
                            qcow2: None,
                            obstacle: None,
                        });
                        shown.files.push(file);
                    }
                    Err(error) => shown.problems.push(Problem { place: path.to_owned(), why: error.to_string() }),
                }
            }
        }
        shown
    }

    pub(super) async fn see(&self, leaving: &Leaving) -> Result<Sight, Fault> {
        let mut sight = Sight::default();
        for path in leaving.definition.disks.iter().flat_map(DiskDefinition::files) {
            let (place, shown) = (path.to_owned(), leaving.shown.file(path).cloned());
            let probe = leaving.shown.probe_beside(path).cloned();
            let seen = files::within_limit(move || files::see(&place, shown.as_ref(), probe.as_ref())).await;
            let unseen = |why: String| Fault::new(Reason::ProbeFailed, format!("{path} on {}: {why}", self.name));
            let seen = seen.map_err(|error| unseen(error.to_string()))?;
            sight.files.push(seen.ok_or_else(|| unseen(format!("{COPIED} is not simulated")))?);
        }
        Ok(sight)
    }
}

impl Storage for SimulatedHost {
    async fn place_probe(&self, probe: &Probe) -> Result<u64, Fault> {
        let probe = probe.clone();
        let placed = files::within_limit(move || files::place(&probe)).await;
        placed.map_err(|error| Fault::new(Reason::ProbeFailed, error.to_string()))
    }

    async fn remove_probe(&self, probe: &Probe) -> Result<(), Fault> {
        let probe = probe.clone();
        let removed = files::within_limit(move || files::remove(&probe)).await;
        removed.map_err(|error| Fault::new(Reason::ProbeFailed, error.to_string()))
    }

    async fn digest(&self, _: &str) -> Result<String, Fault> {
        Err(not_simulated(COPIED))
    }

    async fn release_secret(&self, _: MigrationId, _: &Connection) -> Result<(), Fault> {
        Ok(())
    }

    async fn connect_volumes(
        &self,
        _: MigrationId,
        volumes: &[&Volume],
    ) -> Vec<Result<(Found, Option<Relocation>), Fault>> {
        volumes.iter().map(|_| Err(not_simulated(VOLUME))).collect()
    }

    async fn disconnect_volume(&self, _: &Connection) -> Result<(), Fault> {
        Ok(())
    }

    async fn missing_directories(&self, _: &str) -> Result<Vec<String>, Fault> {
        Err(not_simulated(COPIED))
    }

    async fn make_image_directory(&self, _: &str) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }

    async fn remove_image_directory(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    async fn is_free(&self, _: &str) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }

    async fn make_image(&self, _: &Image, _: Option<&StaticImage>) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }

    async fn remove_image(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    async fn receive_image(&self, _: MigrationId, _: usize, _: &StaticImage, _: bool) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }

    async fn stop_receivers(&self, _: MigrationId) -> Result<(), Fault> {
        Ok(())
    }

    async fn send_image(
        &self,
        _: &Order,
        _: usize,
        _: &StaticImage,
        _: OnSent,
        _: CancellationToken,
    ) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }

    async fn image_length(&self, _: &str) -> Result<ByteSize, Fault> {
        Err(not_simulated(COPIED))
    }

    async fn await_images(&self, _: &Order, _: &[ByteSize]) -> Result<(), Fault> {
        Err(not_simulated(COPIED))
    }
}
