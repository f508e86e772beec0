//! Moves of real guests between real hosts while things break: `make test-faults`.
//!
//! ```text
//!  seed, number ─▶ draw ─▶ a plan: guest, fault, moment
//!                            │
//!    rig (two hosts and a guest, up from run to run) ─▶ run ─▶ inject ─▶ settle ─▶ judge ─▶ report
//!                                                        │                           ▲
//!                                                        ├─ wire: the guest's numbered frames, where they leave a host
//!                                                        ├─ vcpus: the time that both QEMUs' vCPUs get
//!                                                        └─ virsh, journals, ss, ip, nft …, tgtadm, rbd; the guest's volume and console
//! ```
//!
//! Nobody who judges asks VMFerry: its own word, the coordinator's, is what is judged.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

pub use draw::{Between, Fault, Harm, KINDS, Kind, Moment, Plan, Role, Side};
use inject::JOURNAL;
pub use report::{Bound, Broken, Run, Summary};
use rig::{GUEST, Rig};

mod draw;
mod inject;
mod judge;
mod links;
mod report;
mod rig;
mod run;
mod vcpus;
mod wire;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the end of a fault until all is over and clean.
    pub settle: Duration,
    /// For so long the agents are left alone; then somebody asks for `vmferry migrations resolve`, which breaks a bound.
    pub patience: Duration,
    /// After so long it will not be over any more.
    pub give_up: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { settle: Duration::from_secs(30), patience: Duration::from_secs(30), give_up: Duration::from_secs(70) }
    }
}

/// Makes runs, on hosts that stay up between them.
#[derive(Debug)]
pub struct Campaign {
    bounds: Bounds,
    /// What is kept of runs that broke a bound.
    kept: PathBuf,
    rig: Option<Rig>,
}

impl Campaign {
    /// Without hosts yet.
    pub fn new(bounds: Bounds, kept: &Path) -> Self {
        Self { bounds, kept: kept.to_owned(), rig: None }
    }

    /// Makes a run. Hosts on which one broke a bound are not used again.
    pub fn run(&mut self, plan: Plan) -> Result<Run> {
        let directory = self.kept.join(format!("run-{}", plan.number));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        if self.rig.as_ref().is_some_and(|rig| rig.kind != plan.kind) {
            self.down()?;
        }
        let mut rig = match self.rig.take().map_or_else(|| Rig::up(plan.kind), Ok) {
            Ok(rig) => rig,
            Err(error) => return Ok(Run::failed(plan, &error)),
        };
        let run = run::run(&mut rig, plan, &self.bounds, &directory).unwrap_or_else(|error| Run::failed(plan, &error));
        if run.broken.is_empty() {
            fs::remove_dir_all(&directory)?;
        } else {
            keep(&rig, &run, &directory)?;
        }
        if run.leaves_hosts_whole() {
            self.rig = Some(rig);
        } else {
            rig.testbed.down()?;
        }
        Ok(run)
    }

    /// Takes the hosts down.
    pub fn down(&mut self) -> Result<()> {
        self.rig.take().map_or(Ok(()), |rig| rig.testbed.down())
    }
}

/// Writes down what it takes to understand a run.
fn keep(rig: &Rig, run: &Run, directory: &Path) -> Result<()> {
    fs::write(directory.join("run.json"), serde_json::to_string_pretty(run)?)?;
    if let Ok(guest) = rig.guest() {
        fs::write(directory.join("console"), guest.console().text()?)?;
    }
    for host in rig.testbed.hosts().iter().filter(|host| host.is_up()) {
        let scripts = [
            (
                "journals",
                format!("cd {JOURNAL}; for file in $(ls -t | head -n 3); do echo \"== $file\"; cat $file; done"),
            ),
            ("log", "journalctl --no-pager --output=short-precise --lines=2000".to_owned()),
            ("qemu", format!("tail -n 200 /var/log/libvirt/qemu/{GUEST}.log")),
            ("domains", format!("virsh -q list --all; virsh -q dominfo {GUEST}; virsh -q domstate --reason {GUEST}")),
        ];
        for (name, script) in scripts {
            // One that fails does not keep the others from being kept.
            let said = host.sh(&script).unwrap_or_else(|error| format!("{error:#}"));
            fs::write(directory.join(format!("{}-{name}", host.name())), said)?;
        }
    }
    Ok(())
}
