//! What is wrong with an inventory.

use std::{fmt, path::PathBuf};

/// There is no usable inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// None was found.
    NotFound {
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// It is there, but not for us.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// It says what cannot be meant.
    Wrong {
        /// The file.
        path: PathBuf,
        /// All of it.
        problems: Vec<Problem>,
    },
    /// What it has hosts from does not say which, and that is not remembered either.
    Unavailable {
        /// Who was asked.
        place: String,
        /// What came of it, as the rest of a sentence that begins with the place.
        why: String,
        /// Why what it said before is of no use.
        forgotten: String,
    },
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key it is about, dotted; hosts count from 1. Or the line.
    pub(crate) key: String,
    /// What is wrong with it, as the rest of a sentence that begins with the key.
    pub(crate) what: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl Problem {
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.lines().count().max(1));
        Self {
            key: format!("line {line}"),
            what: format!("is not TOML: {}", error.message()),
            remedy: "correct it; `vmferry --help` has an example".into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.key, self.what, self.remedy)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { looked_at } => {
                f.write_str("no inventory: looked for ")?;
                for (number, path) in looked_at.iter().enumerate() {
                    write!(f, "{}{}", if number == 0 { "" } else { " and " }, path.display())?;
                }
                f.write_str("; write one (`vmferry --help` has an example) or name it with --inventory FILE")
            }
            Self::Unreadable { path, error } => {
                write!(f, "cannot read the inventory {}: {error}; check its permissions", path.display())
            }
            Self::Unavailable { place, why, forgotten } => write!(
                f,
                "{place} {why}, and which hosts it had is not remembered: {forgotten}; \
                 see to it, or name the hosts in an inventory with [[host]]"
            ),
            Self::Wrong { path, problems } => {
                write!(f, "the inventory {} has ", path.display())?;
                match problems.as_slice() {
                    [problem] => write!(f, "a problem: {problem}"),
                    problems => {
                        write!(f, "{} problems:", problems.len())?;
                        problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
                    }
                }
            }
        }
    }
}

impl std::error::Error for Invalid {}
