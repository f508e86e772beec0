//! The forecast that a migration's record has: made beside the migration, from what is known soon after it has begun.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Forecast, Job, Measured, load};
use crate::migration::{Limits, Progress};

/// A forecast, and what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreseen {
    /// When it was made: since the source began its pre.
    pub after: Duration,
    /// What the guest may have of memory.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub memory: ByteSize,
    /// What it has written to at some time.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub resident: ByteSize,
    /// What it writes to per second; `None`: the migration was over before that was measured, and it was taken for nothing.
    #[serde(serialize_with = "crate::bytes::exact_if_known")]
    pub dirty_rate: Option<ByteSize>,
    /// What is sent per second.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub rate: ByteSize,
    /// Where that is from.
    pub rate_from: RateFrom,
    /// What it came to.
    pub forecast: Forecast,
}

/// From where it is known what is sent per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateFrom {
    /// From former migrations: [`usual`](super::usual).
    FormerMoves,
    /// From this one's first samples.
    ThisMove,
}

/// Gathers what a forecast takes, in whichever order it comes.
#[derive(Debug, Clone)]
pub struct Foreseer {
    limits: Limits,
    disks: ByteSize,
    copied: Vec<ByteSize>,
    memory: Option<(ByteSize, ByteSize)>,
    dirty_rate: Option<ByteSize>,
    rate: Option<(ByteSize, RateFrom)>,
}

impl Foreseer {
    /// Of a migration with these limits. Its job has so much of disks to copy, of these sizes:
    /// [`copied_by_the_job`](crate::disk::copied_by_the_job). `usual` is what was sent per second before.
    pub fn new(limits: Limits, (disks, copied): (ByteSize, Vec<ByteSize>), usual: Option<ByteSize>) -> Self {
        let rate = usual.map(|usual| (usual, RateFrom::FormerMoves));
        Self { limits, disks, copied, memory: None, dirty_rate: None, rate }
    }

    /// What the guest may have of memory, and what it has written to.
    pub fn see_memory(&mut self, memory: ByteSize, resident: ByteSize) {
        self.memory = Some((memory, resident.min(memory)));
    }

    /// What it was measured to write to per second.
    pub fn see_dirty_rate(&mut self, dirty_rate: ByteSize) {
        self.dirty_rate.get_or_insert(dirty_rate);
    }

    /// What the job itself tells, where nothing better is known yet.
    pub fn see_sample(&mut self, sample: &Progress) {
        if sample.round > 0 && sample.rate.as_u64() > 0 {
            self.rate.get_or_insert((sample.rate, RateFrom::ThisMove));
        }
        // Before QEMU has counted for a second libvirt says 0.
        if sample.round > 1 && sample.dirty_rate.as_u64() > 0 {
            self.see_dirty_rate(sample.dirty_rate);
        }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.memory.is_some() && self.dirty_rate.is_some() && self.rate.is_some()
    }

    /// The forecast, made that long after the beginning. `None` while too little is known.
    pub fn foresee(&self, after: Duration) -> Option<Foreseen> {
        let ((memory, resident), (rate, rate_from)) = (self.memory?, self.rate?);
        let measured =
            Measured { memory, resident, dirty_rate: self.dirty_rate.unwrap_or_default(), path: rate, usual: None };
        let job = Job { disks: self.disks, load: load(memory, self.copied.iter().copied()) };
        let forecast = Forecast::of(&measured, job, &self.limits.policy, self.limits.bandwidth);
        Some(Foreseen { after, memory, resident, dirty_rate: self.dirty_rate, rate, rate_from, forecast })
    }
}
