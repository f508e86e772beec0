use std::time::Duration;

use bytesize::ByteSize;

use super::*;
use crate::{
    disk::{File, Room, Seen, Shown},
    domain_xml::{Definition, HostCapabilities, HostState, metadata::LabelError},
    host::{Capacity, Space},
    instance::{Instance, InstanceState},
    migration::{Fallback, Kind, Limits, Shutdown},
};

const DOMAIN: &str = "<domain type='qemu'><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/web.img'/><target dev='vda'/><readonly/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>
  </devices></domain>";

fn definition() -> Definition {
    Definition::parse(DOMAIN).expect("valid")
}

pub(super) fn source() -> SourceFacts {
    SourceFacts {
        host: host("node-28"),
        kind: Kind::Live,
        state: InstanceState::Active,
        crosses: false,
        persistent: true,
        saved: false,
        passing: vec![],
        migration: None,
        job: None,
        snapshots: 0,
        definition: definition(),
        misplaced: vec![],
        filters_missing: Ok(vec![]),
        shown: Shown { files: vec![image()], ..Shown::default() },
        limits: Limits::default(),
        direct: None,
        qemu_version: 7_002_000,
        postcopy: None,
        policy: None,
    }
}

fn image() -> File {
    File {
        path: "/srv/web.img".into(),
        directory: "/srv".into(),
        size: 1 << 20,
        allocated: 1 << 20,
        inode: 7,
        device: 1,
    }
}

/// What the source says.
pub(super) fn leaving_guest() -> Leaving {
    let SourceFacts { host, definition, shown, .. } = source();
    let instance = Instance {
        id: definition.id,
        name: definition.name.clone(),
        state: InstanceState::Active,
        host,
        memory: definition.memory,
        vcpus: definition.vcpus,
        persistent: true,
        disks: Vec::new(),
        vifs: Vec::new(),
        migration: None,
        problems: vec![],
        affinity: vec![],
        limits: Default::default(),
    };
    Leaving {
        instance,
        domain_xml: DOMAIN.into(),
        definition,
        qemu_version: 7_002_000,
        shown,
        autostart: true,
        members: Default::default(),
        filters: vec![],
    }
}

pub(super) fn destination() -> DestinationFacts {
    let machine = |name: &str| ("x86_64".to_owned(), "qemu".to_owned(), name.to_owned());
    DestinationFacts {
        host: host("node-31"),
        kind: Kind::Live,
        migration: None,
        same_id: None,
        same_name: false,
        space: Space {
            capacity: Capacity { memory: ByteSize::gib(1), vcpus: 16, ..Capacity::default() },
            memory_available: ByteSize::gib(1),
            ..Space::default()
        },
        cordon: None,
        capabilities: HostCapabilities {
            architecture: "x86_64".into(),
            cpu_model: "EPYC".into(),
            machines: [machine("pc-q35-7.2")].into(),
        },
        vcpus_max: Some(8),
        cpu: Some(Ok(())),
        bridges: vec!["br0".into()],
        networks: Vec::new(),
        vifs: Vec::new(),
        firewall: None,
        filters: Ok(vec![]),
        lacks_emulator: false,
        sight: Sight { files: vec![Seen { file: image(), probe: None, digest: Some("d".into()) }], ..Sight::default() },
        qemu_version: 7_002_000,
        limits: Limits::default(),
        direct: None,
        postcopy: None,
    }
}

/// The disk's image is not there, and there is no room for it.
fn no_room() -> Sight {
    let room =
        Room { path: image().path, directory: "/srv".into(), device: 90, available: ByteSize::b(0), read_only: false };
    Sight { rooms: vec![room], ..Sight::default() }
}

fn host(name: &str) -> HostName {
    name.parse().expect("valid")
}

/// The reasons refused; each must name the host and have a remedy.
pub(super) fn refused(checks: &[Check]) -> Vec<Reason> {
    let refusals = checks.iter().filter_map(|check| check.refusal().map(|refusal| (check, refusal)));
    refusals
        .map(|(check, refusal)| {
            assert!(refusal.message.contains("web"), "names the instance: {}", refusal.message);
            assert!(!refusal.remedy.is_empty(), "{check:?}");
            refusal.reason
        })
        .collect()
}

