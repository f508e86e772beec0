//! The file of one journal: whole lines only, and room behind them for what must still be written when the disk is full.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};

use super::{Error, io_error};

/// How much room a migration that goes on has in its file at least: more than taking back every step of a large guest takes.
const RESERVE: u64 = 256 << 10;

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// A migration begins with it: not without its reserve.
    Opens,
    /// A migration that goes on needs it: it may use the reserve.
    Needed,
    /// People do: it may not, and may be lost in a crash.
    Informs,
}

/// A file of lines.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// Up to here they are whole.
    length: u64,
    /// Up to here there is room, whatever else the disk is used for.
    reserved: u64,
}

impl Lines {
    /// None yet, in a file that must not be there yet.
    pub(super) fn create(path: PathBuf) -> Result<Self, Error> {
        File::create_new(&path).map_err(io_error("create", &path))?;
        Ok(Self { path, length: 0, reserved: 0 })
    }

    /// Those of a file that has been read up to `length`. What is behind that is dropped.
    pub(super) fn take_up(path: PathBuf, length: u64) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).open(&path).map_err(io_error("open", &path))?;
        file.set_len(length).map_err(io_error("repair", &path))?;
        Ok(Self { path, length, reserved: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// One more, without its end of line. It is there as a whole, or not at all; and on disk when this returns, unless it only informs.
    pub(super) fn append(&mut self, mut line: Vec<u8>, weight: Weight) -> Result<(), Error> {
        line.push(b'\n');
        let file = OpenOptions::new().write(true).open(&self.path).map_err(io_error("open", &self.path))?;
        self.repair(&file)?;
        let room = self.reserve(&file, line.len() as u64);
        if weight != Weight::Needed {
            room.map_err(io_error("reserve room for", &self.path))?;
        }
        let written = file.write_all_at(&line, self.length).map_err(io_error("write", &self.path));
        let synced = written.and_then(|()| match weight {
            Weight::Opens | Weight::Needed => file.sync_data().map_err(io_error("sync", &self.path)),
            Weight::Informs => Ok(()),
        });
        if let Err(error) = synced {
            // If this fails, too, the next line repairs it, or the next reader drops it.
            _ = file.set_len(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Gives back the room that nothing needs any more.
    pub(super) fn close(&mut self) {
        if self.reserved <= self.length {
            return;
        }
        let room = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            allocate(&file, flags, self.length, self.reserved - self.length)
        });
        match room {
            Ok(()) => self.reserved = 0,
            Err(error) => tracing::debug!(%error, "journal {} keeps its room", self.path.display()),
        }
    }

    /// Nothing stands behind the last whole line: half a line must not be in front of the next one.
    fn repair(&self, file: &File) -> Result<(), Error> {
        let found = file.metadata().map_err(io_error("write", &self.path))?.len();
        if found < self.length {
            let message = format!("it has {found} bytes of the {} that were written", self.length);
            return Err(io_error("write", &self.path)(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
        }
        if found > self.length {
            file.set_len(self.length).map_err(io_error("repair", &self.path))?;
        }
        Ok(())
    }

    /// Room for a line of this length, and for what may have to follow.
    fn reserve(&mut self, file: &File, line: u64) -> io::Result<()> {
        if self.length + line + RESERVE <= self.reserved {
            return Ok(());
        }
        // Twice as much as there must be, so that not every line asks for more.
        let room = line + 2 * RESERVE;
        allocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, self.length, room)?;
        self.reserved = self.length + room;
        Ok(())
    }
}

/// A file system that cannot keep room free is taken as it is.
fn allocate(file: &File, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
    match fallocate(file, flags, offset.cast_signed(), length.cast_signed()) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
