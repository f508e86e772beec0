//! A fleet that is made up, with its guests, in which drains run their course. It judges by itself what may be, from its guests alone.

#![allow(dead_code, reason = "the bench and the tests each need a part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use bytesize::ByteSize;
use jiff::Timestamp;
use vmferry_core::{
    affinity::AffinityPolicy,
    drain::{Decision, Guest, Limits, Plan, Running, Standing, next, plan},
    host::{Cordon, Host, Taken},
    id::HostName,
    schedule::{Weights, Wish},
};

use super::fleet::{Make, group, host, room, seen};

/// How large a fleet is, and how full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) hosts: usize,
    pub(crate) guests_per_host: usize,
    /// What each host may promise, in GiB. Its guests have 1 to 8 each.
    pub(crate) memory: u64,
}

/// A guest of the fleet.
#[derive(Debug, Clone)]
struct Resident {
    make: Make,
    at: usize,
    coming: Option<usize>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct World {
    seed: u64,
    residents: Vec<Resident>,
    /// Who is on each host, or on the way to it.
    on: Vec<BTreeSet<usize>>,
    /// What the hosts' agents say.
    pub(crate) hosts: Vec<Host>,
    /// Sent and taken just now, by host, as the agents count it.
    turns: BTreeMap<usize, (u32, u32)>,
}

/// What came of a drain.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Course {
    pub(crate) moved: usize,
    pub(crate) blocked: usize,
    pub(crate) failed: usize,
    /// How often it was asked what may start.
    pub(crate) asked: usize,
    pub(crate) took: Duration,
}

