use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::error;
use vmferry_core::{
    host::{Cordon, LastCordon, Uncordoned},
    reason::Reason,
};

use crate::{durable, hypervisor::Fault};

/// The version of the file that this agent writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Characters that a reason may have: it stands in tables.
const LONGEST: usize = 500;

/// Why no guest shall come, in memory as on disk.
#[derive(Debug)]
pub(super) struct CordonFile {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    cordon: Option<Cordon>,
    /// The one before. Files of before have none.
    #[serde(default)]
    last: Option<LastCordon>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    #[serde(flatten)]
    kept: Kept,
}

impl CordonFile {
    /// What the agent's last process was told. A file that cannot be read keeps guests out until somebody says that they may come: it
    /// is there because somebody once said that they shall not.
    pub(super) fn load(state_directory: &Path) -> Self {
        let path = state_directory.join("cordon.json");
        let kept = read(&path).unwrap_or_else(|error| {
            let reason = format!("whether it is cordoned cannot be told: cannot read {}: {error}", path.display());
            error!("{reason}");
            let cordon = Cordon { reason, by: "vmferry-agent".to_owned(), since: Timestamp::now() };
            Kept { cordon: Some(cordon), last: None }
        });
        Self { path, kept: Mutex::new(kept) }
    }

    pub(super) fn get(&self) -> Option<Cordon> {
        self.lock().cordon.clone()
    }

    /// Looks at it; nobody changes it until `then` has returned.
    pub(super) fn look<T>(&self, then: impl FnOnce(Option<&Cordon>) -> T) -> T {
        then(self.lock().cordon.as_ref())
    }

    pub(super) fn put(&self, reason: &str, by: &str) -> Result<Cordon, Fault> {
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > LONGEST || reason.contains(char::is_control) {
            let message = format!("a cordon needs a reason: one line of at most {LONGEST} characters");
            return Err(Fault::new(Reason::InvalidRequest, message));
        }
        let mut kept = self.lock();
        if let Some(known) = kept.cordon.as_ref().filter(|known| known.reason == reason && known.by == by) {
            return Ok(known.clone());
        }
        let new = Cordon { reason: reason.to_owned(), by: by.to_owned(), since: Timestamp::now() };
        let next = Kept { cordon: Some(new.clone()), last: kept.last.clone() };
        self.write(&next)?;
        *kept = next;
        Ok(new)
    }

    pub(super) fn remove(&self) -> Result<Uncordoned, Fault> {
        let mut kept = self.lock();
        if let Some(cordon) = kept.cordon.clone() {
            let last = LastCordon { cordon: cordon.clone(), ended: Timestamp::now() };
            let next = Kept { cordon: None, last: Some(last) };
            self.write(&next)?;
            *kept = next;
            return Ok(Uncordoned { was: Some(cordon), last: kept.last.clone() });
        }
        Ok(Uncordoned { was: None, last: kept.last.clone() })
    }

    fn write(&self, kept: &Kept) -> Result<(), Fault> {
        let failed = |error: io::Error| {
            let message = format!("cannot write {}: {error}; see to the disk that it is on", self.path.display());
            Fault::new(Reason::JournalFailed, message)
        };
        let contents = Contents { format: FORMAT, kept: kept.clone() };
        let text = serde_json::to_vec(&contents).map_err(|error| failed(error.into()))?;
        durable::in_place(|| durable::replace(&self.path, &text)).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Kept> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        text => text?,
    };
    let Contents { format, kept } = serde_json::from_slice(&text)?;
    if format != FORMAT {
        return Err(io::Error::other(format!("format {format} is unknown to this version")));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPS: &str = "vmferry://cloud/coordinator/ops";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cordon_outlives_the_agent_and_so_does_its_end() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = CordonFile::load(directory.path());
        assert_eq!((file.get(), file.remove().expect("nothing to do")), (None, Uncordoned::default()));
        let put = file.put(" its fans fail ", OPS).expect("written");
        assert_eq!((put.reason.as_str(), put.by.as_str()), ("its fans fail", OPS));
        assert_eq!(CordonFile::load(directory.path()).get(), Some(put.clone()));
        let removed = file.remove().expect("written");
        assert_eq!(removed.was, Some(put.clone()));
        // Who asks again hears of it as well, also another process.
        let file = CordonFile::load(directory.path());
        assert_eq!((file.get(), file.remove().expect("known").was), (None, None));
        assert_eq!(file.remove().expect("known").last, removed.last);
        assert_eq!(removed.last.expect("it was").cordon, put);
        file.put("again", OPS).expect("written");
        let last = file.remove().expect("written").last.expect("it was");
        assert!(last.cordon.reason == "again" && last.ended >= last.cordon.since, "{last:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_of_an_older_agent_is_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"format":1,"cordon":{"reason":"fan","by":"ops","since":"2026-11-23T14:00:00Z"}}"#;
        fs::write(directory.path().join("cordon.json"), text).expect("writable");
        let file = CordonFile::load(directory.path());
        assert_eq!(file.get().expect("kept").reason, "fan");
        assert_eq!(file.remove().expect("written").last.expect("it was").cordon.reason, "fan");
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
