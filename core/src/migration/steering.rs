//! What a migration is told while it goes on.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::convergence::{DOWNTIME, LONGEST};

/// A change by hand of a live migration that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steering {
    /// For how long QEMU may let the guest stand still, in place of what the policy says.
    Downtime(Duration),
    /// How much memory may be sent per second from now on; `None`: as much as goes. Disks keep the rate with which they began.
    Bandwidth(#[serde(serialize_with = "crate::bytes::exact_if_known")] Option<ByteSize>),
    /// When the policy's last step is taken, counted from the beginning of libvirt's job.
    Deadline(Duration),
    /// As little memory is sent as can be, [`FLOOR`]. Ends when the guest is stopped so that the rest can be sent.
    Pause,
    /// After that: as much as before.
    Resume,
    /// The guest goes on where it arrives at once; what is left is sent after it. From then on there is no way back.
    Postcopy,
    /// The guest is stopped where it is; what is left is sent, and it goes on where it arrives.
    Suspend,
}

/// What is sent per second at least, however much it is slowed down: libvirt's smallest bandwidth.
pub const FLOOR: ByteSize = ByteSize::mib(1);

/// Why a change makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSteering {
    /// QEMU cannot be told that.
    #[error(
        "{} is no time for which a guest may stand still: write {} to {}",
        humantime::format_duration(*.0), humantime::format_duration(DOWNTIME.0), humantime::format_duration(DOWNTIME.1)
    )]
    Downtime(Duration),
    /// Nothing would be sent.
    #[error("{0} per second is no bandwidth: write {FLOOR} or more; `vmferry pause` sends as little as can be")]
    Bandwidth(ByteSize),
    /// It is not ahead, or too far.
    #[error("{} is no deadline: write a time of up to a year, counted from the beginning of the move", humantime::format_duration(*.0))]
    Deadline(Duration),
}

impl Steering {
    /// The same, if it makes sense.
    pub fn judged(self) -> Result<Self, InvalidSteering> {
        match self {
            Self::Downtime(downtime) if !(DOWNTIME.0..=DOWNTIME.1).contains(&downtime) => {
                Err(InvalidSteering::Downtime(downtime))
            }
            Self::Bandwidth(Some(bandwidth)) if bandwidth < FLOOR => Err(InvalidSteering::Bandwidth(bandwidth)),
            Self::Deadline(deadline) if deadline.is_zero() || deadline > LONGEST => {
                Err(InvalidSteering::Deadline(deadline))
            }
            steering => Ok(steering),
        }
    }
}
