//! Who is in which security group, on all hosts: what each says of its own guests, and what the others remember of that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{GroupName, Members, Peer, Policy};
use crate::{
    domain_xml::Definition,
    id::{HostName, InstanceId},
    vif::Placement,
};

/// A guest that is in groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The domain's name, for people.
    pub name: String,
    /// Each group with the addresses that the guest is in it with. Never empty.
    pub groups: Members,
}

/// The guests of one host that are in groups.
pub type Memberships = BTreeMap<InstanceId, Member>;

/// Guests that are in groups, by the host that has them. Of a host that is not named, nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Told(pub BTreeMap<HostName, Memberships>);

/// What a host says when it is asked for groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupReport {
    /// Who says it.
    pub host: HostName,
    /// All its domains: nobody else is believed about them.
    pub here: BTreeSet<InstanceId>,
    /// Those of them that are in groups.
    pub own: Memberships,
    /// What it remembers of other hosts.
    pub told: Told,
}

/// Which of these domains are in groups. A domain has several definitions: it is in every group that one of them names.
pub fn memberships<'a>(definitions: impl IntoIterator<Item = &'a Definition>) -> Memberships {
    let mut memberships = Memberships::new();
    for definition in definitions {
        let policies = definition.vifs.iter().filter_map(|vif| vif.policy.as_ref());
        if let Some(member) = member(&definition.name, policies) {
            join(&mut memberships, definition.id, &member);
        }
    }
    memberships
}

/// The guest that is plugged in so, if it is in groups.
pub fn member_of_placed(name: &str, placed: &[Placement]) -> Option<Member> {
    member(name, placed.iter().filter_map(|placement| placement.policy.as_ref()))
}

/// The groups that rules of these policies name.
pub fn named<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> BTreeSet<&'a GroupName> {
    let rules = policies.into_iter().flat_map(|policy| &policy.rules);
    rules.filter_map(|rule| if let Peer::Group(group) = &rule.peer { Some(group) } else { None }).collect()
}

fn member<'a>(name: &str, policies: impl Iterator<Item = &'a Policy>) -> Option<Member> {
    let mut groups = Members::new();
    for policy in policies {
        for group in &policy.groups {
            groups.entry(group.clone()).or_default().extend(&policy.addresses);
        }
    }
    (!groups.is_empty()).then(|| Member { name: name.to_owned(), groups })
}

fn join(memberships: &mut Memberships, id: InstanceId, member: &Member) {
    let known = memberships.entry(id).or_insert_with(|| Member { name: member.name.clone(), groups: Members::new() });
    for (group, addresses) in &member.groups {
        known.groups.entry(group.clone()).or_default().extend(addresses);
    }
}

impl Told {
    /// Takes this for all that there is to know of exactly these hosts, and leaves the others.
    pub fn replace(&mut self, hosts: Self) {
        self.0.extend(hosts.0);
        self.tidy();
    }

    /// Adds what another host knows, of hosts and guests of which nothing is known yet: it may have been told less lately.
    pub fn learn(&mut self, more: Self) {
        let known: BTreeSet<_> = self.0.values().flat_map(BTreeMap::keys).copied().collect();
        for (host, mut memberships) in more.0 {
            memberships.retain(|id, _| !known.contains(id));
            self.0.entry(host).or_insert(memberships);
        }
        self.tidy();
    }

    /// The guest is on that host now, and on none of the others.
    pub fn moved(&mut self, id: InstanceId, member: Option<Member>, to: &HostName) {
        self.0.values_mut().for_each(|memberships| _ = memberships.remove(&id));
        if let Some(member) = member {
            self.0.entry(to.clone()).or_default().insert(id, member);
        }
        self.tidy();
    }

    /// The same without this host.
    #[must_use]
    pub fn without(mut self, host: &HostName) -> Self {
        self.0.remove(host);
        self
    }

    /// The same with no other groups than these.
    #[must_use]
    pub fn only(mut self, groups: &BTreeSet<&GroupName>) -> Self {
        let members = self.0.values_mut().flat_map(BTreeMap::values_mut);
        members.for_each(|member| member.groups.retain(|group, _| groups.contains(group)));
        self.tidy();
        self.0.retain(|_, memberships| !memberships.is_empty());
        self
    }

    /// The members of all groups on a host that has been told this. `own`: of its guests, which are `here`; what others have said of
    /// these does not count.
    pub fn members(&self, own: &Memberships, here: &BTreeSet<InstanceId>) -> Members {
        let elsewhere = self.0.values().flatten().filter(|(id, _)| !here.contains(id));
        let mut members = Members::new();
        for (group, addresses) in own.iter().chain(elsewhere).flat_map(|(_, member)| &member.groups) {
            members.entry(group.clone()).or_default().extend(addresses);
        }
        members
    }

    /// A host that nobody is in a group on stays: that is known of it.
    fn tidy(&mut self) {
        self.0.values_mut().for_each(|memberships| memberships.retain(|_, member| !member.groups.is_empty()));
    }
}

/// What all hosts should know, by what some of them say. Each is believed about its own guests; of a host that says nothing counts what
/// the others remember, as far as none of them has the guest by now. Every host that is spoken of has its entry, if only an empty one.
pub fn gather(reports: &[GroupReport]) -> Told {
    let here: BTreeSet<_> = reports.iter().flat_map(|report| &report.here).collect();
    let mut known = Told::default();
    for (host, memberships) in reports.iter().flat_map(|report| &report.told.0) {
        let silent = known.0.entry(host.clone()).or_default();
        let elsewhere = memberships.iter().filter(|(id, _)| !here.contains(id));
        elsewhere.for_each(|(id, member)| join(silent, *id, member));
    }
    known.0.extend(reports.iter().map(|report| (report.host.clone(), report.own.clone())));
    known
}

impl GroupReport {
    /// What the host must be told so that it knows no more and no less than this of others; none: it knows it.
    pub fn lacks(&self, known: &Told) -> Option<Told> {
        let wanted = known.clone().without(&self.host);
        let mut then = self.told.clone();
        then.replace(wanted.clone());
        (then != self.told).then_some(wanted)
    }

    /// Whether groups have the members there that they should have. Whose guest somebody is makes no difference to that.
    pub fn knows(&self, known: &Told) -> bool {
        let members = |told: &Told| told.members(&self.own, &self.here);
        members(&self.told) == members(&known.clone().without(&self.host))
    }
}

#[cfg(test)]
mod tests;
