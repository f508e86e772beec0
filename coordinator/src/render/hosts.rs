//! Hypervisors and zones.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use vmferry_core::{
    host::{Host, Pages, Room},
    network::NetworkName,
};

use super::{
    cordon::{CordonDocument, why},
    table::table,
    units::bytes,
};
use crate::fleet::Answer;

/// A certificate that expires sooner than this deserves a warning.
const EXPIRY_NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A row per host, dead or alive.
pub(crate) fn hypervisors(answers: &[Answer<Host>]) -> String {
    let header = [
        "NAME",
        "ZONE",
        "STATE",
        "ADDRESS",
        "RUNNING",
        "CPUS",
        "MEMORY FREE",
        "QEMU",
        "LIBVIRT",
        "AGENT",
        "CERTIFICATE",
    ];
    let rows = table(
        header,
        answers.iter().map(|answer| {
            let name = answer.endpoint.host.to_string();
            let address = answer.endpoint.address.clone();
            match &answer.result {
                Ok(host) => [
                    name,
                    host.zone.clone(),
                    state(answer),
                    address,
                    format!("{} of {}", host.instances_active, host.instances_total),
                    host.cpus.to_string(),
                    format!("{} of {}", bytes(host.memory_available), bytes(host.memory_total)),
                    host.qemu_version.clone(),
                    host.libvirt_version.clone(),
                    host.agent_version.clone(),
                    format!("until {}", host.certificate_expires.strftime("%Y-%m-%d")),
                ],
                Err(_) => {
                    let unknown = || "-".to_owned();
                    let [zone, running, cpus, memory, qemu, libvirt, agent, certificate] =
                        std::array::from_fn(|_| unknown());
                    [name, zone, state(answer), address, running, cpus, memory, qemu, libvirt, agent, certificate]
                }
            }
        }),
    );
    let cordoned: String = answers.iter().filter_map(reason).collect();
    if cordoned.is_empty() { rows } else { format!("{rows}\n{cordoned}") }
}

/// Why no guest shall come to a host, a line.
fn reason(answer: &Answer<Host>) -> Option<String> {
    let host = answer.result.as_ref().ok()?;
    host.cordon.as_ref().map(|cordon| format!("{} is {}\n", host.name, why(cordon)))
}

/// A row per host, zone by zone.
pub(crate) fn zones(answers: &[Answer<Host>]) -> String {
    table(
        ["ZONE", "HOST", "STATE"],
        by_zone(answers).into_iter().flat_map(|(zone, hosts)| {
            hosts.into_iter().enumerate().map(move |(number, answer)| {
                // As in `nova availability-zone-list`: the zone's name once.
                let zone = if number == 0 { zone.unwrap_or("(unknown)") } else { "" };
                [zone.to_owned(), answer.endpoint.host.to_string(), state(answer)]
            })
        }),
    )
}

/// Certificates that expire soon, a sentence each.
pub(crate) fn expiring<'a>(
    certificates: impl IntoIterator<Item = (&'a str, Timestamp)>,
    now: Timestamp,
) -> Vec<String> {
    let sentence = |(whose, expires): (&str, Timestamp)| {
        let left = expires.duration_since(now);
        let remedy = "issue a new one with `vmferry pki issue`";
        if left < SignedDuration::ZERO {
            Some(format!("the certificate of {whose} expired on {}; {remedy}", expires.strftime("%Y-%m-%d")))
        } else if left < EXPIRY_NOTICE {
            let days = left.as_hours() / 24;
            Some(format!("the certificate of {whose} expires in {days} days; {remedy}"))
        } else {
            None
        }
    };
    certificates.into_iter().filter_map(sentence).collect()
}

fn state(answer: &Answer<Host>) -> String {
    match &answer.result {
        Ok(_) => word(answer).into(),
        Err(error) => format!("down ({})", error.reason),
    }
}

fn word(answer: &Answer<Host>) -> &'static str {
    match &answer.result {
        Ok(Host { cordon: Some(_), .. }) => "cordoned",
        Ok(_) => "up",
        Err(_) => "down",
    }
}

/// Zones sorted by name; that of hosts that cannot be asked, `None`, last.
fn by_zone(answers: &[Answer<Host>]) -> Vec<(Option<&str>, Vec<&Answer<Host>>)> {
    let mut zones: BTreeMap<(bool, Option<&str>), Vec<&Answer<Host>>> = BTreeMap::new();
    for answer in answers {
        let zone = answer.result.as_ref().ok().map(|host| host.zone.as_str());
        zones.entry((zone.is_none(), zone)).or_default().push(answer);
    }
    zones.into_iter().map(|((_, zone), hosts)| (zone, hosts)).collect()
}

#[derive(Serialize)]
struct HypervisorDocument<'a> {
    name: &'a str,
    address: &'a str,
    /// `up`, `cordoned` or `down`
    state: &'static str,
    /// Why it is down.
    reason: Option<&'static str>,
    message: Option<&'a str>,
    zone: Option<&'a str>,
    instances_active: Option<u32>,
    instances_total: Option<u32>,
    migrations_active: Option<u32>,
    cpus: Option<u32>,
    cpu_model: Option<&'a str>,
    architecture: Option<&'a str>,
    memory_available_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    qemu_version: Option<&'a str>,
    libvirt_version: Option<&'a str>,
    agent_version: Option<&'a str>,
    certificate_expires: Option<Timestamp>,
    /// Why no guest shall come; `null`: they may.
    cordon: Option<CordonDocument<'a>>,
    /// `null`: it is down, or its agent is too old to say.
    room: Option<RoomDocument<'a>>,
}

