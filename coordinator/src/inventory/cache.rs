//! What sources of hosts have said last: names, addresses and when. A file each, so that a source that is away costs only what is new.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use uuid::Uuid;
use vmferry_core::{id::HostName, migration::Endpoint};

/// The version of the files that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// What is older is not used: hosts have come and gone.
const OLDEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How long a host that a source no longer has is spoken of.
const MISSED: SignedDuration = SignedDuration::from_hours(1);

/// Where sources' last answers are. What this process heard itself, it has without a file, too.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    directory: Option<PathBuf>,
    heard: Mutex<HashMap<String, Contents>>,
}

/// What a source has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    format: u32,
    /// Which source; a file that says otherwise is not its.
    source: String,
    at: Timestamp,
    hosts: Vec<Known>,
    /// Hosts that it had a while ago.
    #[serde(default)]
    gone: Vec<Known>,
}

/// A host that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: HostName,
    /// HOST:PORT.
    pub(crate) address: String,
    /// When the source had it last.
    pub(crate) seen: Timestamp,
}

impl Cache {
    /// In a directory, which is made when something is written; `None`: only in this process.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, heard: Mutex::default() }
    }

    /// Where the user's is: `$XDG_CACHE_HOME/vmferry`, else root's is `/var/cache/vmferry` and others' `~/.cache/vmferry`.
    pub(crate) fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_root = nix::unistd::geteuid().is_root();
        let base = variable("XDG_CACHE_HOME")
            .or_else(|| is_root.then(|| "/var/cache".into()))
            .or_else(|| variable("HOME").map(|home| home.join(".cache")));
        Self::new(base.map(|base| base.join("vmferry")))
    }

    /// What a source says now. Returns the hosts that it had a short while ago and has no longer; and why it could not be kept.
    pub(crate) fn remember(&self, source: &str, hosts: &[Endpoint], now: Timestamp) -> (Vec<Known>, Option<String>) {
        let known = |host: &Endpoint| Known { name: host.host.clone(), address: host.address.clone(), seen: now };
        let before = self.read(source).ok().flatten();
        let gone: Vec<_> = before
            .into_iter()
            .flat_map(|before| before.hosts.into_iter().chain(before.gone))
            .filter(|known| now.duration_since(known.seen) <= MISSED)
            .filter(|known| hosts.iter().all(|host| host.host != known.name))
            .collect();
        let contents = Contents {
            format: FORMAT,
            source: source.to_owned(),
            at: now,
            hosts: hosts.iter().map(known).collect(),
            gone: gone.clone(),
        };
        let kept = match self.path(source) {
            Some(path) => write(&path, &contents).map_err(|error| {
                let path = path.display();
                format!("hosts cannot be remembered for when {source} is away: cannot write {path}: {error}")
            }),
            None => Ok(()),
        };
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(source.to_owned(), contents);
        (gone, kept.err())
    }

    /// What a source said last, and when; or why that is not known.
    pub(crate) fn recall(&self, source: &str, now: Timestamp) -> Result<(Vec<Endpoint>, Timestamp), String> {
        let contents = self.read(source)?.ok_or("nobody has asked it yet")?;
        let age = now.duration_since(contents.at);
        if age > OLDEST {
            return Err(format!("what it said last is {} days old", age.as_hours() / 24));
        }
        let hosts = contents.hosts.into_iter().map(|known| Endpoint { host: known.name, address: known.address });
        Ok((hosts.collect(), contents.at))
    }

    fn path(&self, source: &str) -> Option<PathBuf> {
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, source.as_bytes());
        self.directory.as_ref().map(|directory| directory.join(format!("hosts-{name}.json")))
    }

    /// `None`: there is nothing.
    fn read(&self, source: &str) -> Result<Option<Contents>, String> {
        if let Some(heard) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(source) {
            return Ok(Some(heard.clone()));
        }
        let Some(path) = self.path(source) else { return Ok(None) };
        let bad = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| bad(&error))?,
        };
        let contents: Contents = serde_json::from_str(&text).map_err(|error| bad(&error))?;
        if contents.format != FORMAT || contents.source != source {
            return Err(bad(&"it is of another version or source"));
        }
        Ok(Some(contents))
    }
}

