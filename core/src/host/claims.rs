//! What of a host is promised, and what that leaves for one guest more.

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Capacity, Pages, Taken};
use crate::{
    affinity::GroupName,
    agent::Sighting,
    domain_xml::Definition,
    id::InstanceId,
    migration::{Kind, Side},
};

/// What a guest that comes takes of its host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Memory that it may have.
    #[serde(serialize_with = "crate::bytes::exact")]
    pub memory: ByteSize,
    /// Its vCPUs.
    #[serde(default)]
    pub vcpus: u32,
    /// The huge pages that its memory lies in: by their size in KiB, how many.
    #[serde(default)]
    pub pages: BTreeMap<u64, u64>,
    /// The affinity groups that it is in.
    #[serde(default)]
    pub groups: BTreeSet<GroupName>,
    /// The guest's name; empty in what an agent of before has written.
    #[serde(default)]
    pub name: String,
}

impl Claim {
    /// What this guest takes of a host whose kernel prefers huge pages of `page_size` KiB; `None` if it is off and stays so.
    pub fn of(definition: &Definition, kind: Kind, page_size: Option<u64>) -> Option<Self> {
        if kind == (Kind::Cold { shutdown: None }) {
            return None;
        }
        let mut pages = BTreeMap::new();
        for wanted in &definition.huge_pages {
            if let Some(size) = wanted.size.or(page_size) {
                *pages.entry(size).or_default() += wanted.count(size).unwrap_or_default();
            }
        }
        let (groups, name) = (groups(definition), definition.name.clone());
        Some(Self { memory: definition.memory, vcpus: definition.vcpus, pages, groups, name })
    }

    /// How much of the memory lies in no huge page.
    pub fn ordinary(&self) -> ByteSize {
        let huge = self.pages.iter().map(|(size, count)| (size << 10).saturating_mul(*count));
        ByteSize::b(huge.fold(self.memory.as_u64(), u64::saturating_sub))
    }
}

/// What of a host is promised to guests that do not run there yet, and how many come and leave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Of guests that are on their way here.
    pub coming: BTreeMap<InstanceId, Claim>,
    /// Guests that were shut down to be moved away, and come up again here if that fails.
    pub returning: BTreeSet<InstanceId>,
    /// Migrations that come.
    pub incoming: u32,
    /// Migrations that leave.
    pub outgoing: u32,
}

impl Claims {
    /// With a migration more that has not ended.
    #[must_use]
    pub fn with_open(mut self, side: Side) -> Self {
        match side {
            Side::Source => self.outgoing += 1,
            Side::Destination => self.incoming += 1,
        }
        self
    }
}

/// A guest that a host has, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Which.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// What is to be seen of it.
    pub sighting: Sighting,
    /// Memory that it may have.
    pub memory: ByteSize,
    /// Its vCPUs.
    pub vcpus: u32,
    /// The affinity groups that it is in.
    pub groups: BTreeSet<GroupName>,
}

impl Resident {
    /// A guest with this definition.
    pub fn new(id: InstanceId, sighting: Sighting, definition: &Definition) -> Self {
        let (name, groups) = (definition.name.clone(), groups(definition));
        Self { id, name, sighting, memory: definition.memory, vcpus: definition.vcpus, groups }
    }

    /// Whether there is a QEMU of it.
    fn is_active(&self) -> bool {
        !matches!(self.sighting, Sighting::Absent | Sighting::Shutoff)
    }

    /// Whether all of its memory that it uses has been here, so that the kernel counts it.
    fn has_its_memory(&self) -> bool {
        matches!(self.sighting, Sighting::Running | Sighting::Paused | Sighting::Departing)
    }
}

impl Taken {
    /// What these guests and these claims take, a guest that is both once.
    pub fn by(residents: &[Resident], claims: &Claims) -> Self {
        let here = |resident: &&Resident| resident.is_active() || claims.returning.contains(&resident.id);
        let mut taken: BTreeMap<InstanceId, (u64, u32)> =
            claims.coming.iter().map(|(id, claim)| (*id, (claim.memory.as_u64(), claim.vcpus))).collect();
        let here = residents.iter().filter(here);
        taken.extend(here.map(|resident| (resident.id, (resident.memory.as_u64(), resident.vcpus))));
        Self {
            memory: ByteSize::b(taken.values().map(|(memory, _)| memory).sum()),
            vcpus: taken.values().map(|(_, vcpus)| vcpus).sum(),
            instances: u32::try_from(taken.len()).unwrap_or(u32::MAX),
            incoming: claims.incoming,
            outgoing: claims.outgoing,
        }
    }
}

