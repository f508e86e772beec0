//! Where new images will lie: how much room there is, and the directories that lead there.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::blocking::within;

/// How long a file system may take for an answer; a dead file server takes for ever.
const LIMIT: Duration = Duration::from_secs(10);

/// The room that a directory has, or will have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The directory itself, or the nearest above it that exists.
    pub existing: PathBuf,
    /// Its file system's device number. Directories with the same one share the room.
    pub device: u64,
    /// What root's programs as well as others' may still write.
    pub available: ByteSize,
    /// Whether nobody may write there, however much room there is.
    pub read_only: bool,
}

/// What a file system would not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", .path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The room in `directory`, which need not exist yet.
///
/// # Errors
///
/// If the file system cannot be asked, or something on the way is not a directory.
pub async fn available(directory: &Path) -> Result<Space, Error> {
    let directory = directory.to_owned();
    within_limit(move || {
        let existing = nearest(&directory)?;
        let room = statvfs(&existing).map_err(|errno| failed("measure the space in", &existing)(errno.into()))?;
        let device = fs::metadata(&existing).map_err(failed("look at", &existing))?.dev();
        let available = ByteSize(room.blocks_available() * room.fragment_size());
        Ok(Space { device, available, read_only: room.flags().contains(FsFlags::ST_RDONLY), existing })
    })
    .await
    .unwrap_or_else(|error| Err(failed("measure the space in", Path::new("the image's directory"))(error)))
}

/// The directories that [`make_directories`] would create, outermost first: what is journaled before it is called (I5).
///
/// # Errors
///
/// If the file system cannot be asked, or something on the way is not a directory.
pub async fn missing_directories(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let asked = directory.to_owned();
    within_limit(move || missing(&asked)).await.unwrap_or_else(|error| Err(failed("look at", directory)(error)))
}

/// Creates `directory` and what is missing above it, readable by everybody as libvirt's own are. Returns what it created,
/// outermost first.
///
/// # Errors
///
/// If one cannot be created; those above it that were are removed again.
pub async fn make_directories(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let asked = directory.to_owned();
    within_limit(move || make(&asked)).await.unwrap_or_else(|error| Err(failed("create", directory)(error)))
}

/// Removes directories, given outermost first, as far as they are there and empty.
///
/// # Errors
///
/// If an empty one cannot be removed.
pub async fn remove_directories(directories: &[PathBuf]) -> Result<(), Error> {
    let directories = directories.to_owned();
    within_limit(move || directories.iter().rev().try_for_each(|directory| remove(directory)))
        .await
        .unwrap_or_else(|error| Err(failed("remove", Path::new("the image's directories"))(error)))
}

/// Runs what blocks; gives it up after a while.
pub(super) async fn within_limit<T: Send + 'static>(blocking: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    within(LIMIT, || Ok(blocking())).await
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { what, path: path.to_owned(), source }
}

fn nearest(directory: &Path) -> Result<PathBuf, Error> {
    let mut missing = missing(directory)?;
    let outermost = if missing.is_empty() { return Ok(directory.to_owned()) } else { missing.swap_remove(0) };
    // Only a relative path of one part has nothing above it.
    Ok(outermost.parent().filter(|parent| *parent != "").unwrap_or(Path::new(".")).to_owned())
}

fn missing(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut missing = Vec::new();
    for ancestor in directory.ancestors().filter(|ancestor| *ancestor != "") {
        match fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(failed("use", ancestor)(io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor.to_owned()),
            // The file that is in the way comes next.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(failed("look at", ancestor)(error)),
        }
    }
    missing.reverse();
    Ok(missing)
}

fn make(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    for directory in missing(directory)? {
        match fs::DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => {
                // An image in it is as safe as its name.
                _ = directory.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all());
                made.push(directory);
            }
            // Somebody else was faster: theirs to remove.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                made.iter().rev().for_each(|directory| _ = fs::remove_dir(directory));
                return Err(failed("create", &directory)(error));
            }
        }
    }
    Ok(made)
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        result => result.map_err(failed("remove", directory)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_exist_yet_has_the_room_of_what_is_above_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let here = available(directory.path()).await.expect("it is there");
        assert_eq!(here.existing, directory.path());
        assert!(here.available > ByteSize(0));

        let later = available(&directory.path().join("images/web")).await.expect("it may be created");
        assert_eq!((&later.existing, later.device), (&here.existing, here.device));
        let proc = available(Path::new("/proc")).await.expect("it is there");
        assert_eq!(proc.available, ByteSize(0));
        assert_ne!(proc.device, here.device);
    }

    #[tokio::test]
    async fn the_directories_made_are_those_announced_and_only_they_are_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (outer, inner) = (directory.path().join("images"), directory.path().join("images/web"));
        let announced = missing_directories(&inner).await.expect("readable");
        assert_eq!(announced, [outer.clone(), inner.clone()]);
        assert_eq!(make_directories(&inner).await.expect("writable"), announced);
        assert_eq!(make_directories(&inner).await.expect("all there"), [] as [PathBuf; 0]);

        fs::write(outer.join("another's"), "").expect("writable");
        remove_directories(&announced).await.expect("the empty one goes");
        assert!(!inner.exists() && outer.exists(), "one that others use stays");
        fs::remove_file(outer.join("another's")).expect("removed");
        remove_directories(&announced).await.expect("the inner one is gone already");
        assert!(!outer.exists() && directory.path().exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("images");
        fs::write(&file, "").expect("writable");
        let error = make_directories(&file.join("web/disks")).await.expect_err("no directory");
        assert_eq!(error.to_string(), format!("cannot use {}", file.display()));
        available(&file.join("web")).await.expect_err("no directory");
    }
}
