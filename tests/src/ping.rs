//! The blackout as the network sees it: a ping every 5 ms, and the longest time between two replies.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{layout::Layout, network::command_in};

/// A pinger in the fabric. Ends when dropped.
#[derive(Debug)]
pub struct Pinger {
    child: Child,
    log: PathBuf,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Pings sent.
    pub sent: u64,
    /// Replies, each counted once.
    pub received: u64,
    /// The longest time between two replies; the pings' own interval is 5 ms, and a busy machine adds to it.
    pub longest_gap: Duration,
    /// When it began, since the epoch.
    pub longest_gap_at: Duration,
}

/// Whether one ping is answered within 200 ms.
pub(crate) fn once(layout: &Layout, address: Ipv4Addr) -> Result<bool> {
    let mut command = command_in(&layout.fabric(), "ping");
    command.args(["-n", "-q", "-c", "1", "-W", "0.2", &address.to_string()]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("cannot start ping")?.success())
}

impl Pinger {
    pub(crate) fn start(layout: &Layout, address: Ipv4Addr) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let log = layout.run_dir().join(format!("ping-{}-{number}.log", std::process::id()));
        // -D: each line has the time at which its reply came. Counting lost pings instead would measure less than the gap.
        let mut command = command_in(&layout.fabric(), "ping");
        command.args(["-D", "-n", "-i", "0.005", &address.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(Stdio::inherit()).spawn();
        Ok(Self { child: child.context("cannot start ping")?, log })
    }

    /// What came back so far.
    pub fn so_far(&self) -> Result<Report> {
        report(&fs::read_to_string(&self.log)?)
    }

    /// Stops it and reports.
    pub fn stop(mut self) -> Result<Report> {
        self.end()?;
        self.so_far()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            // SIGINT: ping prints its summary, with the number sent.
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn report(log: &str) -> Result<Report> {
    let replies: Vec<_> = log.lines().filter(|line| !line.ends_with("(DUP!)")).filter_map(reply).collect();
    ensure!(replies.len() > 1, "the pings were not answered");
    let mut report =
        Report { sent: 0, received: replies.len() as u64, longest_gap: Duration::ZERO, longest_gap_at: Duration::ZERO };
    for pair in replies.windows(2) {
        let [(before, _), (after, _)] = pair else { continue };
        let gap = after.saturating_sub(*before);
        if gap > report.longest_gap {
            report.longest_gap = gap;
            report.longest_gap_at = *before;
        }
    }
    let summary = log.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok());
    // Still running: as many as the newest reply says.
    report.sent = summary.or_else(|| replies.iter().map(|(_, sequence)| *sequence).max()).unwrap_or_default();
    Ok(report)
}

/// Time and sequence number of `[1700000000.123456] 64 bytes from 198.51.100.100: icmp_seq=7 ttl=64 time=0.2 ms`.
fn reply(line: &str) -> Option<(Duration, u64)> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let sequence = rest.split_once("icmp_seq=")?.1.split_once(" ttl=")?.0;
    Some((Duration::try_from_secs_f64(time.parse().ok()?).ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_measured_between_replies() {
        let log = "PING 198.51.100.100\n\
            [100.000] 64 bytes from 198.51.100.100: icmp_seq=1 ttl=64 time=0.2 ms\n\
            [100.005] 64 bytes from 198.51.100.100: icmp_seq=2 ttl=64 time=0.2 ms\n\
            [100.005] From 198.51.100.1 icmp_seq=3 Destination Host Unreachable\n\
            [100.085] 64 bytes from 198.51.100.100: icmp_seq=18 ttl=64 time=0.2 ms\n\
            [100.086] 64 bytes from 198.51.100.100: icmp_seq=18 ttl=64 time=1.2 ms (DUP!)\n\n\
            --- 198.51.100.100 ping statistics ---\n\
            19 packets transmitted, 3 received, 80% packet loss, time 90ms\n";
        let report = report(log).expect("there are replies");
        assert_eq!((report.sent, report.received, report.longest_gap.as_millis()), (19, 3, 80));
        assert!(super::report("").is_err());
    }
}
