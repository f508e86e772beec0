//! The phases one by one, and all of them with each step, call and moment going wrong in turn.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_moves_and_nothing_is_left() {
    for way in WAYS {
        let rig = Rig::by(way, Faults::none());
        let completed = rig.run().await.expect("nothing fails");
        assert_eq!(completed.outcome(), Outcome::Completed, "{completed:?}");
        assert!(completed.statistics.is_some());
        assert_eq!(completed.guest, Some(at_rest(way.0)));
        rig.assert_invariants("no fault");
        assert_eq!(rig.world.sees("destination"), at_rest(way.0));
    }
}

/// Of each way a test of its own, and of either trouble: they run side by side.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_live_move_that_fails_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(LIVE, Trouble::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_live_move_whose_answer_is_lost_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(LIVE, Trouble::LosesItsAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_cold_move_that_fails_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(COLD, Trouble::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_cold_move_whose_answer_is_lost_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(COLD, Trouble::LosesItsAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_move_of_a_guest_that_is_off_that_fails_leaves_it_off_once_and_nothing_behind() {
    fail_every_step(OFF, Trouble::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_move_of_a_guest_that_is_off_whose_answer_is_lost_leaves_it_off_once_and_nothing_behind() {
    fail_every_step(OFF, Trouble::LosesItsAnswer).await;
}

/// Each step at the edge fails once: before its effect, or after it with the answer lost.
pub(crate) async fn fail_every_step(way: (Kind, Handover), trouble: Trouble) {
    for step in 0.. {
        let case = format!("{way:?}, step {step} {trouble:?}");
        let rig = Rig::by(way, Faults::at_step(step, trouble));
        let ended = rig.run().await;
        let Some(struck) = rig.world.struck() else {
            assert!(ended.is_ok() && step > 10, "{case}: {ended:?}");
            break;
        };
        let case = format!("{case}: {struck}");
        if matches!(ended, Err(Failure::NotStarted(_))) {
            assert!(!rig.is_open(), "{case}");
        } else if rig.is_unfinished() {
            // What failed once is asked for again, as by `migrations resolve`.
            _ = rig.resolve().await;
        }
        rig.quiet().await;
        rig.assert_invariants(&case);
    }
}

/// Each call between coordinator and agents is lost once: the request, or the reply after the agent did it.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_is_lost_leaves_the_guest_running_once_and_nothing_behind() {
    lose_every_call(&[LIVE, COLD, OFF]).await;
}

pub(crate) async fn lose_every_call(ways: &[(Kind, Handover)]) {
    for (way, trouble) in ways_and(ways, [Trouble::Fails, Trouble::LosesItsAnswer]) {
        for call in 0.. {
            let rig = Rig::by(way, Faults::at_call(call, trouble));
            let ended = rig.run().await;
            let Some(struck) = rig.world.struck() else {
                assert!(ended.is_ok() && call > 6, "call {call}: {ended:?}");
                break;
            };
            let case = format!("{way:?}, call {call} {trouble:?}: {struck}");
            if rig.is_unfinished() {
                _ = rig.resolve().await;
            }
            rig.quiet().await;
            rig.assert_invariants(&case);
        }
    }
}