/// Who of each affinity group these are, a guest that is seen and claims once.
fn members(residents: &[Resident], claims: &Claims) -> BTreeMap<GroupName, Vec<String>> {
    let coming = claims.coming.iter().map(|(id, claim)| (*id, (&claim.name, &claim.groups)));
    let mut by_guest: BTreeMap<_, _> = coming.collect();
    let here = residents.iter().filter(|resident| resident.is_active() || claims.returning.contains(&resident.id));
    by_guest.extend(here.map(|resident| (resident.id, (&resident.name, &resident.groups))));
    let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, groups) in by_guest.into_values() {
        for group in groups {
            members.entry(group.clone()).or_default().push(name.clone());
        }
    }
    members
}

fn groups(definition: &Definition) -> BTreeSet<GroupName> {
    definition.affinity.iter().flatten().map(|membership| membership.group.clone()).collect()
}

/// What a host has for one guest more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Space {
    /// What it gives its guests at most, all together.
    pub capacity: Capacity,
    /// What of that is taken by others.
    pub taken: Taken,
    /// Memory that the kernel could give to a new guest, without what those need who are on their way.
    pub memory_available: ByteSize,
    /// Its huge pages: by their size in KiB, how many there are and how many nobody has or is about to.
    pub pages: BTreeMap<u64, Pages>,
    /// The size of huge pages that its kernel prefers, in KiB; `None`: it has none.
    pub page_size: Option<u64>,
    /// The numbers of its logical CPUs that are on.
    pub cpus: BTreeSet<u32>,
    /// The guests of each affinity group that it has or is about to, by name.
    pub groups: BTreeMap<GroupName, Vec<String>>,
}

impl Space {
    /// How many guests of each affinity group: who they are, nobody asks who looks at all hosts.
    pub fn group_sizes(&self) -> BTreeMap<GroupName, u32> {
        let size = |members: &Vec<String>| u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.groups.iter().map(|(group, members)| (group.clone(), size(members))).collect()
    }

