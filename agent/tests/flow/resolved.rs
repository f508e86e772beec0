//! What becomes of a live migration that was left in the middle, as the two hosts' facts have it.

use super::*;

/// Its job has failed, and nobody knows where. Nothing more goes wrong.
async fn broken_off(way: (Kind, Handover)) -> Rig {
    let rig = Rig::by(way, Faults::none());
    rig.get_ready().await;
    rig.world.fail("copying memory and disks");
    rig.hosts().source.migrate(&rig.order, &relocations(), &|_| {}).await.expect_err("as asked for");
    rig.world.calm();
    assert_eq!(rig.world.sees("source"), Sighting::Running);
    rig
}

fn held(ended: Result<Completed, Failure>) -> (Reason, String) {
    match ended {
        Err(Failure::Held { reason, message, .. }) => (reason, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_has_released_nothing_goes_on_although_its_destination_is_silent() {
    let rig = broken_off(STRICT).await;
    rig.world.silence("destination");
    let ended = rig.resolve().await;
    let Err(Failure::RolledBack { leftovers, .. }) = &ended else { panic!("{ended:?}") };
    assert!(leftovers.iter().any(|left| left.contains("destination did not answer")), "{leftovers:?}");
    // What waits there is never let run: its source's journal says that it is kept.
    rig.world.silence("nobody");
    rig.resolve().await.expect_err("rolled back");
    rig.assert_invariants("heard again");
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirts_own_hand_over_is_held_until_the_destination_says_that_it_does_not_run_it() {
    let rig = broken_off(LIVE).await;
    rig.world.silence("destination");
    let (reason, message) = held(rig.resolve().await);
    assert_eq!(reason, Reason::RunnerUnknown);
    for words in ["web", "destination could not be asked", "destination did not answer", "source"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(rig.is_open());
    rig.world.silence("nobody");
    let ended = rig.resolve().await.expect_err("it stayed");
    assert_eq!(ended.outcome(), Some(Outcome::FailedRolledBack), "{ended:?}");
    rig.assert_invariants("heard again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_libvirt_has_left_stopped_goes_on_where_it_was() {
    for way in [STRICT, LIVE] {
        let rig = broken_off(way).await;
        rig.world.leave_stopped();
        let ended = rig.resolve().await;
        let Err(Failure::RolledBack { guest, leftovers, .. }) = &ended else { panic!("{way:?}: {ended:?}") };
        assert_eq!((*guest, leftovers.as_slice()), (Some(Sighting::Running), &[][..]), "{way:?}");
        rig.assert_invariants(&format!("{way:?}, left stopped"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_libvirts_own_hand_over_it_goes_on_only_when_its_destination_has_given_it_up() {
    let rig = broken_off(LIVE).await;
    rig.world.leave_stopped();
    let cause = because(&rig.order, Reason::CoordinatorLost);
    let refused =
        rig.hosts().source.cleanup(&rig.order, &rollback(Side::Source, &cause)).await.expect_err("it may run there");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    assert_eq!(rig.world.sees("source"), Sighting::Paused);
    rig.world.silence("destination");
    assert_eq!(held(rig.resolve().await).0, Reason::RunnerUnknown);
    assert_eq!(rig.world.sees("source"), Sighting::Paused);
    rig.world.silence("nobody");
    rig.resolve().await.expect_err("it stays");
    rig.assert_invariants("given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_go_on_yet_is_let_go_on_until_it_does() {
    let rig = broken_off(STRICT).await;
    rig.world.leave_stopped();
    rig.world.fail("letting it go on");
    let ended = flow::resolve(&rig.hosts(), &rig.order, &Unwatched).await;
    let Err(Failure::RolledBack { guest, leftovers, .. }) = &ended else { panic!("{ended:?}") };
    assert_eq!(*guest, Some(Sighting::Paused));
    assert!(leftovers.iter().any(|left| left.contains("letting it go on")), "{leftovers:?}");
    assert!(rig.is_open(), "its half has not ended");
    rig.resolve().await.expect_err("it stays");
    rig.assert_invariants("let go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stands_still_with_all_of_it_on_both_hosts_is_held_and_people_are_told_which_goes() {
    let rig = broken_off(STRICT).await;
    rig.world.leave_stopped();
    rig.world.by_hand("destination", Sighting::Paused);
    let (reason, message) = held(rig.resolve().await);
    assert_eq!(reason, Reason::NotRunning);
    for words in ["waits, paused, on destination", "virsh destroy web on source", "vmferry migrations resolve"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!((rig.world.sees("source"), rig.world.sees("destination")), (Sighting::Paused, Sighting::Paused));
    rig.world.goes_off("source");
    rig.resolve().await.expect("forward");
    rig.assert_invariants("as people were told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_runs_twice_is_left_to_people() {
    let rig = broken_off(LIVE).await;
    // The world itself would not have it.
    rig.world.seem_to_run_twice();
    let (reason, message) = held(rig.resolve().await);
    assert_eq!(reason, Reason::RunsTwice);
    assert!(message.contains("on source and on destination") && message.contains("virsh destroy web"), "{message}");
    assert!(rig.is_open(), "nothing was decided");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_went_off_when_it_was_released_is_told_to_be_off_at_once() {
    let mut rig = strict::waiting().await;
    rig.world.calm();
    // Its copy is gone, which nobody could have known when it was let go.
    rig.world.by_hand("destination", Sighting::Absent);
    rig.world.goes_off("source");
    rig.restart(Side::Source);
    let ended = rig.resolve().await;
    let Err(Failure::RolledBack { guest, .. }) = &ended else { panic!("{ended:?}") };
    assert_eq!(*guest, Some(Sighting::Shutoff));
    assert!(!rig.is_open());
}
