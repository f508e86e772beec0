//! The agent of a host, as its systemd runs it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{binaries, host::Host, wait};

const UNIT: &str = "vmferry-agent.service";

/// The agent's unit on a host.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    host: &'a Host,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host }
    }

    /// Starts it, and returns once it is ready.
    pub fn start(&self) -> Result<()> {
        self.systemctl("start")
    }

    /// Stops it in its own time.
    pub fn stop(&self) -> Result<()> {
        self.systemctl("stop")
    }

    /// Stops it, starts it, and returns once it is ready.
    pub fn restart(&self) -> Result<()> {
        self.systemctl("restart")
    }

    /// As a package does it: there is a program of another version, of as many characters, and the unit is restarted.
    pub fn upgrade(&self, version: &str) -> Result<()> {
        let program = format!("/var/lib/vmferry-agent-{version}");
        self.host.write(&program, binaries::agent_of_version(version)?)?;
        self.host.sh(&format!("chmod 755 {program} && mount --bind {program} /usr/sbin/vmferry-agent"))?;
        self.restart()
    }

    /// `kill -9`, until systemd has seen it. It starts it again after a second; with [`Agent::wait_ready`] a test
    /// sees it come back. What carries its tunnels lives on.
    pub fn kill(&self) -> Result<()> {
        self.kill_whom("main")
    }

    /// `kill -9` of the agent and of what carries its tunnels, which are cut by that.
    pub fn kill_all(&self) -> Result<()> {
        self.kill_whom("all")
    }

    fn kill_whom(&self, whom: &str) -> Result<()> {
        let killed = self.main_pid()?;
        self.host.run("systemctl", ["kill", &format!("--kill-whom={whom}"), "--signal=KILL", UNIT])?;
        // Until then the unit is still active, and whoever waits for the next agent would be told that it is there.
        wait::until("the agent's death", wait::SOON, || Ok((self.main_pid()? != killed).then_some(())))
    }

    /// `kill -9`, and it stays down until started.
    pub fn kill_for_good(&self) -> Result<()> {
        // A runtime drop-in, because stopping first would not be a crash.
        let directory = format!("/run/systemd/system/{UNIT}.d");
        self.host.write(format!("{directory}/no-restart.conf"), "[Service]\nRestart=no\n")?;
        self.host.run("systemctl", ["daemon-reload"])?;
        self.kill()?;
        wait::until("the agent's death", wait::SOON, || Ok((!self.is_active()?).then_some(())))?;
        self.host.run("rm", ["-r", &directory])?;
        self.host.run("systemctl", ["daemon-reload"]).map(drop)
    }

    /// Whether systemd calls it active.
    pub fn is_active(&self) -> Result<bool> {
        Ok(self.property("ActiveState")? == "active")
    }

    /// Its process, as the host counts.
    pub fn main_pid(&self) -> Result<i32> {
        self.property("MainPID")?.parse().context("systemd's MainPID is a number")
    }

    /// How often systemd has started it again.
    pub fn restarts(&self) -> Result<u32> {
        self.property("NRestarts")?.parse().context("systemd's NRestarts is a number")
    }

    /// What it has logged since the host's boot.
    pub fn journal(&self) -> Result<String> {
        self.host.journal(Some(UNIT))
    }

    /// Waits until it has told systemd that it is ready. The error has the end of its journal.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let what = format!("the agent of {}", self.host.name());
        wait::until(&what, timeout, || Ok(self.is_active()?.then_some(()))).map_err(|error| {
            let journal = self.journal().unwrap_or_default();
            let lines: Vec<_> = journal.lines().collect();
            error.context(format!("its journal ends:\n{}", lines[lines.len().saturating_sub(15)..].join("\n")))
        })
    }

    fn property(&self, name: &str) -> Result<String> {
        let value = self.host.run("systemctl", ["show", "--value", "--property", name, UNIT])?;
        Ok(value.trim().to_owned())
    }

    fn systemctl(&self, verb: &str) -> Result<()> {
        self.host.run("systemctl", [verb, UNIT]).map(drop).map_err(|error| match self.journal() {
            Ok(journal) => error.context(journal),
            Err(_) => error,
        })
    }
}
