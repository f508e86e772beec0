use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use tracing::error;
use vmferry_core::{host::Cordon, reason::Reason};

use crate::{durable, hypervisor::Fault};

/// The version of the file that this agent writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Characters that a reason may have: it stands in tables.
const LONGEST: usize = 500;

/// Why no guest shall come, in memory as on disk.
#[derive(Debug)]
pub(super) struct CordonFile {
    path: PathBuf,
    cordon: Mutex<Option<Cordon>>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    cordon: Option<Cordon>,
}

impl CordonFile {
    /// What the agent's last process was told. A file that cannot be read keeps guests out until somebody says that they may come: it
    /// is there because somebody once said that they shall not.
    pub(super) fn load(state_directory: &Path) -> Self {
        let path = state_directory.join("cordon.json");
        let cordon = read(&path).unwrap_or_else(|error| {
            let reason = format!("whether it is cordoned cannot be told: cannot read {}: {error}", path.display());
            error!("{reason}");
            Some(Cordon { reason, by: "vmferry-agent".to_owned(), since: Timestamp::now() })
        });
        Self { path, cordon: Mutex::new(cordon) }
    }

    pub(super) fn get(&self) -> Option<Cordon> {
        self.lock().clone()
    }

    /// Looks at it; nobody changes it until `then` has returned.
    pub(super) fn look<T>(&self, then: impl FnOnce(Option<&Cordon>) -> T) -> T {
        then(self.lock().as_ref())
    }

    pub(super) fn put(&self, reason: &str, by: &str) -> Result<Cordon, Fault> {
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > LONGEST || reason.contains(char::is_control) {
            let message = format!("a cordon needs a reason: one line of at most {LONGEST} characters");
            return Err(Fault::new(Reason::InvalidRequest, message));
        }
        let mut cordon = self.lock();
        if let Some(known) = cordon.as_ref().filter(|known| known.reason == reason && known.by == by) {
            return Ok(known.clone());
        }
        let new = Cordon { reason: reason.to_owned(), by: by.to_owned(), since: Timestamp::now() };
        self.write(Some(&new))?;
        *cordon = Some(new.clone());
        Ok(new)
    }

    pub(super) fn remove(&self) -> Result<Option<Cordon>, Fault> {
        let mut cordon = self.lock();
        if cordon.is_some() {
            self.write(None)?;
        }
        Ok(cordon.take())
    }

    fn write(&self, cordon: Option<&Cordon>) -> Result<(), Fault> {
        let failed = |error: io::Error| {
            let message = format!("cannot write {}: {error}; see to the disk that it is on", self.path.display());
            Fault::new(Reason::JournalFailed, message)
        };
        let contents = Contents { format: FORMAT, cordon: cordon.cloned() };
        let text = serde_json::to_vec(&contents).map_err(|error| failed(error.into()))?;
        block_in_place(|| durable::replace(&self.path, &text)).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Cordon>> {
        self.cordon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Option<Cordon>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let Contents { format, cordon } = serde_json::from_slice(&text)?;
    if format != FORMAT {
        return Err(io::Error::other(format!("format {format} is unknown to this version")));
    }
    Ok(cordon)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPS: &str = "vmferry://cloud/coordinator/ops";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cordon_outlives_the_agent_and_so_does_its_end() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = CordonFile::load(directory.path());
        assert_eq!((file.get(), file.remove().expect("nothing to do")), (None, None));
        let put = file.put(" its fans fail ", OPS).expect("written");
        assert_eq!((put.reason.as_str(), put.by.as_str()), ("its fans fail", OPS));
        assert_eq!(CordonFile::load(directory.path()).get(), Some(put.clone()));
        assert_eq!(file.remove().expect("written"), Some(put));
        assert_eq!(CordonFile::load(directory.path()).get(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_same_said_again_is_the_same_and_another_reason_replaces_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = CordonFile::load(directory.path());
        let first = file.put("its fans fail", OPS).expect("written");
        assert_eq!(file.put("its fans fail", OPS).expect("known"), first);
        let second = file.put("its disk fails, too", OPS).expect("written");
        assert_eq!(second.reason, "its disk fails, too");
        assert_eq!(CordonFile::load(directory.path()).get(), Some(second));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reason_is_one_line() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = CordonFile::load(directory.path());
        let long = "x".repeat(LONGEST + 1);
        for wrong in ["", " \t ", "two\nlines", "\u{1b}[31mred", long.as_str()] {
            assert_eq!(file.put(wrong, OPS).expect_err(wrong).reason, Reason::InvalidRequest);
        }
        assert_eq!(file.get(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_is_not_said_to_be_and_what_cannot_be_read_is_not_guessed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = CordonFile::load(&directory.path().join("missing"));
        assert_eq!(file.put("why", OPS).expect_err("there is no such directory").reason, Reason::JournalFailed);
        assert_eq!(file.get(), None);
        for text in ["{\"format\":1,\"cord", "{\"format\":2,\"cordon\":null}", ""] {
            fs::write(directory.path().join("cordon.json"), text).expect("writable");
            let file = CordonFile::load(directory.path());
            let cordon = file.get().expect("nobody comes until somebody has looked");
            assert!(cordon.reason.contains("cordon.json"), "{cordon:?}");
            file.remove().expect("somebody has");
            assert_eq!(CordonFile::load(directory.path()).get(), None);
        }
    }
}
