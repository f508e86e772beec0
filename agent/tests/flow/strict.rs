//! The strict hand-over: whoever loses what, the guest runs once, and each agent keeps its own rule alone.

use std::time::Duration;

use vmferry_core::{
    agent::{Agent as _, Rollback, Sighting},
    flow::{self, Failure},
    migration::{Order, Side},
    reason::Reason,
};

use crate::{
    Rig, STRICT, because,
    fake::{Faults, Trouble, relocations},
    phases::{crash_everywhere, fail_every_step, lose_every_call},
    rollback,
};

/// One whose move is struck where this is done.
async fn struck_at(what: &str, trouble: Trouble) -> Rig {
    let mut index = 0;
    let rig = Rig::by(STRICT, Faults::none());
    rig.run().await.expect("nothing fails");
    let steps = rig.world.steps();
    while index < steps {
        let rig = Rig::by(STRICT, Faults::at_step(index, trouble));
        let died = rig.world.wait_for_death();
        let ended = tokio::select! {
            ended = rig.run() => Some(ended),
            () = died => None,
        };
        if rig.world.struck().is_some_and(|struck| struck.ends_with(what)) {
            println!("{what}, {trouble:?}: {ended:?}");
            return rig;
        }
        index += 1;
    }
    panic!("`{what}` is never done");
}

