//! Whether the guest runs while it moves.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How the guest gets to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Kind {
    /// It runs on.
    #[default]
    Live,
    /// It is off while its disks and its definition move.
    Cold {
        /// It runs: it is shut down first and started on the destination, and sees a reboot. `None`: it is off and stays off.
        shutdown: Option<Shutdown>,
    },
}

/// How a guest is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// How long it may take, once asked to.
    pub deadline: Duration,
    /// What is done if it takes longer.
    pub fallback: Fallback,
}

/// What is done with a guest that does not shut itself down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Its power is cut: what it has not written yet is lost, as if its plug were pulled.
    PowerOff,
    /// It runs on, and does not move.
    GiveUp,
}

impl Kind {
    /// Whether the guest is off while it moves.
    pub fn is_cold(self) -> bool {
        matches!(self, Self::Cold { .. })
    }

    /// Whether the guest was off before, and stays so.
    pub fn stays_off(self) -> bool {
        self == Self::Cold { shutdown: None }
    }

    /// How it is shut down; `None` if it is not.
    pub fn shutdown(self) -> Option<Shutdown> {
        match self {
            Self::Live => None,
            Self::Cold { shutdown } => shutdown,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.is_cold() { "cold" } else { "live" })
    }
}
