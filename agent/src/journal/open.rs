//! Which migrations are open on a host, for those who would take the agent away from it: read beside the agent, if one runs.

use std::{ffi::OsStr, fmt, fs, io, path::Path};

use vmferry_core::{
    id::{HostName, MigrationId},
    migration::{Phase, Side},
};

use super::{Error, State, io_error, is_stillborn, told};

/// A migration that needs this host's agent still, or again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub id: MigrationId,
    /// The name of its instance.
    pub instance: String,
    /// Which half this host plays.
    pub side: Side,
    /// Which host plays the other.
    pub other: HostName,
    /// How far it is: the phase that began last.
    pub phase: Option<Phase>,
    /// Steps here that were to be taken back.
    pub pending: usize,
    /// Whether it has ended, and only these are left.
    pub has_ended: bool,
}

impl Open {
    fn of(state: &State) -> Option<Self> {
        let has_ended = state.outcome().is_some();
        if has_ended && state.pending.is_empty() {
            return None;
        }
        let order = state.order();
        let side = state.side();
        let other = match side {
            Side::Source => &order.destination,
            Side::Destination => &order.source,
        };
        Some(Self {
            id: order.id,
            instance: order.instance_name.clone(),
            side,
            other: other.host.clone(),
            phase: state.record.phases.last().map(|span| span.phase),
            pending: state.pending.len(),
            has_ended,
        })
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, instance, side, other, pending, .. } = self;
        let way = match side {
            Side::Source => "to",
            Side::Destination => "from",
        };
        write!(f, "{id}  {instance} {way} {other}: ")?;
        match self.phase {
            _ if self.has_ended => write!(f, "has ended, and {pending} steps here could not be taken back"),
            Some(phase) => write!(f, "in its phase {phase}"),
            None => write!(f, "has not begun"),
        }
    }
}

/// Those of a state directory, the oldest first. None if there is no such directory.
///
/// # Errors
/// A journal cannot be read: its migration may be open.
pub fn open(state_directory: &Path) -> Result<Vec<Open>, Error> {
    let directory = state_directory.join("journal");
    let files = match fs::read_dir(&directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", &directory)(error)),
    };
    let mut open = Vec::new();
    for file in files {
        let path = file.map_err(io_error("list", &directory))?.path();
        if path.extension().and_then(OsStr::to_str) != Some("jsonl") {
            continue;
        }
        // The agent may forget one, or be about to write its first line: nothing was begun.
        match is_stillborn(&path) {
            Ok(false) => {}
            Ok(true) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("read", &path)(error)),
        }
        open.extend(Open::of(&told(&path)?.state));
    }
    // Ids are ordered by their age.
    open.sort_by_key(|open| open.id);
    Ok(open)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use vmferry_core::{
        migration::{Outcome, Phase},
        undo::Undo,
    };

    use super::{super::tests::order, *};
    use crate::journal::{Entry, FORMAT, Journal};

    fn ended() -> Entry {
        Entry::Ended { outcome: Outcome::FailedRolledBack, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_migration_is_open_until_it_has_ended_and_nothing_of_it_is_left() {
        let state_directory = tempfile::tempdir().expect("temporary directory");
        assert_eq!(open(state_directory.path()).expect("no journals"), []);
        let directory = state_directory.path().join("journal");
        fs::create_dir(&directory).expect("made");
        let requested_by = "vmferry://t/coordinator/me".to_owned();
        let mut journal = Journal::open(&directory, order(), Side::Source, requested_by).expect("writable");
        let told = || {
            let open = open(state_directory.path()).expect("readable");
            open.iter().map(Open::to_string).collect::<Vec<_>>()
        };
        let id = order().id;
        assert_eq!(told(), [format!("{id}  web to node-31: has not begun")]);
        journal.append(Entry::Begun { phase: Phase::Pre, at: Timestamp::UNIX_EPOCH }).expect("written");
        journal.append(Entry::Step(Undo::RemoveSockets)).expect("written");
        assert_eq!(told(), [format!("{id}  web to node-31: in its phase pre")]);
        journal.append(ended()).expect("written");
        assert_eq!(told(), [format!("{id}  web to node-31: has ended, and 1 steps here could not be taken back")]);
        journal.append(Entry::Struck(Undo::RemoveSockets)).expect("written");
        assert_eq!(told(), [""; 0]);
    }

    #[test]
    fn what_a_later_version_wrote_is_told_by_both_formats_and_not_passed_over() {
        let state_directory = tempfile::tempdir().expect("temporary directory");
        let directory = state_directory.path().join("journal");
        fs::create_dir(&directory).expect("made");
        let line = format!("{{\"opened\":{{\"format\":{},\"what\":\"is not known\"}}}}\n", FORMAT + 1);
        fs::write(directory.join("0197a000-0000-7000-8000-000000000001.jsonl"), line).expect("written");
        let error = open(state_directory.path()).expect_err("from the future").to_string();
        assert!(error.contains(&format!("is of format {}", FORMAT + 1)), "{error}");
    }
}
