//! The truth about a migration in flight: one file of JSON lines per migration, synced before what it names is begun.
//!
//! [`State`] is the fold of a file's entries. Whatever an agent knows of a migration it can read back from there.

mod compact;
mod file;
mod lease;
mod marks;
mod open;
mod state;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vmferry_core::{
    agent::Sighting,
    convergence::Foreseen,
    disk::Resolved,
    domain_xml::rewrite::Relocation,
    id::MigrationId,
    migration::{Cause, Event, Order, Outcome, Phase, Side, Statistics, Timeline},
    undo::Undo,
    vif::Placement,
};

use self::file::{Lines, Weight};
pub use self::{
    lease::Lessor,
    open::{Open, open},
    state::State,
};
use crate::durable;

/// The format of the entries below, one more with each entry or field that an older version of the agent would not understand. A journal
/// of a later format is refused, not guessed at; one of an earlier format is rewritten when it is taken up.
const FORMAT: u32 = 3;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The first line.
    Opened {
        /// The format of all the entries.
        format: u32,
        /// What was asked for.
        order: Order,
        /// Which half this host plays.
        side: Side,
        /// Identity of who asked.
        requested_by: String,
        /// When.
        at: Timestamp,
    },
    /// Somebody drives it from now on.
    Leased {
        /// Under which epoch.
        epoch: u64,
        /// Who.
        holder: String,
        /// When.
        at: Timestamp,
    },
    /// A phase begins.
    Begun {
        /// Which.
        phase: Phase,
        /// When.
        at: Timestamp,
    },
    /// The phase that began last went through.
    Done {
        /// How long it took.
        took: Duration,
    },
    /// A step is about to be taken; this is its reverse.
    Step(Undo),
    /// A step was taken back, or made final.
    Struck(Undo),
    /// How each disk gets to the destination.
    Resolved(Vec<Resolved>),
    /// The devices that the guest finds elsewhere here.
    Relocated(Vec<Relocation>),
    /// How its vifs are plugged in here.
    Placed(Vec<Placement>),
    /// Which of libvirt's filters were made here and are needed by the guest.
    Filters(Vec<String>),
    /// Whether this host shall start the guest with itself.
    Autostart(bool),
    /// The guest is about to be switched to postcopy: from now on it may run on the destination.
    Switching,
    /// It was not.
    Stayed,
    /// libvirt's job is over, and the guest was not stopped for it: it is not on the destination.
    Unmoved,
    /// The guest can never run on the source again: its destination is about to be told that it may there.
    Released,
    /// The destination has said that it does.
    Answered,
    /// To the destination: the source has taken its half back, and keeps the guest.
    Kept,
    /// The job finished.
    Measured(Statistics),
    /// How the job was foreseen to go.
    Foreseen(Foreseen),
    /// Something was done to it.
    Event(Event),
    /// Its samples, once it is over.
    Timeline(Timeline),
    /// Something failed.
    Failed(Cause),
    /// Something needs a look.
    Warning(String),
    /// What was to be seen of the guest at the end, or since then.
    Seen(Sighting),
    /// The last line.
    Ended {
        /// How.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
}

impl Entry {
    fn weight(&self) -> Weight {
        match self {
            Self::Opened { .. } => Weight::Opens,
            Self::Foreseen(_) | Self::Event(_) | Self::Timeline(_) => Weight::Informs,
            _ => Weight::Needed,
        }
    }

    /// Without its end of line.
    fn line(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("entries have only string keys")
    }
}

/// Of a journal's first line, what can be read of it in every format.
#[derive(Deserialize)]
struct Preamble {
    opened: Opening,
}

#[derive(Deserialize)]
struct Opening {
    format: u32,
}

/// Why a journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system says no.
    #[error("cannot {action} journal {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent uses the directory.
    #[error("{} is held by another agent: is one running? (pgrep -a vmferry-agent)", path.display())]
    Held {
        /// What says so.
        path: PathBuf,
    },
    /// A later version of the agent wrote it.
    #[error(
        "journal {} is of format {found}, and this version of the agent knows those up to {FORMAT}; install the version that wrote it, or a \
         later one",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is no journal, or was changed by somebody else.
    #[error(
        "journal {} cannot be read from line {line} on; its migration may be under way: see on which host its guest runs (virsh list), move \
         the file elsewhere, start the agent, and see what vmferry doctor finds",
        path.display()
    )]
    Garbled {
        /// The file.
        path: PathBuf,
        /// The first line that says nothing, from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
}

/// One migration's journal: where it is and what its entries amount to.
#[derive(Debug)]
pub struct Journal {
    lines: Arc<Mutex<Lines>>,
    state: State,
    lessor: Lessor,
}

