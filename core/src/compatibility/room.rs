//! Whether a host has room for one guest more, and lets it in.
//!
//! Asked twice: by the checks, and again in pre with what is claimed since then, before the guest's own claim.

use std::collections::BTreeSet;

use bytesize::ByteSize;

use super::{Check, Checks, Refusal};
use crate::{
    domain_xml::Definition,
    host::{Claim, Cordon, Space},
    id::HostName,
    migration::Kind,
    reason::Reason,
};

const ELSEWHERE: &str = "move other guests away from it, or choose another host";

/// Every question about room, with its answer.
pub fn room(
    host: &HostName,
    definition: &Definition,
    kind: Kind,
    space: &Space,
    cordon: Option<&Cordon>,
) -> Vec<Check> {
    let mut checks = Checks::of(host);
    arriving(&mut checks, definition, kind, space, cordon);
    checks.done()
}

pub(super) fn arriving(
    checks: &mut Checks<'_>,
    definition: &Definition,
    kind: Kind,
    space: &Space,
    cordon: Option<&Cordon>,
) {
    cordoned(checks, &definition.name, cordon);
    // A guest that is off and stays so takes nothing.
    if let Some(claim) = Claim::of(definition, kind, space.page_size) {
        memory(checks, definition, &claim, space);
        vcpus(checks, &definition.name, claim.vcpus, space);
        instances(checks, &definition.name, space);
        huge_pages(checks, definition, &claim, space);
    }
    pins(checks, definition, &space.cpus);
}

fn cordoned(checks: &mut Checks<'_>, name: &str, cordon: Option<&Cordon>) {
    let host = checks.host;
    match cordon {
        None => checks.pass("cordon", "none"),
        Some(Cordon { reason, by, since }) => checks.refuse(
            "cordon",
            Refusal {
                reason: Reason::HostCordoned,
                message: format!(
                    "{host} is cordoned, {name} cannot come: {reason} (says {by}, since {})",
                    since.strftime("%Y-%m-%d %H:%M UTC")
                ),
                remedy: format!("choose another host, or let guests in again: vmferry uncordon {host}"),
            },
        ),
    }
}

/// What the kernel could give now, and what may be promised: a guest need not use yet what it may have.
fn memory(checks: &mut Checks<'_>, definition: &Definition, claim: &Claim, space: &Space) {
    let (host, name) = (checks.host, &definition.name);
    let (needed, available) = (claim.ordinary(), space.memory_available);
    let (wanted, most, taken) = (claim.memory, space.capacity.memory, space.taken.memory);
    let left = ByteSize::b(most.as_u64().saturating_sub(taken.as_u64()));
    let unavailable =
        (needed > available).then(|| format!("{name} needs {needed} of memory, {host} has {available} available"));
    let promised = (wanted > left).then(|| {
        format!("{name} may have {wanted} of memory, and of the {most} that {host} may promise to guests {taken} are promised")
    });
    let short: Vec<_> = [unavailable, promised].into_iter().flatten().collect();
    let detail = format!("{needed} of {available} available, and of {left} that may be promised");
    checks.ask("memory", short.is_empty(), detail, || Refusal {
        reason: Reason::MemoryShort,
        message: short.join("; "),
        remedy: format!(
            "{ELSEWHERE}; its agent's capacity.memory_reserve and memory_overcommit say how much it may promise"
        ),
    });
}

fn vcpus(checks: &mut Checks<'_>, name: &str, wanted: u32, space: &Space) {
    let host = checks.host;
    let (most, taken) = (space.capacity.vcpus, space.taken.vcpus);
    let left = most.saturating_sub(taken);
    let detail = format!("{wanted} of {left} that may be promised");
    checks.ask("vCPUs in all", wanted <= left, detail, || Refusal {
        reason: Reason::CpusShort,
        message: format!(
            "{name} has {wanted} vCPUs, and of the {most} that {host} may promise to guests {taken} are promised"
        ),
        remedy: format!("{ELSEWHERE}; its agent's capacity.cpu_overcommit says how many it may"),
    });
}

