//! Where the guest runs, from what two hosts say. The flow as a whole is tested on two real agents with hosts in memory, in
//! `agent/tests/flow`.

use super::*;
use crate::{
    agent::Sighting,
    compatibility::Finding,
    migration::{Endpoint, Handover, Kind, Limits},
};

pub(crate) fn order() -> Order {
    let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
    Order {
        id: "0197a000-0000-7000-8000-000000000001".parse().expect("valid"),
        instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("valid"),
        instance_name: "web".into(),
        source: endpoint("node-28"),
        destination: endpoint("node-31"),
        kind: Kind::Live,
        limits: Limits::default(),
        priority: Default::default(),
    }
}

fn error(reason: Reason) -> CallError {
    CallError { host: "node-28".parse().expect("valid"), reason, message: "as it happens".into() }
}

fn ask(source: Option<Sighting>, destination: Option<Sighting>, failure: Reason) -> Runner {
    let answer = |seen: Option<Sighting>| seen.ok_or_else(|| error(Reason::AgentUnreachable));
    runner(&order(), &answer(source), &answer(destination), &error(failure))
}

#[test]
fn the_hosts_say_where_the_guest_runs() {
    use Sighting::{Absent, Arriving, Paused, Running, Shutoff};
    for not_running in [Absent, Shutoff, Arriving, Paused] {
        assert_eq!(ask(Some(Running), Some(not_running), Reason::HandoverFailed), Runner::Source);
        assert_eq!(ask(Some(not_running), Some(Running), Reason::HandoverFailed), Runner::Destination);
    }
    assert_eq!(ask(None, Some(Running), Reason::AgentUnreachable), Runner::Destination);
}

#[test]
fn a_guest_that_shut_itself_down_is_where_its_definition_is() {
    use Sighting::{Absent, Shutoff};
    assert_eq!(ask(Some(Shutoff), Some(Absent), Reason::MigrationFailed), Runner::Source);
    assert_eq!(ask(Some(Absent), Some(Shutoff), Reason::HandoverFailed), Runner::Destination);
}

#[test]
fn a_silent_destination_matters_only_once_the_handover_may_have_begun() {
    for failure in [Reason::MigrationFailed, Reason::MigrationAborted, Reason::CoordinatorLost] {
        assert_eq!(ask(Some(Sighting::Running), None, failure), Runner::Source, "{failure}");
    }
    for failure in [Reason::HandoverFailed, Reason::AgentRestarted, Reason::AgentUnreachable, Reason::LibvirtFailed] {
        let unknown = ask(Some(Sighting::Running), None, failure);
        assert!(matches!(unknown, Runner::Unknown { reason: Reason::RunnerUnknown, .. }), "{failure}");
    }
}

#[test]
fn what_cannot_be_told_is_held() {
    use Sighting::{Absent, Paused, Running, Shutoff};
    let held = |source, destination| match ask(source, destination, Reason::HandoverFailed) {
        Runner::Unknown { reason, message } => {
            assert!(message.contains("web") && message.contains("node-28") && message.contains("node-31"), "{message}");
            reason
        }
        told => panic!("{source:?} {destination:?} cannot mean {told:?}"),
    };
    assert_eq!(held(Some(Running), Some(Running)), Reason::RunsTwice);
    assert_eq!(held(Some(Paused), Some(Absent)), Reason::NotRunning);
    assert_eq!(held(Some(Shutoff), Some(Paused)), Reason::NotRunning);
    assert_eq!(held(Some(Shutoff), Some(Shutoff)), Reason::NotRunning);
    assert_eq!(held(Some(Absent), Some(Absent)), Reason::NotRunning);
    assert_eq!(held(None, Some(Absent)), Reason::RunnerUnknown);
    assert_eq!(held(Some(Absent), None), Reason::RunnerUnknown);
    assert_eq!(held(None, None), Reason::RunnerUnknown);
}

#[test]
fn a_guest_whose_memory_is_on_both_hosts_is_left_alone() {
    use Sighting::{Absent, Arriving, Departing, Incomplete, Paused, Running, Shutoff};
    let held = |source, destination| match ask(source, destination, Reason::HandoverFailed) {
        Runner::Unknown { reason, message } => {
            assert!(message.contains("web") && message.contains("node-28") && message.contains("node-31"), "{message}");
            reason
        }
        told => panic!("{source:?} {destination:?} cannot mean {told:?}"),
    };
    for destination in [Some(Incomplete), Some(Running), Some(Arriving), Some(Paused), None] {
        assert_eq!(held(Some(Departing), destination), Reason::PostcopyUnfinished, "{destination:?}");
    }
    assert_eq!(held(None, Some(Incomplete)), Reason::PostcopyUnfinished);
    for destination in [Absent, Shutoff] {
        assert_eq!(held(Some(Departing), Some(destination)), Reason::PostcopyLost, "{destination:?}");
    }
    assert_eq!(held(Some(Paused), Some(Incomplete)), Reason::PostcopyUnfinished);
    for source in [Absent, Shutoff] {
        assert_eq!(held(Some(source), Some(Incomplete)), Reason::PostcopyLost, "{source:?}");
    }
    assert_eq!(held(Some(Running), Some(Incomplete)), Reason::RunsTwice);
}

