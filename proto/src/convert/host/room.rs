use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytesize::ByteSize;
use vmferry_core::{
    host::{Capacity, Cordon, LastCordon, Offers, Pages, Room, Taken, Uncordoned},
    volume::SecretName,
};

use super::super::{Invalid, invalid, required, timestamp, wire_timestamp};
use crate::v1::{self, offers};

impl From<Cordon> for v1::Cordon {
    fn from(Cordon { reason, by, since }: Cordon) -> Self {
        Self { reason, by, since: Some(wire_timestamp(since)) }
    }
}

impl TryFrom<v1::Cordon> for Cordon {
    type Error = Invalid;

    fn try_from(v1::Cordon { reason, by, since }: v1::Cordon) -> Result<Self, Invalid> {
        let field = "cordon.since";
        Ok(Self { reason, by, since: timestamp(since.ok_or(Invalid { field })?, field)? })
    }
}

impl From<Uncordoned> for v1::UncordonResponse {
    fn from(Uncordoned { was, last }: Uncordoned) -> Self {
        let ended = last.as_ref().map(|last| wire_timestamp(last.ended));
        Self { was: was.map(Into::into), last: last.map(|last| last.cordon.into()), ended }
    }
}

impl TryFrom<v1::UncordonResponse> for Uncordoned {
    type Error = Invalid;

    fn try_from(v1::UncordonResponse { was, last, ended }: v1::UncordonResponse) -> Result<Self, Invalid> {
        let last = match (last, ended) {
            (Some(last), Some(ended)) => {
                Some(LastCordon { cordon: last.try_into()?, ended: timestamp(ended, "ended")? })
            }
            (None, None) => None,
            _ => return Err(Invalid { field: "ended" }),
        };
        Ok(Self { was: was.map(TryInto::try_into).transpose()?, last })
    }
}

impl From<Room> for v1::Room {
    fn from(Room { capacity, taken, offers }: Room) -> Self {
        Self { capacity: Some(capacity.into()), taken: Some(taken.into()), offers: Some(offers.into()) }
    }
}

impl TryFrom<v1::Room> for Room {
    type Error = Invalid;

    fn try_from(v1::Room { capacity, taken, offers }: v1::Room) -> Result<Self, Invalid> {
        Ok(Self {
            capacity: required(capacity, "room.capacity")?,
            taken: required(taken, "room.taken")?,
            offers: required(offers, "room.offers")?,
        })
    }
}

impl From<Capacity> for v1::Capacity {
    fn from(Capacity { memory, vcpus, instances, incoming, outgoing }: Capacity) -> Self {
        Self { memory_bytes: memory.as_u64(), vcpus, instances, incoming, outgoing }
    }
}

impl From<v1::Capacity> for Capacity {
    fn from(v1::Capacity { memory_bytes, vcpus, instances, incoming, outgoing }: v1::Capacity) -> Self {
        Self { memory: ByteSize::b(memory_bytes), vcpus, instances, incoming, outgoing }
    }
}

impl From<Taken> for v1::Taken {
    fn from(Taken { memory, vcpus, instances, incoming, outgoing }: Taken) -> Self {
        Self { memory_bytes: memory.as_u64(), vcpus, instances, incoming, outgoing }
    }
}

impl From<v1::Taken> for Taken {
    fn from(v1::Taken { memory_bytes, vcpus, instances, incoming, outgoing }: v1::Taken) -> Self {
        Self { memory: ByteSize::b(memory_bytes), vcpus, instances, incoming, outgoing }
    }
}

impl From<Offers> for v1::Offers {
    fn from(given: Offers) -> Self {
        let mut machines = BTreeMap::<(String, String), Vec<String>>::new();
        for (architecture, virt_type, machine) in Arc::unwrap_or_clone(given.machines) {
            machines.entry((architecture, virt_type)).or_default().push(machine);
        }
        let machines = machines.into_iter().map(|((architecture, virt_type), types)| offers::Machines {
            architecture,
            virt_type,
            types,
        });
        let secrets = given.secrets.into_iter().map(|name| offers::SecretName {
            name: Some(match name {
                SecretName::Uuid(uuid) => offers::secret_name::Name::Uuid(uuid.to_string()),
                SecretName::Usage(usage) => offers::secret_name::Name::Usage(usage),
            }),
        });
        let pages = given.pages.into_iter();
        let groups = given.groups.into_iter();
        Self {
            machines: machines.collect(),
            cpu_models: Arc::unwrap_or_clone(given.cpu_models).into_iter().collect(),
            networks: given.networks.into_iter().map(Into::into).collect(),
            bridges: given.bridges.into_iter().collect(),
            libvirt_networks: given.libvirt_networks.into_iter().collect(),
            secrets: secrets.collect(),
            pages: pages
                .map(|(size_kibibytes, Pages { total, free })| offers::Pages { size_kibibytes, total, free })
                .collect(),
            cpus: given.cpus.into_iter().collect(),
            affinity_groups: groups.map(|(group, members)| (group.into(), members)).collect(),
        }
    }
}