fn instances(checks: &mut Checks<'_>, name: &str, space: &Space) {
    let (host, taken) = (checks.host, space.taken.instances);
    let Some(most) = space.capacity.instances else { return };
    checks.ask("instances", taken < most, format!("{taken} of at most {most}"), || Refusal {
        reason: Reason::HostFull,
        message: format!("{host} takes at most {most} guests and has {taken}, so {name} cannot come"),
        remedy: format!("{ELSEWHERE}; its agent's capacity.instances says how many it takes"),
    });
}

fn huge_pages(checks: &mut Checks<'_>, definition: &Definition, claim: &Claim, space: &Space) {
    let (host, name) = (checks.host, &definition.name);
    let short = |message| Refusal {
        reason: Reason::HugepagesShort,
        message,
        remedy: "set more aside there (sysctl vm.nr_hugepages), or choose another host".into(),
    };
    // Which they are is the host's to say, and it has none.
    if claim.pages.is_empty() && !definition.huge_pages.is_empty() {
        checks.refuse("huge pages", short(format!("the memory of {name} lies in huge pages, and {host} has none")));
    }
    for (size, wanted) in &claim.pages {
        let free = space.pages.get(size).map_or(0, |pages| pages.free);
        let size = ByteSize::kib(*size);
        let detail = format!("{wanted} of {free} free");
        checks.ask(&format!("huge pages of {size}"), *wanted <= free, detail, || {
            short(format!("{name} needs {wanted} huge pages of {size}, {host} has {free} free"))
        });
    }
}

