//! Probe files beside disks: what proves that two hosts see the same directory. Gone again in every outcome.
//!
//! They live from the source's check to `EndCheck`, or until their time is over, or until the next agent's start, if this
//! one dies. A list of them is on disk before the first is written (I5), and until the last is gone.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Mutex, time::sleep};
use tracing::warn;
use uuid::Uuid;
use vmferry_core::{
    disk::{Probe, Problem, Shown},
    id::MigrationId,
    leftovers::HeldProbes,
    reason::Reason,
};

use crate::{
    durable,
    hypervisor::{Fault, Hypervisor},
};

/// This host's probe files.
#[derive(Debug)]
pub struct Probes<H> {
    host: Arc<H>,
    directory: PathBuf,
    life: Duration,
    /// A late check must not write what an end has just removed from the list.
    alone: Mutex<()>,
}

impl<H: Hypervisor> Probes<H> {
    /// Removes what another process of this agent left behind. A probe lives no longer than `life`.
    pub fn start(host: Arc<H>, state_directory: &Path, life: Duration) -> io::Result<Arc<Self>> {
        let directory = state_directory.join("probes");
        fs::create_dir_all(&directory)?;
        let probes = Arc::new(Self { host, directory, life, alone: Mutex::default() });
        for file in fs::read_dir(&probes.directory)? {
            let path = file?.path();
            match path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
                Some(id) => probes.remove_after(id, Duration::ZERO),
                None => warn!("{} is no list of probe files", path.display()),
            }
        }
        Ok(probes)
    }

    /// Writes a probe to each directory and adds it to what the source shows; or why it could not be written.
    pub async fn place(
        self: &Arc<Self>,
        id: MigrationId,
        directories: &[String],
        shown: &mut Shown,
    ) -> Result<(), Fault> {
        let _alone = self.alone.lock().await;
        // Those of an earlier call of the same check.
        self.remove_listed(id).await?;
        let probe = |(number, directory): (usize, &String)| Probe {
            directory: directory.clone(),
            file_name: format!("{}{id}-{number}", Probe::PREFIX),
            token: Uuid::new_v4().to_string(),
            device: 0,
        };
        let probes: Vec<_> = directories.iter().enumerate().map(probe).collect();
        if probes.is_empty() {
            return Ok(());
        }
        durable::in_place(|| self.write_list(id, &probes)).map_err(|error| self.list_fault("write", id, &error))?;
        self.remove_after(id, self.life);
        for probe in probes {
            match self.host.place_probe(&probe).await {
                Ok(device) => shown.probes.push(Probe { device, ..probe }),
                Err(fault) => shown.problems.push(Problem { place: probe.directory, why: fault.message }),
            }
        }
        Ok(())
    }

    /// Removes the probes of a migration. There may be none.
    pub async fn remove(&self, id: MigrationId) -> Result<(), Fault> {
        let _alone = self.alone.lock().await;
        self.remove_listed(id).await
    }

    /// The lists that are on disk, for those who look for leftovers.
    pub fn lists(&self) -> io::Result<Vec<HeldProbes>> {
        let mut lists = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            // One that is removed just now is none.
            let Ok(written) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            let Ok(text) = fs::read(&path) else { continue };
            let probes: Vec<Probe> = serde_json::from_slice(&text).unwrap_or_default();
            let file = |probe: &Probe| format!("{}/{}", probe.directory, probe.file_name);
            lists.push(HeldProbes {
                migration: path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()),
                list: path.display().to_string(),
                files: probes.iter().map(file).collect(),
                written: Timestamp::try_from(written).unwrap_or(Timestamp::MIN),
            });
        }
        Ok(lists)
    }

    async fn remove_listed(&self, id: MigrationId) -> Result<(), Fault> {
        let path = self.list(id);
        let text = match durable::in_place(|| fs::read(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|error| self.list_fault("read", id, &error))?,
        };
        // A list that a crash tore was not yet followed by a probe.
        let probes: Vec<Probe> = serde_json::from_slice(&text).unwrap_or_default();
        let mut failed = None;
        for probe in &probes {
            if let Err(fault) = self.host.remove_probe(probe).await {
                failed.get_or_insert(fault);
            }
        }
        match failed {
            Some(fault) => Err(fault),
            None => durable::in_place(|| fs::remove_file(&path)).map_err(|error| self.list_fault("remove", id, &error)),
        }
    }

    /// Removes them without being asked; again and again, until it succeeds.
    fn remove_after(self: &Arc<Self>, id: MigrationId, time: Duration) {
        let probes = Arc::clone(self);
        tokio::spawn(async move {
            sleep(time).await;
            while let Err(fault) = probes.remove(id).await {
                warn!("probe files of migration {id}: {fault}");
                sleep(probes.life).await;
            }
        });
    }

    /// On disk when this returns.
    fn write_list(&self, id: MigrationId, probes: &[Probe]) -> io::Result<()> {
        let mut file = File::create(self.list(id))?;
        file.write_all(&serde_json::to_vec(probes)?)?;
        file.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }

    fn list(&self, id: MigrationId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn list_fault(&self, action: &str, id: MigrationId, error: &io::Error) -> Fault {
        Fault::new(Reason::JournalFailed, format!("cannot {action} {}: {error}", self.list(id).display()))
    }
}
