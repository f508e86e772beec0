//! Job statistics in libvirt's units, made into ours.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    time::Duration,
};

use bytesize::ByteSize;
use virt_sys as sys;
use vmferry_core::migration::{Mode, Progress, Statistics};

/// A job's numbers by libvirt's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params(HashMap<CString, u64>);

impl Params {
    pub(super) fn insert(&mut self, name: &CStr, number: u64) {
        self.0.insert(name.to_owned(), number);
    }

    /// The job's `virDomainJobOperation`.
    pub(super) fn operation(&self) -> u32 {
        u32::try_from(self.number(sys::VIR_DOMAIN_JOB_OPERATION)).unwrap_or(sys::VIR_DOMAIN_JOB_OPERATION_UNKNOWN)
    }

    pub(super) fn is_migration_out(&self) -> bool {
        self.operation() == sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    }

    /// A sample of the job. What libvirt does not say (yet) is zero; but that the guest's memory is still to come while disks
    /// are copied.
    pub(super) fn progress(&self, memory: ByteSize) -> Progress {
        let copies_disks_first =
            self.number(sys::VIR_DOMAIN_JOB_DISK_TOTAL) > 0 && self.number(sys::VIR_DOMAIN_JOB_MEMORY_TOTAL) == 0;
        let to_come = if copies_disks_first { memory.as_u64() } else { 0 };
        let with_memory = |name| ByteSize::b(self.number(name).saturating_add(to_come));
        // libvirt counts pages per second here, bytes everywhere else.
        let dirty_rate = self
            .number(sys::VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE)
            .saturating_mul(self.number(sys::VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE));
        let rate =
            self.number(sys::VIR_DOMAIN_JOB_MEMORY_BPS).saturating_add(self.number(sys::VIR_DOMAIN_JOB_DISK_BPS));
        Progress {
            shutting_down: None,
            elapsed: self.duration(sys::VIR_DOMAIN_JOB_TIME_ELAPSED),
            // `data_*` is memory and disks together.
            total: with_memory(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
            remaining: with_memory(sys::VIR_DOMAIN_JOB_DATA_REMAINING),
            transferred: self.bytes(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
            rate: ByteSize::b(rate),
            dirty_rate: ByteSize::b(dirty_rate),
            round: self.round(),
            throttle: u8::try_from(self.number(sys::VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE)).unwrap_or(100),
            stopped: false,
            mode: Mode::Precopy,
            percent: 0,
            forecast: None,
        }
    }

    /// What a completed job measured. The downtime includes the destination's part: libvirt learns it from there.
    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            total_time: self.duration(sys::VIR_DOMAIN_JOB_TIME_ELAPSED),
            downtime: self.duration(sys::VIR_DOMAIN_JOB_DOWNTIME),
            transferred: self.bytes(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
            total: self.bytes(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
            rounds: self.round(),
        }
    }

    /// What QEMU has counted, in MiB per second; `None` while it counts.
    pub(super) fn dirty_rate(&self) -> Option<u64> {
        let status = self.number(sys::VIR_DOMAIN_STATS_DIRTYRATE_CALC_STATUS);
        (status == u64::from(sys::VIR_DOMAIN_DIRTYRATE_MEASURED))
            .then(|| self.number(sys::VIR_DOMAIN_STATS_DIRTYRATE_MEGABYTES_PER_SECOND))
    }

    fn number(&self, name: &CStr) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn bytes(&self, name: &CStr) -> ByteSize {
        ByteSize::b(self.number(name))
    }

    fn duration(&self, name: &CStr) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn round(&self) -> u32 {
        u32::try_from(self.number(sys::VIR_DOMAIN_JOB_MEMORY_ITERATION)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(numbers: &[(&CStr, u64)]) -> Params {
        let mut params = Params::default();
        for (name, number) in numbers {
            params.insert(name, *number);
        }
        params
    }

    #[test]
    fn dirty_pages_become_bytes_and_milliseconds_become_durations() {
        let progress = params(&[
            (c"time_elapsed", 1_500),
            (c"data_total", 268_435_456),
            (c"data_remaining", 1_048_576),
            (c"data_processed", 300_000_000),
            (c"memory_bps", 40_000_000),
            (c"disk_bps", 2_000_000),
            (c"memory_dirty_rate", 6_400),
            (c"memory_page_size", 4_096),
            (c"memory_iteration", 3),
            (c"auto_converge_throttle", 30),
        ])
        .progress(ByteSize::gib(1));
        let expected = Progress {
            shutting_down: None,
            elapsed: Duration::from_millis(1_500),
            total: ByteSize::mib(256),
            remaining: ByteSize::mib(1),
            transferred: ByteSize::b(300_000_000),
            rate: ByteSize::b(42_000_000),
            dirty_rate: ByteSize::mib(25),
            round: 3,
            throttle: 30,
            stopped: false,
            mode: Mode::Precopy,
            percent: 0,
            forecast: None,
        };
        assert_eq!(progress, expected);
    }

    #[test]
    fn memory_is_still_to_come_while_disks_are_copied() {
        let disks = [(c"disk_total", 1_000), (c"data_total", 1_000), (c"data_remaining", 400)];
        let progress = params(&disks).progress(ByteSize::b(50));
        assert_eq!((progress.total, progress.remaining), (ByteSize::b(1_050), ByteSize::b(450)));
        let both = params(&[(c"disk_total", 1_000), (c"memory_total", 60), (c"data_total", 1_060)]);
        assert_eq!(both.progress(ByteSize::b(50)).total, ByteSize::b(1_060));
    }

    #[test]
    fn what_libvirt_does_not_say_is_zero() {
        assert_eq!(params(&[]).progress(ByteSize::gib(1)), Progress::default());
        assert_eq!(params(&[]).statistics(), Statistics::default());
        assert!(!params(&[]).is_migration_out());
    }
}