#[test]
fn a_guest_that_is_off_on_the_way_is_the_sources_until_the_destination_says_otherwise() {
    use Sighting::{Absent, Paused, Running, Shutoff};
    let order = Order { kind: Kind::Cold { shutdown: None }, ..order() };
    let ask = |source: Option<Sighting>, destination: Option<Sighting>| {
        let answer = |seen: Option<Sighting>| seen.ok_or_else(|| error(Reason::AgentUnreachable));
        runner(&order, &answer(source), &answer(destination), &error(Reason::AgentUnreachable))
    };
    for destination in [Some(Absent), Some(Shutoff), Some(Paused), None] {
        assert_eq!(ask(Some(Shutoff), destination), Runner::Source, "{destination:?}");
        assert_eq!(ask(Some(Running), destination), Runner::Source, "{destination:?}");
    }
    assert_eq!(ask(Some(Shutoff), Some(Running)), Runner::Destination);
    assert_eq!(ask(Some(Absent), Some(Shutoff)), Runner::Destination);
    assert!(matches!(ask(Some(Running), Some(Running)), Runner::Unknown { reason: Reason::RunsTwice, .. }));
    assert!(matches!(ask(None, Some(Shutoff)), Runner::Unknown { reason: Reason::RunnerUnknown, .. }));
    assert!(matches!(ask(Some(Absent), None), Runner::Unknown { reason: Reason::RunnerUnknown, .. }));
}

#[test]
fn only_an_abort_is_an_abort() {
    for reason in Reason::ALL {
        let cause = error(*reason).into();
        let aborted = rolled_back(&cause) == Outcome::AbortedRolledBack;
        assert_eq!(aborted, *reason == Reason::MigrationAborted, "{reason}");
    }
}

fn strict() -> Order {
    Order { limits: Limits { handover: Handover::Strict, ..Limits::default() }, ..order() }
}

/// Every pair of sightings of a strict hand-over.
#[test]
fn a_copy_that_waits_runs_once_its_source_has_none_that_could_and_goes_if_that_runs() {
    use Sighting::{Absent, Arriving, Departing, Incomplete, Paused, Running, Shutoff};
    let all = [
        None,
        Some(Absent),
        Some(Shutoff),
        Some(Running),
        Some(Arriving),
        Some(Paused),
        Some(Departing),
        Some(Incomplete),
    ];
    let answer = |seen: Option<Sighting>| seen.ok_or_else(|| error(Reason::AgentUnreachable));
    let ask = |order: &Order, source, destination| {
        runner(order, &answer(source), &answer(destination), &error(Reason::HandoverFailed))
    };
    for source in all {
        for destination in all {
            let told = ask(&strict(), source, destination);
            match (source, destination) {
                (Some(Absent | Shutoff), Some(Paused)) => assert_eq!(told, Runner::Released, "{source:?}"),
                (Some(Running), Some(Paused)) => assert_eq!(told, Runner::Source),
                (Some(Paused), Some(Paused)) => {
                    let Runner::Unknown { reason: Reason::NotRunning, message } = told else { panic!("{told:?}") };
                    assert!(
                        message.contains("virsh destroy web on node-28") && message.contains("resolve"),
                        "{message}"
                    );
                }
                (None, Some(Paused)) => {
                    let Runner::Unknown { reason: Reason::RunnerUnknown, message } = told else { panic!("{told:?}") };
                    let words = [
                        "waits, paused, on node-31",
                        "vmferry migrations resolve 0197a000",
                        "virsh resume web on node-31",
                    ];
                    assert!(words.iter().all(|word| message.contains(word)), "{message}");
                }
                // As of any other guest that runs while it moves.
                _ => assert_eq!(told, ask(&order(), source, destination), "{source:?} {destination:?}"),
            }
        }
    }
    // And of those a copy that waits is nothing that is known.
    assert!(matches!(ask(&order(), Some(Absent), Some(Paused)), Runner::Unknown { reason: Reason::NotRunning, .. }));
}

#[test]
fn only_a_live_move_without_postcopy_is_handed_over_strictly() {
    assert!(strict().is_strict() && !order().is_strict());
    assert!(!Order { kind: Kind::Cold { shutdown: None }, ..strict() }.is_strict());
    let mut may_follow = strict();
    may_follow.limits.policy = may_follow.limits.policy.with_postcopy();
    assert!(!may_follow.is_strict());
}

/// An agent of an earlier version answers all other checks.
#[test]
fn an_agent_that_says_nothing_of_a_strict_hand_over_is_refused() {
    let passed = |host: &str, subject: &str| Check {
        host: host.parse().expect("valid"),
        subject: subject.into(),
        finding: Finding::Passed { detail: "strict".into() },
    };
    let both = [passed("node-28", HANDOVER), passed("node-31", HANDOVER)];
    assert_eq!(not_strict(&strict(), &both), []);
    assert_eq!(not_strict(&order(), &[]), [], "nothing is asked of them");
    let refused = not_strict(&strict(), &[passed("node-28", HANDOVER), passed("node-31", "memory")]);
    let [refused] = &refused[..] else { panic!("{refused:?}") };
    let refusal = refused.refusal().expect("refused");
    assert_eq!((refused.host.as_str(), refusal.reason), ("node-31", Reason::HandoverUnsupported));
    assert!(refusal.remedy.contains("--handover fast"), "{}", refusal.remedy);
}