impl TryFrom<v1::Offers> for Offers {
    type Error = Invalid;

    fn try_from(given: v1::Offers) -> Result<Self, Invalid> {
        let machines = given.machines.into_iter().flat_map(|offers::Machines { architecture, virt_type, types }| {
            types.into_iter().map(move |machine| (architecture.clone(), virt_type.clone(), machine))
        });
        let secret = |given: offers::SecretName| match given.name {
            Some(offers::secret_name::Name::Uuid(uuid)) => {
                uuid.parse().map(SecretName::Uuid).map_err(invalid("offers.secrets.uuid"))
            }
            Some(offers::secret_name::Name::Usage(usage)) => Ok(SecretName::Usage(usage)),
            None => Err(Invalid { field: "offers.secrets.name" }),
        };
        let networks = given.networks.into_iter().map(|name| name.parse().map_err(invalid("offers.networks")));
        let groups = given.affinity_groups.into_iter();
        Ok(Self {
            machines: Arc::new(machines.collect()),
            cpu_models: Arc::new(given.cpu_models.into_iter().collect()),
            networks: networks.collect::<Result<_, _>>()?,
            bridges: given.bridges.into_iter().collect(),
            libvirt_networks: given.libvirt_networks.into_iter().collect(),
            secrets: given.secrets.into_iter().map(secret).collect::<Result<BTreeSet<_>, _>>()?,
            pages: given
                .pages
                .into_iter()
                .map(|offers::Pages { size_kibibytes, total, free }| (size_kibibytes, Pages { total, free }))
                .collect(),
            cpus: given.cpus.into_iter().collect(),
            groups: groups
                .map(|(group, members)| Ok((group.parse().map_err(invalid("offers.affinity_groups"))?, members)))
                .collect::<Result<_, Invalid>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_a_host_has_comes_back_as_it_went() {
        let machine = |machine: &str| ("x86_64".to_owned(), "kvm".to_owned(), machine.to_owned());
        let room = Room {
            capacity: Capacity { memory: ByteSize::gib(9), vcpus: 64, instances: Some(7), incoming: 2, outgoing: 3 },
            taken: Taken { memory: ByteSize::gib(4), vcpus: 6, instances: 3, incoming: 1, outgoing: 0 },
            offers: Offers {
                machines: Arc::new([machine("pc"), machine("q35")].into()),
                cpu_models: Arc::new(["EPYC".into()].into()),
                networks: ["blue".parse().expect("valid")].into(),
                bridges: ["br0".into()].into(),
                libvirt_networks: ["default".into()].into(),
                secrets: [SecretName::Usage("ceph".into()), SecretName::Uuid(uuid::Uuid::from_u128(7))].into(),
                pages: [(2048, Pages { total: 8, free: 5 })].into(),
                cpus: [0, 1, 3].into(),
                groups: [("db".parse().expect("valid"), 2)].into(),
            },
        };
        assert_eq!(v1::Room::from(room.clone()).try_into(), Ok(room));
        let cordon = Cordon {
            reason: "new disks".into(),
            by: "vmferry://c/coordinator/me".into(),
            since: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(v1::Cordon::from(cordon.clone()).try_into(), Ok(cordon.clone()));
        assert!(Cordon::try_from(v1::Cordon::default()).is_err());
        let last = LastCordon { cordon: cordon.clone(), ended: cordon.since };
        for opened in [
            Uncordoned::default(),
            Uncordoned { was: None, last: Some(last.clone()) },
            Uncordoned { was: Some(cordon.clone()), last: Some(last) },
        ] {
            assert_eq!(v1::UncordonResponse::from(opened.clone()).try_into(), Ok(opened));
        }
        let endless = v1::UncordonResponse { last: Some(cordon.into()), ..v1::UncordonResponse::default() };
        assert!(Uncordoned::try_from(endless).is_err());
        assert!(Room::try_from(v1::Room::default()).is_err());
    }
}
