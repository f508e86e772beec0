use std::collections::{BTreeMap, BTreeSet};

use vmferry_core::{
    id::HostName,
    policy::{GroupReport, Member, Members, Memberships, Told},
};

use super::{Invalid, invalid};
use crate::v1;

/// A fleet of the size that is planned for, and some more: what an agent keeps must have a bound.
const MOST_HOSTS: usize = 16_384;
const MOST_ADDRESSES: usize = 262_144;

impl From<GroupReport> for v1::GetGroupsResponse {
    fn from(GroupReport { host, here, own, told }: GroupReport) -> Self {
        Self {
            own: Some(wire_host(host, own)),
            instance_ids: here.into_iter().map(|id| id.to_string()).collect(),
            told: wire_told(told),
        }
    }
}

impl TryFrom<v1::GetGroupsResponse> for GroupReport {
    type Error = Invalid;

    fn try_from(v1::GetGroupsResponse { own, instance_ids, told }: v1::GetGroupsResponse) -> Result<Self, Invalid> {
        let (host, own) = host(own.ok_or(Invalid { field: "own" })?)?;
        let here: Result<BTreeSet<_>, _> = instance_ids.iter().map(|id| id.parse()).collect();
        Ok(Self { host, here: here.map_err(invalid("instance_ids"))?, own, told: self::told(told)? })
    }
}

impl From<Told> for v1::TellGroupsRequest {
    fn from(told: Told) -> Self {
        Self { hosts: wire_told(told) }
    }
}

impl TryFrom<v1::TellGroupsRequest> for Told {
    type Error = Invalid;

    fn try_from(v1::TellGroupsRequest { hosts }: v1::TellGroupsRequest) -> Result<Self, Invalid> {
        told(hosts)
    }
}

pub(super) fn wire_told(Told(hosts): Told) -> Vec<v1::HostGroups> {
    hosts.into_iter().map(|(host, memberships)| wire_host(host, memberships)).collect()
}

fn wire_host(host: HostName, memberships: Memberships) -> v1::HostGroups {
    let instances = memberships.into_iter().map(|(id, Member { name, groups })| v1::InstanceGroups {
        instance_id: id.to_string(),
        instance_name: name,
        groups: groups.into_iter().map(wire_group).collect(),
    });
    v1::HostGroups { host: host.into(), instances: instances.collect() }
}

fn wire_group((group, addresses): (vmferry_core::policy::GroupName, BTreeSet<std::net::IpAddr>)) -> v1::GroupMembers {
    let addresses = addresses.into_iter().map(|address| address.to_string()).collect();
    v1::GroupMembers { group: group.into(), addresses }
}

pub(super) fn told(hosts: Vec<v1::HostGroups>) -> Result<Told, Invalid> {
    let instances = || hosts.iter().flat_map(|host| &host.instances);
    let addresses = instances().flat_map(|instance| &instance.groups).map(|group| group.addresses.len().max(1)).sum();
    if hosts.len() > MOST_HOSTS || MOST_ADDRESSES < addresses {
        return Err(Invalid { field: "hosts" });
    }
    once(hosts.into_iter().map(host), "hosts.host").map(Told)
}

fn host(v1::HostGroups { host, instances }: v1::HostGroups) -> Result<(HostName, Memberships), Invalid> {
    let host = host.try_into().map_err(invalid("hosts.host"))?;
    let member = |v1::InstanceGroups { instance_id, instance_name, groups }: v1::InstanceGroups| {
        let id = instance_id.parse().map_err(invalid("hosts.instances.instance_id"))?;
        let groups = once(groups.into_iter().map(group), "hosts.instances.groups.group")?;
        if groups.is_empty() {
            return Err(Invalid { field: "hosts.instances.groups" });
        }
        Ok((id, Member { name: instance_name, groups }))
    };
    Ok((host, once(instances.into_iter().map(member), "hosts.instances.instance_id")?))
}

fn group(v1::GroupMembers { group, addresses }: v1::GroupMembers) -> Result<<Members as IntoIterator>::Item, Invalid> {
    let group = group.try_into().map_err(invalid("hosts.instances.groups.group"))?;
    let addresses: Result<_, _> = addresses.iter().map(|text| text.parse()).collect();
    Ok((group, addresses.map_err(invalid("hosts.instances.groups.addresses"))?))
}

/// A map of what is there once only.
fn once<K: Ord, V>(
    pairs: impl Iterator<Item = Result<(K, V), Invalid>>,
    field: &'static str,
) -> Result<BTreeMap<K, V>, Invalid> {
    let mut map = BTreeMap::new();
    for pair in pairs {
        let (key, value) = pair?;
        if map.insert(key, value).is_some() {
            return Err(Invalid { field });
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "ed831ace-39ef-4960-8bae-a035d292c305";

    fn report() -> GroupReport {
        let groups: Members = [("web".parse().expect("valid"), ["2001:db8::7".parse().expect("valid")].into())].into();
        let id = WEB.parse().expect("valid");
        let own: Memberships = [(id, Member { name: "web-1".into(), groups })].into();
        let told = [("node-31".parse().expect("valid"), own.clone()), ("node-32".parse().expect("valid"), [].into())];
        GroupReport { host: "node-28".parse().expect("valid"), here: [id].into(), own, told: Told(told.into()) }
    }

    #[test]
    fn what_a_host_says_of_groups_arrives_as_it_was_said() {
        let report = report();
        assert_eq!(GroupReport::try_from(v1::GetGroupsResponse::from(report.clone())), Ok(report.clone()));
        assert_eq!(Told::try_from(v1::TellGroupsRequest::from(report.told.clone())), Ok(report.told));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |change: fn(&mut v1::TellGroupsRequest)| {
            let mut wire = v1::TellGroupsRequest::from(report().told);
            change(&mut wire);
            Told::try_from(wire).expect_err("refused").field
        };
        assert_eq!(refused(|wire| wire.hosts[1].host = "node-31".into()), "hosts.host");
        assert_eq!(refused(|wire| wire.hosts[0].host = "no/name".into()), "hosts.host");
        assert_eq!(refused(|wire| wire.hosts[0].instances[0].instance_id.clear()), "hosts.instances.instance_id");
        assert_eq!(refused(|wire| wire.hosts[0].instances[0].groups.clear()), "hosts.instances.groups");
        let twice = |wire: &mut v1::TellGroupsRequest| {
            let groups = &mut wire.hosts[0].instances[0].groups;
            groups.push(groups[0].clone());
        };
        assert_eq!(refused(twice), "hosts.instances.groups.group");
        let nowhere = |wire: &mut v1::TellGroupsRequest| {
            wire.hosts[0].instances[0].groups[0].addresses[0] = "192.0.2.0/24".into();
        };
        assert_eq!(refused(nowhere), "hosts.instances.groups.addresses");
        let many = |wire: &mut v1::TellGroupsRequest| {
            wire.hosts[0].instances[0].groups[0].addresses = vec!["192.0.2.7".into(); MOST_ADDRESSES + 1];
        };
        assert_eq!(refused(many), "hosts");
        assert_eq!(refused(|wire| wire.hosts = vec![v1::HostGroups::default(); MOST_HOSTS + 1]), "hosts");
    }
}