#[test]
fn a_plain_guest_may_leave_and_arrive() {
    assert_eq!(refused(&leaving(&source(), &host("node-31"))), []);
    assert_eq!(refused(&arriving(&destination(), &leaving_guest())), []);
}

#[test]
fn the_checks_say_how_each_disk_gets_there_and_what_room_there_is_for_it() {
    let mut facts = destination();
    facts.sight = no_room();
    facts.sight.rooms[0].available = ByteSize::gib(1);
    let passed: Vec<_> = arriving(&facts, &leaving_guest())
        .into_iter()
        .filter_map(|check| match check.finding {
            Finding::Passed { detail } if ["disk vda", "room in /srv"].contains(&check.subject.as_str()) => {
                Some(detail)
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        passed,
        ["/srv/web.img, read-only: 1.0 MiB to be copied", "1.0 MiB to be copied, at most 1.0 MiB; 1.0 GiB available"]
    );
}

#[test]
fn a_disk_that_the_source_keeps_is_its_refusal_alone() {
    let mut guest = leaving_guest();
    guest.definition.disks[0].transient = true;
    let checks = arriving(&destination(), &guest);
    assert!(checks.iter().all(|check| check.subject != "disk vda"), "{checks:?}");
}

#[test]
fn each_obstacle_on_the_source_has_its_reason() {
    type Change = fn(&mut SourceFacts);
    let cases: [(Change, Reason); 10] = [
        (|facts| facts.state = InstanceState::Shutoff, Reason::InstanceShutoff),
        (|facts| facts.state = InstanceState::Paused, Reason::InstancePaused),
        (|facts| facts.state = InstanceState::Crashed, Reason::InstanceNotRunnable),
        (|facts| facts.migration = "0197a000-0000-7000-8000-000000000001".parse().ok(), Reason::InstanceMigrating),
        (|facts| facts.job = Some("backup".into()), Reason::InstanceBusy),
        (|facts| facts.snapshots = 2, Reason::SnapshotsPresent),
        (|facts| facts.definition.labels = Err(LabelError::NoTarget), Reason::VolumeLabelInvalid),
        (
            |facts| facts.definition.obstacles = vec![Obstacle::HostDevice { description: "pci 0000:3b:00.0".into() }],
            Reason::HostDevice,
        ),
        (|facts| facts.definition.disks[0].transient = true, Reason::DiskKindUnsupported),
        (|facts| facts.shown.files.clear(), Reason::ProbeFailed),
    ];
    for (change, reason) in cases {
        let mut facts = source();
        change(&mut facts);
        assert_eq!(refused(&leaving(&facts, &host("node-31"))), [reason]);
    }
    assert_eq!(refused(&leaving(&source(), &host("node-28"))), [Reason::SameHost]);
}

/// Whoever resumes a guest that just arrives makes it run twice.
#[test]
fn nobody_is_told_to_resume_a_guest_that_is_paused_to_move() {
    let paused = || SourceFacts { state: InstanceState::Paused, ..source() };
    let remedies = |facts: SourceFacts| -> Vec<String> {
        leaving(&facts, &host("node-31"))
            .iter()
            .filter_map(Check::refusal)
            .map(|refusal| refusal.remedy.clone())
            .collect()
    };
    let is_told = |facts| remedies(facts).iter().any(|remedy| remedy.contains("virsh resume"));
    assert!(is_told(paused()));
    let crossing = SourceFacts { crosses: true, ..paused() };
    // No migration of ours that a drain could wait for.
    assert_eq!(refused(&leaving(&crossing, &host("node-31"))), [Reason::InstancePaused]);
    assert!(!is_told(crossing));
    let moving = SourceFacts { migration: "0197a000-0000-7000-8000-000000000001".parse().ok(), ..paused() };
    assert_eq!(refused(&leaving(&moving, &host("node-31"))), [Reason::InstanceMigrating; 2]);
    assert!(!is_told(moving));
}

const SHUTDOWN: Shutdown = Shutdown { deadline: Duration::from_secs(60), fallback: Fallback::PowerOff };

#[test]
fn a_cold_move_takes_a_guest_that_does_what_was_ordered_and_has_all_on_its_disks() {
    let cold = |shutdown, state| SourceFacts { kind: Kind::Cold { shutdown }, state, ..source() };
    let of = |facts: SourceFacts| refused(&leaving(&facts, &host("node-31")));
    assert_eq!(of(cold(Some(SHUTDOWN), InstanceState::Active)), []);
    assert_eq!(of(cold(None, InstanceState::Shutoff)), []);

    assert_eq!(of(cold(Some(SHUTDOWN), InstanceState::Shutoff)), [Reason::InstanceShutoff]);
    assert_eq!(of(cold(Some(SHUTDOWN), InstanceState::Paused)), [Reason::InstancePaused]);
    assert_eq!(of(cold(None, InstanceState::Active)), [Reason::InstanceNotRunnable]);
    assert_eq!(of(cold(None, InstanceState::Crashed)), [Reason::InstanceNotRunnable]);

    let off = || cold(None, InstanceState::Shutoff);
    assert_eq!(of(SourceFacts { persistent: false, ..off() }), [Reason::InstanceTransient]);
    assert_eq!(of(SourceFacts { saved: true, ..off() }), [Reason::InstanceSaved]);
    let passing = vec!["disk vdb (/srv/b)".to_owned()];
    assert_eq!(of(SourceFacts { passing, ..cold(Some(SHUTDOWN), InstanceState::Active) }), [Reason::InstanceTransient]);
    let mut facts = off();
    facts.definition.host_state = vec![HostState::Nvram { path: None }, HostState::Tpm];
    assert_eq!(of(facts), [Reason::HostState]);
    // What the guest wrote to it goes with the shutdown anyway.
    let mut facts = off();
    facts.definition.disks[0].transient = true;
    assert_eq!(of(facts), []);
}

#[test]
fn what_a_guest_has_only_until_it_stops_is_found() {
    let persistent = definition();
    let mut running = definition();
    assert_eq!(until_it_stops(&running, &persistent), Vec::<String>::new());
    let mut attached = running.disks[0].clone();
    attached.disk.target = "vdb".into();
    running.disks.push(attached);
    running.vifs[0].mac = "52:54:00:00:00:02".into();
    assert_eq!(until_it_stops(&running, &persistent), ["disk vdb (/srv/web.img)", "vif 52:54:00:00:00:02"]);
    // A drive that was emptied gets its medium back.
    running = definition();
    running.disks[0].disk.source = crate::instance::DiskSource::Empty;
    assert_eq!(until_it_stops(&running, &persistent), Vec::<String>::new());
}

#[test]
fn a_guest_that_stays_off_needs_no_memory_and_one_that_is_started_anew_no_new_qemu() {
    let mut facts = destination();
    facts.space.memory_available = ByteSize::b(0);
    facts.kind = Kind::Cold { shutdown: None };
    let old = Leaving { qemu_version: 8_000_000, ..leaving_guest() };
    assert_eq!(refused(&arriving(&facts, &old)), []);
    facts.kind = Kind::Cold { shutdown: Some(SHUTDOWN) };
    assert_eq!(refused(&arriving(&facts, &old)), [Reason::MemoryShort]);
}

#[test]
fn each_lack_of_the_destination_has_its_reason() {
    type Change = fn(&mut DestinationFacts);
    let cases: [(Change, Reason); 12] = [
        (|facts| facts.migration = "0197a000-0000-7000-8000-000000000001".parse().ok(), Reason::InstanceMigrating),
        (|facts| facts.lacks_emulator = true, Reason::VirtTypeMissing),
        (|facts| facts.same_id = Some(("web".into(), InstanceState::Shutoff)), Reason::DomainExists),
        (|facts| facts.same_name = true, Reason::DomainExists),
        (|facts| facts.space.memory_available = ByteSize::mib(255), Reason::MemoryShort),
        (|facts| facts.vcpus_max = Some(1), Reason::TooManyVcpus),
        (|facts| facts.cpu = Some(Err("required features: avx512f".into())), Reason::CpuIncompatible),
        (
            |facts| {
                facts.capabilities.machines =
                    [("x86_64".to_owned(), "qemu".to_owned(), "pc-q35-6.2".to_owned())].into();
            },
            Reason::MachineTypeMissing,
        ),
        (|facts| facts.capabilities.machines.clear(), Reason::VirtTypeMissing),
        (|facts| facts.bridges.clear(), Reason::NetworkMissing),
        (|facts| facts.sight.files[0].file.size = 1, Reason::DiskDiffers),
        (|facts| facts.sight = no_room(), Reason::DiskSpaceShort),
    ];
    for (change, reason) in cases {
        let mut facts = destination();
        change(&mut facts);
        assert_eq!(refused(&arriving(&facts, &leaving_guest())), [reason]);
    }
    assert_eq!(
        refused(&arriving(&destination(), &Leaving { qemu_version: 8_000_000, ..leaving_guest() })),
        [Reason::HypervisorTooOld]
    );
}

#[test]
fn no_refusal_hides_another() {
    let mut facts = source();
    facts.snapshots = 1;
    facts.definition.disks[0].transient = true;
    facts.definition.obstacles = vec![Obstacle::LaunchSecurity, Obstacle::SharedMemory { name: "shm".into() }];
    let reasons = refused(&leaving(&facts, &host("node-28")));
    assert_eq!(
        reasons,
        [
            Reason::SameHost,
            Reason::SnapshotsPresent,
            Reason::HostDevice,
            Reason::HostDevice,
            Reason::DiskKindUnsupported
        ]
    );

    let mut facts = destination();
    facts.space.memory_available = ByteSize::b(0);
    facts.bridges.clear();
    facts.cpu = Some(Err("another vendor".into()));
    facts.sight = no_room();
    let reasons = refused(&arriving(&facts, &leaving_guest()));
    assert_eq!(reasons, [Reason::MemoryShort, Reason::CpuIncompatible, Reason::NetworkMissing, Reason::DiskSpaceShort]);
}

#[test]
fn versions_read_as_people_write_them() {
    assert_eq!(version_text(7_002_022), "7.2.22");
}

#[test]
fn postcopy_needs_both_hosts() {
    let able = Postcopy { libvirt_version: 9_000_000, takes_page_faults: true };
    let old = Postcopy { libvirt_version: 8_000_000, ..able };
    let blind = Postcopy { takes_page_faults: false, ..able };
    let leaves = |postcopy| refused(&leaving(&SourceFacts { postcopy, ..source() }, &host("node-31")));
    let arrives = |postcopy| refused(&arriving(&DestinationFacts { postcopy, ..destination() }, &leaving_guest()));
    assert_eq!((leaves(Some(able)), arrives(Some(able))), (vec![], vec![]));
    assert_eq!(leaves(Some(old)), [Reason::PostcopyUnavailable]);
    // What comes is the destination's to wait for.
    assert_eq!((leaves(Some(blind)), arrives(Some(blind))), (vec![], vec![Reason::PostcopyUnavailable]));
    assert_eq!(arrives(Some(Postcopy { takes_page_faults: false, ..old })), [Reason::PostcopyUnavailable; 2]);
    assert_eq!((leaves(None), arrives(None)), (vec![], vec![]));
}

#[test]
fn postcopy_goes_by_one_stream_of_the_tunnel() {
    let refusals = |limits: Limits| refused(&leaving(&SourceFacts { limits, ..source() }, &host("node-31")));
    let policy = crate::convergence::named("postcopy").expect("it is there");
    let several = Limits { streams: 4.try_into().expect("some"), ..Limits::default() };
    assert_eq!(refusals(several.clone()), []);
    assert_eq!(refusals(Limits { policy: policy.clone(), ..several }), [Reason::PostcopyUnavailable]);
    assert_eq!(refusals(Limits { policy: policy.clone(), ..Limits::default() }), []);
    let direct = refusals(Limits { policy, path: crate::migration::Path::Direct, ..Limits::default() });
    assert!(direct.contains(&Reason::PostcopyUnavailable), "{direct:?}");
}

#[test]
fn a_host_to_which_the_guest_is_on_its_way_already_knows_how_it_is_handed_over() {
    let mut facts = destination();
    facts.migration = "0197a000-0000-7000-8000-000000000001".parse().ok();
    let subjects: Vec<_> = arriving(&facts, &leaving_guest()).into_iter().map(|check| check.subject).collect();
    assert_eq!(subjects, ["exclusive", HANDOVER]);
}
