//! Who is refused, why, and who is best.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use proptest::prelude::*;
use vmferry_core::{
    affinity::AffinityPolicy,
    agent::{CallError, Leaving},
    host::{Cordon, Host},
    migration::{Fallback, Kind, Shutdown},
    reason::Reason,
    schedule::{Candidate, Objection, Ranking, Seen, Weigher, Weights, Wish, rank},
};

use crate::fleet::{Make, group, host, name, room, seen};

fn web() -> Make {
    Make::guest("web", "node-0")
}

/// Of one host beside the guest's own.
fn reasons(wish: &Wish, leaving: &Leaving, change: impl FnOnce(&mut Host)) -> Vec<Reason> {
    let mut hosts = [host("node-0"), host("node-1")];
    change(&mut hosts[1]);
    reasons_of(&rank(wish, leaving, &seen(&hosts), &Weights::default()), "node-1")
}

fn reasons_of(ranking: &Ranking, host: &str) -> Vec<Reason> {
    let refused = ranking.refused.iter().find(|refused| refused.host == name(host));
    let reasons = refused.map(|refused| refused.refusals.iter().map(|refusal| refusal.reason).collect());
    let candidate = ranking.candidates.iter().any(|candidate| candidate.host == name(host));
    assert_eq!(candidate, reasons.is_none(), "either or: {ranking:?}");
    reasons.unwrap_or_default()
}

fn refused(make: &Make, change: impl FnOnce(&mut Host)) -> Vec<Reason> {
    reasons(&Wish::default(), &make.leaving(), change)
}

fn names(ranking: &Ranking) -> Vec<&str> {
    ranking.candidates.iter().map(|candidate| candidate.host.as_str()).collect()
}

#[test]
fn a_host_that_has_all_is_a_candidate_and_the_guests_own_never_is() {
    let hosts = [host("node-0"), host("node-1")];
    let ranking = rank(&Wish::default(), &web().leaving(), &seen(&hosts), &Weights::default());
    assert_eq!(names(&ranking), ["node-1"]);
    assert_eq!(reasons_of(&ranking, "node-0"), [Reason::SameHost], "and nothing else of it");
}

#[test]
fn silent_and_cordoned_hosts_are_never_candidates() {
    let hosts = [host("node-0"), host("node-1")];
    let error = CallError {
        host: name("node-2"),
        reason: Reason::AgentUnreachable,
        message: "the agent of node-2 did not answer in 5 s".into(),
    };
    let silent = name("node-2");
    let mut all = seen(&hosts);
    all.push(Seen { name: &silent, answer: Err(&error) });
    let ranking = rank(&Wish::default(), &web().leaving(), &all, &Weights::default());
    assert_eq!(reasons_of(&ranking, "node-2"), [Reason::AgentUnreachable]);
    assert_eq!(ranking.refused[1].refusals[0].message, error.message);

    let cordon = Cordon { reason: "new disks".into(), by: "ada".into(), since: Timestamp::UNIX_EPOCH };
    let cordoned = |host: &mut Host| host.cordon = Some(cordon);
    assert_eq!(refused(&web(), cordoned), [Reason::HostCordoned]);
}

#[test]
fn what_is_asked_for_is_kept_to_and_names_that_nobody_knows_are_told() {
    let mut hosts = [host("node-0"), host("node-1"), host("node-2"), host("node-3")];
    hosts[2].zone = "b".into();
    let of = |wish: &Wish| rank(wish, &web().leaving(), &seen(&hosts), &Weights::default());

    let zone = of(&Wish { zone: Some("b".into()), ..Wish::default() });
    assert_eq!(names(&zone), ["node-2"]);
    assert_eq!(reasons_of(&zone, "node-1"), [Reason::ZoneDiffers]);
    let without = of(&Wish { exclude: vec![name("node-1"), name("node-2")], ..Wish::default() });
    assert_eq!(names(&without), ["node-3"]);
    assert_eq!(reasons_of(&without, "node-2"), [Reason::HostExcluded]);
    let only = of(&Wish { hosts: Some(vec![name("node-2"), name("node-9")]), ..Wish::default() });
    assert_eq!(names(&only), ["node-2"]);
    assert_eq!(only.refused.len(), 1, "the others were not looked at");
    assert_eq!(reasons_of(&only, "node-9"), [Reason::HostNotFound]);
}

