//! What somebody should look at where the hosts are from.

use std::fmt;

use jiff::Timestamp;

use super::cache::Known;
use crate::render::units;

/// One thing. What is displayed says how long it has been so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Warning {
    /// A sentence that stays as it is.
    Said(String),
    /// A source does not answer, and what it said last is used.
    Away {
        /// The source.
        place: String,
        /// What came of asking it, as the rest of a sentence that begins with the place.
        why: String,
        /// How many hosts it had.
        hosts: usize,
        /// When it said so.
        since: Timestamp,
    },
    /// A source had a host a while ago.
    Gone {
        /// The source.
        place: String,
        /// The host, and when it was there last.
        known: Known,
    },
}

impl Warning {
    /// Whether who was told the other need not be told this: how a source fails may change with each question.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Away { place, since, .. }, Self::Away { place: others, since: then, .. }) => {
                (place, since) == (others, then)
            }
            (one, other) => one == other,
        }
    }

    /// What is to be said when it is so no longer.
    pub(crate) fn over(&self) -> Option<String> {
        match self {
            Self::Away { place, .. } => Some(format!("{place} answers again")),
            Self::Said(_) | Self::Gone { .. } => None,
        }
    }
}

impl From<String> for Warning {
    fn from(sentence: String) -> Self {
        Self::Said(sentence)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |then: Timestamp| units::about(Timestamp::now().duration_since(then).unsigned_abs());
        match self {
            Self::Said(sentence) => f.write_str(sentence),
            Self::Away { place, why, hosts, since } => {
                let count = units::count(u32::try_from(*hosts).unwrap_or(u32::MAX), "host");
                write!(f, "{place} {why}: {count} as of {} ago", ago(*since))
            }
            Self::Gone { place, known: Known { name, address, seen } } => write!(
                f,
                "{name} at {address} is no longer among the hosts of {place}, which had it {} ago; \
                 see whether its agent runs, unless it was taken out",
                ago(*seen)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn away(why: &str, since: Timestamp) -> Warning {
        Warning::Away { place: "etcd".into(), why: why.into(), hosts: 3, since }
    }

    #[test]
    fn what_only_grows_older_is_the_same() {
        let then = Timestamp::now() - SignedDuration::from_mins(12);
        let first = away("does not answer (refused)", then);
        assert!(first.to_string().starts_with("etcd does not answer (refused): 3 hosts as of 12 min "), "{first}");
        assert!(away("does not answer (timed out)", then).is_same(&first));
        assert!(!away("does not answer (refused)", Timestamp::now()).is_same(&first), "it was back meanwhile");
        assert_eq!(first.over().as_deref(), Some("etcd answers again"));
        let said = |sentence: &str| Warning::from(sentence.to_owned());
        assert!(said("a").is_same(&said("a")) && !said("a").is_same(&said("b")) && !said("a").is_same(&first));
    }
}
