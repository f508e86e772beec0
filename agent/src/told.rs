//! What other hosts have told of their guests' security groups: a file, so that it outlives the agent. What this host's own guests are
//! in, libvirt knows.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::warn;
use vmferry_core::{policy::Told, reason::Reason};

use crate::{durable, hypervisor::Fault};

/// The version of the file that this agent writes, and the only one it reads.
const FORMAT: u32 = 1;

/// How many bytes the file may have: what is in it fits into one answer, and one word.
const MOST: usize = 3 << 20;

/// What is remembered of other hosts, in memory as on disk.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    told: Mutex<Told>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    hosts: Told,
}

impl Remembered {
    /// What the agent's last process remembered. A file that cannot be read costs no more than its contents: the next coordinator
    /// tells them again.
    pub fn load(state_directory: &Path) -> Self {
        let path = state_directory.join("groups.json");
        let told = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            warn!("what other hosts' guests are in groups is forgotten: cannot read {path}: {error}; run `vmferry groups sync`");
            Told::default()
        });
        Self { path, told: Mutex::new(told) }
    }

    /// What is remembered now.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    /// Changes it, on disk first. Returns whether that made a difference.
    ///
    /// # Errors
    ///
    /// `JOURNAL_FAILED`: it could not be written; `INVALID_REQUEST`: it would be too much. Nothing was changed.
    pub fn change(&self, change: impl FnOnce(&mut Told)) -> Result<bool, Fault> {
        let mut told = self.lock();
        let mut changed = told.clone();
        change(&mut changed);
        if changed == *told {
            return Ok(false);
        }
        let failed = |error: io::Error| {
            let message = format!("cannot write {}: {error}; see to the disk that it is on", self.path.display());
            Fault::new(Reason::JournalFailed, message)
        };
        let text = contents(&changed).map_err(failed)?;
        if text.len() > MOST {
            let message =
                format!("no host remembers more than {MOST} bytes of other hosts' groups; put fewer guests in groups");
            return Err(Fault::new(Reason::InvalidRequest, message));
        }
        durable::in_place(|| durable::replace(&self.path, &text)).map_err(failed)?;
        *told = changed;
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Told> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Told::default()),
        text => text?,
    };
    let Contents { format, hosts } = serde_json::from_slice(&text)?;
    if format != FORMAT {
        return Err(io::Error::other(format!("format {format} is unknown to this version")));
    }
    Ok(hosts)
}

fn contents(told: &Told) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Contents { format: FORMAT, hosts: told.clone() })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "ed831ace-39ef-4960-8bae-a035d292c305";

    fn told() -> Told {
        let text =
            format!("{{\"node-31\": {{\"{ID}\": {{\"name\": \"web-1\", \"groups\": {{\"web\": [\"192.0.2.7\"]}}}}}}}}");
        serde_json::from_str(&text).expect("valid")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_told_outlives_the_agent() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let remembered = Remembered::load(directory.path());
        assert_eq!(remembered.told(), Told::default());
        remembered.change(|known| known.replace(told())).expect("written");
        assert_eq!(Remembered::load(directory.path()).told(), told());
        remembered.change(|known| *known = Told::default()).expect("written");
        assert_eq!(Remembered::load(directory.path()).told(), Told::default());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_read_is_forgotten_and_can_be_told_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for text in ["{\"format\":1,\"hosts\":{\"node", "{\"format\":2,\"hosts\":{}}", ""] {
            fs::write(directory.path().join("groups.json"), text).expect("writable");
            let remembered = Remembered::load(directory.path());
            assert_eq!(remembered.told(), Told::default(), "{text}");
            remembered.change(|known| known.replace(told())).expect("written");
            assert_eq!(Remembered::load(directory.path()).told(), told(), "{text}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_is_not_known_either() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let remembered = Remembered::load(&directory.path().join("missing"));
        let fault = remembered.change(|known| known.replace(told())).expect_err("there is no such directory");
        assert_eq!((fault.reason, remembered.told()), (Reason::JournalFailed, Told::default()));
    }
}
