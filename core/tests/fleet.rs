//! Hosts and guests that are made up, the same each time.

#![allow(dead_code, reason = "the bench and the tests each need a part")]

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;
use jiff::Timestamp;
use uuid::Uuid;
use vmferry_core::{
    affinity::{AffinityPolicy, GroupName, Membership},
    agent::Leaving,
    disk::Shown,
    domain_xml::{Definition, metadata::affinity},
    host::{Capacity, Host, Offers, Pages, Room, Taken},
    id::{HostName, InstanceId},
    instance::{Instance, InstanceState},
    policy::Told,
    schedule::Seen,
};

/// A name that is one.
pub(crate) fn name(text: &str) -> HostName {
    text.parse().expect("valid")
}

/// A group's name that is one.
pub(crate) fn group(text: &str) -> GroupName {
    text.parse().expect("valid")
}

/// A host in zone `a` with room for a guest of 2 GiB and 2 vCPUs sixteen times: 32 GiB and 64 vCPUs that it may promise, nothing taken.
pub(crate) fn host(text: &str) -> Host {
    Host {
        name: name(text),
        zone: "a".into(),
        agent_version: "1.0.0".into(),
        libvirt_version: "9.0.0".into(),
        qemu_version: "7.2.22".into(),
        architecture: "x86_64".into(),
        cpu_model: "EPYC-Milan".into(),
        cpus: 16,
        memory_total: ByteSize::gib(36),
        memory_available: ByteSize::gib(32),
        instances_active: 0,
        instances_total: 0,
        migrations_active: 0,
        certificate_expires: Timestamp::UNIX_EPOCH,
        cordon: None,
        room: Some(Room {
            capacity: Capacity { memory: ByteSize::gib(32), vcpus: 64, instances: None, incoming: 4, outgoing: 4 },
            taken: Taken::default(),
            offers: offers(),
        }),
        answered: None,
    }
}

/// Its room.
pub(crate) fn room(host: &mut Host) -> &mut Room {
    host.room.as_mut().expect("it has some")
}

/// What libvirt 9 and QEMU 7.2 offer on x86_64, as many as they are.
fn offers() -> Offers {
    let versions =
        (4..=12).map(|minor| (2, minor)).chain((0..=2).flat_map(|minor| (3..=7).map(move |major| (major, minor))));
    let versioned =
        versions.flat_map(|(major, minor)| ["pc-q35", "pc-i440fx"].map(|kind| format!("{kind}-{major}.{minor}")));
    let machines: Vec<_> = ["pc", "q35", "microvm", "isapc"].map(str::to_owned).into_iter().chain(versioned).collect();
    let of = |virt: &'static str| {
        machines.iter().map(move |machine| ("x86_64".to_owned(), virt.to_owned(), machine.clone()))
    };
    let models = [
        "Nehalem",
        "Westmere",
        "SandyBridge",
        "IvyBridge",
        "Haswell",
        "Broadwell",
        "Skylake-Server",
        "EPYC",
        "EPYC-Rome",
    ];
    Offers {
        machines: of("kvm").chain(of("qemu")).collect(),
        cpu_models: models
            .iter()
            .flat_map(|model| ["", "-IBRS", "-noTSX", "-v2"].map(|suffix| format!("{model}{suffix}")))
            .collect(),
        networks: ["blue", "red"].map(|network| network.parse().expect("valid")).into(),
        bridges: ["br0".to_owned()].into(),
        libvirt_networks: ["default".to_owned()].into(),
        secrets: BTreeSet::new(),
        pages: [(2_048, Pages { total: 2_048, free: 2_048 })].into(),
        cpus: (0..16).collect(),
        groups: BTreeMap::new(),
    }
}

/// A guest to be.
#[derive(Debug, Clone)]
pub(crate) struct Make {
    /// Its name, from which its UUID comes.
    pub(crate) name: String,
    /// Where it runs.
    pub(crate) host: HostName,
    /// In MiB.
    pub(crate) memory: u64,
    /// How many.
    pub(crate) vcpus: u32,
    /// Its groups.
    pub(crate) groups: Vec<(String, AffinityPolicy)>,
    /// What the domain has besides, and what its devices are besides.
    pub(crate) more: (String, String),
}

impl Make {
    /// One of 2 GiB and 2 vCPUs.
    pub(crate) fn guest(guest: &str, host: &str) -> Self {
        let nothing = (String::new(), String::new());
        Self { name: guest.to_owned(), host: name(host), memory: 2_048, vcpus: 2, groups: vec![], more: nothing }
    }

    /// In that group.
    pub(crate) fn in_group(mut self, group: &str, policy: AffinityPolicy) -> Self {
        self.groups.push((group.to_owned(), policy));
        self
    }

    /// With so much memory in MiB.
    pub(crate) fn memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// With that in its definition.
    pub(crate) fn with(mut self, domain: &str) -> Self {
        self.more.0.push_str(domain);
        self
    }

    /// With that among its devices.
    pub(crate) fn device(mut self, device: &str) -> Self {
        self.more.1.push_str(device);
        self
    }

    /// As its host would say it.
    pub(crate) fn leaving(&self) -> Leaving {
        let Self { name, host, memory, vcpus, groups, more: (domain, devices) } = self;
        let id = InstanceId(Uuid::from_bytes(std::array::from_fn(|at| {
            name.bytes().chain(std::iter::repeat(0)).nth(at).expect("endless")
        })));
        let said: Vec<_> =
            groups.iter().map(|(text, policy)| Membership { group: group(text), policy: *policy }).collect();
        let metadata = if said.is_empty() { String::new() } else { affinity::write(&said) };
        let domain_xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{id}</uuid><memory unit='MiB'>{memory}</memory><vcpu>{vcpus}</vcpu>\
             <metadata>{metadata}</metadata><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>{domain}\
             <devices>{devices}</devices></domain>"
        );
        let definition = Definition::parse(&domain_xml).expect("valid");
        let instance = Instance {
            id,
            name: name.clone(),
            state: InstanceState::Active,
            host: host.clone(),
            memory: definition.memory,
            vcpus: definition.vcpus,
            persistent: true,
            disks: vec![],
            vifs: definition.vifs.clone(),
            migration: None,
            problems: vec![],
            limits: definition.limits.clone().unwrap_or_default(),
        };
        Leaving {
            instance,
            domain_xml,
            definition,
            qemu_version: 7_002_022,
            shown: Shown::default(),
            autostart: false,
            members: Told::default(),
            filters: vec![],
        }
    }
}

/// All of them, having answered.
pub(crate) fn seen(hosts: &[Host]) -> Vec<Seen<'_>> {
    hosts.iter().map(|host| Seen { name: &host.name, answer: Ok(host) }).collect()
}
