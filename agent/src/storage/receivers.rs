//! The images that are sent here now, by migration.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytesize::ByteSize;
use vmferry_core::id::MigrationId;

use super::{
    copy::{Error, Receiver},
    with_causes,
};

/// What receives images on this host. Those of a process that dies die with it.
#[derive(Debug, Default)]
pub struct Receivers(Mutex<HashMap<MigrationId, Vec<(PathBuf, Receiver)>>>);

impl Receivers {
    /// Receives into `path`, which must be empty, whatever is sent to `socket`.
    pub async fn start(&self, migration: MigrationId, socket: &Path, path: &Path) -> Result<(), Error> {
        let receiver = Receiver::start(socket, path).await?;
        self.open().entry(migration).or_default().push((path.to_owned(), receiver));
        Ok(())
    }

    /// The migration that sends this image here.
    pub fn of(&self, path: &Path) -> Option<MigrationId> {
        let open = self.open();
        let mut found = open.iter().filter(|(_, receivers)| receivers.iter().any(|(other, _)| other == path));
        found.next().map(|(migration, _)| *migration)
    }

    /// Ends receiving. Everything that was received is on the disk when this returns well, in files of these lengths, which
    /// come in the order in which they were started; without any: as long as they were made. Ended already: nothing is done.
    /// An error is a sentence.
    pub async fn finish(&self, migration: MigrationId, lengths: &[ByteSize]) -> Result<(), String> {
        let receivers = self.open().remove(&migration).unwrap_or_default();
        let stop = |(index, (_, receiver)): (usize, (PathBuf, Receiver))| receiver.stop(lengths.get(index).copied());
        let ended = futures::future::join_all(receivers.into_iter().enumerate().map(stop)).await;
        ended.into_iter().collect::<Result<(), _>>().map_err(|error| with_causes(&error))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<MigrationId, Vec<(PathBuf, Receiver)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
