//! A guest whose QEMU dies on the way, or after it: what is told of it is what was seen.

use vmferry_core::{
    agent::{Agent as _, Sighting},
    flow::{Completed, Failure},
    migration::{Outcome, Record, Side},
};

use crate::{
    LIVE, Rig, STRICT,
    fake::{Faults, relocations},
};

/// What it came to: the guest as it was seen, and what needs a look.
fn told(ended: &Result<Completed, Failure>) -> (Option<Sighting>, &[String]) {
    match ended {
        Ok(Completed { guest, warnings, .. }) => (*guest, warnings),
        Err(Failure::RolledBack { guest, leftovers, .. }) => (*guest, leftovers),
        Err(failure) => panic!("{failure:?}"),
    }
}

/// What a host's record says of it.
fn recorded(rig: &Rig, side: Side) -> Option<Sighting> {
    let agent = if side == Side::Source { &rig.source } else { &rig.destination };
    let [Record { guest, .. }] = agent.records(false).try_into().expect("one");
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_dies_on_its_source_before_it_moves_is_told_to_be_off_there() {
    for way in [LIVE, STRICT] {
        let rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        rig.world.goes_off("source");
        let ended = rig.resolve().await;
        assert_eq!(told(&ended), (Some(Sighting::Shutoff), &[][..]), "{way:?}: {ended:?}");
        assert_eq!(ended.expect_err("rolled back").outcome(), Some(Outcome::FailedRolledBack), "{way:?}");
        assert_eq!(recorded(&rig, Side::Source), Some(Sighting::Shutoff), "{way:?}");
        assert_eq!(recorded(&rig, Side::Destination), None, "{way:?}: it is not there");
        // What was told stays told, whatever has become of it since.
        rig.world.by_hand("source", Sighting::Running);
        assert_eq!(told(&rig.resolve().await).0, Some(Sighting::Shutoff), "{way:?}");
    }
}

/// Its power is back, and libvirt and the agent are; nothing of the guest ever arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_loses_its_power_in_the_job_says_that_the_guest_is_off() {
    for way in [LIVE, STRICT] {
        let mut rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        rig.world.stop();
        let died = rig.world.wait_for_death();
        let hosts = rig.hosts();
        tokio::select! {
            moved = hosts.source.migrate(&rig.order, &[], &|_| {}) => panic!("{moved:?}"),
            () = died => {}
        }
        rig.world.calm();
        rig.world.goes_off("source");
        rig.restart(Side::Source);
        let ended = rig.resolve().await;
        assert_eq!(told(&ended), (Some(Sighting::Shutoff), &[][..]), "{way:?}: {ended:?}");
        assert_eq!(recorded(&rig, Side::Source), Some(Sighting::Shutoff), "{way:?}");
        let halves = [rig.source.records(false), rig.destination.records(false)].concat();
        assert!(halves.iter().all(|half| half.outcome == Some(Outcome::FailedRolledBack)), "{way:?}: {halves:?}");
        // Nobody released what never arrived.
        assert!(halves.iter().all(|half| !format!("{:?}", half.cause).contains("released")), "{way:?}: {halves:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_dies_on_its_destination_as_soon_as_it_runs_there_is_told_to_be_off_there() {
    for way in [LIVE, STRICT] {
        let rig = Rig::by(way, Faults::none());
        rig.get_ready().await;
        let hosts = rig.hosts();
        hosts.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("it moves");
        rig.world.goes_off("destination");
        let ended = rig.resolve().await;
        let (guest, warnings) = told(&ended);
        assert_eq!(guest, Some(Sighting::Shutoff), "{way:?}: {ended:?}");
        assert!(
            warnings.iter().any(|warning| warning.contains("does not run there any more")),
            "{way:?}: {warnings:?}"
        );
        assert_eq!(recorded(&rig, Side::Destination), Some(Sighting::Shutoff), "{way:?}");
        assert_eq!(recorded(&rig, Side::Source), None, "{way:?}: it is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_do_not_say_by_themselves_whether_the_guest_runs_are_asked() {
    for (dies, seen) in [(false, Sighting::Running), (true, Sighting::Shutoff)] {
        let rig = Rig::by(STRICT, Faults::none());
        rig.world.age();
        rig.get_ready().await;
        if dies {
            rig.world.goes_off("source");
        }
        assert_eq!(told(&rig.resolve().await).0, Some(seen));

        let rig = Rig::by(STRICT, Faults::none());
        rig.world.age();
        rig.get_ready().await;
        let hosts = rig.hosts();
        hosts.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("it moves");
        if dies {
            rig.world.goes_off("destination");
        }
        assert_eq!(told(&rig.resolve().await).0, Some(seen));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_guest_whose_host_is_silent_at_the_end_nobody_says_that_it_runs() {
    let rig = Rig::by(STRICT, Faults::none());
    rig.get_ready().await;
    let hosts = rig.hosts();
    hosts.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("it moves");
    rig.world.silence("destination");
    let ended = rig.resolve().await;
    assert_eq!(told(&ended).0, None, "{ended:?}");
    rig.world.silence("nobody");
    assert_eq!(told(&rig.resolve().await).0, Some(Sighting::Running));
    rig.assert_invariants("heard again");
}
