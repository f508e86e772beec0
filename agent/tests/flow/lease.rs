//! Who drives: whoever is late is refused, and what nobody drives any more the agents end by themselves.

use vmferry_agent::takeover::Own;

use super::*;
use crate::strict::waiting;

const OPS: &str = "vmferry://test/coordinator/ops";
const NIGHT: &str = "vmferry://test/coordinator/night";
const AGENT: &str = "vmferry://test/agent/source";

fn lost() -> Cause {
    Cause { reason: Reason::CoordinatorLost, host: "source".parse().expect("valid"), message: "gone".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drove_before_is_refused_and_told_who_drives_also_by_an_agent_that_was_restarted() {
    let mut rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let source = rig.source.get(rig.order.id).expect("open");
    source.hear(1, OPS).expect("it is the first");
    assert_eq!(source.take_lease(NIGHT).expect("granted"), 2);
    let refused = |rig: &Rig| rig.source.get(rig.order.id).expect("open").hear(1, OPS).expect_err("it is late");
    let refusal = refused(&rig);
    assert_eq!(refusal.reason, Reason::LeaseLost);
    assert!(refusal.message.contains(NIGHT) && refusal.message.contains("epoch 2"), "{}", refusal.message);
    source.hear(2, NIGHT).expect("it drives");
    let [record] = rig.source.records(true).try_into().expect("one");
    assert_eq!(record.driver.map(|driver| (driver.epoch, driver.holder)), Some((2, NIGHT.to_owned())));

    // The destination goes by the newest that it has heard of.
    let destination = rig.destination.get(rig.order.id).expect("open");
    destination.hear(1, OPS).expect("it knows of nobody else");
    destination.hear(2, NIGHT).expect("it hears of it");
    assert_eq!(destination.hear(1, OPS).expect_err("it is late").reason, Reason::LeaseLost);

    drop((source, destination));
    rig.world.stop();
    rig.restart_blind(Side::Source);
    assert_eq!(refused(&rig).reason, Reason::LeaseLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_renewed_has_not_lapsed() {
    let rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let source = rig.source.get(rig.order.id).expect("open");
    source.hear(1, OPS).expect("it is the first");
    assert_eq!(source.take_lapsed(AGENT, Duration::from_secs(3600)).expect("asked"), None);
    assert_eq!(source.take_lapsed(AGENT, Duration::ZERO).expect("asked"), Some(2));
    assert_eq!(source.hear(1, OPS).expect_err("it is late").reason, Reason::LeaseLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sources_agent_drives_by_the_same_flow() {
    for way in WAYS {
        let rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        let hosts = Pair { source: Own { migrations: &rig.source, by: AGENT }, destination: rig.hosts().destination };
        // Before the job: back.
        let failure = Box::pin(flow::resolve(&hosts, &rig.order, &Unwatched)).await.expect_err("nothing moved");
        let Failure::RolledBack { cause, guest, leftovers } = failure else { panic!("{way:?}: {failure:?}") };
        assert_eq!((cause.reason, leftovers), (Reason::CoordinatorLost, vec![]), "{way:?}");
        assert_eq!(guest, Some(at_rest(way.0)), "{way:?}");
        rig.assert_invariants(&format!("{way:?}, before the job"));

        // The guest has moved, and nobody says so: forward.
        let rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        let driven = rig.hosts();
        driven.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("it moves");
        let hosts = Pair { source: Own { migrations: &rig.source, by: AGENT }, destination: rig.hosts().destination };
        let ended = Box::pin(flow::resolve(&hosts, &rig.order, &Unwatched)).await;
        assert!(ended.is_ok(), "{way:?}: {ended:?}");
        rig.assert_invariants(&format!("{way:?}, after the job"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_phase_that_comes_after_its_roll_back_is_refused_and_makes_nothing() {
    let rig = Rig::new(Faults::none());
    let (source_half, destination_half) = rig.check().await;
    let hosts = rig.hosts();
    for (agent, half) in [(&hosts.source, source_half), (&hosts.destination, destination_half)] {
        let rollback = Rollback { side: half.side(), cause: lost(), released: false, kept: false };
        assert_eq!(agent.cleanup(&rig.order, &rollback).await, Ok(Finished::default()));
        let late = agent.pre(&rig.order, &half).await.expect_err("it comes too late");
        assert_eq!(late.reason, Reason::CoordinatorLost, "{late}");
        assert_eq!(agent.cleanup(&rig.order, &rollback).await, Ok(Finished::default()), "a repeat");
    }
    assert!(!rig.is_open());
    assert_eq!(rig.world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_it_was_begun_leaves_no_record() {
    let rig = Rig::new(Faults::none());
    let cause = Cause { reason: Reason::TooManyMigrations, ..lost() };
    for side in [Side::Source, Side::Destination] {
        let rollback = Rollback { side, cause: cause.clone(), released: false, kept: false };
        let agent = if side == Side::Source { rig.hosts().source } else { rig.hosts().destination };
        let error = agent.cleanup(&rig.order, &rollback).await.expect_err("nothing is known of it");
        assert_eq!(error.reason, Reason::MigrationNotFound);
    }
    assert!(rig.source.records(false).is_empty() && rig.destination.records(false).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_hears_nobody_gives_up_a_guest_of_which_nothing_came() {
    for way in WAYS {
        let rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        let destination = rig.destination.get(rig.order.id).expect("open");
        assert_eq!(destination.forsake(lost()).await, Ok(Finished::default()), "{way:?}");
        assert_eq!(destination.state().outcome(), Some(Outcome::FailedRolledBack), "{way:?}");
        // The source is back: its job finds no way, and it takes its half back.
        rig.resolve().await.expect_err("it is rolled back");
        rig.assert_invariants(&format!("{way:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_hears_nobody_keeps_a_guest_that_has_arrived_and_ends_one_that_runs() {
    let mut rig = waiting().await;
    rig.world.calm();
    let destination = rig.destination.get(rig.order.id).expect("open");
    let held = destination.forsake(lost()).await.expect_err("only the source knows");
    assert_eq!(held.reason, Reason::RunnerUnknown);
    assert_eq!((rig.world.sees("destination"), destination.state().outcome()), (Sighting::Paused, None));

    rig.hosts().destination.start(&rig.order).await.expect("it is released");
    destination.forsake(lost()).await.expect("it runs here");
    assert_eq!(destination.state().outcome(), Some(Outcome::Completed));
    drop(destination);
    rig.restart(Side::Source);
    rig.resolve().await.expect("forward");
    rig.assert_invariants("forsaken");
}
