//! May this instance leave, and can that host take it? Facts in, every check with its outcome out.
//!
//! The agents gather the facts; the answers are made here, all of them, so that a refusal never hides another.

mod affinity;
mod facts;
mod filter;
mod limits;
mod network;
mod postcopy;
mod power;
mod room;
mod way;

pub use self::{
    affinity::apart,
    facts::{DestinationFacts, SourceFacts},
    filter::differs as filter_differs,
    limits::{may_be_told, within as within_limits},
    network::VifSight,
    postcopy::Postcopy,
    power::until_it_stops,
    room::room,
    way::{HANDOVER, handover_unknown, within_way},
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{CallError, Leaving},
    disk::{Disks, Sight, space},
    domain_xml::Obstacle,
    id::{HostName, MigrationId},
    reason::Reason,
};

/// One rule, asked of one host about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The host that answers.
    pub host: HostName,
    /// What was asked, in words: `memory`, `CPU`, `bridge br0`.
    pub subject: String,
    /// The answer.
    #[serde(flatten)]
    pub finding: Finding,
}

/// A check's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "finding")]
pub enum Finding {
    /// The rule holds.
    Passed {
        /// The values that were compared.
        detail: String,
    },
    /// The rule does not hold; the move is refused.
    Refused(Refusal),
}

/// Why not, and what would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// One sentence with both values.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<&CallError> for Refusal {
    /// Of a host that could not be asked.
    fn from(error: &CallError) -> Self {
        let remedy = format!("see that the agent of {} runs and can be reached, or leave it out", error.host);
        Self { reason: error.reason, message: error.message.clone(), remedy }
    }
}

impl Check {
    /// A rule that does not hold.
    pub fn refused(host: &HostName, subject: &str, refusal: Refusal) -> Self {
        Self { host: host.clone(), subject: subject.to_owned(), finding: Finding::Refused(refusal) }
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.finding {
            Finding::Passed { .. } => None,
            Finding::Refused(refusal) => Some(refusal),
        }
    }
}

/// May the instance leave for `destination`?
pub fn leaving(facts: &SourceFacts, destination: &HostName) -> Vec<Check> {
    let SourceFacts { host, definition, .. } = facts;
    let name = &definition.name;
    let mut checks = Checks::of(host);

    checks.ask("destination", *host != *destination, format!("{host} → {destination}"), || Refusal {
        reason: Reason::SameHost,
        message: format!("instance {name} already runs on {destination}"),
        remedy: "name another host with --to".into(),
    });

    checks.answer("state", power::state(facts));
    if facts.kind.is_cold() {
        checks.answer("definition", power::is_kept(facts));
        checks.answer("state in files", power::is_in_its_disks(facts));
    }

    let detail = "no other migration, no other job".to_owned();
    if let Some(id) = facts.migration {
        checks.refuse("exclusive", already_moving(name, id));
    } else {
        checks.ask("exclusive", facts.job.is_none(), detail, || Refusal {
            reason: Reason::InstanceBusy,
            message: format!("libvirt on {host} runs a job on {name}: {}", facts.job.as_deref().unwrap_or("unknown")),
            remedy: format!("wait for it to end (virsh domjobinfo {name})"),
        });
    }

    checks.ask("snapshots", facts.snapshots == 0, "none".into(), || Refusal {
        reason: Reason::SnapshotsPresent,
        message: format!("instance {name} has {} snapshots on {host}; libvirt does not migrate them", facts.snapshots),
        remedy: format!("delete them, or their metadata (virsh snapshot-delete {name} SNAPSHOT --metadata)"),
    });

    if definition.obstacles.is_empty() {
        checks.pass("devices", "none of the host's");
    }
    for obstacle in &definition.obstacles {
        let (what, remedy) = match obstacle {
            Obstacle::HostDevice { description } => (
                format!("host device {description}"),
                format!(
                    "detach it first (virsh detach-device {name}), attach an equal one on {destination} afterwards"
                ),
            ),
            Obstacle::Filesystem { target } => {
                (format!("host directory `{target}`"), "unmount it in the guest and detach it first".into())
            }
            Obstacle::SharedMemory { name } => (format!("shared memory `{name}`"), "detach it first".into()),
            Obstacle::LaunchSecurity => {
                ("memory encrypted by its host's CPU".into(), "such a guest can only be stopped and started".into())
            }
        };
        checks.refuse(
            &what,
            Refusal {
                reason: Reason::HostDevice,
                message: format!("instance {name} holds {what} of {host}, which cannot move with it"),
                remedy,
            },
        );
    }

    match &definition.labels {
        Ok(labels) if labels.is_empty() => {}
        Ok(labels) => checks.pass("volume labels", &labels.len().to_string()),
        Err(error) => checks.refuse(
            "volume labels",
            Refusal {
                reason: Reason::VolumeLabelInvalid,
                message: format!("what the definition of {name} says of its volumes cannot be read: {error}"),
                remedy: format!(
                    "remove it (vmferry volumes unset {name} --all) and say it again (vmferry volumes set)"
                ),
            },
        ),
    }

    if let Err(error) = &definition.interfaces {
        checks.refuse(
            "vif labels",
            Refusal {
                reason: Reason::VifLabelInvalid,
                message: format!("what the definition of {name} says of its vifs cannot be read: {error}"),
                remedy: format!(
                    "remove it (vmferry instance policy unset {name} --all) and say it again (vmferry instance policy set)"
                ),
            },
        );
    }
    for (mac, problem) in &facts.misplaced {
        checks.refuse(
            &format!("vif {mac}"),
            Refusal {
                reason: Reason::VifLabelInvalid,
                message: format!("vif {mac} of {name}: {problem}"),
                remedy: format!("say which it is: vmferry instance network set {name} NETWORK --vif {mac}"),
            },
        );
    }

    filter::leaving(&mut checks, facts);
    way::leaving(&mut checks, facts);
    postcopy::leaving(&mut checks, name, facts.postcopy);
    limits::leaving(&mut checks, facts);
    affinity::leaving(&mut checks, facts);

    let shown = &facts.shown;
    let sight = Sight::default();
    let kind = facts.kind;
    let disks = Disks { guest: name, disks: &definition.disks, source: host, destination, shown, sight: &sight, kind };
    for disk in &definition.disks {
        checks.answer(&format!("disk {}", disk.disk.target), disks.leaving(disk));
    }
    checks.done()
}

