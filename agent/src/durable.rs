//! Writing to disk: files that are replaced whole, so that after a crash there is the old one or the new one; and waiting for it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
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

/// Waits for a disk without holding up the other tasks of this thread, where another thread can take them over. In a simulation, whose
/// runtimes have one thread, none can.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::CurrentThread) => work(),
        _ => block_in_place(work),
    }
}
