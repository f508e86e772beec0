//! Guests as files: who is in a host's directory runs there.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use vmferry_core::{
    agent::Sighting,
    domain_xml::Definition,
    id::{HostName, InstanceId, MigrationId},
};

/// A guest's file, `UUID.json`. Tests write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Its definition, as libvirt would have it.
    pub(crate) domain_xml: String,
    /// What it writes to per second, in bytes.
    pub(crate) dirty_rate: ByteSize,
}

/// A guest.
#[derive(Debug, PartialEq)]
pub(crate) struct Guest {
    pub(crate) file: File,
    pub(crate) definition: Definition,
}

/// The guests of one host, and those that arrive.
#[derive(Debug)]
pub(crate) struct Guests {
    world: PathBuf,
    host: HostName,
    /// What does not change, so that it is read once.
    known: Mutex<HashMap<InstanceId, Arc<Guest>>>,
    arriving: Mutex<HashMap<InstanceId, Arrival>>,
}

/// A guest that is sent here and has not run here.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) migration: MigrationId,
    pub(crate) source: HostName,
    guest: Arc<Guest>,
}

impl Guests {
    /// Those of this host in the world.
    pub(crate) fn open(world: &Path, host: HostName) -> io::Result<Self> {
        fs::create_dir_all(world.join(host.as_str()))?;
        Ok(Self { world: world.to_owned(), host, known: Mutex::default(), arriving: Mutex::default() })
    }

    /// All that run here or arrive, with what is to be seen of them.
    pub(crate) fn all(&self) -> io::Result<Vec<(Sighting, Arc<Guest>)>> {
        // Before the directory: one that arrives meanwhile is seen once or twice, never not at all.
        let mut all: HashMap<_, _> = lock(&self.arriving)
            .iter()
            .map(|(id, arrival)| (*id, (Sighting::Arriving, Arc::clone(&arrival.guest))))
            .collect();
        for entry in fs::read_dir(self.world.join(self.host.as_str()))? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(id) = id else { continue };
            // Who has left since is not here.
            if let Some(guest) = self.read(id)? {
                all.insert(id, (Sighting::Running, guest));
            }
        }
        lock(&self.known).retain(|id, _| all.contains_key(id));
        Ok(all.into_values().collect())
    }

    /// One that runs here.
    pub(crate) fn running(&self, id: InstanceId) -> io::Result<Option<Arc<Guest>>> {
        if self.runs(id)? { self.read(id) } else { Ok(None) }
    }

    /// What is to be seen of one.
    pub(crate) fn sighting(&self, id: InstanceId) -> io::Result<Sighting> {
        let arriving = lock(&self.arriving);
        Ok(match (self.runs(id)?, arriving.contains_key(&id)) {
            (true, _) => Sighting::Running,
            (false, true) => Sighting::Arriving,
            (false, false) => Sighting::Absent,
        })
    }

    /// One is sent here.
    pub(crate) fn expect(
        &self,
        id: InstanceId,
        migration: MigrationId,
        source: HostName,
        file: File,
    ) -> Result<(), String> {
        let mut arriving = lock(&self.arriving);
        if self.runs(id).map_err(|error| error.to_string())? {
            return Err(format!("domain {id} runs on {}", self.host));
        }
        if let Some(other) = arriving.get(&id) {
            return Err(format!("domain {id} arrives on {} by migration {}", self.host, other.migration));
        }
        let definition = Definition::parse(&file.domain_xml).map_err(|error| error.to_string())?;
        arriving.insert(id, Arrival { migration, source, guest: Arc::new(Guest { file, definition }) });
        Ok(())
    }

    /// All of one is here: it runs here from now on, and no more there.
    pub(crate) fn take(&self, id: InstanceId, migration: MigrationId) -> Result<(), String> {
        let mut arriving = lock(&self.arriving);
        let Some(arrival) = arriving.get(&id).filter(|arrival| arrival.migration == migration) else {
            return Err(format!("domain {id} does not arrive on {} any more", self.host));
        };
        let (from, to) = (self.path(&arrival.source, id), self.path(&self.host, id));
        // Atomic: nobody sees it on both, or on none.
        fs::rename(from, to).map_err(|error| format!("domain {id} is not on {}: {error}", arrival.source))?;
        arriving.remove(&id);
        Ok(())
    }

    /// One does not come any more, if it was this migration that brought it; none: whichever it was.
    pub(crate) fn give_up(&self, id: InstanceId, migration: Option<MigrationId>) {
        let mut arriving = lock(&self.arriving);
        if migration.is_none_or(|migration| arriving.get(&id).is_some_and(|arrival| arrival.migration == migration)) {
            arriving.remove(&id);
        }
    }

    fn runs(&self, id: InstanceId) -> io::Result<bool> {
        fs::exists(self.path(&self.host, id))
    }

    fn path(&self, host: &HostName, id: InstanceId) -> PathBuf {
        self.world.join(host.as_str()).join(format!("{id}.json"))
    }

    fn read(&self, id: InstanceId) -> io::Result<Option<Arc<Guest>>> {
        if let Some(guest) = lock(&self.known).get(&id) {
            return Ok(Some(Arc::clone(guest)));
        }
        let text = match fs::read(self.path(&self.host, id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let file: File = serde_json::from_slice(&text)?;
        let definition = Definition::parse(&file.domain_xml).map_err(io::Error::other)?;
        let guest = Arc::new(Guest { file, definition });
        lock(&self.known).insert(id, Arc::clone(&guest));
        Ok(Some(guest))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa0";
    const FIRST: &str = "0197a000-0000-7000-8000-000000000001";
    const SECOND: &str = "0197a000-0000-7000-8000-000000000002";

    fn file() -> File {
        let domain_xml = format!(
            "<domain type='kvm'><name>web</name><uuid>{ID}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
        );
        File { domain_xml, dirty_rate: ByteSize::mib(1) }
    }

    #[test]
    fn a_guest_runs_on_one_host_until_the_other_has_all_of_it() {
        let world = tempfile::tempdir().expect("temporary directory");
        let host = |name: &str| Guests::open(world.path(), name.parse().expect("valid")).expect("writable");
        let (here, there) = (host("here"), host("there"));
        let id: InstanceId = ID.parse().expect("valid");
        let [first, second]: [MigrationId; 2] = [FIRST, SECOND].map(|id| id.parse().expect("valid"));
        let sightings = || [here.sighting(id).expect("readable"), there.sighting(id).expect("readable")];
        fs::write(here.path(&here.host, id), serde_json::to_vec(&file()).expect("JSON")).expect("writable");
        assert_eq!(sightings(), [Sighting::Running, Sighting::Absent]);

        let expect = |migration| there.expect(id, migration, here.host.clone(), file());
        expect(first).expect("nobody has it there");
        assert_eq!(sightings(), [Sighting::Running, Sighting::Arriving]);
        expect(second).expect_err("it comes once");
        there.take(id, second).expect_err("that did not bring it");
        there.give_up(id, Some(second));
        there.give_up(id, None);
        there.take(id, first).expect_err("it was given up");
        assert_eq!(sightings(), [Sighting::Running, Sighting::Absent]);

        expect(second).expect("the first was given up");
        there.take(id, second).expect("it is there");
        assert_eq!(sightings(), [Sighting::Absent, Sighting::Running]);
        assert_eq!((here.all().expect("readable").len(), there.all().expect("readable").len()), (0, 1));
        expect(first).expect_err("it runs there");
    }
}