/// Can the host take the instance?
pub fn arriving(facts: &DestinationFacts, leaving: &Leaving) -> Vec<Check> {
    let Leaving { definition, qemu_version: source_qemu_version, .. } = leaving;
    let host = &facts.host;
    let name = &definition.name;
    let mut checks = Checks::of(host);

    if let Some(id) = facts.migration {
        // The domain that is here is the guest itself on its way.
        checks.refuse("exclusive", already_moving(name, id));
        // Whoever is silent about it counts as one who does not know it.
        way::handover(&mut checks, name, facts.kind, &facts.limits);
        return checks.done();
    }
    let free = facts.same_id.is_none() && !facts.same_name;
    checks.ask("name and UUID", free, format!("{name}, {}", definition.id), || match &facts.same_id {
        Some((other, state)) => Refusal {
            reason: Reason::DomainExists,
            message: format!("{host} already has a domain with the UUID of {name}: `{other}`, {state}"),
            remedy: format!("if it is a leftover, remove it: on {host}, virsh undefine {other}"),
        },
        None => Refusal {
            reason: Reason::DomainExists,
            message: format!("{host} already has another domain named {name}"),
            remedy: format!("rename one of them (virsh domrename {name} NEW-NAME)"),
        },
    });

    room::arriving(&mut checks, definition, facts.kind, &facts.space, facts.cordon.as_ref());

    let (arch, virt, machine) = (&definition.architecture, &definition.virt_type, &definition.machine);
    let emulator = definition.emulator.as_ref().filter(|_| facts.lacks_emulator);
    let offered = emulator.is_none() && facts.capabilities.offers(arch, virt);
    checks.ask("virtualisation", offered, format!("{virt} for {arch}"), || Refusal {
        reason: Reason::VirtTypeMissing,
        message: match emulator {
            Some(path) => format!("{host} does not have {path}, the emulator that {name} names"),
            None => format!("{host} cannot run {virt} guests for {arch}, as {name} is one"),
        },
        remedy: match virt.as_str() {
            "kvm" if emulator.is_none() => {
                format!("enable hardware virtualisation on {host}, or choose another host")
            }
            _ => format!("install the emulator for {arch} on {host}, or choose another host"),
        },
    });

    if offered {
        let known = facts.capabilities.offers_machine(arch, virt, machine);
        checks.ask("machine type", known, machine.clone(), || Refusal {
            reason: Reason::MachineTypeMissing,
            message: format!("QEMU on {host} does not know machine type {machine} of {name}"),
            remedy: format!("upgrade QEMU on {host}, or restart the guest with an older machine type"),
        });
    }
    if let Some(most) = facts.vcpus_max {
        checks.ask("vCPUs", definition.vcpus <= most, format!("{} of at most {most}", definition.vcpus), || Refusal {
            reason: Reason::TooManyVcpus,
            message: format!("{name} has {} vCPUs, {host} gives at most {most} to a {machine}", definition.vcpus),
            remedy: "choose another host".into(),
        });
    }
    match &facts.cpu {
        None => checks.pass("CPU", "the emulator's default"),
        Some(Ok(())) => checks.pass("CPU", &format!("{} gives it", facts.capabilities.cpu_model)),
        Some(Err(lacking)) => checks.refuse(
            "CPU",
            Refusal {
                reason: Reason::CpuIncompatible,
                message: format!(
                    "{host} ({}) cannot give {name} the CPU it runs on: {lacking}",
                    facts.capabilities.cpu_model
                ),
                remedy: "choose a host with that CPU, or restart the guest with a CPU model that all hosts have".into(),
            },
        ),
    }
    // Without an emulator there is no version to compare; that is refused above. A guest that is started anew needs its
    // machine type, and nothing of the QEMU that ran it.
    let new_enough = !offered || facts.kind.is_cold() || facts.qemu_version >= *source_qemu_version;
    checks.ask("QEMU version", new_enough, version_text(facts.qemu_version), || Refusal {
        reason: Reason::HypervisorTooOld,
        message: format!(
            "{host} has QEMU {}, older than {} under which {name} runs",
            version_text(facts.qemu_version),
            version_text(*source_qemu_version)
        ),
        remedy: format!("upgrade QEMU on {host}; guests move from older to newer"),
    });

    network::arriving(&mut checks, facts, definition);
    filter::arriving(&mut checks, facts, leaving);
    way::arriving(&mut checks, facts, leaving);
    postcopy::arriving(&mut checks, name, facts.postcopy);

    let disks = facts.disks(leaving);
    for disk in &definition.disks {
        if let Some(answer) = disks.arriving(disk) {
            checks.answer(&format!("disk {}", disk.disk.target), answer.map(|resolution| resolution.to_string()));
        }
    }
    for (directory, answer) in space(&disks, &disks.resolved()) {
        checks.answer(&format!("room in {directory}"), answer);
    }
    checks.done()
}

