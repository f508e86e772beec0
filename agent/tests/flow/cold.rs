//! Who may start a guest that is off while it moves.

use vmferry_core::{
    agent::{Agent as _, Rollback, Sighting},
    flow::Failure,
    migration::{Kind, Side},
    reason::Reason,
};

use crate::{Rig, SHUTDOWN, because, fake::Faults, relocations, rollback};

const COLD: Kind = Kind::Cold { shutdown: Some(SHUTDOWN) };

/// Everything of the guest is on the destination, and nobody has started it.
async fn moved() -> Rig {
    let rig = Rig::of(COLD, Faults::none());
    rig.get_ready().await;
    rig.hosts().source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("moved");
    assert_eq!((rig.world.sees("source"), rig.world.sees("destination")), (Sighting::Shutoff, Sighting::Shutoff));
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_starts_it_again_only_when_the_destination_has_given_it_up() {
    let rig = moved().await;
    let (hosts, order) = (rig.hosts(), &rig.order);
    let cause = because(order, Reason::CoordinatorLost);
    let refused = hosts.source.cleanup(order, &rollback(Side::Source, &cause)).await.expect_err("it may run there");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    assert_eq!(rig.world.sees("source"), Sighting::Shutoff);

    hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect("it has not run");
    hosts.destination.start(order).await.expect_err("it was given up");
    let released = Rollback { released: true, ..rollback(Side::Source, &cause) };
    hosts.source.cleanup(order, &released).await.expect("it runs nowhere");
    rig.assert_invariants("given back");
    assert_eq!(rig.world.sees("source"), Sighting::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_does_not_give_up_a_guest_that_has_run_there_even_if_it_went_off_since() {
    let rig = moved().await;
    let (hosts, order) = (rig.hosts(), &rig.order);
    hosts.destination.start(order).await.expect("started");
    let steps = rig.world.steps();
    hosts.destination.start(order).await.expect("it was");
    assert_eq!(rig.world.steps(), steps, "a second start does nothing");
    rig.world.goes_off("destination");

    let cause = because(order, Reason::CoordinatorLost);
    let refused = hosts.destination.cleanup(order, &rollback(Side::Destination, &cause)).await.expect_err("it has run");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    let completed = rig.resolve().await.expect("forward");
    assert!(completed.warnings.iter().any(|warning| warning.contains("does not run there any more")), "{completed:?}");
    assert_eq!((rig.world.sees("source"), rig.world.sees("destination")), (Sighting::Absent, Sighting::Shutoff));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_destination_is_silent_nobody_starts_it() {
    let rig = moved().await;
    rig.world.silence("destination");
    let held = rig.resolve().await.expect_err("it may run there");
    let Failure::Held { reason, message, .. } = held else { panic!("{held:?}") };
    assert_eq!(reason, Reason::RunnerUnknown);
    assert!(message.contains("web is off on source and may have been started on destination"), "{message}");
    assert_eq!(rig.world.sees("source"), Sighting::Shutoff);

    rig.world.silence("nobody");
    rig.resolve().await.expect("forward");
    rig.assert_invariants("heard again");
    assert_eq!(rig.world.sees("destination"), Sighting::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_destination_of_a_guest_that_was_shut_down_starts_it() {
    for kind in [Kind::Live, Kind::Cold { shutdown: None }] {
        let rig = Rig::of(kind, Faults::none());
        rig.get_ready().await;
        let refused = rig.hosts().destination.start(&rig.order).await.expect_err("nobody shut it down");
        assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
    }
    let rig = Rig::of(COLD, Faults::none());
    rig.get_ready().await;
    let refused = rig.hosts().source.start(&rig.order).await.expect_err("it starts it again only in cleanup");
    assert_eq!(refused.reason, Reason::PhaseOutOfOrder);
}
