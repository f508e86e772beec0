//! How a live migration that runs will go on: what a sample has left is played through with what the policy still may do.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{
    Course, End, Ladder, Measured,
    forecast::{HANDOVER, Start, seconds},
};
use crate::migration::{Mode, Progress};

/// The rest of a migration, as it is likely now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// What the policy will do in the end; `None`: it will not have to.
    pub end: Option<End>,
    /// Until libvirt's job is over, one way or the other.
    pub rest: Duration,
    /// For how long the guest will stand still in all. None if it stays where it is.
    pub downtime: Duration,
}

/// What else is known as a sample comes.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The policy as it is being carried out; `None`: it is not known yet.
    pub ladder: Option<Ladder>,
    /// What the guest was measured to write per second: of use until the job tells it.
    pub dirty_rate: Option<ByteSize>,
    /// The sample's round, and when it was first seen.
    pub round: (u32, Duration),
    /// When the guest was first seen to be stopped.
    pub stopped: Option<Duration>,
}

/// From how far away steps are longer than the agent's own: a 32nd of the way.
const GRAIN: f64 = 1.0 / 32.0;

impl Outlook {
    /// By what is left, sent per second and written to per second. `None` while one of them is not known.
    pub fn of(sample: &Progress, known: &Known) -> Option<Self> {
        let rate = sample.rate.as_u64();
        if sample.round == 0 || rate == 0 || sample.shutting_down.is_some() {
            return None;
        }
        let [left, rate] = [sample.remaining.as_u64(), rate].map(|bytes| bytes as f64);
        match sample.mode {
            Mode::Precopy => {}
            // What is written where the guest has arrived is not sent any more.
            Mode::Postcopy => {
                return Some(Self { end: Some(End::Postcopy), rest: seconds(left / rate), downtime: HANDOVER });
            }
            // Nobody knows when the way will be there again.
            Mode::Broken => return None,
        }
        if let Some(stopped) = known.stopped {
            let rest = seconds(left / rate).saturating_add(HANDOVER);
            return Some(Self {
                end: None,
                rest,
                downtime: sample.elapsed.saturating_sub(stopped).saturating_add(rest),
            });
        }
        // 0 is also what libvirt says before QEMU has counted; in the first round it says nothing else.
        let told = Some(sample.dirty_rate).filter(|rate| rate.as_u64() > 0);
        let unknown = (sample.round > 1).then(ByteSize::default);
        let dirty_rate = told.or(known.dirty_rate).or(unknown)?.as_u64() as f64;
        // Without a last step it might be played for ever: that one is being taken.
        let ladder = known.ladder.clone().filter(|ladder| ladder.deadline().is_some())?;
        let time = sample.elapsed.as_secs_f64();
        let began = if known.round.0 == sample.round { known.round.1.as_secs_f64() } else { time };
        let start = Start { time, round: sample.round, left, began, grain: GRAIN };
        // It has no more to write to than it has.
        let memory = Measured { memory: sample.total, resident: sample.remaining, ..Measured::default() };
        let Course { end, total, downtime, .. } =
            Course::play_on(&memory, start, ladder, |_| rate, |time| time * dirty_rate);
        Some(Self { end, rest: total.saturating_sub(sample.elapsed), downtime })
    }
}

/// Looks ahead while a job runs. Those who know something say so here; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Foresight(Arc<Mutex<Known>>);

impl Foresight {
    /// The policy, as it is now.
    pub fn show(&self, ladder: &Ladder) {
        self.known().ladder = Some(ladder.clone());
    }

    /// What the guest was measured to write per second.
    pub fn measured(&self, dirty_rate: ByteSize) {
        self.known().dirty_rate = Some(dirty_rate);
    }

    /// The job's next sample, with how it will go on.
    pub fn see(&self, sample: Progress) -> Progress {
        let known = {
            let mut known = self.known();
            if sample.round > known.round.0 {
                known.round = (sample.round, sample.elapsed);
            }
            known.stopped = known.stopped.or(Some(sample.elapsed)).filter(|_| sample.stopped);
            known.clone()
        };
        Progress { forecast: Outlook::of(&sample, &known), ..sample }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