#[test]
fn there_is_room_for_the_guest_in_what_the_kernel_has_and_in_what_may_be_promised() {
    let make = web();
    let short = |host: &mut Host| host.memory_available = ByteSize::gib(2) - ByteSize::b(1);
    assert_eq!(refused(&make, short), [Reason::MemoryShort]);
    assert_eq!(refused(&make, |host| host.memory_available = ByteSize::gib(2)), []);
    assert_eq!(
        refused(&make, |host| room(host).taken.memory = ByteSize::gib(30) + ByteSize::b(1)),
        [Reason::MemoryShort]
    );
    assert_eq!(refused(&make, |host| room(host).taken.memory = ByteSize::gib(30)), []);
    assert_eq!(refused(&make, |host| room(host).taken.vcpus = 63), [Reason::CpusShort]);
    assert_eq!(refused(&make, |host| room(host).taken.vcpus = 62), []);
    let full = |host: &mut Host| {
        room(host).capacity.instances = Some(3);
        room(host).taken.instances = 3;
    };
    assert_eq!(refused(&make, full), [Reason::HostFull]);
    let nothing = |host: &mut Host| {
        full(host);
        host.memory_available = ByteSize::b(0);
        room(host).taken.memory = ByteSize::gib(32);
        room(host).taken.vcpus = 64;
    };
    let all = [Reason::MemoryShort, Reason::MemoryShort, Reason::CpusShort, Reason::HostFull];
    assert_eq!(refused(&make, nothing), all, "every reason, not only the first");
    let off = Wish { kind: Kind::Cold { shutdown: None }, ..Wish::default() };
    assert_eq!(reasons(&off, &make.leaving(), nothing), [], "what is off and stays off takes nothing");
    let restarted = Shutdown { deadline: Duration::from_secs(60), fallback: Fallback::GiveUp };
    let restarted = Wish { kind: Kind::Cold { shutdown: Some(restarted) }, ..Wish::default() };
    assert_eq!(reasons(&restarted, &make.leaving(), nothing), all);
}

#[test]
fn huge_pages_are_of_the_size_asked_for_and_no_ordinary_memory() {
    let backed = |pages: &str| web().with(&format!("<memoryBacking><hugepages>{pages}</hugepages></memoryBacking>"));
    let free = |size: u64, free: u64| {
        move |host: &mut Host| {
            host.memory_available = ByteSize::b(0);
            room(host).offers.pages = [(size, vmferry_core::host::Pages { total: 4_096, free })].into();
        }
    };
    let small = backed("<page size='2048'/>");
    assert_eq!(refused(&small, free(2_048, 1_024)), []);
    assert_eq!(refused(&small, free(2_048, 1_023)), [Reason::HugepagesShort]);
    assert_eq!(refused(&small, free(1 << 20, 4_096)), [Reason::HugepagesShort]);
    let hosts_own = backed("");
    assert_eq!(refused(&hosts_own, free(1 << 20, 2)), [], "of whatever size the host prefers");
    assert_eq!(refused(&hosts_own, free(1 << 20, 1)), [Reason::HugepagesShort]);
    assert_eq!(refused(&hosts_own, |host| room(host).offers.pages.clear()), [Reason::HugepagesShort]);
}

#[test]
fn a_pinned_guest_finds_its_cpus() {
    let pinned = web().with("<cputune><vcpupin vcpu='0' cpuset='14-16'/></cputune>");
    assert_eq!(refused(&pinned, |_| ()), [Reason::CpuPinUnavailable]);
    assert_eq!(refused(&pinned, |host| _ = room(host).offers.cpus.insert(16)), []);
    assert_eq!(refused(&pinned, |host| room(host).offers.cpus.clear()), [], "it does not say which it has");
}

