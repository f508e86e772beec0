//! Starting programs, and telling a process of ours from another that got its number.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Runs a program to its end and returns its stdout. The error has the command line, the status and stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| missing(command))?;
    finish(command, output)
}

/// [`run`], with `input` on stdin.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(command))?;
    let mut stdin = child.stdin.take().context("stdin was asked for")?;
    let input = input.to_owned();
    // In a thread: a program that writes much before it has read all would wait for us for ever.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A program that fails without reading closes the pipe; its own message is the better one.
    let _ = writer.join();
    finish(command, output)
}

fn finish(command: &Command, output: std::process::Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}: {}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(command: &Command) -> String {
    format!("cannot start {}", line(command))
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

/// A process, with the time it started: a number alone may have passed to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id, as the machine counts.
    pub pid: i32,
    started: u64,
}

impl Process {
    /// The process that has this id now.
    pub fn find(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    /// The calling process.
    pub fn own() -> Self {
        let pid = Pid::this().as_raw();
        Self { pid, started: stat(pid).map_or(0, |(_, started)| started) }
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Sends a signal. A process that is gone is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {}", self.pid)),
        }
    }

    /// Waits until it is gone; false after `timeout`.
    pub fn wait_gone(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// State letter and start time, from `/proc/PID/stat`.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in brackets and may hold anything, brackets and blanks too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Every process for which `wanted` holds, by its directory in `/proc`.
pub(crate) fn all(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(|pid: i32| (pid, entry.path())))
        .filter(|(_, path)| wanted(path))
        .filter_map(|(pid, _)| Process::find(pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_reported_with_its_arguments_and_stderr() {
        let error = run(Command::new("sh").args(["-c", "echo no such host >&2; exit 3"])).expect_err("it exits with 3");
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("exit status: 3") && text.contains("no such host"), "{text}");
    }

    #[test]
    fn a_process_that_ended_is_not_mistaken_for_its_successor() {
        let mut child = Command::new("sleep").arg("10").spawn().expect("sleep is everywhere");
        let process = Process::find(i32::try_from(child.id()).expect("a pid is small")).expect("it has just started");
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
        process.signal(Signal::SIGKILL).expect("it is ours");
        assert!(process.wait_gone(Duration::from_secs(5)));
        child.wait().expect("it was killed");
    }
}
