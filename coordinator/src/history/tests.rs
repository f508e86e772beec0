use vmferry_core::migration::{Endpoint, PhaseSpan};

use super::*;

/// A half of a migration that began `started` seconds after 2026-11-22, for tests here and of `render`.
pub(crate) fn half(side: Side, id: &str, started: i64, ended: Option<(i64, Outcome)>) -> Record {
    let endpoint = |name: &str, address: &str| Endpoint { host: name.parse().expect("valid"), address: address.into() };
    let at = |seconds| Timestamp::from_second(1_795_305_600 + seconds).expect("valid");
    let rolled_back = ended.is_some_and(|(_, outcome)| Exit::of_outcome(outcome) != Exit::Done);
    let last = if rolled_back { Phase::Cleanup } else { Phase::Migrate };
    Record {
        order: Order {
            kind: vmferry_core::migration::Kind::Live,
            limits: vmferry_core::migration::Limits::default(),
            priority: Default::default(),
            id: id.parse().expect("valid"),
            instance: "ed831ace-39ef-4960-8bae-a035d292c305".parse().expect("valid"),
            instance_name: "web".into(),
            source: endpoint("node-28", "192.0.2.10:7443"),
            destination: endpoint("node-31", "192.0.2.11:7443"),
        },
        side,
        requested_by: "vmferry://example/coordinator/ops".into(),
        driver: None,
        started: at(started),
        ended: ended.map(|(seconds, _)| at(seconds)),
        phases: vec![
            PhaseSpan { phase: Phase::Pre, started: at(started), duration: Some(Duration::from_millis(12)) },
            PhaseSpan {
                phase: last,
                started: at(started),
                duration: ended.map(|(seconds, _)| Duration::from_secs((seconds - started) as u64)),
            },
        ],
        outcome: ended.map(|(_, outcome)| outcome),
        cause: rolled_back.then(|| Cause {
            reason: Reason::MigrationFailed,
            host: "node-28".parse().expect("valid"),
            message: "the job failed: connection reset".into(),
        }),
        statistics: (side == Side::Source && !rolled_back && ended.is_some()).then(|| Statistics {
            total_time: Duration::from_millis(1920),
            downtime: Duration::from_millis(74),
            transferred: bytesize::ByteSize::b(281_018_368),
            total: bytesize::ByteSize::mib(272),
            rounds: 2,
        }),
        pending: vec![],
        warnings: vec![],
        guest: None,
        story: Default::default(),
    }
}

const FIRST: &str = "0190f5fe-7c00-7a00-8abc-012345678901";
const SECOND: &str = "0190f600-0000-7a00-8abc-012345678902";

fn silence() -> CallError {
    CallError {
        host: "node-27".parse().expect("valid"),
        reason: Reason::AgentUnreachable,
        message: "cannot reach the agent of node-27".into(),
    }
}

#[test]
fn two_halves_are_one_migration_and_the_newest_comes_first() {
    let done = Some((2, Outcome::Completed));
    let migrations = merge([
        half(Side::Source, FIRST, 0, done),
        half(Side::Source, SECOND, 60, None),
        half(Side::Destination, FIRST, 0, done),
    ]);
    let ids: Vec<_> = migrations.iter().map(|migration| migration.order.id.to_string()).collect();
    assert_eq!(ids, [SECOND, FIRST]);
    assert!(migrations[1].source.is_some() && migrations[1].destination.is_some());
    assert_eq!(migrations[1].outcome(), Some(Outcome::Completed));
    assert_eq!(migrations[0].outcome(), None);
}

#[test]
fn a_migration_is_open_as_long_as_either_half_is() {
    let source = half(Side::Source, FIRST, 0, Some((2, Outcome::Completed)));
    let destination = half(Side::Destination, FIRST, 0, None);
    let migration = merge([source, destination]).remove(0);
    assert!(migration.is_open());
    assert_eq!((migration.outcome(), migration.phase()), (None, Phase::Migrate));
}

#[test]
fn a_warning_of_either_host_is_the_migrations() {
    let source = half(Side::Source, FIRST, 0, Some((2, Outcome::Completed)));
    let destination = half(Side::Destination, FIRST, 0, Some((2, Outcome::CompletedWithWarnings)));
    assert_eq!(merge([source, destination])[0].outcome(), Some(Outcome::CompletedWithWarnings));
}

#[test]
fn an_open_one_lasts_until_now() {
    let migration = merge([half(Side::Source, FIRST, 0, None)]).remove(0);
    let now = migration.started() + jiff::SignedDuration::from_secs(90);
    assert_eq!(migration.duration(now), Duration::from_secs(90));
    // Clocks of two machines: never negative.
    assert_eq!(migration.duration(Timestamp::UNIX_EPOCH), Duration::ZERO);
}

#[test]
fn finds_by_id_and_unique_prefix() {
    let all = merge([half(Side::Source, FIRST, 0, None), half(Side::Source, SECOND, 60, None)]);
    for wanted in [FIRST, "0190f5", "0190F5FE"] {
        assert_eq!(find(all.clone(), &[], wanted).expect("found").order.id.to_string(), FIRST);
    }
    assert_eq!(find(all.clone(), &[], "0190").expect_err("two").exit, Exit::Usage);
    assert_eq!(find(all.clone(), &[], "019").expect_err("too short").exit, Exit::Usage);
    let failed = find(all.clone(), &[], "ffff").expect_err("none");
    assert_eq!((failed.exit, failed.reason), (Exit::Usage, Some(Reason::MigrationNotFound)));
    assert_eq!(find(all, &[silence()], "ffff").expect_err("none").exit, Exit::Unreachable);
}

#[test]
fn a_migration_is_settled_once_both_hosts_have_nothing_left_to_do() {
    let done = Some((2, Outcome::Completed));
    let [source, destination] = [Side::Source, Side::Destination].map(|side| half(side, FIRST, 0, done));
    let of = |halves: Vec<Record>, answered: bool| merge(halves).remove(0).is_settled(|_| answered);
    assert!(of(vec![source.clone(), destination.clone()], false));
    // The other host has no half, or was not asked.
    assert!(of(vec![source.clone()], true));
    assert!(!of(vec![source.clone()], false));
    let open = half(Side::Destination, FIRST, 0, None);
    assert!(!of(vec![source.clone(), open], true));
    let left = Record { pending: vec!["remove its sockets".into()], ..destination };
    assert!(!of(vec![source, left], true));
    let held = half(Side::Source, FIRST, 0, Some((2, Outcome::Held)));
    assert!(!of(vec![held], true));
}