/// A number that looks like chance.
pub(crate) fn chance(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub(crate) fn limits(parallel: u32, per_destination: u32) -> Limits {
    let some = |number| NonZeroU32::new(number).expect("some");
    Limits { parallel: some(parallel), per_destination: some(per_destination), bandwidth: None }
}

impl World {
    /// The same for the same seed.
    pub(crate) fn of(seed: u64, size: Size) -> Self {
        let hosts = (0..size.hosts).map(|number| {
            let mut made = host(&format!("node-{number:05}"));
            made.zone = format!("zone-{}", number % 4);
            made.qemu_version = ["7.2.22", "8.2.1"][usize::from(number % 3 == 0)].to_owned();
            made.memory_available = ByteSize::gib(size.memory);
            let room = room(&mut made);
            room.capacity.memory = ByteSize::gib(size.memory);
            room.capacity.instances = Some(40);
            made
        });
        let mut world = Self {
            seed,
            residents: Vec::new(),
            on: vec![BTreeSet::new(); size.hosts],
            hosts: hosts.collect(),
            turns: BTreeMap::new(),
        };
        for at in 0..size.hosts {
            for place in 0..size.guests_per_host {
                world.house(at, place);
            }
            world.tell(at);
        }
        world
    }

    /// One more guest, if there is room for it. The first of each host is apart from those of the next ones, or would rather be; the second and the
    /// third of some must be together.
    fn house(&mut self, at: usize, place: usize) {
        let drawn = chance(self.seed ^ ((at as u64) << 20) ^ place as u64);
        let mut make = Make::guest(&format!("g{at}-{place}"), self.hosts[at].name.as_str());
        make.memory = 1_024 * (1 + drawn % 8);
        make.vcpus = 1 + u32::try_from((drawn >> 8) % 4).expect("few");
        make = match place {
            0 => {
                let apart = [AffinityPolicy::AntiAffinity, AffinityPolicy::SoftAntiAffinity][at / 6 % 2];
                make.in_group(&format!("apart-{}", at / 6), apart)
            }
            1 | 2 if drawn % 8 == 0 || at % 16 == 3 => {
                make.in_group(&format!("together-{at}"), AffinityPolicy::Affinity)
            }
            3 => make.in_group(&format!("near-{}", at % 7), AffinityPolicy::SoftAffinity),
            _ => make,
        };
        if self.fits(&make, at) {
            self.residents.push(Resident { make, at, coming: None });
            self.on[at].insert(self.residents.len() - 1);
        }
    }

    pub(crate) fn guests(&self) -> usize {
        self.residents.len()
    }

    /// A guest of that host, as it would leave.
    pub(crate) fn guest_of(&self, at: usize) -> Guest {
        self.guest(*self.on[at].first().expect("it has one"))
    }

    fn guest(&self, resident: usize) -> Guest {
        let leaving = self.residents[resident].make.leaving();
        Guest { leaving, wish: Wish::default(), priority: 0, forecast: None, dirty_rate: None }
    }

    fn index(&self, host: &HostName) -> usize {
        self.hosts.binary_search_by(|other| other.name.cmp(host)).expect("known")
    }

    fn memory(&self, at: usize) -> u64 {
        self.on[at].iter().map(|resident| self.residents[*resident].make.memory << 20).sum()
    }

    fn vcpus(&self, at: usize) -> u32 {
        self.on[at].iter().map(|resident| self.residents[*resident].make.vcpus).sum()
    }

    fn others_of(&self, group: &str, at: usize, but: &str) -> usize {
        let is_other = |resident: &&usize| {
            let make = &self.residents[**resident].make;
            make.name != but && make.groups.iter().any(|(other, _)| other == group)
        };
        self.on[at].iter().filter(is_other).count()
    }

    /// Whether the guest may be there, by what is there.
    fn fits(&self, make: &Make, at: usize) -> bool {
        let capacity = self.hosts[at].room.as_ref().expect("some").capacity;
        let apart = |(group, policy): &(String, AffinityPolicy)| {
            *policy != AffinityPolicy::AntiAffinity || self.others_of(group, at, &make.name) == 0
        };
        self.memory(at) + (make.memory << 20) <= capacity.memory.as_u64()
            && self.vcpus(at) + make.vcpus <= capacity.vcpus
            && capacity.instances.is_none_or(|most| self.on[at].len() < most as usize)
            && make.groups.iter().all(apart)
    }

    /// Whether it would be without those that it must be with.
    fn is_alone(&self, resident: usize, at: usize) -> bool {
        let make = &self.residents[resident].make;
        let hard = make.groups.iter().filter(|(_, policy)| *policy == AffinityPolicy::Affinity);
        hard.into_iter().any(|(group, _)| {
            let elsewhere = (0..self.on.len()).any(|other| self.others_of(group, other, &make.name) > 0);
            elsewhere && self.others_of(group, at, &make.name) == 0
        })
    }

    /// The agent of that host says what is there.
    fn tell(&mut self, at: usize) {
        let (outgoing, incoming) = self.turns.get(&at).copied().unwrap_or_default();
        let taken = Taken {
            memory: ByteSize::b(self.memory(at)),
            vcpus: self.vcpus(at),
            instances: u32::try_from(self.on[at].len()).expect("few"),
            incoming,
            outgoing,
        };
        let mut groups = BTreeMap::new();
        for resident in &self.on[at] {
            for (said, _) in &self.residents[*resident].make.groups {
                *groups.entry(group(said)).or_default() += 1;
            }
        }
        let host = &mut self.hosts[at];
        let room = room(host);
        room.taken = taken;
        room.offers.groups = groups;
        let left = room.capacity.memory.as_u64() - taken.memory.as_u64();
        host.memory_available = ByteSize::b(left);
    }

    pub(crate) fn cordon(&mut self, at: usize) {
        let cordon = Cordon { reason: "drained".into(), by: "ada".into(), since: Timestamp::UNIX_EPOCH };
        self.hosts[at].cordon = Some(cordon);
    }

    /// Nobody has more than there is, and nobody is with those that it must be apart from.
    fn judge(&self, at: usize) {
        let capacity = self.hosts[at].room.as_ref().expect("some").capacity;
        let name = &self.hosts[at].name;
        assert!(self.memory(at) <= capacity.memory.as_u64(), "{name} has no memory left");
        assert!(self.vcpus(at) <= capacity.vcpus, "{name} has no vCPUs left");
        assert!(capacity.instances.is_none_or(|most| self.on[at].len() <= most as usize), "{name} is full");
        for resident in &self.on[at] {
            let make = &self.residents[*resident].make;
            for (group, policy) in &make.groups {
                let others = self.others_of(group, at, &make.name);
                assert!(*policy != AffinityPolicy::AntiAffinity || others == 0, "{} is not alone on {name}", make.name);
            }
        }
    }

    /// The plan of a drain of these hosts, judged.
    pub(crate) fn plan(&self, drained: &[usize], limits: &Limits) -> Plan {
        let leaving: Vec<_> = drained.iter().flat_map(|at| &self.on[*at]).copied().collect();
        let guests: Vec<_> = leaving.iter().map(|resident| self.guest(*resident)).collect();
        let plan = plan(&guests, &seen(&self.hosts), &Weights::default(), limits);
        assert_eq!(plan.moves.len() + plan.blocked.len(), guests.len(), "each of them is in one of both");
        let mut after = self.clone();
        for step in &plan.moves {
            let (to, from) = (after.index(&step.destination), after.index(&step.source));
            let resident = *leaving.iter().find(|at| self.residents[**at].make.name == step.name).expect("one of them");
            assert!(!drained.contains(&to), "{} is drained as well", step.destination);
            after.on[from].remove(&resident);
            after.on[to].insert(resident);
            after.judge(to);
            let ends = step.starts + step.takes;
            assert!(ends <= plan.total);
            let beside = plan
                .moves
                .iter()
                .filter(|other| other.starts <= step.starts && step.starts < other.starts + other.takes);
            let there = beside.clone().filter(|other| other.destination == step.destination).count();
            assert!(beside.count() <= limits.parallel.get() as usize && there <= limits.per_destination.get() as usize);
        }
        assert!(plan.blocked.iter().all(|blocked| !blocked.objections.is_empty()));
        plan
    }

    /// Drains these hosts, move by move. `mishaps` of a hundred moves fail, and as many times another guest takes room somewhere.
    pub(crate) fn drain(&mut self, drained: &[usize], limits: &Limits, mishaps: u64) -> Course {
        drained.iter().for_each(|at| self.cordon(*at));
        let leaving: Vec<_> = drained.iter().flat_map(|at| self.on[*at].clone()).collect();
        let mut waiting: Vec<(usize, Guest)> =
            leaving.iter().map(|resident| (*resident, self.guest(*resident))).collect();
        let mut running = Vec::<Underway>::new();
        let mut course = Course::default();
        loop {
            self.claim(&mut running, course.asked);
            let (started, blocked) = self.ask(&mut waiting, &running, limits, &mut course);
            assert!(
                !(started.is_empty() && running.is_empty() && !waiting.is_empty()),
                "nobody knows what to wait for"
            );
            course.blocked += blocked;
            running.extend(started);
            self.watch(&running, limits);
            let Some(first) = (0..running.len()).min_by_key(|at| (running[*at].ends, running[*at].resident)) else {
                break;
            };
            let ended = running.remove(first);
            course.took = ended.ends;
            self.end(ended, mishaps, &mut waiting, &mut course);
            self.crowd(drained, mishaps, course.asked);
        }
        assert_eq!(course.moved + course.blocked, leaving.len(), "each of them went, or stayed for a reason");
        let left: usize = drained.iter().map(|at| self.on[*at].len()).sum();
        assert_eq!(left, course.blocked);
        assert!(self.turns.values().all(|turns| *turns == (0, 0)));
        course
    }

    /// Hosts count what has begun: some at once, some only once they are asked again.
    fn claim(&mut self, running: &mut [Underway], asked: usize) {
        for underway in running.iter_mut().filter(|underway| !underway.claimed) {
            if chance(self.seed ^ (asked as u64) ^ ((underway.resident as u64) << 32)) % 3 != 0 {
                underway.claimed = true;
                let (from, to) = (self.residents[underway.resident].at, underway.to);
                self.turns.entry(from).or_default().0 += 1;
                self.turns.entry(to).or_default().1 += 1;
                self.tell(from);
                self.tell(to);
            }
        }
    }

    fn ask(
        &mut self,
        waiting: &mut Vec<(usize, Guest)>,
        running: &[Underway],
        limits: &Limits,
        course: &mut Course,
    ) -> (Vec<Underway>, usize) {
        course.asked += 1;
        let guests: Vec<_> = waiting.iter().map(|(_, guest)| guest.clone()).collect();
        let names: Vec<_> = running.iter().map(|underway| self.hosts[underway.to].name.clone()).collect();
        let standing: Vec<_> = running
            .iter()
            .zip(&names)
            .map(|(underway, destination)| Running { guest: &underway.guest, destination, claimed: underway.claimed })
            .collect();
        let standing = Standing { waiting: &guests, running: &standing };
        let decided = next(&standing, &seen(&self.hosts), &Weights::default(), limits);
        assert_eq!(decided.len(), waiting.len(), "each of them is told something");
        let mut started = Vec::new();
        let mut blocked = 0;
        for next in decided {
            let at = waiting.iter().position(|(_, guest)| guest.leaving.instance.id == next.instance).expect("asked");
            match next.decision {
                Decision::Start { candidates } => {
                    let (resident, guest) = waiting.swap_remove(at);
                    let to = self.index(&candidates.first().expect("at least one").host);
                    assert!(!guest.wish.exclude.contains(&self.hosts[to].name), "it was refused there");
                    assert!(!self.is_alone(resident, to), "it must be with others");
                    self.on[to].insert(resident);
                    self.residents[resident].coming = Some(to);
                    self.judge(to);
                    let took = Duration::from_secs(1 + self.residents[resident].make.memory / 117);
                    started.push(Underway { resident, guest, to, ends: course.took + took, claimed: false });
                }
                Decision::Wait(waiting) => assert!(!waiting.to_string().is_empty()),
                Decision::Blocked(told) => {
                    assert!(!told.objections.is_empty());
                    let (resident, guest) = waiting.swap_remove(at);
                    self.is_stuck(resident, &guest);
                    blocked += 1;
                }
            }
        }
        (started, blocked)
    }

    /// No host would have taken it.
    fn is_stuck(&self, resident: usize, guest: &Guest) {
        for (at, host) in self.hosts.iter().enumerate() {
            let Resident { make, at: here, .. } = &self.residents[resident];
            let old =
                make.host != host.name && host.qemu_version.starts_with('7') && guest.leaving.qemu_version >= 8_000_000;
            let may = at != *here && host.cordon.is_none() && !old && !guest.wish.exclude.contains(&host.name);
            assert!(
                !may || !self.fits(make, at) || self.is_alone(resident, at),
                "{} could go to {}",
                make.name,
                host.name
            );
        }
    }

    fn watch(&self, running: &[Underway], limits: &Limits) {
        assert!(running.len() <= limits.parallel.get() as usize);
        for underway in running {
            let there = running.iter().filter(|other| other.to == underway.to).count();
            assert!(there <= limits.per_destination.get() as usize, "too many at once");
            let from = |other: &&Underway| self.residents[other.resident].at == self.residents[underway.resident].at;
            let outgoing =
                self.hosts[self.residents[underway.resident].at].room.as_ref().expect("some").capacity.outgoing;
            assert!(running.iter().filter(from).count() <= outgoing as usize, "too many leave at once");
        }
    }

    fn end(&mut self, ended: Underway, mishaps: u64, waiting: &mut Vec<(usize, Guest)>, course: &mut Course) {
        let Underway { resident, mut guest, to, claimed, .. } = ended;
        let from = self.residents[resident].at;
        self.residents[resident].coming = None;
        if claimed {
            self.turns.entry(from).or_default().0 -= 1;
            self.turns.entry(to).or_default().1 -= 1;
        }
        if chance(self.seed ^ (resident as u64) ^ ((to as u64) << 24)) % 100 < mishaps {
            self.on[to].remove(&resident);
            guest.wish.exclude.push(self.hosts[to].name.clone());
            waiting.push((resident, guest));
            course.failed += 1;
        } else {
            self.on[from].remove(&resident);
            self.residents[resident].at = to;
            self.residents[resident].make.host = self.hosts[to].name.clone();
            course.moved += 1;
        }
        self.tell(from);
        self.tell(to);
    }

    /// Somebody else puts a guest somewhere.
    fn crowd(&mut self, drained: &[usize], mishaps: u64, asked: usize) {
        let drawn = chance(self.seed.rotate_left(17) ^ asked as u64);
        let at = usize::try_from(drawn >> 8).expect("64 bits") % self.on.len();
        if drawn % 100 < mishaps && !drained.contains(&at) {
            self.house(at, 1_000 + asked);
            self.tell(at);
        }
    }
}

/// A move that has begun.
struct Underway {
    resident: usize,
    guest: Guest,
    to: usize,
    ends: Duration,
    claimed: bool,
}