fn already_moving(name: &str, id: MigrationId) -> Refusal {
    Refusal {
        reason: Reason::InstanceMigrating,
        message: format!("instance {name} is already being moved by migration {id}"),
        remedy: format!("wait for it, or end it: vmferry migrations resolve {id}, vmferry abort {id}"),
    }
}

/// libvirt's way to put a version in a number: `major * 1,000,000 + minor * 1,000 + release`; 0 is none.
pub fn version_text(version: u64) -> String {
    if version == 0 {
        return "none".to_owned();
    }
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

/// The number of such a text; `none` is 0. None: it is no version.
pub fn version_number(text: &str) -> Option<u64> {
    if text == version_text(0) {
        return Some(0);
    }
    let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
    let number = parts.next()??.checked_mul(1_000_000)?;
    let [minor, release] = [parts.next()??, parts.next()??];
    let small = [minor, release].iter().all(|part| *part < 1_000);
    (small && parts.next().is_none()).then(|| number + minor * 1_000 + release)
}

struct Checks<'a> {
    host: &'a HostName,
    checks: Vec<Check>,
}

impl<'a> Checks<'a> {
    fn of(host: &'a HostName) -> Self {
        Self { host, checks: Vec::new() }
    }

    fn ask(&mut self, subject: &str, holds: bool, detail: String, refusal: impl FnOnce() -> Refusal) {
        let finding = if holds { Finding::Passed { detail } } else { Finding::Refused(refusal()) };
        self.checks.push(Check { host: self.host.clone(), subject: subject.to_owned(), finding });
    }

    fn pass(&mut self, subject: &str, detail: &str) {
        let finding = Finding::Passed { detail: detail.to_owned() };
        self.checks.push(Check { host: self.host.clone(), subject: subject.to_owned(), finding });
    }

    fn refuse(&mut self, subject: &str, refusal: Refusal) {
        let finding = Finding::Refused(refusal);
        self.checks.push(Check { host: self.host.clone(), subject: subject.to_owned(), finding });
    }

    fn answer(&mut self, subject: &str, answer: Result<String, Refusal>) {
        match answer {
            Ok(detail) => self.pass(subject, &detail),
            Err(refusal) => self.refuse(subject, refusal),
        }
    }

    fn done(self) -> Vec<Check> {
        self.checks
    }
}

#[cfg(test)]
mod tests;
