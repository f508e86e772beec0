//! Which hosts cannot take a guest, and why: all reasons of each.

mod hypervisor;
mod reach;
mod room;

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;

use super::{Refused, Seen, Wish};
use crate::{
    affinity::{AffinityPolicy, GroupName, Membership},
    agent::{CallError, Leaving},
    compatibility::{Refusal, apart, version_number},
    domain_xml::{Definition, GuestCpu},
    host::{Host, Room},
    id::HostName,
    migration::Kind,
    reason::Reason,
};

/// A guest and what is asked of its destination, as all hosts are asked it.
pub(super) struct Question<'a> {
    wish: &'a Wish,
    leaving: &'a Leaving,
    definition: &'a Definition,
    /// Where it is, if that host answered.
    source: Option<&'a Host>,
    excluded: BTreeSet<&'a HostName>,
    /// Its groups.
    pub(super) said: &'a [Membership],
    /// Where others are of each group that it must be with; groups that have no others are left out.
    must_join: BTreeMap<&'a GroupName, Vec<&'a HostName>>,
    /// As [`Offers::machines`](crate::host::Offers) has it.
    machine: (String, String, String),
    cpu: Option<GuestCpu>,
    /// What it takes of ordinary memory.
    memory: ByteSize,
}

impl<'a> Question<'a> {
    pub(super) fn of(wish: &'a Wish, leaving: &'a Leaving, hosts: &[Seen<'a>]) -> Self {
        let definition = &leaving.definition;
        let said = definition.affinity.as_deref().unwrap_or_default();
        let source = hosts.iter().find(|seen| *seen.name == leaving.instance.host);
        Self {
            wish,
            leaving,
            definition,
            source: source.and_then(|seen| seen.answer.ok()),
            excluded: wish.exclude.iter().collect(),
            said,
            must_join: must_join(said, leaving, runs(wish.kind), hosts),
            machine: (definition.architecture.clone(), definition.virt_type.clone(), definition.machine.clone()),
            cpu: definition.guest_cpu(),
            memory: definition.ordinary_memory(),
        }
    }

    /// Every reason of the host. None: it is a candidate.
    pub(super) fn refusals(&self, seen: &Seen<'_>) -> Vec<Refusal> {
        // What else speaks against the host that has it says nothing to anybody.
        if *seen.name == self.leaving.instance.host {
            return vec![self.is_there(seen.name)];
        }
        let mut refusals: Vec<_> = self.left_out(seen.name).into_iter().collect();
        match seen.answer {
            Err(error) => refusals.push(silent(error)),
            Ok(host) => self.answers(host, &mut refusals),
        }
        refusals
    }

    /// A host that was named and that nobody knows.
    pub(super) fn unknown(&self, host: &HostName) -> Refused {
        let message = format!("no host is called {host}, which {} was to go to", self.guest());
        let remedy = "vmferry hypervisors lists them all".to_owned();
        Refused { host: host.clone(), refusals: vec![Refusal { reason: Reason::HostNotFound, message, remedy }] }
    }

    /// Whether the host is in the zone in which the guest would rather stay.
    pub(super) fn is_home(&self, host: &Host) -> bool {
        self.wish.zone.is_none() && self.source.is_some_and(|source| source.zone == host.zone)
    }

    fn guest(&self) -> &str {
        &self.definition.name
    }

    fn answers(&self, host: &Host, refusals: &mut Vec<Refusal>) {
        refusals.extend(self.cordon(host));
        refusals.extend(self.zone(host));
        refusals.extend(self.memory_available(host));
        refusals.extend(self.qemu_version(host));
        refusals.extend(self.own_cpu(host));
        match &host.room {
            Some(room) => {
                self.room(&host.name, room, refusals);
                self.hypervisor(&host.name, &room.offers, refusals);
                self.reach(&host.name, &room.offers, refusals);
                self.groups(&host.name, room, refusals);
            }
            None => refusals.extend(self.room_unknown(host)),
        }
        refusals.extend(self.groups_unreadable(&host.name));
    }

    fn is_there(&self, host: &HostName) -> Refusal {
        Refusal {
            reason: Reason::SameHost,
            message: format!("instance {} is on {host} now", self.guest()),
            remedy: "choose another host".into(),
        }
    }

    fn left_out(&self, host: &HostName) -> Option<Refusal> {
        self.excluded.contains(host).then(|| Refusal {
            reason: Reason::HostExcluded,
            message: format!("{host} was left out for {}, or has refused it before", self.guest()),
            remedy: format!("ask again without --exclude {host}"),
        })
    }

    fn cordon(&self, host: &Host) -> Option<Refusal> {
        host.cordon.as_ref().map(|cordon| Refusal {
            reason: Reason::HostCordoned,
            message: format!(
                "no guest shall come to {} since {}: {} ({})",
                host.name, cordon.since, cordon.reason, cordon.by
            ),
            remedy: format!("choose another host, or end that: vmferry uncordon {}", host.name),
        })
    }

    fn zone(&self, host: &Host) -> Option<Refusal> {
        let wanted = self.wish.zone.as_ref().filter(|zone| **zone != host.zone)?;
        Some(Refusal {
            reason: Reason::ZoneDiffers,
            message: format!("{} is in zone {}, {} was to go to zone {wanted}", host.name, host.zone, self.guest()),
            remedy: "choose a host of that zone, or ask for none; vmferry zones lists them".into(),
        })
    }

    fn room_unknown(&self, host: &Host) -> Option<Refusal> {
        self.wish.hosts.is_none().then(|| Refusal {
            reason: Reason::RoomUnknown,
            message: format!(
                "the agent of {} (version {}) is too old to say what it has for guests",
                host.name, host.agent_version
            ),
            remedy: format!("upgrade it, or name {}: its own checks answer then", host.name),
        })
    }

    fn groups(&self, host: &HostName, room: &Room, refusals: &mut Vec<Refusal>) {
        if !runs(self.wish.kind) {
            return;
        }
        let groups = &room.offers.groups;
        let others =
            |group: &GroupName| groups.get(group).filter(|count| **count > 0).map(|count| format!("{count} of them"));
        refusals.extend(apart(host, self.guest(), self.said, others));
        let missed = self.must_join.iter().filter(|(group, _)| groups.get(**group).is_none_or(|count| *count == 0));
        refusals.extend(missed.map(|(group, hosts)| self.alone(host, group, hosts)));
    }

    fn alone(&self, host: &HostName, group: &GroupName, hosts: &[&HostName]) -> Refusal {
        let (guest, hosts) = (self.guest(), hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>().join(", "));
        Refusal {
            reason: Reason::AffinityViolated,
            message: format!(
                "{guest} must be with others of group {group} ({}), which are on {hosts}, and {host} has none of them",
                AffinityPolicy::Affinity
            ),
            remedy: format!(
                "choose one of these hosts, or let it be rather with them: vmferry instance affinity set {guest} --group {group} \
                 --policy {}",
                AffinityPolicy::SoftAffinity
            ),
        }
    }

    fn groups_unreadable(&self, host: &HostName) -> Option<Refusal> {
        let error = self.definition.affinity.as_ref().err()?;
        let guest = self.guest();
        Some(Refusal {
            reason: Reason::AffinityLabelInvalid,
            message: format!(
                "what the definition of {guest} says of its affinity groups cannot be read, so that nobody knows whether it may be on {host}: {error}"
            ),
            remedy: format!("remove it (vmferry instance affinity unset {guest} --all) and say it again"),
        })
    }
}

/// Whether the guest runs once it is there.
pub(super) fn runs(kind: Kind) -> bool {
    kind != Kind::Cold { shutdown: None }
}

fn silent(error: &CallError) -> Refusal {
    Refusal {
        reason: error.reason,
        message: error.message.clone(),
        remedy: format!("see to the agent of {} (vmferry doctor)", error.host),
    }
}

fn must_join<'a>(
    said: &'a [Membership],
    leaving: &'a Leaving,
    counted: bool,
    hosts: &[Seen<'a>],
) -> BTreeMap<&'a GroupName, Vec<&'a HostName>> {
    let hard = said.iter().filter(|membership| membership.policy == AffinityPolicy::Affinity);
    let others = |group: &GroupName, seen: &Seen<'a>| {
        let room = seen.answer.ok()?.room.as_ref()?;
        let count = *room.offers.groups.get(group)?;
        // Where it runs, the guest itself is counted.
        let own = u32::from(counted && *seen.name == leaving.instance.host);
        (count > own).then_some(seen.name)
    };
    let joined = hard.map(|Membership { group, .. }| {
        let mut hosts: Vec<_> = hosts.iter().filter_map(|seen| others(group, seen)).collect();
        hosts.sort();
        (group, hosts)
    });
    joined.filter(|(_, hosts)| !hosts.is_empty()).collect()
}
