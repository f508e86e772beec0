//! Writing what nobody must lose and, some of it, nobody else must read.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::Error;

/// For certificates: no secret.
pub(super) const PUBLIC: u32 = 0o644;
/// For keys.
pub(super) const PRIVATE: u32 = 0o600;

/// Writes a file that must not be there yet. It has its mode from the first moment on, and is on disk when this returns.
pub(super) fn create(path: &Path, mode: u32, content: &str) -> Result<(), Error> {
    let failed = |source| failed(path, source);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Makes a directory for its owner only, and its parents as needed. One that is there stays as it is.
pub(super) fn ensure_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| failed(path, source))
}

/// Makes a directory for its owner only, that must not be there yet.
pub(super) fn create_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(path).map_err(|source| failed(path, source))
}

/// Makes sure that the names in a directory are on disk as well.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => Error::Write { path: path.to_owned(), source },
    }
}
