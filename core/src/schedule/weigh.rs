//! Which of several hosts is best, in Nova's way: what each weigher finds is made comparable over all candidates, multiplied by what it
//! counts, and summed.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{Candidate, filter::Question};
use crate::{
    affinity::{AffinityPolicy, GroupName},
    compatibility::version_number,
    host::{Host, Room},
    id::HostName,
};

/// How much each weigher counts: the inventory's `[schedule]`. Below 0: the other way round. 0: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Memory that a host may still promise, and has.
    #[serde(deserialize_with = "finite")]
    pub memory: f64,
    /// vCPUs that it may still promise.
    #[serde(deserialize_with = "finite")]
    pub vcpus: f64,
    /// Few migrations that come to it just now.
    #[serde(deserialize_with = "finite")]
    pub incoming: f64,
    /// A new QEMU: guests never go back to an older one.
    #[serde(deserialize_with = "finite")]
    pub qemu_version: f64,
    /// Many of the groups that the guest would rather be with.
    #[serde(deserialize_with = "finite")]
    pub soft_affinity: f64,
    /// Few of the groups that the guest would rather be apart from.
    #[serde(deserialize_with = "finite")]
    pub soft_anti_affinity: f64,
    /// The zone that the guest is in, unless another is asked for.
    #[serde(deserialize_with = "finite")]
    pub same_zone: f64,
    /// Few guests.
    #[serde(deserialize_with = "finite")]
    pub instances: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            memory: 1.0,
            vcpus: 1.0,
            incoming: 1.0,
            qemu_version: 1.0,
            soft_affinity: 1.0,
            soft_anti_affinity: 1.0,
            // More than all others together.
            same_zone: 100.0,
            instances: 0.0,
        }
    }
}

fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let multiplier = f64::deserialize(deserializer)?;
    if multiplier.is_finite() {
        Ok(multiplier)
    } else {
        Err(D::Error::custom(format!("{multiplier} is no multiplier")))
    }
}

/// What makes a host better than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weigher {
    /// Memory that it may still promise, and has: in MiB.
    Memory,
    /// vCPUs that it may still promise.
    Vcpus,
    /// Migrations that come to it; fewer are better.
    Incoming,
    /// libvirt's number of its QEMU's version.
    QemuVersion,
    /// How many it has of groups that the guest would rather be with.
    SoftAffinity,
    /// How many it has of groups that the guest would rather be apart from; fewer are better.
    SoftAntiAffinity,
    /// 1 in the zone that the guest is in, unless a zone is asked for.
    SameZone,
    /// Guests that it has; fewer are better.
    Instances,
}

/// What one weigher finds on one host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    /// Which.
    pub weigher: Weigher,
    /// What it found, in its own unit.
    pub value: f64,
    /// 0 on the worst candidate, 1 on the best, 0 on all if they are the same.
    pub normalised: f64,
    /// The same times what the weigher counts.
    pub weight: f64,
}

impl Weigher {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Memory,
        Self::Vcpus,
        Self::Incoming,
        Self::QemuVersion,
        Self::SoftAffinity,
        Self::SoftAntiAffinity,
        Self::SameZone,
        Self::Instances,
    ];

    /// The word in the inventory and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Vcpus => "vcpus",
            Self::Incoming => "incoming",
            Self::QemuVersion => "qemu_version",
            Self::SoftAffinity => "soft_affinity",
            Self::SoftAntiAffinity => "soft_anti_affinity",
            Self::SameZone => "same_zone",
            Self::Instances => "instances",
        }
    }

    /// How much it counts.
    pub fn multiplier(self, weights: &Weights) -> f64 {
        match self {
            Self::Memory => weights.memory,
            Self::Vcpus => weights.vcpus,
            Self::Incoming => weights.incoming,
            Self::QemuVersion => weights.qemu_version,
            Self::SoftAffinity => weights.soft_affinity,
            Self::SoftAntiAffinity => weights.soft_anti_affinity,
            Self::SameZone => weights.same_zone,
            Self::Instances => weights.instances,
        }
    }

    fn wants_few(self) -> bool {
        matches!(self, Self::Incoming | Self::SoftAntiAffinity | Self::Instances)
    }

    fn value(self, question: &Question<'_>, host: &Host) -> f64 {
        let room = host.room.as_ref();
        match self {
            Self::Memory => {
                let promised = |room: &Room| room.capacity.memory.as_u64().saturating_sub(room.taken.memory.as_u64());
                let available = host.memory_available.as_u64();
                mebibytes(room.map_or(available, |room| promised(room).min(available)))
            }
            Self::Vcpus => room.map_or(0.0, |room| f64::from(room.capacity.vcpus.saturating_sub(room.taken.vcpus))),
            Self::Incoming => room.map_or(0.0, |room| f64::from(room.taken.incoming)),
            Self::QemuVersion => version_number(&host.qemu_version).unwrap_or(0) as f64,
            Self::SoftAffinity => met(question, room, AffinityPolicy::SoftAffinity),
            Self::SoftAntiAffinity => met(question, room, AffinityPolicy::SoftAntiAffinity),
            Self::SameZone => f64::from(question.is_home(host)),
            Self::Instances => f64::from(room.map_or(host.instances_active, |room| room.taken.instances)),
        }
    }
}

impl fmt::Display for Weigher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The best first; of equals, by name.
pub(super) fn ranked(question: &Question<'_>, fit: &[(&HostName, &Host)], weights: &Weights) -> Vec<Candidate> {
    let candidate =
        |name: &HostName| Candidate { host: name.clone(), score: 0.0, parts: Vec::with_capacity(Weigher::ALL.len()) };
    let mut candidates: Vec<_> = fit.iter().map(|(name, _)| candidate(name)).collect();
    for weigher in Weigher::ALL {
        let multiplier = weigher.multiplier(weights);
        let values: Vec<_> = fit.iter().map(|(_, host)| weigher.value(question, host)).collect();
        for ((candidate, value), normalised) in candidates.iter_mut().zip(&values).zip(normalised(weigher, &values)) {
            let weight = normalised * multiplier;
            candidate.parts.push(Part { weigher, value: *value, normalised, weight });
            candidate.score += weight;
        }
    }
    candidates.sort_by(|one, other| other.score.total_cmp(&one.score).then_with(|| one.host.cmp(&other.host)));
    candidates
}

fn normalised(weigher: Weigher, values: &[f64]) -> impl Iterator<Item = f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().map(move |value| match most - least {
        range if range <= 0.0 => 0.0,
        range if weigher.wants_few() => (most - value) / range,
        range => (value - least) / range,
    })
}

fn met(question: &Question<'_>, room: Option<&Room>, policy: AffinityPolicy) -> f64 {
    let groups: Option<&BTreeMap<GroupName, u32>> = room.map(|room| &room.offers.groups);
    let said = question.said.iter().filter(|membership| membership.policy == policy);
    said.filter_map(|membership| groups?.get(&membership.group)).map(|count| f64::from(*count)).sum()
}

fn mebibytes(bytes: u64) -> f64 {
    (bytes >> 20) as f64
}