/// Of each way a test of its own, and of what happens before and after a step: each takes seconds, and they run side by side.
#[tokio::test(flavor = "multi_thread")]
async fn every_crash_before_a_step_of_a_live_move_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(LIVE, Trouble::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_after_a_step_of_a_live_move_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(LIVE, Trouble::DiesAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_before_a_step_of_a_cold_move_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(COLD, Trouble::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_after_a_step_of_a_cold_move_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(COLD, Trouble::DiesAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_before_a_step_of_the_move_of_a_guest_that_is_off_leaves_it_off_once_and_nothing_behind() {
    crash_everywhere(OFF, Trouble::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_after_a_step_of_the_move_of_a_guest_that_is_off_leaves_it_off_once_and_nothing_behind() {
    crash_everywhere(OFF, Trouble::DiesAfter).await;
}

/// An agent dies between the journal's entry and the step, or between the step and the next entry; the coordinator
/// dies with it. The agent comes back, and somebody runs `migrations resolve`.
pub(crate) async fn crash_everywhere(way: (Kind, Handover), trouble: Trouble) {
    for step in 0.. {
        let mut rig = Rig::by(way, Faults::at_step(step, trouble));
        let died = rig.world.wait_for_death();
        tokio::select! {
            ended = rig.run() => {
                assert!(ended.is_ok() && step > 10, "step {step}: {ended:?}");
                break;
            }
            () = died => {}
        }
        let struck = rig.world.struck().expect("something died");
        let case = format!("{way:?}, step {step} {trouble:?}: {struck}");
        rig.restart(if struck.starts_with("source") { Side::Source } else { Side::Destination });
        let settled = async {
            for _ in 0..3 {
                if !rig.is_unfinished() {
                    break;
                }
                _ = rig.resolve().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), settled).await.expect("I3: it settles");
        // A restarted agent unwinds by itself, without being asked.
        rig.quiet().await;
        rig.assert_invariants(&case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repeat_of_each_phase_is_a_no_op() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    let (source_half, destination_half) = rig.check().await;
    for _ in 0..2 {
        hosts.source.pre(order, &source_half).await.expect("source is ready");
        hosts.destination.pre(order, &destination_half).await.expect("destination is ready");
        let before = rig.world.steps();
        hosts.source.pre(order, &source_half).await.expect("source is still ready");
        hosts.destination.pre(order, &destination_half).await.expect("destination is still ready");
        assert_eq!(rig.world.steps(), before, "a second pre takes no step");
    }
    let first = hosts.source.migrate(order, &relocations(), &|_| {}).await.expect("moved");
    let before = rig.world.steps();
    assert_eq!(hosts.source.migrate(order, &relocations(), &|_| {}).await.expect("joined"), first);
    assert_eq!(rig.world.steps(), before, "a second migrate moves nothing");
    hosts.destination.post(order, Side::Destination).await.expect("final");
    hosts.source.post(order, Side::Source).await.expect("final");
    let before = rig.world.steps();
    hosts.destination.post(order, Side::Destination).await.expect("final");
    hosts.source.post(order, Side::Source).await.expect("final");
    assert_eq!(rig.world.steps(), before, "a second post takes no step");
    rig.assert_invariants("repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repeat_of_cleanup_is_a_no_op_and_a_late_post_is_refused() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    rig.get_ready().await;
    let cause = because(order, Reason::MigrationAborted);
    hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect("undone");
    hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect("undone");
    let before = rig.world.steps();
    hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect("undone");
    hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect("undone");
    assert_eq!(rig.world.steps(), before, "a second cleanup takes no step");
    for host in [&hosts.source, &hosts.destination] {
        let late = host.post(order, Side::Source).await.expect_err("it was rolled back");
        assert_eq!(late.reason, Reason::PhaseOutOfOrder);
    }
    rig.assert_invariants("cleaned up");
    assert_eq!(rig.source.records(false)[0].outcome, Some(Outcome::AbortedRolledBack));
}

/// Seen first in a simulation.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_after_what_could_not_be_removed_from_it_at_first() {
    let rig = Rig::new(Faults::none());
    let (hosts, order) = (rig.hosts(), &rig.order);
    rig.get_ready().await;
    let cause = because(order, Reason::MigrationAborted);
    rig.world.fail("removing an image");
    hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect("nothing was made there");
    let leftovers = hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect("taken back");
    assert_eq!(leftovers.complaints.len(), 3, "two images and their directory: {leftovers:?}");
    rig.world.calm();
    hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect("taken back");
    rig.assert_invariants("a directory that was not empty at first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_is_refused_once_the_guest_runs_on_the_destination() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    rig.get_ready().await;
    hosts.source.migrate(order, &relocations(), &|_| {}).await.expect("moved");
    let cause = because(order, Reason::MigrationFailed);
    let refused = hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect_err("I1");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    assert_eq!(rig.world.sees("destination"), Sighting::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_at_most_one_migration() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let (half, _) = rig.check().await;
    hosts.source.pre(&rig.order, &half).await.expect("ready");
    let mut second = rig.order.clone();
    second.id = "0197a000-0000-7000-8000-000000000002".parse().expect("valid");
    let refused = hosts.source.pre(&second, &half).await.expect_err("one at a time");
    assert_eq!(refused.reason, Reason::InstanceMigrating);
    let report = hosts.source.check(&second, Side::Source, None).await.expect("checked");
    assert!(report.checks.iter().any(|check| check.refusal().is_some_and(|no| no.reason == Reason::InstanceMigrating)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_phase_leaves_the_record_as_it_was() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    rig.get_ready().await;
    let records = || [rig.source.records(false), rig.destination.records(false)];
    let before = records();
    for (host, side) in [(&hosts.source, Side::Source), (&hosts.destination, Side::Destination)] {
        let refused = host.post(order, side).await.expect_err("the guest has not moved");
        assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    }
    assert_eq!(records(), before);
    let ended = rig.resolve().await.expect_err("it had not begun to move");
    assert_eq!(ended.outcome(), Some(Outcome::FailedRolledBack));
    rig.assert_invariants("after a refused post");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guest_does_not_allow_is_refused_also_to_those_who_do_not_ask_for_the_checks() {
    for policy in ["postcopy", "must-finish"] {
        let mut rig = Rig::new(Faults::none());
        let (source_half, destination_half) = rig.check().await;
        rig.order.limits.policy = named(policy).expect("one of them");
        let plan = flow::check(&rig.hosts(), &rig.order, &Unwatched).await.expect("checked");
        let refused: Vec<_> = plan.checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason).collect();
        assert_eq!(refused, [Reason::GuestLimits], "{policy}");

        let hosts = rig.hosts();
        hosts.source.pre(&rig.order, &source_half).await.expect("ready");
        hosts.destination.pre(&rig.order, &destination_half).await.expect("ready");
        let refused = hosts.source.migrate(&rig.order, &[], &|_| ()).await.expect_err("not allowed");
        assert_eq!(refused.reason, Reason::GuestLimits, "{policy}: {refused}");
        let ended = rig.resolve().await.expect_err("it did not move");
        assert_eq!(ended.outcome(), Some(Outcome::FailedRolledBack));
        rig.assert_invariants(policy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guest_does_not_allow_is_not_done_by_hand_either() {
    let rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let told = async |steering| rig.source.steer(rig.order.id, steering, "somebody").await.expect_err("no job").reason;
    for steering in [Steering::Postcopy, Steering::Suspend, Steering::Downtime(Duration::from_secs(2))] {
        assert_eq!(told(steering).await, Reason::GuestLimits, "{steering:?}");
    }
    // What it allows is for the job to hear.
    for steering in [Steering::Downtime(Duration::from_secs(1)), Steering::Bandwidth(None), Steering::Pause] {
        assert_eq!(told(steering).await, Reason::NothingToSteer, "{steering:?}");
    }
    rig.resolve().await.expect_err("it had not begun to move");
    rig.assert_invariants("after a refused word");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_resolved_starts_no_job_any_more() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    rig.get_ready().await;
    _ = rig.resolve().await.expect_err("somebody else ends it before it moves");
    hosts.source.migrate(order, &relocations(), &|_| {}).await.expect_err("its first coordinator is too late");
    assert_eq!(rig.world.sees("source"), Sighting::Running);
    rig.assert_invariants("resolved beside a living coordinator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_resolve_of_a_migration_that_moved_goes_forward() {
    let rig = Rig::new(Faults::none());
    let hosts = rig.hosts();
    let order = &rig.order;
    rig.get_ready().await;
    hosts.source.migrate(order, &relocations(), &|_| {}).await.expect("moved");
    let cause = because(order, Reason::CoordinatorLost);
    let refused = hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect_err("it has moved");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    rig.resolve().await.expect("forward");
    rig.assert_invariants("moved, then resolved");
}