#[test]
fn the_hypervisor_knows_the_machine_and_is_not_older() {
    let make = web();
    let machine = ("x86_64".to_owned(), "kvm".to_owned(), "pc-q35-7.2".to_owned());
    assert_eq!(refused(&make, |host| _ = room(host).offers.machines.remove(&machine)), [Reason::MachineTypeMissing]);
    let no_kvm = |host: &mut Host| room(host).offers.machines.retain(|(_, virt, _)| virt != "kvm");
    assert_eq!(refused(&make, no_kvm), [Reason::VirtTypeMissing]);
    let old = |host: &mut Host| host.qemu_version = "7.2.21".into();
    assert_eq!(refused(&make, old), [Reason::HypervisorTooOld]);
    let off = Wish { kind: Kind::Cold { shutdown: None }, ..Wish::default() };
    assert_eq!(reasons(&off, &make.leaving(), old), [], "it starts anew");
    assert_eq!(refused(&make, |host| host.qemu_version = "8.0.0".into()), []);
    for unknown in ["none", "git"] {
        assert_eq!(refused(&make, |host| host.qemu_version = unknown.into()), [], "{unknown}: its own check says");
    }
}

#[test]
fn a_cpu_is_refused_only_where_libvirts_own_comparison_would() {
    let model = |more: &str| web().with(&format!("<cpu mode='custom'><model>EPYC-Rome</model>{more}</cpu>"));
    let lacks = |host: &mut Host| room(host).offers.cpu_models.retain(|model| model != "EPYC-Rome");
    let whole = model("<feature policy='require' name='x2apic'/>");
    assert_eq!(refused(&whole, lacks), [Reason::CpuIncompatible]);
    assert_eq!(refused(&whole, |_| ()), []);
    assert_eq!(refused(&whole, |host| room(host).offers.cpu_models.clear()), [], "not known");
    assert_eq!(
        refused(&model("<feature policy='disable' name='svm'/>"), lacks),
        [],
        "it may do without what is lacking"
    );
    let mut hosts = [host("node-0"), host("node-1")];
    hosts.iter_mut().for_each(lacks);
    let of = |wish: &Wish, make: &Make, hosts: &[Host]| {
        reasons_of(&rank(wish, &make.leaving(), &seen(hosts), &Weights::default()), "node-1")
    };
    assert_eq!(of(&Wish::default(), &whole, &hosts), [], "the lists say nothing of a model that runs where it is not");
    let mut emulated = whole.leaving();
    emulated.definition.virt_type = "qemu".into();
    assert_eq!(reasons(&Wish::default(), &emulated, lacks), []);

    let own = web().with("<cpu mode='host-passthrough' check='none'/>");
    let another = |host: &mut Host| host.cpu_model = "EPYC-Genoa".into();
    assert_eq!(refused(&own, another), [Reason::CpuIncompatible]);
    assert_eq!(refused(&own, |_| ()), []);
    let named = Wish { hosts: Some(vec![name("node-1")]), ..Wish::default() };
    assert_eq!(reasons(&named, &own.leaving(), another), [], "who names a host knows what it has");
}