/// All of it or nothing, whoever writes at the same time; for its owner only.
fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, contents)?;
    file.flush()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SOURCE: &str = "etcd at http://127.0.0.1:2379";

    fn host(number: u8) -> Endpoint {
        Endpoint { host: format!("node-{number}").parse().expect("a name"), address: format!("192.0.2.{number}:7443") }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).expect("a time")
    }

    fn only_file(directory: &Path) -> PathBuf {
        let mut files: Vec<_> = fs::read_dir(directory).expect("there").map(|file| file.expect("one").path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    #[test]
    fn what_one_process_heard_another_recalls() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path().join("vmferry");
        let cache = || Cache::new(Some(directory.clone()));
        assert_eq!(cache().recall(SOURCE, at(0)), Err("nobody has asked it yet".into()));
        assert_eq!(cache().remember(SOURCE, &[host(28), host(31)], at(0)), (Vec::new(), None));
        assert_eq!(cache().recall(SOURCE, at(12)), Ok((vec![host(28), host(31)], at(0))));
        assert_eq!(cache().recall("another", at(12)), Err("nobody has asked it yet".into()));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&only_file(&directory))), (0o700, 0o600));
    }

    #[test]
    fn a_host_that_is_gone_is_spoken_of_for_a_while() {
        let home = tempfile::tempdir().expect("a directory");
        let names = |minute, hosts: &[Endpoint]| -> Vec<String> {
            let (gone, _) = Cache::new(Some(home.path().into())).remember(SOURCE, hosts, at(minute));
            gone.iter().map(|known| format!("{} {}", known.name, at(minute).duration_since(known.seen))).collect()
        };
        assert!(names(0, &[host(28), host(31)]).is_empty());
        assert_eq!(names(10, &[host(28)]), ["node-31 PT10M"]);
        assert_eq!(names(60, &[host(28)]), ["node-31 PT1H"]);
        assert!(names(61, &[host(28)]).is_empty());
        assert!(names(62, &[host(28), host(31)]).is_empty());
        assert_eq!(names(63, &[host(31)]), ["node-28 PT1M"]);
        assert!(names(64, &[host(28), host(31)]).is_empty(), "it is back");
    }

    #[test]
    fn what_is_too_old_or_cannot_be_read_is_not_used() {
        let home = tempfile::tempdir().expect("a directory");
        let cache = || Cache::new(Some(home.path().into()));
        cache().remember(SOURCE, &[host(28)], at(0));
        assert!(cache().recall(SOURCE, at(7 * 24 * 60)).is_ok());
        let old = cache().recall(SOURCE, at(8 * 24 * 60)).expect_err("too old");
        assert_eq!(old, "what it said last is 8 days old");
        let file = only_file(home.path());
        for bad in ["", "{}", "\u{0}\u{1}", "[1,2", "{\"format\":1,\"source\":\"x\",\"at\":\"soon\",\"hosts\":[]}"] {
            fs::write(&file, bad).expect("written");
            let why = cache().recall(SOURCE, at(1)).expect_err(bad);
            assert!(why.contains("cannot be read") && why.contains("hosts-"), "{why}");
        }
        let text = r#"{"format":2,"source":"etcd at http://127.0.0.1:2379","at":"2026-01-01T00:00:00Z","hosts":[]}"#;
        fs::write(&file, text).expect("written");
        assert!(cache().recall(SOURCE, at(1)).expect_err("later version").contains("another version"));
        assert_eq!(cache().remember(SOURCE, &[host(28)], at(2)), (Vec::new(), None));
        assert!(cache().recall(SOURCE, at(3)).is_ok(), "it is written anew");
    }

    #[test]
    fn a_process_needs_no_file_for_what_it_heard_itself() {
        let home = tempfile::tempdir().expect("a directory");
        let in_the_way = home.path().join("file");
        fs::write(&in_the_way, "").expect("written");
        let cache = Cache::new(Some(in_the_way));
        let (_, why) = cache.remember(SOURCE, &[host(28)], at(0));
        assert!(why.expect("not written").contains("cannot write"));
        assert_eq!(cache.recall(SOURCE, at(1)), Ok((vec![host(28)], at(0))));
        let nowhere = Cache::new(None);
        assert_eq!(nowhere.remember(SOURCE, &[host(28)], at(0)), (Vec::new(), None));
        assert!(nowhere.recall(SOURCE, at(1)).is_ok());
    }
}
