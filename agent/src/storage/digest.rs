//! Digests of image files, by which two hosts know that they have the same backing image.

use std::{
    collections::HashMap,
    fmt,
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use sha2::{Digest as _, Sha256};
use tokio::{sync::OnceCell, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::space::within_limit;

const BUFFER: usize = 1 << 20;
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// A file that changed this lately may change again with the same time stamp: clocks of file systems tick slowly.
const UNSETTLED: Duration = Duration::from_secs(2);

/// The SHA-256 of a file's contents, holes read as zeros. Prints as hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Computes digests, and remembers them for as long as a file does not change.
#[derive(Debug, Default)]
pub struct Digests {
    known: Mutex<HashMap<Place, Known>>,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {} for its digest", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody writes to it: it has no digest.
    #[error("{} was written to while its digest was computed", .0.display())]
    Changed(PathBuf),
    /// Nobody wants it any more.
    #[error("the digest of {} is not wanted any more", .0.display())]
    Cancelled(PathBuf),
}

#[derive(Debug)]
struct Known {
    version: Version,
    digest: Arc<OnceCell<Digest>>,
}

/// Device and inode.
type Place = (u64, u64);

/// What changes when a file's contents do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Digests {
    /// The digest of the regular file's contents as they are. Who asks while another waits for the same waits with it; if
    /// the one for whom it is computed gives up, the next begins anew.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is written to meanwhile, or `cancel` is cancelled, whereupon reading stops soon.
    pub async fn of(&self, path: &Path, cancel: &CancellationToken) -> Result<Digest, Error> {
        let unreadable = |source| Error::Read { path: path.to_owned(), source };
        let opened = path.to_owned();
        let opened = within_limit(move || open(&opened)).await.and_then(std::convert::identity);
        let (file, place, version) = opened.map_err(unreadable)?;

        let computed = self.once(place, version, async {
            // Dropped with this future, which stops the thread.
            let stop = CancellationToken::new();
            let _stopped = stop.clone().drop_guard();
            let read = spawn_blocking(move || {
                let digest = hash(&file, version.size, &stop)?;
                io::Result::Ok((digest, Version::of(&file.metadata()?)))
            });
            let (digest, after) = read.await.map_err(io::Error::other).and_then(|read| read).map_err(unreadable)?;
            if after == version { Ok(digest) } else { Err(Error::Changed(path.to_owned())) }
        });
        cancel.run_until_cancelled(computed).await.unwrap_or_else(|| Err(Error::Cancelled(path.to_owned())))
    }

    async fn once<E>(
        &self,
        place: Place,
        version: Version,
        compute: impl Future<Output = Result<Digest, E>>,
    ) -> Result<Digest, E> {
        let settled = version.is_settled(SystemTime::now());
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Known { version, digest: Arc::default() };
            let entry = known.entry(place).or_insert_with(fresh);
            if entry.version != version || !settled && entry.digest.initialized() {
                *entry = fresh();
            }
            Arc::clone(&entry.digest)
        };
        cell.get_or_try_init(|| compute).await.copied()
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let age = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed() - self.changed.0;
        age > UNSETTLED.as_secs().cast_signed()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn open(path: &Path) -> io::Result<(File, Place, Version)> {
    // What is no file does not make this wait.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, (metadata.dev(), metadata.ino()), Version::of(&metadata)))
}

fn hash(file: &File, size: u64, stop: &CancellationToken) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    while position < size {
        let data = seek(file, position, Whence::SeekData)?.unwrap_or(size).min(size);
        let hole = if data < size { seek(file, data, Whence::SeekHole)?.unwrap_or(size).min(size) } else { size };
        in_chunks(data - position, stop, |_, length| {
            sha256.update(&ZEROS[..length]);
            Ok(())
        })?;
        in_chunks(hole - data, stop, |offset, length| {
            file.read_exact_at(&mut buffer[..length], data + offset)?;
            sha256.update(&buffer[..length]);
            Ok(())
        })?;
        position = hole;
    }
    Ok(Digest(sha256.finalize().into()))
}

fn in_chunks(
    total: u64,
    stop: &CancellationToken,
    mut chunk: impl FnMut(u64, usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut offset = 0;
    while offset < total {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = usize::try_from(total - offset).unwrap_or(BUFFER).min(BUFFER);
        chunk(offset, length)?;
        offset += length as u64;
    }
    Ok(())
}

/// Where the next data or hole begins; none: there is none. A file system that knows no holes has all data.
pub(super) fn seek(file: &File, from: u64, what: Whence) -> io::Result<Option<u64>> {
    match lseek(file, from.cast_signed(), what) {
        Ok(found) => Ok(Some(found.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(matches!(what, Whence::SeekData).then_some(from)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    const OLD: Version = Version { size: 1, modified: (1, 0), changed: (1, 0) };

    #[tokio::test]
    async fn holes_are_digested_as_the_zeros_they_read_as() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for (name, pieces, length) in [
            ("empty", &[][..], 0),
            ("a hole", &[], 3 << 20),
            ("data", &[0], 5),
            ("hole, data, hole", &[1 << 20, 2 << 20], (5 << 20) + 77),
            ("data at its end", &[0, 4 << 20], (4 << 20) + 5),
        ] {
            let path = directory.path().join(name);
            let file = File::create(&path).expect("writable");
            file.set_len(length).expect("writable");
            for &offset in pieces {
                file.write_all_at(b"bytes", offset).expect("writable");
            }
            let expected = Digest(Sha256::digest(fs::read(&path).expect("readable")).into());
            let digest = Digests::default().of(&path, &CancellationToken::new()).await.expect("readable");
            assert_eq!(digest, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_digest_prints_as_sha256sum_does() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("abc");
        fs::write(&path, "abc").expect("writable");
        let digest = Digests::default().of(&path, &CancellationToken::new()).await.expect("readable");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[tokio::test]
    async fn a_file_that_changes_gets_another_digest_at_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, digests, cancel) = (directory.path().join("disk"), Digests::default(), CancellationToken::new());
        let mut seen = Vec::new();
        for content in ["one", "two", "six"] {
            fs::write(&path, content).expect("writable");
            seen.push(digests.of(&path, &cancel).await.expect("readable"));
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
    }

    #[tokio::test]
    async fn those_who_ask_together_have_it_computed_once_and_remembered() {
        let (digests, computed, go) = (Digests::default(), AtomicUsize::new(0), Notify::new());
        let ask = || {
            digests.once((1, 1), OLD, async {
                computed.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Ok::<_, ()>(Digest([7; 32]))
            })
        };
        let (first, second, ()) = tokio::join!(ask(), ask(), async { go.notify_one() });
        assert_eq!((first, second, ask().await), (Ok(Digest([7; 32])), Ok(Digest([7; 32])), Ok(Digest([7; 32]))));
        assert_eq!(computed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn when_the_first_gives_up_the_next_has_its_digest_all_the_same() {
        let digests = Digests::default();
        let cancel = CancellationToken::new();
        let first = cancel.run_until_cancelled(digests.once((1, 1), OLD, std::future::pending::<Result<_, ()>>()));
        let second = digests.once((1, 1), OLD, async { Ok::<_, ()>(Digest([7; 32])) });
        let (first, second, ()) = tokio::join!(first, second, async { cancel.cancel() });
        assert_eq!((first, second), (None, Ok(Digest([7; 32]))));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_digest_that_is_not_wanted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("hours");
        File::create(&path).expect("writable").set_len(1 << 42).expect("sparse files");
        let (digests, cancel) = (Digests::default(), CancellationToken::new());
        let (digest, ()) = tokio::join!(digests.of(&path, &cancel), async { cancel.cancel() });
        assert!(matches!(digest, Err(Error::Cancelled(_))), "{digest:?}");
        // The runtime waits for its threads at the end of this test: the one that read has stopped.
    }

    #[tokio::test]
    async fn only_files_have_digests() {
        let error = Digests::default().of(Path::new("/dev/zero"), &CancellationToken::new()).await;
        assert!(matches!(error, Err(Error::Read { .. })), "{error:?}");
    }
}
