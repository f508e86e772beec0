//! Plans of drains, and who may start when.

use std::{num::NonZeroU32, time::Duration};

use bytesize::ByteSize;
use vmferry_core::{
    affinity::AffinityPolicy,
    drain::{Basis, Decision, Guest, Limits, Next, Plan, Running, Standing, next, plan},
    host::Host,
    migration::Kind,
    reason::Reason,
    schedule::{Weights, Wish},
};

use crate::fleet::{Make, group, host, name, room, seen};

fn limits(parallel: u32, per_destination: u32) -> Limits {
    let some = |number| NonZeroU32::new(number).expect("some");
    Limits { parallel: some(parallel), per_destination: some(per_destination), bandwidth: None }
}

fn guest(make: &Make) -> Guest {
    Guest { leaving: make.leaving(), wish: Wish::default(), priority: 0, forecast: None, dirty_rate: None }
}

fn guests<const N: usize>(names: [&str; N]) -> [Guest; N] {
    names.map(|name| guest(&Make::guest(name, "node-0")))
}

fn planned(guests: &[Guest], hosts: &[Host], limits: &Limits) -> Plan {
    plan(guests, &seen(hosts), &Weights::default(), limits)
}

/// Name, destination, second of the start.
fn moves(plan: &Plan) -> Vec<(&str, &str, u64)> {
    plan.moves.iter().map(|step| (step.name.as_str(), step.destination.as_str(), step.starts.as_secs())).collect()
}