/// What a host has for guests.
#[derive(Serialize)]
struct RoomDocument<'a> {
    /// What it gives its guests at most.
    capacity: CapacityDocument,
    /// What is taken of that, by guests that run and by those on their way.
    taken: TakenDocument,
    networks: &'a BTreeSet<NetworkName>,
    huge_pages: Vec<PagesDocument>,
}

#[derive(Serialize)]
struct CapacityDocument {
    memory_bytes: u64,
    vcpus: u32,
    /// `null`: as many as there is room for.
    instances: Option<u32>,
    migrations_incoming: u32,
    migrations_outgoing: u32,
}

#[derive(Serialize)]
struct TakenDocument {
    memory_bytes: u64,
    vcpus: u32,
    instances: u32,
    migrations_incoming: u32,
    migrations_outgoing: u32,
}

#[derive(Serialize)]
struct PagesDocument {
    size_bytes: u64,
    total: u64,
    free: u64,
}

impl<'a> From<&'a Room> for RoomDocument<'a> {
    fn from(Room { capacity, taken, offers }: &'a Room) -> Self {
        let pages = |(size, pages): (&u64, &Pages)| PagesDocument {
            size_bytes: size.saturating_mul(1 << 10),
            total: pages.total,
            free: pages.free,
        };
        Self {
            capacity: CapacityDocument {
                memory_bytes: capacity.memory.as_u64(),
                vcpus: capacity.vcpus,
                instances: capacity.instances,
                migrations_incoming: capacity.incoming,
                migrations_outgoing: capacity.outgoing,
            },
            taken: TakenDocument {
                memory_bytes: taken.memory.as_u64(),
                vcpus: taken.vcpus,
                instances: taken.instances,
                migrations_incoming: taken.incoming,
                migrations_outgoing: taken.outgoing,
            },
            networks: &offers.networks,
            huge_pages: offers.pages.iter().map(pages).collect(),
        }
    }
}

impl<'a> From<&'a Answer<Host>> for HypervisorDocument<'a> {
    fn from(answer: &'a Answer<Host>) -> Self {
        let host = answer.result.as_ref().ok();
        let error = answer.result.as_ref().err();
        Self {
            name: answer.endpoint.host.as_str(),
            address: &answer.endpoint.address,
            state: word(answer),
            reason: error.map(|error| error.reason.as_str()),
            message: error.map(|error| error.message.as_str()),
            zone: host.map(|host| host.zone.as_str()),
            instances_active: host.map(|host| host.instances_active),
            instances_total: host.map(|host| host.instances_total),
            migrations_active: host.map(|host| host.migrations_active),
            cpus: host.map(|host| host.cpus),
            cpu_model: host.map(|host| host.cpu_model.as_str()),
            architecture: host.map(|host| host.architecture.as_str()),
            memory_available_bytes: host.map(|host| host.memory_available.as_u64()),
            memory_total_bytes: host.map(|host| host.memory_total.as_u64()),
            qemu_version: host.map(|host| host.qemu_version.as_str()),
            libvirt_version: host.map(|host| host.libvirt_version.as_str()),
            agent_version: host.map(|host| host.agent_version.as_str()),
            certificate_expires: host.map(|host| host.certificate_expires),
            cordon: host.and_then(|host| host.cordon.as_ref()).map(Into::into),
            room: host.and_then(|host| host.room.as_ref()).map(Into::into),
        }
    }
}

/// `{"hypervisors": […]}`
pub(crate) fn hypervisors_document(answers: &[Answer<Host>]) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        hypervisors: Vec<HypervisorDocument<'a>>,
    }
    Document { hypervisors: answers.iter().map(Into::into).collect() }
}

/// `{"zones": [{"name": …, "hosts": […]}]}`
pub(crate) fn zones_document(answers: &[Answer<Host>]) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        zones: Vec<Zone<'a>>,
    }
    #[derive(Serialize)]
    struct Zone<'a> {
        /// `null`: of hosts that cannot be asked.
        name: Option<&'a str>,
        hosts: Vec<Member<'a>>,
    }
    #[derive(Serialize)]
    struct Member<'a> {
        name: &'a str,
        state: &'static str,
        reason: Option<&'static str>,
    }
    let member = |answer: &'_ Answer<Host>| {
        let HypervisorDocument { state, reason, .. } = answer.into();
        (state, reason)
    };
    let zones = by_zone(answers).into_iter().map(|(name, hosts)| Zone {
        name,
        hosts: hosts
            .into_iter()
            .map(|answer| {
                let (state, reason) = member(answer);
                Member { name: answer.endpoint.host.as_str(), state, reason }
            })
            .collect(),
    });
    Document { zones: zones.collect() }
}

#[cfg(test)]
mod tests;