#[test]
fn networks_and_secrets_are_there() {
    let vif = |source: &str, kind: &str| {
        web().device(&format!(
            "<interface type='{kind}'><mac address='52:54:00:00:00:01'/><source {source}/></interface>"
        ))
    };
    let bridged = vif("bridge='br0'", "bridge");
    assert_eq!(refused(&bridged, |_| ()), []);
    assert_eq!(refused(&bridged, |host| room(host).offers.bridges.clear()), [Reason::NetworkMissing]);
    let of_libvirt = vif("network='default'", "network");
    assert_eq!(refused(&of_libvirt, |_| ()), []);
    assert_eq!(refused(&of_libvirt, |host| room(host).offers.libvirt_networks.clear()), [Reason::NetworkMissing]);

    let mut labelled = bridged.leaving();
    let blue = "blue".parse().expect("valid");
    labelled.definition.vifs[0].network = Some(blue);
    let no_bridge = |host: &mut Host| room(host).offers.bridges.clear();
    assert_eq!(reasons(&Wish::default(), &labelled, no_bridge), [], "the network is there, whatever carries it");
    let no_network = |host: &mut Host| room(host).offers.networks.clear();
    assert_eq!(reasons(&Wish::default(), &labelled, no_network), [], "only the source calls it so: a bridge will do");
    let label = vmferry_core::domain_xml::metadata::interfaces::InterfaceLabel {
        mac: "52:54:00:00:00:01".parse().expect("valid"),
        network: labelled.definition.vifs[0].network.clone(),
        policy: None,
    };
    labelled.definition.interfaces = Ok(vec![label]);
    assert_eq!(reasons(&Wish::default(), &labelled, no_network), [Reason::NetworkMissing]);

    let volume = web().device(
        "<disk type='network' device='disk'><auth username='libvirt'><secret type='ceph' usage='ceph'/></auth>
         <source protocol='rbd' name='vms/web'><host name='192.0.2.9'/></source><target dev='vda'/></disk>",
    );
    assert_eq!(refused(&volume, |_| ()), [Reason::VolumeSecretMissing]);
    let usage = vmferry_core::volume::SecretName::Usage("ceph".into());
    assert_eq!(refused(&volume, |host| _ = room(host).offers.secrets.insert(usage)), []);
}

