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

#[test]
fn a_guest_that_is_off_on_the_way_is_the_sources_until_the_destination_says_otherwise() {
    use Sighting::{Absent, Paused, Running, Shutoff};
    let order = Order { kind: Kind::Cold { shutdown: None }, ..order() };
    let ask = |source: Option<Sighting>, destination: Option<Sighting>| {
        let answer = |seen: Option<Sighting>| seen.ok_or_else(|| error(Reason::AgentUnreachable));
        runner(&order, &answer(source), &answer(destination))
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
    assert!(matches!(ask(None, None), Runner::Unknown { reason: Reason::RunnerUnknown, .. }));
    assert!(matches!(ask(Some(Absent), Some(Absent)), Runner::Unknown { reason: Reason::NotRunning, .. }));
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