/// All of the guest has arrived, and the source's copy is gone; nobody could be told.
pub(crate) async fn waiting() -> Rig {
    let rig = struck_at("telling of the release", Trouble::DiesBefore).await;
    assert_eq!((rig.world.sees("source"), rig.world.sees("destination")), (Sighting::Absent, Sighting::Paused));
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_strict_hand_over_that_fails_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(STRICT, Trouble::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_strict_hand_over_whose_answer_is_lost_leaves_the_guest_running_once_and_nothing_behind() {
    fail_every_step(STRICT, Trouble::LosesItsAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_is_lost_of_a_strict_hand_over_leaves_the_guest_running_once_and_nothing_behind() {
    lose_every_call(&[STRICT]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_before_a_step_of_a_strict_hand_over_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(STRICT, Trouble::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_after_a_step_of_a_strict_hand_over_leaves_the_guest_running_once_and_nothing_behind() {
    crash_everywhere(STRICT, Trouble::DiesAfter).await;
}

async fn until_it_runs(rig: &Rig, host: &str) {
    for _ in 0..500 {
        if rig.world.sees(host) == Sighting::Running {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not run on {host}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_is_let_run_by_its_destination_and_its_downtime_is_counted_until_then() {
    let rig = Rig::by(STRICT, Faults::none());
    let completed = rig.run().await.expect("nothing fails");
    rig.assert_invariants("no fault");
    let [source] = rig.source.records(false).try_into().expect("one");
    assert_eq!(completed.statistics, source.statistics);
    assert!(
        completed.statistics.is_some_and(|statistics| statistics.downtime < Duration::from_millis(50)),
        "libvirt's own"
    );
}

/// libvirt's last answer is lost: the source's lets the guest go on, and the copy that has arrived waits for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_libvirts_leaves_the_guest_on_the_source_and_nothing_on_the_destination() {
    let rig = struck_at("arriving", Trouble::LosesItsAnswer).await;
    rig.assert_invariants("lost finish");
    assert_eq!((rig.world.sees("source"), rig.world.sees("destination")), (Sighting::Running, Sighting::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_source_tells_the_destination_by_itself() {
    for (what, trouble) in [
        ("handing over", Trouble::DiesAfter),
        ("telling of the release", Trouble::DiesBefore),
        ("telling of the release", Trouble::DiesAfter),
        ("hearing that it runs", Trouble::DiesAfter),
    ] {
        let mut rig = struck_at(what, trouble).await;
        assert_eq!(rig.world.sees("source"), Sighting::Absent, "{what}");
        rig.restart(Side::Source);
        // No coordinator.
        until_it_runs(&rig, "destination").await;
        rig.resolve().await.expect("forward");
        rig.assert_invariants(what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_destination_that_was_told_lets_the_guest_run_by_itself() {
    for trouble in [Trouble::DiesBefore, Trouble::DiesAfter] {
        let mut rig = struck_at("letting it run", trouble).await;
        rig.restart(Side::Destination);
        until_it_runs(&rig, "destination").await;
        rig.resolve().await.expect("forward");
        rig.assert_invariants("told and restarted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_destination_that_was_not_told_keeps_its_copy_until_it_is() {
    let mut rig = waiting().await;
    rig.restart(Side::Destination);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.world.sees("destination"), Sighting::Paused, "neither destroyed nor let run");
    rig.restart(Side::Source);
    until_it_runs(&rig, "destination").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_alone_tells_the_destination() {
    let rig = waiting().await;
    // The source's agent is not back; libvirt there is asked by another way.
    rig.world.calm();
    rig.hosts().destination.start(&rig.order).await.expect("let run");
    assert_eq!(rig.world.sees("destination"), Sighting::Running);
    let steps = rig.world.steps();
    rig.hosts().destination.start(&rig.order).await.expect("it was");
    assert_eq!(rig.world.steps(), steps, "a second time nothing is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_released_the_source_takes_nothing_back_without_the_destinations_leave() {
    // Its agent goes on, and hears nothing.
    let rig = struck_at("telling of the release", Trouble::LosesItsAnswer).await;
    let order = &rig.order;
    assert!(rig.source.of(order).expect("it is known").state().released, "it is journaled");
    let cause = because(order, Reason::CoordinatorLost);
    let refused = rig.hosts().source.cleanup(order, &rollback(Side::Source, &cause)).await.expect_err("released");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    rig.assert_invariants("told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_waits_is_destroyed_only_if_the_source_keeps_the_guest() {
    let rig = Rig::by(STRICT, Faults::none());
    rig.get_ready().await;
    rig.world.by_hand("destination", Sighting::Paused);
    let (hosts, order) = (rig.hosts(), &rig.order);
    let cause = because(order, Reason::HandoverFailed);
    let refused =
        hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect_err("the only one?");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    assert_eq!(rig.world.sees("destination"), Sighting::Paused);

    hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect("it runs there");
    let kept = Rollback { kept: true, ..rollback(Side::Destination, &cause) };
    hosts.destination.cleanup(order, &kept).await.expect("it has never run");
    let late = hosts.destination.start(order).await.expect_err("it was given up");
    assert_eq!(late.reason, Reason::HandoverFailed);
    rig.assert_invariants("kept");
}

/// Seen first in a simulation.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_needs_goes_after_it_although_it_could_not_be_destroyed_at_first() {
    let rig = Rig::by(STRICT, Faults::none());
    rig.get_ready().await;
    rig.world.by_hand("destination", Sighting::Paused);
    let (hosts, order) = (rig.hosts(), &rig.order);
    let cause = because(order, Reason::HandoverFailed);
    hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect("it runs there");
    let kept = Rollback { kept: true, ..rollback(Side::Destination, &cause) };
    rig.world.fail("destroying what has arrived");
    let leftovers = hosts.destination.cleanup(order, &kept).await.expect("as far as it went");
    assert!(leftovers.complaints.iter().any(|left| left.contains("secret")), "{leftovers:?}");
    rig.world.calm();
    hosts.destination.cleanup(order, &kept).await.expect("taken back");
    rig.assert_invariants("destroyed at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_told_to_run_or_that_somebody_let_run_is_never_destroyed() {
    let rig = Rig::by(STRICT, Faults::none());
    rig.get_ready().await;
    rig.hosts().source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("moved");
    // Its user pauses it.
    rig.world.by_hand("destination", Sighting::Paused);
    let kept = Rollback { kept: true, ..rollback(Side::Destination, &because(&rig.order, Reason::CoordinatorLost)) };
    let refused = rig.hosts().destination.cleanup(&rig.order, &kept).await.expect_err("it has run");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    assert_eq!(rig.world.sees("destination"), Sighting::Paused);

    let rig = waiting().await;
    rig.world.calm();
    rig.world.by_hand("destination", Sighting::Running);
    let refused = rig.hosts().destination.cleanup(&rig.order, &kept).await.expect_err("it runs");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_source_is_silent_nobody_lets_the_copy_run() {
    let mut rig = waiting().await;
    rig.world.calm();
    rig.world.silence("source");
    let held = rig.resolve().await.expect_err("it may run there");
    let Failure::Held { reason, message, .. } = held else { panic!("{held:?}") };
    assert_eq!(reason, Reason::RunnerUnknown);
    assert!(message.contains("waits, paused, on destination") && message.contains("migrations resolve"), "{message}");
    assert_eq!(rig.world.sees("destination"), Sighting::Paused);

    rig.world.silence("nobody");
    rig.restart(Side::Source);
    rig.resolve().await.expect("forward");
    rig.assert_invariants("heard again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_paused_or_went_off_since_the_checks_does_not_move() {
    for (seen, reason) in [(Sighting::Paused, Reason::InstancePaused), (Sighting::Shutoff, Reason::InstanceShutoff)] {
        let rig = Rig::by(STRICT, Faults::none());
        rig.get_ready().await;
        rig.world.by_hand("source", seen);
        let refused =
            rig.hosts().source.migrate(&rig.order, &relocations(), &|_| {}).await.expect_err("it does not run");
        assert_eq!(refused.reason, reason);
        assert_eq!(rig.world.sees("destination"), Sighting::Absent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_follow_by_postcopy_is_not_handed_over_strictly() {
    let mut rig = Rig::by(STRICT, Faults::none());
    rig.order.limits.policy = rig.order.limits.policy.clone().with_postcopy();
    let plan = flow::check(&rig.hosts(), &rig.order, &crate::Unwatched).await.expect("checked");
    let refused = |order: &Order| {
        let of = |host: &vmferry_core::id::HostName| {
            let checks = plan.checks.iter().filter(move |check| check.host == *host);
            checks.filter_map(|check| check.refusal()).any(|refusal| refusal.reason == Reason::HandoverUnsupported)
        };
        of(&order.source.host) && of(&order.destination.host)
    };
    assert!(refused(&rig.order), "{:#?}", plan.checks);
}
