use std::fmt;

use serde::{Deserialize, Serialize};

/// Who lets the guest run on its destination, and when (docs/decisions/0008-strict-hand-over.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// The destination's libvirt, as soon as all has arrived. If its last answer is lost, the source's may let its own copy go on as
    /// well. What those mean who do not say.
    #[default]
    Fast,
    /// The destination's agent, once the source's copy can never run again.
    Strict,
}

impl Handover {
    /// The word in orders, records and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