    /// With these guests there, and with what is promised to others: `memory_available` and `pages` were what the kernel says.
    #[must_use]
    pub fn after(mut self, residents: &[Resident], claims: &Claims) -> Self {
        self.taken = Taken::by(residents, claims);
        self.groups = members(residents, claims);
        let seen: BTreeMap<_, _> = residents.iter().map(|resident| (resident.id, resident)).collect();
        for (id, claim) in &claims.coming {
            let resident = seen.get(id);
            if !resident.is_some_and(|resident| resident.has_its_memory()) {
                // Of one that arrives the kernel may count a part already: rather too much than too little.
                let left = self.memory_available.as_u64().saturating_sub(claim.ordinary().as_u64());
                self.memory_available = ByteSize::b(left);
            }
            // QEMU reserves all of its huge pages as it starts.
            if !resident.is_some_and(|resident| resident.is_active()) {
                for (size, count) in &claim.pages {
                    if let Some(pages) = self.pages.get_mut(size) {
                        pages.free = pages.free.saturating_sub(*count);
                    }
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::migration::{Fallback, Shutdown};

    fn id(number: u128) -> InstanceId {
        InstanceId(uuid::Uuid::from_u128(number))
    }

    fn resident(number: u128, sighting: Sighting) -> Resident {
        let (name, memory) = (format!("web-{number}"), ByteSize::gib(1));
        Resident { id: id(number), name, sighting, memory, vcpus: 2, groups: BTreeSet::new() }
    }

    fn claim() -> Claim {
        Claim { memory: ByteSize::gib(1), vcpus: 2, ..Claim::default() }
    }

    fn coming(numbers: impl IntoIterator<Item = u128>) -> Claims {
        Claims { coming: numbers.into_iter().map(|number| (id(number), claim())).collect(), ..Claims::default() }
    }

    #[test]
    fn a_guest_is_counted_once_wherever_it_is_seen_on_its_way() {
        for sighting in [Sighting::Arriving, Sighting::Incomplete, Sighting::Running, Sighting::Paused] {
            let taken = Taken::by(&[resident(1, sighting)], &coming([1]));
            assert_eq!((taken.memory, taken.vcpus, taken.instances), (ByteSize::gib(1), 2, 1), "{sighting:?}");
        }
        let taken = Taken::by(&[resident(1, Sighting::Running), resident(2, Sighting::Shutoff)], &coming([3]));
        assert_eq!((taken.memory, taken.vcpus, taken.instances), (ByteSize::gib(2), 4, 2), "one that is off has none");
    }

    #[test]
    fn a_guest_that_is_off_to_be_moved_away_keeps_its_place_until_it_has() {
        let off = [resident(1, Sighting::Shutoff)];
        let returning = Claims { returning: [id(1)].into(), ..Claims::default() };
        assert_eq!(Taken::by(&off, &returning).memory, ByteSize::gib(1));
        assert_eq!(Taken::by(&[], &returning).memory, ByteSize::b(0), "it has left");
    }

    #[test]
    fn memory_that_is_there_already_is_not_deducted_again() {
        let kernel = || Space { memory_available: ByteSize::gib(8), ..Space::default() };
        let left = |seen: &[Resident]| kernel().after(seen, &coming([1])).memory_available;
        assert_eq!(left(&[]), ByteSize::gib(7));
        assert_eq!(left(&[resident(1, Sighting::Arriving)]), ByteSize::gib(7));
        assert_eq!(left(&[resident(1, Sighting::Running)]), ByteSize::gib(8));
        assert_eq!(kernel().after(&[], &coming(1..20)).memory_available, ByteSize::b(0), "never less than none");
    }

    #[test]
    fn huge_pages_are_promised_until_qemu_has_them_and_are_no_ordinary_memory() {
        let pages = BTreeMap::from([(2_048, 256)]);
        let huge = Claim { pages, ..claim() };
        let claims = Claims { coming: [(id(1), huge)].into(), ..Claims::default() };
        let kernel = || Space {
            memory_available: ByteSize::gib(8),
            pages: [(2_048, Pages { total: 1024, free: 1000 })].into(),
            ..Space::default()
        };
        let space = kernel().after(&[], &claims);
        assert_eq!(space.memory_available, ByteSize::gib(8) - ByteSize::mib(512), "half of it lies in huge pages");
        assert_eq!(space.pages[&2_048], Pages { total: 1024, free: 744 });
        let space = kernel().after(&[resident(1, Sighting::Arriving)], &claims);
        assert_eq!(space.pages[&2_048].free, 1000, "the kernel counts them");
    }

    #[test]
    fn guests_of_a_group_are_counted_once_where_they_run_and_where_they_go() {
        let db: GroupName = "db".parse().expect("valid");
        let of = |sighting| Resident { groups: [db.clone()].into(), ..resident(1, sighting) };
        let mut claims = coming([2]);
        claims.coming.values_mut().for_each(|claim| claim.groups = [db.clone()].into());
        let count = |residents: &[Resident], claims: &Claims| {
            Space::default().after(residents, claims).groups.get(&db).map_or(0, Vec::len)
        };
        assert_eq!(count(&[of(Sighting::Running)], &claims), 2);
        assert_eq!(count(&[of(Sighting::Shutoff)], &claims), 1, "what is off is nobody's company");
        assert_eq!(count(&[Resident { id: id(2), ..of(Sighting::Arriving) }], &claims), 1, "it is the one that comes");
        let returning = Claims { returning: [id(1)].into(), ..Claims::default() };
        assert_eq!(count(&[of(Sighting::Shutoff)], &returning), 1, "it may come up again");
    }

    #[test]
    fn a_claim_is_what_the_definition_says_and_nothing_of_a_guest_that_stays_off() {
        let definition = Definition::parse(
            "<domain type='kvm'><name>web</name><uuid>ed831ace-39ef-4960-8bae-a035d292c305</uuid>
             <memory unit='GiB'>2</memory><vcpu>4</vcpu><memoryBacking><hugepages/></memoryBacking>
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>",
        )
        .expect("valid");
        let claim = Claim::of(&definition, Kind::Live, Some(2_048)).expect("it runs");
        let pages = BTreeMap::from([(2_048, 1024)]);
        assert_eq!(
            claim,
            Claim { memory: ByteSize::gib(2), vcpus: 4, pages, groups: BTreeSet::new(), name: "web".into() }
        );
        let shutdown = Shutdown { deadline: std::time::Duration::from_secs(1), fallback: Fallback::GiveUp };
        assert_eq!(Claim::of(&definition, Kind::Cold { shutdown: Some(shutdown) }, Some(2_048)), Some(claim));
        assert_eq!(Claim::of(&definition, Kind::Cold { shutdown: None }, Some(2_048)), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_never_less_than_what_runs_and_never_counts_twice(
            running in prop::collection::btree_set(0_u128..20, 0..10), coming_here in prop::collection::btree_set(0_u128..20, 0..10),
        ) {
            let residents: Vec<_> = running.iter().map(|number| resident(*number, Sighting::Running)).collect();
            let taken = Taken::by(&residents, &coming(coming_here.iter().copied()));
            let guests = running.union(&coming_here).count() as u64;
            prop_assert_eq!(taken.memory, ByteSize::gib(guests));
            prop_assert_eq!(u64::from(taken.instances), guests);
        }
    }
}
