//! Breaking something at the right moment, and mending it.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{
    draw::{Fault, Moment, Plan, Role, Side},
    links::{self, Harmed},
};
use crate::{
    Host, Testbed,
    finish::{Answer, InPlace},
    process::Process,
    wait,
};

/// An agent's journals.
pub(crate) const JOURNAL: &str = "/var/lib/vmferry/journal";
const STATE: &str = "/var/lib/vmferry";
const KEPT: &str = "/run/kept";
/// Of a disk that can be filled in a moment.
const SMALL: &str = "4M";

/// The journals that a host has.
pub(crate) fn journals(host: &Host) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(host.path(JOURNAL)?)?.flatten();
    let names = entries.map(|entry| PathBuf::from(entry.file_name()));
    Ok(names.filter(|name| name.extension().is_some_and(|extension| extension == "jsonl")).collect())
}

/// Who takes part in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast<'a> {
    pub(crate) testbed: &'a Testbed,
    pub(crate) source: &'a Host,
    pub(crate) destination: &'a Host,
}

impl<'a> Cast<'a> {
    pub(crate) fn on(&self, side: Side) -> &'a Host {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }
}

/// A fault that is about to happen.
#[derive(Debug)]
pub(crate) struct Injector<'a> {
    cast: Cast<'a>,
    plan: Plan,
    /// The journals that there were before the move.
    before: [BTreeSet<PathBuf>; 2],
    finish: Option<InPlace>,
    /// The agent's main process, if it is to be sent a signal: not one that it has started.
    agent: Option<Process>,
    /// When it broke.
    pub(crate) broke: Option<SystemTime>,
}

impl<'a> Injector<'a> {
    /// Makes ready what has to be ready before the move begins.
    pub(crate) fn prepare(cast: Cast<'a>, plan: Plan) -> Result<Self> {
        let finish = match plan.fault {
            Fault::FullDisk { side, .. } => {
                shrink(cast.on(side))?;
                None
            }
            Fault::LostFinish => Some(InPlace::of_libvirt(cast.destination, Answer::Lost)?),
            _ => None,
        };
        let before = [journals(cast.source)?, journals(cast.destination)?];
        let agent = match plan.fault {
            Fault::Kill { role: Role::Agent(side) } | Fault::Stop { role: Role::Agent(side), .. } => {
                let host = cast.on(side);
                Some(host.process(host.agent().main_pid()?)?)
            }
            _ => None,
        };
        Ok(Self { cast, plan, before, finish, agent, broke: None })
    }

    /// Waits for the moment, breaks it, and mends it after its time. False: `is_over` came first.
    pub(crate) fn inject(&mut self, coordinator: Process, mut is_over: impl FnMut() -> Result<bool>) -> Result<bool> {
        let begun = Instant::now();
        loop {
            // Asked first: what came before the end came in time.
            let is_over = is_over()?;
            if self.is_time(begun)? {
                break;
            }
            if is_over {
                return Ok(false);
            }
            sleep(Duration::from_millis(2));
        }
        let lasts = self.plan.fault.lasts();
        self.broke = Some(SystemTime::now());
        match self.plan.fault {
            Fault::Kill { role } => loop {
                if let Some(process) = self.find(role, coordinator)? {
                    self.broke = Some(SystemTime::now());
                    process.signal(Signal::SIGKILL)?;
                    return Ok(true);
                }
                if is_over()? {
                    return Ok(false);
                }
                sleep(Duration::from_millis(2));
            },
            Fault::Stop { role, .. } => loop {
                if let Some(process) = self.find(role, coordinator)? {
                    process.signal(Signal::SIGSTOP)?;
                    sleep(lasts);
                    process.signal(Signal::SIGCONT)?;
                    return Ok(true);
                }
                if is_over()? {
                    return Ok(false);
                }
                sleep(Duration::from_millis(2));
            },
            Fault::Link { harm, between, .. } => {
                let Cast { testbed, source, destination } = self.cast;
                let mut harmed: Harmed = links::harm(testbed, harm, between, source, destination)?;
                sleep(lasts);
                harmed.mend()?;
            }
            Fault::FullDisk { side, .. } => {
                let host = self.cast.on(side);
                fill(host)?;
                sleep(lasts);
                host.sh(&format!("rm {STATE}/other"))?;
            }
            Fault::PowerOff { side, .. } => {
                let host = self.cast.on(side);
                host.power_off()?;
                host.forget_network()?;
                sleep(lasts);
                host.power_on()?;
            }
            Fault::LostFinish => {}
        }
        Ok(true)
    }

    /// Takes back what was made ready. When nothing moves any more.
    pub(crate) fn clear(self) -> Result<()> {
        drop(self.finish);
        match self.plan.fault {
            Fault::FullDisk { side, .. } => enlarge(self.cast.on(side)),
            _ => Ok(()),
        }
    }

    fn is_time(&self, begun: Instant) -> Result<bool> {
        if let Some(finish) = &self.finish {
            return Ok(finish.is_seen());
        }
        Ok(match self.plan.moment {
            Moment::After { millis } => begun.elapsed() >= Duration::from_millis(millis),
            Moment::Entry { side, count } => {
                let before = &self.before[usize::from(side == Side::Destination)];
                let host = self.cast.on(side);
                match journals(host)?.difference(before).next() {
                    // It may be rewritten in this moment.
                    Some(name) => {
                        fs::read_to_string(host.path(JOURNAL)?.join(name)).unwrap_or_default().lines().count() >= count
                    }
                    None => false,
                }
            }
        })
    }

    fn find(&self, role: Role, coordinator: Process) -> Result<Option<Process>> {
        let (side, name) = match role {
            Role::Coordinator => return Ok(Some(coordinator)),
            Role::Agent(_) => return Ok(self.agent),
            Role::Carrier(side) => (side, "vmferry-carrier"),
            Role::Libvirtd(side) => (side, "libvirtd"),
            Role::Qemu(side) => (side, "qemu-system-x86"),
        };
        Ok(self.cast.on(side).processes(name)?.pop())
    }
}

/// Puts an agent's state on a disk of its own, which is small.
fn shrink(host: &Host) -> Result<()> {
    host.agent().stop()?;
    host.sh(&format!(
        "cp -a {STATE} {KEPT} && mount -t tmpfs -o size={SMALL} small {STATE} && cp -a {KEPT}/. {STATE} && rm -r {KEPT}"
    ))?;
    host.agent().start()
}

/// Puts it back.
fn enlarge(host: &Host) -> Result<()> {
    host.agent().stop()?;
    host.sh(&format!(
        "cp -a {STATE} {KEPT} && umount {STATE} && rm -r {STATE} && cp -a {KEPT} {STATE} && rm -r {KEPT}"
    ))?;
    host.agent().start()
}

fn fill(host: &Host) -> Result<()> {
    // A half that ends just now gives back what its journal kept.
    wait::until(&format!("a full disk on {}", host.name()), wait::SOON, || {
        let left = host.sh(&format!(
            "dd if=/dev/zero bs=4k 2>/dev/null >>{STATE}/other || true; df --output=avail {STATE} | tail -1"
        ))?;
        Ok((left.trim() == "0").then_some(()))
    })
}