fn pins(checks: &mut Checks<'_>, definition: &Definition, on: &BTreeSet<u32>) {
    let (host, name, pinned) = (checks.host, &definition.name, &definition.pinned_cpus);
    if pinned.is_empty() {
        return;
    }
    let missing: Vec<_> = pinned.difference(on).map(u32::to_string).collect();
    let detail = format!("all {} are on", pinned.len());
    checks.ask("pinned CPUs", missing.is_empty(), detail, || Refusal {
        reason: Reason::CpuPinUnavailable,
        message: format!(
            "{name} is pinned to CPUs that are not on at {host}: {} ({} are on, {} at most)",
            missing.join(", "),
            on.len(),
            on.last().copied().unwrap_or_default()
        ),
        remedy: format!("pin it to others (virsh vcpupin {name}, emulatorpin, iothreadpin), or choose another host"),
    });
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{destination, leaving_guest, refused},
        *,
    };
    use crate::{
        agent::Leaving,
        compatibility::{DestinationFacts, arriving as all},
        domain_xml::HugePages,
        host::{Capacity, Pages, Taken},
    };

    fn cordon() -> Cordon {
        Cordon {
            reason: "its fans fail".into(),
            by: "vmferry://cloud/coordinator/ops".into(),
            since: "2026-11-23T14:00:00Z".parse().expect("valid"),
        }
    }

    #[test]
    fn each_lack_of_room_has_its_reason() {
        type Change = fn(&mut DestinationFacts);
        let cases: [(Change, &[Reason]); 7] = [
            (|facts| facts.cordon = Some(cordon()), &[Reason::HostCordoned]),
            (|facts| facts.space.memory_available = ByteSize::mib(255), &[Reason::MemoryShort]),
            (|facts| facts.space.taken.memory = ByteSize::b((768 << 20) + 1), &[Reason::MemoryShort]),
            (|facts| facts.space.capacity.memory = ByteSize::b(0), &[Reason::MemoryShort]),
            (|facts| facts.space.taken.vcpus = 15, &[Reason::CpusShort]),
            (|facts| facts.space.capacity.instances = Some(3), &[Reason::HostFull]),
            (
                |facts| {
                    facts.space.taken =
                        Taken { memory: ByteSize::gib(9), vcpus: 99, instances: 99, incoming: 0, outgoing: 0 };
                    facts.space.capacity.instances = Some(3);
                    facts.cordon = Some(cordon());
                },
                &[Reason::HostCordoned, Reason::MemoryShort, Reason::CpusShort, Reason::HostFull],
            ),
        ];
        for (change, reasons) in cases {
            let mut facts = destination();
            facts.space.taken.instances = 3;
            change(&mut facts);
            assert_eq!(refused(&all(&facts, &leaving_guest())), reasons);
        }
    }

    #[test]
    fn the_last_place_is_one() {
        let mut facts = destination();
        let Leaving { definition, .. } = leaving_guest();
        facts.space.capacity =
            Capacity { memory: definition.memory, vcpus: definition.vcpus, instances: Some(1), ..Capacity::default() };
        facts.space.memory_available = definition.memory;
        assert_eq!(refused(&all(&facts, &leaving_guest())), []);
    }

    #[test]
    fn who_keeps_guests_out_and_why_is_told_with_the_remedy() {
        let facts = DestinationFacts { cordon: Some(cordon()), ..destination() };
        let checks = all(&facts, &leaving_guest());
        let refusal = checks.iter().find_map(Check::refusal).expect("refused");
        for word in ["node-31", "its fans fail", "coordinator/ops", "2026-11-23 14:00 UTC"] {
            assert!(refusal.message.contains(word), "{word}: {}", refusal.message);
        }
        assert!(refusal.remedy.contains("vmferry uncordon node-31"), "{}", refusal.remedy);
    }

    #[test]
    fn a_guest_that_stays_off_takes_nothing_but_is_kept_out_by_a_cordon() {
        let mut facts =
            DestinationFacts { space: Space::default(), kind: Kind::Cold { shutdown: None }, ..destination() };
        assert_eq!(refused(&all(&facts, &leaving_guest())), []);
        facts.cordon = Some(cordon());
        assert_eq!(refused(&all(&facts, &leaving_guest())), [Reason::HostCordoned]);
    }

    #[test]
    fn huge_pages_must_be_free_and_are_no_ordinary_memory() {
        let with = |size| {
            let mut leaving = leaving_guest();
            leaving.definition.huge_pages = vec![HugePages { size, memory: leaving.definition.memory }];
            leaving
        };
        let mut facts = destination();
        facts.space.memory_available = ByteSize::b(0);
        assert_eq!(refused(&all(&facts, &with(Some(2_048)))), [Reason::HugepagesShort]);
        assert_eq!(refused(&all(&facts, &with(None))), [Reason::MemoryShort, Reason::HugepagesShort]);
        facts.space.page_size = Some(2_048);
        facts.space.pages = [(2_048, Pages { total: 200, free: 128 })].into();
        assert_eq!(refused(&all(&facts, &with(Some(2_048)))), []);
        assert_eq!(refused(&all(&facts, &with(None))), []);
        assert_eq!(refused(&all(&facts, &with(Some(1 << 20)))), [Reason::HugepagesShort], "of the other size");
        facts.space.pages = [(2_048, Pages { total: 200, free: 127 })].into();
        assert_eq!(refused(&all(&facts, &with(Some(2_048)))), [Reason::HugepagesShort]);
    }

    #[test]
    fn cpus_that_a_guest_is_pinned_to_must_be_on() {
        let mut leaving = leaving_guest();
        leaving.definition.pinned_cpus = [1, 2, 63].into();
        let mut facts = destination();
        facts.space.cpus = [0, 1, 2, 3].into();
        let checks = all(&facts, &leaving);
        assert_eq!(refused(&checks), [Reason::CpuPinUnavailable]);
        let refusal = checks.iter().find_map(Check::refusal).expect("refused");
        assert!(refusal.message.contains("at node-31: 63 (4 are on, 3 at most)"), "{}", refusal.message);
        leaving.definition.pinned_cpus = [1, 2].into();
        assert_eq!(refused(&all(&facts, &leaving)), []);
    }
}
