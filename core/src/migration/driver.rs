//! Who drives a migration to its end.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Cause;

/// Who drives a migration: a coordinator, or the source's agent once the lease of that one has lapsed.
///
/// The epoch keeps two from driving at the same time. What keeps the guest from running twice is in the journals, whoever drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// One more with each that takes over; the first is 1.
    pub epoch: u64,
    /// Its identity.
    pub holder: String,
    /// Since when, by the host's clock.
    pub since: Timestamp,
    /// Why it could not bring it to its end when it last tried; an agent says so, and tries again.
    #[serde(default)]
    pub trouble: Option<Cause>,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (since {}, epoch {})", self.holder, self.since, self.epoch)
    }
}
