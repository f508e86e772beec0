//! What a guest is measured to be, unless that fails.

use bytesize::ByteSize;
use vmferry_agent::hypervisor::{Fault, Measuring};
use vmferry_core::{
    migration::{Order, Progress},
    reason::Reason,
};

use super::host::Fake;

impl Measuring for Fake {
    async fn memory(&self, _: &Order) -> Result<(ByteSize, ByteSize), Fault> {
        self.measured((ByteSize::mib(256), ByteSize::mib(100)))
    }

    async fn path(&self, _: &Order) -> Result<ByteSize, Fault> {
        self.measured(ByteSize::mib(100))
    }

    async fn dirty_rate(&self, _: &Order) -> Result<ByteSize, Fault> {
        self.measured(ByteSize::mib(7))
    }
}

impl Fake {
    fn measured<T>(&self, value: T) -> Result<T, Fault> {
        if self.world.facts().is_unmeasurable {
            return Err(Fault::new(Reason::LibvirtFailed, "it cannot be measured, as asked for"));
        }
        Ok(value)
    }
}

/// What the job tells of itself: two rounds, then the guest is stopped.
pub(super) fn samples() -> [Progress; 3] {
    let sample = |millis, round, left| Progress {
        elapsed: std::time::Duration::from_millis(millis),
        total: ByteSize::mib(256),
        remaining: ByteSize::mib(left),
        transferred: ByteSize::mib(256 - left),
        rate: ByteSize::mib(100),
        dirty_rate: ByteSize::mib(if round > 1 { 20 } else { 0 }),
        round,
        ..Progress::default()
    };
    [sample(100, 1, 90), sample(300, 2, 20), Progress { stopped: true, ..sample(500, 2, 1) }]
}
