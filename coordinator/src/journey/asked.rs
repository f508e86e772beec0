//! What may be asked of a move, and of where it goes.

use std::time::Duration;

use bytesize::ByteSize;
use vmferry_core::{
    convergence::Policy,
    id::HostName,
    migration::{Handover, Path, Streams},
};

/// What a live migration may cost, as far as it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The name of a policy, or `auto`. None: the guest's own, or the default.
    pub(crate) policy: Option<String>,
    /// The longest time for which QEMU may let the guest stand still. None: as the policy says.
    pub(crate) max_downtime: Option<Duration>,
    /// When the policy takes its last step. None: as it says.
    pub(crate) deadline: Option<Duration>,
    /// It may be switched to postcopy by hand.
    pub(crate) postcopy: bool,
    /// What may be sent per second. None: as much as goes.
    pub(crate) bandwidth: Option<ByteSize>,
    /// Over how many streams.
    pub(crate) streams: Streams,
    /// Which way.
    pub(crate) path: Path,
    /// How the guest is handed over. None: strictly, where that can be had.
    pub(crate) handover: Option<Handover>,
}

impl Asked {
    /// How a guest that moves by this policy is handed over.
    pub(crate) fn handover(&self, policy: &Policy) -> Handover {
        match self.handover {
            Some(handover) => handover,
            None if policy.may_postcopy() => Handover::Fast,
            None => Handover::Strict,
        }
    }
}

/// Which hosts come into question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Only these. Empty: all.
    pub(crate) to: Vec<HostName>,
    /// Only those of this zone.
    pub(crate) zone: Option<String>,
    /// Not these.
    pub(crate) exclude: Vec<HostName>,
}

impl Target {
    /// This host, and nothing is left to choose.
    pub(crate) fn host(host: HostName) -> Self {
        Self { to: vec![host], ..Self::default() }
    }

    /// The one host that comes into question, if one was named and nothing was left to choose.
    pub(crate) fn only(&self) -> Option<&HostName> {
        match (self.to.as_slice(), &self.zone, self.exclude.as_slice()) {
            ([only], None, []) => Some(only),
            _ => None,
        }
    }
}