#[test]
fn guests_are_together_and_apart_as_they_must_be() {
    let apart = web().in_group("db", AffinityPolicy::AntiAffinity);
    let together = web().in_group("db", AffinityPolicy::Affinity);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    let of = |make: &Make, hosts: &[Host]| {
        let ranking = rank(&Wish::default(), &make.leaving(), &seen(hosts), &Weights::default());
        ranking.candidates.iter().map(|candidate| candidate.host.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(&apart, &hosts), ["node-1", "node-2"]);
    assert_eq!(of(&together, &hosts), ["node-1", "node-2"], "alone it goes anywhere");
    // It runs on node-0, and is counted there.
    room(&mut hosts[0]).offers.groups.insert(group("db"), 1);
    assert_eq!(of(&together, &hosts), ["node-1", "node-2"], "it is its own company");
    room(&mut hosts[1]).offers.groups.insert(group("db"), 1);
    assert_eq!(of(&apart, &hosts), ["node-2"]);
    assert_eq!(of(&together, &hosts), ["node-1"]);
    room(&mut hosts[0]).offers.groups.insert(group("db"), 2);
    room(&mut hosts[1]).offers.groups.clear();
    assert!(of(&together, &hosts).is_empty(), "the other one is where it would go from");
    let off = Wish { kind: Kind::Cold { shutdown: None }, ..Wish::default() };
    let ranking = rank(&off, &together.leaving(), &seen(&hosts), &Weights::default());
    assert_eq!(names(&ranking), ["node-1", "node-2"], "what is off is nobody's company");

    let mut unreadable = web().leaving();
    unreadable.definition.affinity = Err(vmferry_core::domain_xml::metadata::affinity::AffinityError::Twice);
    assert_eq!(reasons(&Wish::default(), &unreadable, |_| ()), [Reason::AffinityLabelInvalid]);
}

#[test]
fn an_agent_that_is_too_old_to_say_what_it_has_is_asked_only_if_it_is_named() {
    let old = |host: &mut Host| host.room = None;
    assert_eq!(refused(&web(), old), [Reason::RoomUnknown]);
    let named = Wish { hosts: Some(vec![name("node-1")]), ..Wish::default() };
    assert_eq!(reasons(&named, &web().leaving(), old), []);
    let short = |host: &mut Host| {
        host.room = None;
        host.memory_available = ByteSize::gib(1);
    };
    assert_eq!(reasons(&named, &web().leaving(), short), [Reason::MemoryShort], "what it does say counts");
}

#[test]
fn each_refusal_names_both_values_and_a_remedy() {
    let mut hosts = [host("node-0"), host("node-1")];
    room(&mut hosts[1]).taken.vcpus = 63;
    let ranking = rank(&Wish::default(), &web().leaving(), &seen(&hosts), &Weights::default());
    let refusal = &ranking.refused[1].refusals[0];
    assert_eq!(refusal.message, "web has 2 vCPUs, node-1 has promised 63 of 64 to others");
    assert_eq!(refusal.remedy, "move other guests away from it, or choose a host with more");
}

fn part(candidate: &Candidate, weigher: Weigher) -> (f64, f64, f64) {
    let part = candidate.parts.iter().find(|part| part.weigher == weigher).expect("asked");
    (part.value, part.normalised, part.weight)
}

#[test]
fn each_weigher_is_normalised_over_the_candidates_multiplied_and_summed() {
    let mut hosts = [host("node-0"), host("node-1"), host("node-2"), host("node-3"), host("node-4")];
    for (index, host) in hosts.iter_mut().enumerate() {
        room(host).taken.memory = ByteSize::gib([0, 24, 16, 8, 32][index]);
    }
    let weights = Weights { memory: 2.0, ..Weights::default() };
    let ranking = rank(&Wish::default(), &web().leaving(), &seen(&hosts), &weights);
    assert_eq!(names(&ranking), ["node-3", "node-2", "node-1"], "node-4 is full and counts for nothing");
    let parts: Vec<_> = ranking.candidates.iter().map(|candidate| part(candidate, Weigher::Memory)).collect();
    assert_eq!(parts, [(24_576.0, 1.0, 2.0), (16_384.0, 0.5, 1.0), (8_192.0, 0.0, 0.0)]);
    for candidate in &ranking.candidates {
        assert_eq!(part(candidate, Weigher::Vcpus), (64.0, 0.0, 0.0), "all the same: nothing");
        assert_eq!(candidate.score, candidate.parts.iter().map(|part| part.weight).sum::<f64>());
    }
    let packing = Weights { memory: -1.0, ..Weights::default() };
    let ranking = rank(&Wish::default(), &web().leaving(), &seen(&hosts), &packing);
    assert_eq!(names(&ranking), ["node-1", "node-2", "node-3"]);
}

#[test]
fn the_better_host_comes_first_whatever_makes_it_better() {
    let better = |make: &Make, change: &dyn Fn(&mut Host)| {
        let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
        change(&mut hosts[2]);
        let ranking = rank(&Wish::default(), &make.leaving(), &seen(&hosts), &Weights::default());
        names(&ranking) == ["node-2", "node-1"]
    };
    assert!(!better(&web(), &|_| ()), "of equals the first by name");
    assert!(better(&web(), &|host| host.qemu_version = "8.0.0".into()));
    assert!(better(&web(), &|host| room(host).capacity.vcpus = 65));
    assert!(!better(&web(), &|host| room(host).taken.incoming = 1));
    let groups = |host: &mut Host| _ = room(host).offers.groups.insert(group("db"), 1);
    assert!(better(&web().in_group("db", AffinityPolicy::SoftAffinity), &groups));
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    room(&mut hosts[1]).taken.incoming = 1;
    groups(&mut hosts[2]);
    let soft = web().in_group("db", AffinityPolicy::SoftAntiAffinity).leaving();
    let of = |weights: &Weights| rank(&Wish::default(), &soft, &seen(&hosts), weights);
    assert_eq!(names(&of(&Weights { incoming: 0.0, ..Weights::default() })), ["node-1", "node-2"]);
    assert_eq!(names(&of(&Weights { soft_anti_affinity: 0.0, ..Weights::default() })), ["node-2", "node-1"]);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    room(&mut hosts[1]).taken.instances = 3;
    let few = Weights { instances: 1.0, ..Weights::default() };
    let of = |weights: &Weights| rank(&Wish::default(), &web().leaving(), &seen(&hosts), weights);
    assert_eq!(names(&of(&few)), ["node-2", "node-1"]);
    assert_eq!(names(&of(&Weights::default())), ["node-1", "node-2"], "it counts for nothing unless asked for");
}

#[test]
fn a_guest_stays_in_its_zone_unless_another_is_asked_for() {
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    hosts[1].zone = "b".into();
    hosts[1].qemu_version = "9.0.0".into();
    room(&mut hosts[2]).taken.memory = ByteSize::gib(28);
    room(&mut hosts[2]).taken.incoming = 3;
    let of = |wish: &Wish| rank(wish, &web().leaving(), &seen(&hosts), &Weights::default());
    assert_eq!(names(&of(&Wish::default())), ["node-2", "node-1"]);
    assert_eq!(names(&of(&Wish { zone: Some("b".into()), ..Wish::default() })), ["node-1"]);
}

#[test]
fn weights_are_finite_numbers_of_known_names() {
    let read = |text: &str| toml::from_str::<Weights>(text);
    assert_eq!(read(""), Ok(Weights::default()));
    assert_eq!(
        read("memory = -1\nsame_zone = 0.5"),
        Ok(Weights { memory: -1.0, same_zone: 0.5, ..Weights::default() })
    );
    for wrong in ["memory = inf", "memory = nan", "memry = 1", "memory = \"much\""] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for weigher in Weigher::ALL {
        let weights = read(&format!("{weigher} = 7.0")).expect("its name in the inventory");
        assert_eq!(weigher.multiplier(&weights), 7.0);
    }
}

#[test]
fn reasons_of_many_hosts_are_told_in_few_words() {
    let mut hosts: Vec<_> = (0..8).map(|number| host(&format!("node-{number}"))).collect();
    for host in &mut hosts[1..6] {
        host.memory_available = ByteSize::gib(1);
        room(host).taken.memory = ByteSize::gib(32);
    }
    room(&mut hosts[6]).taken.vcpus = 64;
    let ranking = rank(&Wish::default(), &web().leaving(), &seen(&hosts), &Weights::default());
    let objections = ranking.condensed();
    let told: Vec<_> = objections.iter().map(Objection::to_string).collect();
    assert_eq!(
        told,
        [
            "MEMORY_SHORT on node-1, node-2, node-3 and 2 more: web needs 2.0 GiB of memory, node-1 has 1.0 GiB available",
            "CPUS_SHORT on node-6: web has 2 vCPUs, node-6 has promised 64 of 64 to others",
        ]
    );
}

prop_compose! {
    fn any_host()(
        index in 1_usize..40, taken in 0_u64..40, vcpus in 0_u32..70, incoming in 0_u32..4, zone in 0_usize..2, cordoned in prop::bool::weighted(0.1),
    ) -> Host {
        let mut host = host(&format!("node-{index}"));
        host.zone = ["a", "b"][zone].into();
        host.cordon = cordoned.then(|| Cordon { reason: "r".into(), by: "b".into(), since: Timestamp::UNIX_EPOCH });
        let room = room(&mut host);
        (room.taken.memory, room.taken.vcpus, room.taken.incoming) = (ByteSize::gib(taken), vcpus, incoming);
        host
    }
}

proptest! {
    #[test]
    fn the_answer_does_not_depend_on_the_order_of_hosts(
        hosts in prop::collection::vec(any_host(), 0..12), shuffle in any::<prop::sample::Index>(),
    ) {
        let mut hosts = hosts;
        hosts.push(host("node-0"));
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        hosts.dedup_by(|one, other| one.name == other.name);
        let leaving = web().leaving();
        let ranking = rank(&Wish::default(), &leaving, &seen(&hosts), &Weights::default());
        let all = hosts.len();
        hosts.rotate_left(shuffle.index(all));
        prop_assert_eq!(&rank(&Wish::default(), &leaving, &seen(&hosts), &Weights::default()), &ranking);
        prop_assert_eq!(ranking.candidates.len() + ranking.refused.len(), all, "each host is in one of both");
        prop_assert!(ranking.refused.iter().all(|refused| !refused.refusals.is_empty()));
        prop_assert!(ranking.candidates.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for part in ranking.candidates.iter().flat_map(|candidate| &candidate.parts) {
            prop_assert!((0.0..=1.0).contains(&part.normalised), "{part:?}");
        }
    }
}