impl Journal {
    /// Starts one, with room to take back what is begun. On disk when this returns.
    pub fn open(directory: &Path, order: Order, side: Side, requested_by: String) -> Result<Self, Error> {
        let path = path_of(directory, order.id);
        let opened = Entry::Opened { format: FORMAT, order, side, requested_by, at: Timestamp::now() };
        let state = State::opened(opened.clone()).expect("it is an opening entry");
        let mut journal = Self::of(Lines::create(path.clone())?, state);
        let fail = io_error("create", &path);
        let written = journal
            .write(&opened)
            .and_then(|()| File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail));
        if let Err(error) = written {
            // Nothing was begun: a repeat must find its place free.
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            return Err(error);
        }
        Ok(journal)
    }

    /// Reads one back. A last line that a crash tore is dropped: what it named was not begun.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let Told { state, format, length } = told(path)?;
        let lines = compacted(Lines::take_up(path.to_owned(), length)?, &state, format)?;
        Ok(Self::of(lines, state))
    }

    fn of(lines: Lines, mut state: State) -> Self {
        let lines = Arc::new(Mutex::new(lines));
        let lessor = Lessor::new(Arc::clone(&lines), state.record.driver.take());
        Self { lines, state, lessor }
    }

    /// Who drives, and how that is written down while the migration's task is busy.
    pub fn lessor(&self) -> Lessor {
        self.lessor.clone()
    }

    /// Adds an entry. On disk when this returns, if what follows depends on it.
    pub fn append(&mut self, entry: Entry) -> Result<(), Error> {
        self.write(&entry)?;
        self.state.apply(entry);
        if self.is_over() {
            self.lines().close();
        }
        Ok(())
    }

    /// What the entries amount to.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        self.lines().append(entry.line(), entry.weight())
    }

    fn is_over(&self) -> bool {
        self.state.outcome().is_some() && self.state.pending.is_empty()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a journal tells.
struct Told {
    state: State,
    format: u32,
    /// Of its whole lines, in bytes.
    length: u64,
}

/// Reads one and changes nothing.
fn told(path: &Path) -> Result<Told, Error> {
    let fail = |action| io_error(action, path);
    let file = File::open(path).map_err(fail("open"))?;
    let mut reader = BufReader::new(&file);
    let mut state: Option<State> = None;
    let mut format = FORMAT;
    let mut line = Vec::new();
    let mut length = 0;
    for number in 1.. {
        line.clear();
        // Bytes: a torn line may end inside a character.
        let read = reader.read_until(b'\n', &mut line).map_err(fail("read"))?;
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let garbled = |source| Error::Garbled { path: path.to_owned(), line: number, source };
        if state.is_none() {
            format = serde_json::from_slice::<Preamble>(text).map_err(garbled)?.opened.format;
            if format > FORMAT {
                return Err(Error::Format { path: path.to_owned(), found: format });
            }
        }
        let entry = serde_json::from_slice(text).map_err(garbled)?;
        match &mut state {
            None => state = State::opened(entry),
            Some(state) => state.apply(entry),
        }
        length += read as u64;
    }
    let no_line =
        || Error::Garbled { path: path.to_owned(), line: 1, source: serde::de::Error::custom("it has no line") };
    Ok(Told { state: state.ok_or_else(no_line)?, format, length })
}

/// Rewrites them if they are of an earlier format, or most of them are over.
fn compacted(lines: Lines, state: &State, format: u32) -> Result<Lines, Error> {
    let text = state.text();
    let length = text.len() as u64;
    if format == FORMAT && 2 * length > lines.length() {
        return Ok(lines);
    }
    let path = lines.path().to_owned();
    match durable::replace(&path, &text) {
        Ok(()) => Lines::take_up(path, length),
        // The longer one says the same.
        Err(error) => {
            tracing::warn!("journal {} cannot be rewritten: {error}", path.display());
            Ok(lines)
        }
    }
}

/// Makes this process the only one that uses the state directory, for as long as what is returned is held: two would spoil each other's
/// journals.
pub fn hold(state_directory: &Path) -> Result<File, Error> {
    fs::create_dir_all(state_directory).map_err(io_error("create", state_directory))?;
    let path = state_directory.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::Held { path },
        TryLockError::Error(source) => io_error("lock", &path)(source),
    })?;
    Ok(file)
}

/// Every journal of the directory. Removes what ended before `oldest`.
pub fn read_all(directory: &Path, oldest: Timestamp) -> Result<Vec<Journal>, Error> {
    fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    let mut journals = Vec::new();
    for file in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let path = file.map_err(io_error("list", directory))?.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("jsonl") => {}
            // A crash left it while one was rewritten.
            Some(durable::DRAFT) => {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                continue;
            }
            _ => continue,
        }
        // A crash while the file was made left it without its first line: nothing was begun.
        if is_stillborn(&path).map_err(io_error("read", &path))? {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            continue;
        }
        let journal = Journal::read(&path)?;
        let is_old = journal.state.record.ended.is_some_and(|ended| ended < oldest);
        if is_old && journal.is_over() {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        } else {
            journals.push(journal);
        }
    }
    Ok(journals)
}

/// Removes one that has ended.
pub fn remove(directory: &Path, id: MigrationId) -> Result<(), Error> {
    let path = path_of(directory, id);
    fs::remove_file(&path).map_err(io_error("remove", &path))
}

fn is_stillborn(path: &Path) -> io::Result<bool> {
    Ok(!fs::read(path)?.contains(&b'\n'))
}

fn path_of(directory: &Path, id: MigrationId) -> PathBuf {
    directory.join(format!("{id}.jsonl"))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
pub(super) mod tests;
