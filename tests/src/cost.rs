//! What programs cost: time, time of CPUs, memory; by the kernel's account.

use std::{
    fs,
    io::{Read as _, Seek as _},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};

/// In which the kernel counts the time of CPUs for programs, on every architecture there is today.
const TICK: Duration = Duration::from_millis(10);
/// How often memory is looked at: the kernel remembers the most of a process only as long as it lives.
const LOOK: Duration = Duration::from_millis(5);

/// What a program has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// From its start to its end.
    pub took: Duration,
    /// Of all CPUs.
    pub cpu: Duration,
    /// The most memory that it had, in MiB.
    pub peak: u64,
}

/// Runs a program to its end. Its output is nobody's, unless it fails.
pub fn of(command: &mut Command) -> Result<Cost> {
    let mut complaints = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints.try_clone()?);
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let pid = child.id();
    let process = Pid::from_raw(i32::try_from(pid)?);
    let over = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let mut memory = 0;
    while waitid(Id::Pid(process), over)? == WaitStatus::StillAlive {
        memory = peak(pid).unwrap_or(memory);
        thread::sleep(LOOK);
    }
    let took = begun.elapsed();
    // Before it is waited for: then nothing is known of it any more.
    let cost = Cost { took, cpu: cpu(pid)?, peak: memory };
    let status: ExitStatus = child.wait()?;
    let mut said = String::new();
    complaints.rewind()?;
    complaints.read_to_string(&mut said)?;
    ensure!(status.success(), "{command:?}: {status}: {said}");
    Ok(cost)
}

/// The time of CPUs that a process has had so far.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name is in brackets and may hold anything, brackets and blanks too.
    let (_, fields) = stat.rsplit_once(')').context("it has a name")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// The most memory that a process has had so far, in MiB; none: it has ended.
pub fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
    Some(kibibytes.trim().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_has_cost_is_known_after_its_end() {
        let mut command = Command::new("sh");
        let cost = of(command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])).expect("it succeeds");
        assert!(cost.cpu >= TICK && cost.cpu <= cost.took * 2 && cost.peak > 0, "{cost:?}");
        let failed = of(Command::new("sh").args(["-c", "echo oh >&2; exit 3"])).expect_err("it exits with 3");
        assert!(failed.to_string().contains("oh"), "{failed}");
    }
}