/// What is decided of whom, in few words.
fn decided(waiting: &[Guest], running: &[Running<'_>], hosts: &[Host], limits: &Limits) -> Vec<String> {
    let standing = Standing { waiting, running };
    let told = |Next { instance, decision }: Next| {
        let guest = waiting.iter().find(|guest| guest.leaving.instance.id == instance).expect("asked");
        let name = &guest.leaving.definition.name;
        match decision {
            Decision::Start { candidates } => {
                let hosts: Vec<_> = candidates.iter().map(|candidate| candidate.host.as_str()).collect();
                format!("{name} → {}", hosts.join(", "))
            }
            Decision::Wait(waiting) => format!("{name} waits: {waiting}"),
            Decision::Blocked(blocked) => format!("{name} stays: {}", blocked.objections[0]),
        }
    };
    next(&standing, &seen(hosts), &Weights::default(), limits).into_iter().map(told).collect()
}

#[test]
fn the_small_and_quiet_go_first_unless_somebody_is_in_a_hurry() {
    let of = |name: &str, memory: u64| guest(&Make::guest(name, "node-0").memory(memory));
    let mut guests =
        [of("large", 8_192), of("small", 1_024), of("busy", 1_024), of("urgent", 4_096), of("forecast", 8_192)];
    guests[2].dirty_rate = Some(ByteSize::mb(80));
    guests[3].priority = 1;
    guests[4].forecast = Some(Duration::from_secs(12));
    let hosts = [host("node-0"), host("node-1")];
    let plan = planned(&guests, &hosts, &limits(1, 1));
    let order: Vec<_> = plan.moves.iter().map(|step| (step.name.as_str(), step.takes.as_secs(), step.basis)).collect();
    assert_eq!(
        order,
        [
            ("urgent", 37, Basis::Memory),
            ("small", 10, Basis::Memory),
            ("forecast", 12, Basis::Forecast),
            ("busy", 30, Basis::DirtyRate),
            ("large", 74, Basis::Memory),
        ]
    );
    assert_eq!(plan.total, plan.moves.iter().map(|step| step.takes).sum(), "one after the other");
}

#[test]
fn a_guest_that_writes_faster_than_can_be_sent_is_not_waited_for_for_ever() {
    let mut busy = guest(&Make::guest("busy", "node-0"));
    busy.dirty_rate = Some(ByteSize::gb(10));
    let plan = planned(&[busy.clone()], &[host("node-0"), host("node-1")], &limits(1, 1));
    assert_eq!(plan.total.as_secs(), 92, "its memory five times");
    busy.wish.kind = Kind::Cold { shutdown: None };
    let plan = planned(&[busy], &[host("node-0"), host("node-1")], &limits(1, 1));
    assert_eq!(plan.total.as_secs(), 1, "what is off has none to send");
}

#[test]
fn bandwidth_is_divided_between_those_that_run() {
    let limits = Limits { bandwidth: Some(ByteSize::gib(1)), ..limits(4, 4) };
    assert_eq!(limits.share(), Some(ByteSize::mib(256)));
    let mut guests = guests(["a", "b"]);
    guests[1].forecast = Some(Duration::from_secs(2));
    let plan = planned(&guests, &[host("node-0"), host("node-1")], &limits);
    let takes: Vec<_> = plan.moves.iter().map(|step| (step.name.as_str(), step.takes.as_secs())).collect();
    assert_eq!(takes, [("b", 8), ("a", 9)], "a forecast that had all of it is too good for a part");
}

#[test]
fn what_a_guest_takes_is_gone_for_those_behind_it() {
    let guests = guests(["a", "b", "c", "d"]);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    room(&mut hosts[1]).taken.memory = ByteSize::gib(28);
    room(&mut hosts[2]).taken.memory = ByteSize::gib(30);
    let plan = planned(&guests, &hosts, &limits(4, 4));
    assert_eq!(moves(&plan), [("a", "node-1", 0), ("b", "node-2", 0), ("c", "node-1", 0)]);
    let [blocked] = &plan.blocked[..] else { panic!("{plan:?}") };
    assert_eq!((blocked.name.as_str(), blocked.source.as_str()), ("d", "node-0"));
    let reasons: Vec<_> =
        blocked.objections.iter().map(|objection| (objection.reason, objection.hosts.len())).collect();
    assert_eq!(reasons, [(Reason::MemoryShort, 2)]);
}

#[test]
fn huge_pages_and_groups_are_taken_as_well() {
    let backed = |name: &str| guest(&Make::guest(name, "node-0").with("<memoryBacking><hugepages/></memoryBacking>"));
    let hosts = [host("node-0"), host("node-1")];
    let plan = planned(&[backed("a"), backed("b"), backed("c")], &hosts, &limits(4, 4));
    assert_eq!((plan.moves.len(), plan.blocked[0].objections[0].reason), (2, Reason::HugepagesShort));
    let apart = |name: &str| guest(&Make::guest(name, "node-0").in_group("db", AffinityPolicy::AntiAffinity));
    let plan = planned(&[apart("a"), apart("b")], &hosts, &limits(4, 4));
    assert_eq!((plan.moves.len(), plan.blocked[0].objections[0].reason), (1, Reason::AffinityViolated));
}

#[test]
fn no_more_run_at_a_time_than_may_and_those_that_can_pass_others() {
    let guests = guests(["a", "b", "c", "d"]);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    // There is room for three, and for one.
    room(&mut hosts[1]).taken.memory = ByteSize::gib(26);
    room(&mut hosts[2]).taken.memory = ByteSize::gib(30);
    let plan = planned(&guests, &hosts, &limits(2, 1));
    // Each takes 19.4 s.
    assert_eq!(moves(&plan), [("a", "node-1", 0), ("c", "node-2", 0), ("b", "node-1", 19), ("d", "node-1", 38)]);
    assert_eq!(plan.total.as_secs(), 58);
    let plan = planned(&guests, &hosts, &limits(8, 8));
    assert!(plan.moves.iter().all(|step| step.starts.is_zero()));
}

#[test]
fn nothing_to_do_takes_no_time() {
    assert_eq!(planned(&[], &[host("node-0")], &limits(1, 1)), Plan::default());
}

#[test]
fn who_may_start_is_told_where_and_who_waits_why() {
    let guests = guests(["a", "b", "c", "d"]);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2")];
    room(&mut hosts[0]).capacity.outgoing = 3;
    room(&mut hosts[2]).taken.memory = ByteSize::gib(2);
    assert_eq!(
        decided(&guests, &[], &hosts, &limits(8, 8)),
        [
            "a → node-1, node-2",
            "b → node-2, node-1",
            "c → node-1, node-2",
            "d waits: node-0 sends 3 migrations already (of at most 3)"
        ]
    );
    assert_eq!(
        decided(&guests, &[], &hosts, &limits(2, 8))[1..],
        [
            "b → node-2, node-1",
            "c waits: 2 moves run already (--parallel 2)",
            "d waits: 2 moves run already (--parallel 2)"
        ]
    );
    assert_eq!(
        decided(&guests, &[], &hosts[..2], &limits(8, 2))[2..],
        [
            "c waits: node-1 takes 2 migrations already (of at most 2)",
            "d waits: node-1 takes 2 migrations already (of at most 2)"
        ]
    );
    room(&mut hosts[1]).taken.incoming = 1;
    room(&mut hosts[1]).capacity.incoming = 1;
    assert_eq!(
        decided(&guests[..1], &[], &hosts[..2], &limits(8, 2)),
        ["a waits: node-1 takes 1 migration already (of at most 1)"]
    );
    assert_eq!(
        decided(&guests[..1], &[], &hosts, &limits(8, 2)),
        ["a → node-2, node-1"],
        "another one takes it at once"
    );
    hosts[2].zone = "b".into();
    assert_eq!(
        decided(&guests[..1], &[], &hosts, &limits(8, 2)),
        ["a waits: node-1 takes 1 migration already (of at most 1)"],
        "it is not sent to another zone for that"
    );
}

#[test]
fn a_move_that_runs_counts_until_the_hosts_do() {
    let guests = guests(["a", "b"]);
    let (runs, waits) = guests.split_at(1);
    let mut hosts = [host("node-0"), host("node-1")];
    room(&mut hosts[1]).taken.memory = ByteSize::gib(28);
    let there = name("node-1");
    let running = |claimed| [Running { guest: &runs[0], destination: &there, claimed }];
    assert_eq!(decided(waits, &running(false), &hosts, &limits(4, 4)), ["b → node-1"]);
    room(&mut hosts[1]).taken.memory = ByteSize::gib(30);
    let full = "b waits: no host takes it now; MEMORY_SHORT on node-1: b needs 2.0 GiB of memory, node-1 has promised 32.0 GiB of \
        32.0 GiB to others";
    assert_eq!(decided(waits, &running(false), &hosts, &limits(4, 4)), [full], "until it is known what becomes of a");
    assert_eq!(decided(waits, &running(true), &hosts, &limits(4, 4)), ["b → node-1"], "its facts have it already");
    room(&mut hosts[1]).taken.incoming = 1;
    assert_eq!(
        decided(waits, &running(true), &hosts, &limits(4, 1)),
        ["b waits: node-1 takes 1 migration already (of at most 1)"]
    );
    assert_eq!(decided(waits, &running(true), &hosts, &limits(1, 4)), ["b waits: 1 move runs already (--parallel 1)"]);
}

#[test]
fn a_destination_that_has_filled_up_is_replaced_and_nobody_goes_where_it_was_refused() {
    let mut guests = guests(["a"]);
    let mut hosts = [host("node-0"), host("node-1"), host("node-2"), host("node-3")];
    assert_eq!(planned(&guests, &hosts, &limits(1, 1)).moves[0].destination, name("node-1"));
    room(&mut hosts[1]).taken.memory = ByteSize::gib(32);
    assert_eq!(decided(&guests, &[], &hosts, &limits(1, 1)), ["a → node-2, node-3"]);
    guests[0].wish.exclude.push(name("node-2"));
    assert_eq!(decided(&guests, &[], &hosts, &limits(1, 1)), ["a → node-3"]);
    guests[0].wish.exclude.push(name("node-3"));
    assert_eq!(
        decided(&guests, &[], &hosts, &limits(1, 1)),
        ["a stays: HOST_EXCLUDED on node-2, node-3: node-2 was left out for a, or has refused it before"]
    );
}

#[test]
fn an_agent_that_does_not_say_what_it_takes_is_given_no_more_than_may() {
    let mut guests = guests(["a", "b"]);
    for guest in &mut guests {
        guest.wish.hosts = Some(vec![name("node-1")]);
    }
    let mut hosts = [host("node-0"), host("node-1")];
    hosts[1].room = None;
    assert_eq!(
        decided(&guests, &[], &hosts, &limits(4, 1)),
        ["a → node-1", "b waits: node-1 takes 1 migration already (of at most 1)"]
    );
}

#[test]
fn two_that_must_be_apart_do_not_start_to_the_same_host() {
    let apart = |name: &str| guest(&Make::guest(name, "node-0").in_group("db", AffinityPolicy::AntiAffinity));
    let guests = [apart("a"), apart("b")];
    let hosts = [host("node-0"), host("node-1"), host("node-2")];
    assert_eq!(decided(&guests, &[], &hosts, &limits(4, 4)), ["a → node-1, node-2", "b → node-2"]);
    let mut hosts = hosts;
    room(&mut hosts[2]).offers.groups.insert(group("db"), 1);
    let waits = &decided(&guests, &[], &hosts, &limits(4, 4))[1];
    assert!(
        waits.starts_with("b waits: no host takes it now; AFFINITY_VIOLATED on node-1, node-2: b must be apart"),
        "{waits}"
    );
}
