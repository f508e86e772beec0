//! What a Linux guest with volumes says about them, every ten heartbeats.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{Console, lines};
use crate::wait;

/// Block devices, mounts and their use, as the guest sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The heartbeat it follows.
    pub number: u64,
    /// The size of each disk and partition, in bytes.
    pub devices: BTreeMap<String, u64>,
    /// What is mounted from a device, by where it is mounted.
    pub mounts: BTreeMap<String, Mount>,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device: `/dev/vda1`.
    pub source: String,
    /// `ext4`.
    pub file_system: String,
    /// The line of `df -k`, split at blanks: device, size, used, available (all in KiB), use, mount point.
    pub usage: Vec<String>,
}

impl Console {
    /// All reports that are complete.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let text = self.text()?;
        let mut reports = Vec::new();
        let mut report = Report::default();
        for line in lines(&text) {
            match line.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
                ["BLOCK", _, device, sectors] => {
                    let sectors: u64 = sectors.parse().unwrap_or_default();
                    report.devices.insert((*device).to_owned(), sectors * 512);
                }
                ["MOUNT", _, source, target, file_system] => {
                    let (source, file_system) = ((*source).to_owned(), (*file_system).to_owned());
                    report.mounts.insert((*target).to_owned(), Mount { source, file_system, usage: Vec::new() });
                }
                ["DF", _, usage @ .., target] => {
                    if let Some(mount) = report.mounts.get_mut(*target) {
                        mount.usage = usage.iter().chain([target]).map(|&word| word.to_owned()).collect();
                    }
                }
                ["REPORT", number] => {
                    report.number = number.parse().unwrap_or_default();
                    reports.push(std::mem::take(&mut report));
                }
                _ => {}
            }
        }
        Ok(reports)
    }

    /// Waits for a report that the guest begins from now on.
    pub fn next_report(&self, timeout: Duration) -> Result<Report> {
        let now = self.heartbeats()?.last().map_or(0, |heartbeat| heartbeat.number);
        wait::until("a report of the guest", timeout, || {
            Ok(self.reports()?.into_iter().find(|report| report.number > now))
        })
        .map_err(|error| error.context(self.tail()))
    }

    /// Waits until the guest reads this read-only disk again, and returns the MD5 of what it reads.
    pub fn next_medium(&self, device: &str, timeout: Duration) -> Result<String> {
        let now = self.heartbeats()?.last().map_or(0, |heartbeat| heartbeat.number);
        wait::until(&format!("the guest to read {device}"), timeout, || {
            let text = self.text()?;
            let mut read = lines(&text).filter_map(|line| line.strip_prefix("MEDIUM ")?.split_once(' '));
            let later = read.find_map(|(number, read)| {
                let sum = read.strip_prefix(device)?.strip_prefix(' ')?;
                (number.parse::<u64>().ok()? > now).then(|| sum.to_owned())
            });
            Ok(later)
        })
        .map_err(|error| error.context(self.tail()))
    }

    /// Waits until the guest has acknowledged this many further writes.
    pub fn wait_for_writes(&self, count: usize, timeout: Duration) -> Result<()> {
        let wanted = self.acknowledged()?.len() + count;
        wait::until(&format!("{count} more writes"), timeout, || {
            Ok((self.acknowledged()?.len() >= wanted).then_some(()))
        })
        .map_err(|error| error.context(self.tail()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_once_it_is_complete() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text = "BLOCK 10 vda 8\nBLOCK 10 vda1 6\nMOUNT 10 /dev/vda1 / ext4\nACK 3\n\
                    DF 10 /dev/vda1 61424 17112 39144 30% /\nREPORT 10\nBLOCK 20 vda 8\n";
        std::fs::write(file.path(), text).expect("it has room");
        let reports = Console::new(file.path().to_owned()).reports().expect("readable");
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].number, reports[0].devices["vda"]), (10, 4096));
        assert_eq!(reports[0].mounts["/"].usage[1..4], ["61424", "17112", "39144"]);
    }
}
