//! Whether a host has room for a guest: memory, CPUs, huge pages, a place.

use super::{Question, runs};
use crate::{
    compatibility::Refusal,
    domain_xml::HugePages,
    host::{Capacity, Host, Offers, Room, Taken},
    id::HostName,
    reason::Reason,
};

const ELSEWHERE: &str = "move other guests away from it, or choose a host with more";

impl Question<'_> {
    /// What the kernel of the host could give, by the rule of the agents' check.
    pub(super) fn memory_available(&self, host: &Host) -> Option<Refusal> {
        let short = runs(self.wish.kind) && self.memory > host.memory_available;
        short.then(|| Refusal {
            reason: Reason::MemoryShort,
            message: format!(
                "{} needs {} of memory, {} has {} available",
                self.guest(),
                self.memory,
                host.name,
                host.memory_available
            ),
            remedy: ELSEWHERE.into(),
        })
    }

    pub(super) fn room(&self, host: &HostName, room: &Room, refusals: &mut Vec<Refusal>) {
        // What is off takes nothing.
        if !runs(self.wish.kind) {
            return;
        }
        let Room { capacity, taken, offers } = room;
        refusals.extend(self.memory_promised(host, capacity, taken));
        refusals.extend(self.vcpus(host, capacity, taken));
        refusals.extend(self.instances(host, capacity, taken));
        refusals.extend(self.definition.huge_pages.iter().filter_map(|pages| self.huge_pages(host, offers, pages)));
        refusals.extend(self.pinned(host, offers));
    }

    fn memory_promised(&self, host: &HostName, capacity: &Capacity, taken: &Taken) -> Option<Refusal> {
        let (guest, needed, taken, most) = (self.guest(), self.definition.memory, taken.memory, capacity.memory);
        let short = taken.as_u64().saturating_add(needed.as_u64()) > most.as_u64();
        (short && needed.as_u64() > 0).then(|| Refusal {
            reason: Reason::MemoryShort,
            message: format!("{guest} needs {needed} of memory, {host} has promised {taken} of {most} to others"),
            remedy: format!(
                "{ELSEWHERE}; capacity.memory_overcommit and memory_reserve of its agent say how much it may promise"
            ),
        })
    }

    fn vcpus(&self, host: &HostName, capacity: &Capacity, taken: &Taken) -> Option<Refusal> {
        let (guest, needed, taken, most) = (self.guest(), self.definition.vcpus, taken.vcpus, capacity.vcpus);
        (taken.saturating_add(needed) > most).then(|| Refusal {
            reason: Reason::CpusShort,
            message: format!("{guest} has {needed} vCPUs, {host} has promised {taken} of {most} to others"),
            remedy: ELSEWHERE.into(),
        })
    }

    fn instances(&self, host: &HostName, capacity: &Capacity, taken: &Taken) -> Option<Refusal> {
        let most = capacity.instances.filter(|most| taken.instances >= *most)?;
        Some(Refusal {
            reason: Reason::HostFull,
            message: format!(
                "{host} has {} guests of at most {most}, {} would be one more",
                taken.instances,
                self.guest()
            ),
            remedy: ELSEWHERE.into(),
        })
    }

    /// Of a size that the definition leaves to the host it is only known that it is one of the host's.
    fn huge_pages(&self, host: &HostName, offers: &Offers, pages: &HugePages) -> Option<Refusal> {
        let free = |size: u64| offers.pages.get(&size).map_or(0, |pages| pages.free);
        let enough = |size: u64| pages.count(size).is_some_and(|count| count <= free(size));
        let fits = match pages.size {
            Some(size) => enough(size),
            None => offers.pages.keys().copied().any(enough),
        };
        if fits {
            return None;
        }
        let guest = self.guest();
        let message = match pages.size {
            Some(size) => {
                let count = pages.count(size).unwrap_or_default();
                format!("{guest} needs {count} huge pages of {size} KiB, {host} has {} free", free(size))
            }
            None => {
                let there = offers.pages.iter().map(|(size, pages)| format!("{} of {size} KiB", pages.free));
                let there = there.collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none" } else { &there };
                format!("{guest} needs {} in huge pages, {host} has free: {there}", pages.memory)
            }
        };
        Some(Refusal {
            reason: Reason::HugepagesShort,
            message,
            remedy: format!("reserve more on {host} (/sys/kernel/mm/hugepages), or choose a host with more"),
        })
    }

    fn pinned(&self, host: &HostName, offers: &Offers) -> Option<Refusal> {
        let missing: Vec<_> = self.definition.pinned_cpus.difference(&offers.cpus).map(u32::to_string).collect();
        // A host without CPUs does not say which it has.
        (!missing.is_empty() && !offers.cpus.is_empty()).then(|| Refusal {
            reason: Reason::CpuPinUnavailable,
            message: format!(
                "{} is pinned to CPUs that {host}, which has {}, does not have: {}",
                self.guest(),
                offers.cpus.len(),
                missing.join(", ")
            ),
            remedy: format!("pin it to others first (virsh vcpupin {}), or choose a host with these", self.guest()),
        })
    }
}
