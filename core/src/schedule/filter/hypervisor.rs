//! Whether a host's hypervisor can run a guest.

use super::{GuestCpu, Question, version_number};
use crate::{
    compatibility::{Refusal, version_text},
    host::{Host, Offers},
    id::HostName,
    migration::Kind,
    reason::Reason,
};

impl Question<'_> {
    /// Virtualisation, machine type and CPU model.
    pub(super) fn hypervisor(&self, host: &HostName, offers: &Offers, refusals: &mut Vec<Refusal>) {
        refusals.extend(self.machine(host, offers));
        refusals.extend(self.cpu_model(host, offers));
    }

    fn machine(&self, host: &HostName, offers: &Offers) -> Option<Refusal> {
        if offers.machines.contains(&self.machine) {
            return None;
        }
        let (guest, (architecture, virt_type, machine)) = (self.guest(), &self.machine);
        let is_same = |(arch, virt, _): &&(String, String, String)| arch == architecture && virt == virt_type;
        Some(if offers.machines.iter().any(|offered| is_same(&offered)) {
            Refusal {
                reason: Reason::MachineTypeMissing,
                message: format!("QEMU on {host} does not know machine type {machine} of {guest}"),
                remedy: format!("upgrade QEMU on {host}, or restart the guest with an older machine type"),
            }
        } else {
            Refusal {
                reason: Reason::VirtTypeMissing,
                message: format!("{host} cannot run {virt_type} guests for {architecture}, as {guest} is one"),
                remedy: "choose another host".into(),
            }
        })
    }

    /// Refuses only what libvirt's own comparison would: the guest runs and has all that the model has, and where it runs the model is
    /// among those that can be given, so that the lists are known to speak of it.
    fn cpu_model(&self, host: &HostName, offers: &Offers) -> Option<Refusal> {
        let Some(GuestCpu::Model { name, whole: true }) = &self.cpu else { return None };
        let here = &self.source?.room.as_ref()?.offers.cpu_models;
        let judged =
            self.wish.kind == Kind::Live && self.definition.virt_type == "kvm" && !offers.cpu_models.is_empty();
        let lacks = judged && here.contains(name) && !offers.cpu_models.contains(name);
        lacks.then(|| Refusal {
            reason: Reason::CpuIncompatible,
            message: format!("{} runs on CPU model {name}, which {host} cannot give", self.guest()),
            remedy: "choose a host with that CPU, or restart the guest with a CPU model that all hosts have".into(),
        })
    }

    /// What no host can compare is not done by itself: a guest that sees its host's own CPU goes to its like, unless somebody names the
    /// host.
    pub(super) fn own_cpu(&self, host: &Host) -> Option<Refusal> {
        let by_itself = self.wish.hosts.is_none() && self.wish.kind == Kind::Live;
        let source = self.source.filter(|_| by_itself && self.cpu == Some(GuestCpu::HostPassthrough))?;
        (source.cpu_model != host.cpu_model).then(|| Refusal {
            reason: Reason::CpuIncompatible,
            message: format!(
                "{} has the CPU of its host (host-passthrough), a {}, and {} has a {}",
                self.guest(),
                source.cpu_model,
                host.name,
                host.cpu_model
            ),
            remedy: "choose a host with that CPU, or restart the guest with a CPU model that all hosts have".into(),
        })
    }

    pub(super) fn qemu_version(&self, host: &Host) -> Option<Refusal> {
        // A guest that is started anew needs its machine type, and nothing of the QEMU that ran it.
        let there = version_number(&host.qemu_version).filter(|version| *version > 0 && !self.wish.kind.is_cold())?;
        let here = self.leaving.qemu_version;
        (there < here).then(|| Refusal {
            reason: Reason::HypervisorTooOld,
            message: format!(
                "{} has QEMU {}, older than {} under which {} runs",
                host.name,
                host.qemu_version,
                version_text(here),
                self.guest()
            ),
            remedy: format!("upgrade QEMU on {}; guests move from older to newer", host.name),
        })
    }
}
