//! Files that are replaced whole: after a crash there is the old one or the new one.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// The extension of what is being written.
pub(crate) const DRAFT: &str = "new";

/// On disk when this returns, all of it or nothing.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let mut file = File::create(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
