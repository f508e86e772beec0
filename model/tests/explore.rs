//! The protocol, explored to the end of a bounded space: every order of everything that may happen, with so many things that go wrong.
//!
//! Each more of these costs seventy times as many states. `make test-model` explores those of one kind with one more.

use std::{collections::BTreeSet, thread};

use stateright::{Checker as _, HasDiscoveries, Model as _};
use vmferry_core::{
    migration::Side,
    resolution::Handover::{self, Fast, Strict},
};
use vmferry_model::{
    Bug, Protocol,
    ending::circle,
    fault::{Budget, Fault},
};

const I1: &str = "I1: one runs at most";
const I2: &str = "I2: nothing leaks";
const I3: &str = "I3: it ends";
const I4: &str = "I4: the guest is safe";
const I5: &str = "I5: the journal is ahead";

/// What libvirt's own hand-over does not survive, when it happens between Finish and its answer.
fn breaks_finish(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::LosesFinish | Fault::CutsLink | Fault::RestartsLibvirtd(Side::Destination) | Fault::FellsHost(_)
    )
}

/// Explores it all. Returns what does not hold.
fn violations(protocol: Protocol) -> BTreeSet<&'static str> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let checker = protocol.checker().threads(threads).finish_when(HasDiscoveries::All).spawn_bfs().join();
    assert!(checker.is_done(), "not explored to its end");
    let mut discoveries = checker.discoveries();
    // It would be easy to break nothing by doing nothing.
    for end in ["it completes", "it goes back"] {
        assert!(discoveries.remove(end).is_some(), "{end}: in no state");
    }
    let Protocol { handover, faults, bug, .. } = protocol;
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{handover:?}, {} faults, bug {bug:?}: {states} states, the farthest {depth} steps away", faults.often);
    for (name, path) in &discoveries {
        println!("  {name}: no longer after");
        for action in path.clone().into_actions() {
            println!("    {action:?}");
        }
        println!("    {:?}", path.last_state());
    }
    discoveries.into_keys().collect()
}

fn assert_holds(protocol: Protocol) {
    assert_eq!(violations(protocol), BTreeSet::new());
}

/// The shortest way to it is found, and no more than that.
fn finds(invariant: &'static str, protocol: Protocol) {
    let wanted = HasDiscoveries::AllOf([invariant].into());
    let checker = protocol.checker().finish_when(wanted).spawn_bfs().join();
    let Some(path) = checker.discovery(invariant) else {
        panic!("{:?} is not found by {invariant} in {} states", protocol.bug, checker.unique_state_count());
    };
    println!("{:?}: found by {invariant} in {} steps", protocol.bug, path.into_actions().len());
}

fn with(bug: Bug, handover: Handover, faults: Budget) -> Protocol {
    Protocol { bug: Some(bug), ..Protocol::new(handover, faults) }
}

#[test]
fn a_strict_hand_over_keeps_every_invariant_whatever_goes_wrong() {
    assert_holds(Protocol::new(Strict, Budget::any(2)));
}

#[test]
#[ignore = "takes minutes and gigabytes: make test-model"]
fn a_strict_hand_over_keeps_every_invariant_though_processes_die_three_times() {
    let kinds = |fault| matches!(fault, Fault::Kills(_) | Fault::RestartsLibvirtd(_) | Fault::FellsHost(_));
    let protocol = Protocol::new(Strict, Budget { often: 3, kinds });
    assert_holds(protocol);
    assert_eq!(circle(&protocol), None);
}

#[test]
#[ignore = "takes minutes and gigabytes: make test-model"]
fn a_strict_hand_over_keeps_every_invariant_though_the_network_fails_three_times() {
    let kinds = |fault| {
        let of_calls = matches!(fault, Fault::Loses(_) | Fault::Delays(_) | Fault::Doubles(_) | Fault::Unheard(_));
        of_calls || matches!(fault, Fault::LosesFinish | Fault::CutsLink)
    };
    let protocol = Protocol::new(Strict, Budget { often: 3, kinds });
    assert_holds(protocol);
    assert_eq!(circle(&protocol), None);
}

#[test]
#[ignore = "takes minutes and gigabytes: make test-model"]
fn a_strict_hand_over_keeps_every_invariant_though_three_drive_it_at_once() {
    let kinds = |fault| matches!(fault, Fault::Hurries(_) | Fault::Resolves | Fault::LosesFinish | Fault::Unheard(_));
    let protocol = Protocol::new(Strict, Budget { often: 3, kinds });
    assert_holds(protocol);
    assert_eq!(circle(&protocol), None);
}

#[test]
fn nothing_goes_on_for_ever_once_nothing_goes_wrong() {
    for handover in [Strict, Fast] {
        assert_eq!(circle(&Protocol::new(handover, Budget::any(1))), None, "{handover:?}");
    }
}

#[test]
fn a_lost_finish_reply_runs_the_guest_twice_in_a_fast_hand_over_and_not_in_a_strict_one() {
    let lost = Budget { often: 1, kinds: |fault| fault == Fault::LosesFinish };
    assert!(violations(Protocol::new(Fast, lost)).contains(I1));
    assert_holds(Protocol::new(Strict, lost));
}

#[test]
fn a_fast_hand_over_breaks_only_where_libvirts_own_does() {
    assert_holds(Protocol::new(Fast, Budget { often: 2, kinds: |fault| !breaks_finish(fault) }));
    for kinds in [(|fault| fault == Fault::CutsLink) as fn(Fault) -> bool, |fault| {
        fault == Fault::RestartsLibvirtd(Side::Destination)
    }] {
        finds(I1, Protocol::new(Fast, Budget { often: 1, kinds }));
    }
    // The source goes on with what its memory was before the guest had run there.
    finds(I4, Protocol::new(Fast, Budget { often: 1, kinds: |fault| fault == Fault::FellsHost(Side::Destination) }));
}

#[test]
fn i1_finds_a_source_that_can_still_be_let_go_on() {
    finds(I1, with(Bug::ReleasesUnfrozen, Strict, Budget::any(1)));
    finds(I1, with(Bug::ReleasesBeforeItLooks, Strict, Budget::any(1)));
    let late = |fault| matches!(fault, Fault::Delays(_) | Fault::RestartsLibvirtd(_) | Fault::Resolves);
    finds(I1, with(Bug::GoesOnUnasked, Strict, Budget { often: 2, kinds: late }));
}

#[test]
fn i1_finds_a_way_that_is_cut_too_early() {
    let driven_by_another = Budget { often: 1, kinds: |fault| fault == Fault::Resolves };
    finds(I1, with(Bug::CutsAfterwards, Fast, driven_by_another));
}

#[test]
fn i2_finds_what_is_over_before_it_is_undone() {
    finds(I2, with(Bug::EndsBeforeItIsUndone, Strict, Budget::any(1)));
}

#[test]
fn i3_finds_that_nobody_takes_over() {
    finds(I3, with(Bug::NobodyTakesOver, Strict, Budget::any(1)));
}

#[test]
fn i4_finds_an_arriving_guest_that_is_destroyed_as_it_becomes_the_only_one() {
    finds(I4, with(Bug::StrikesWithoutCutting, Strict, Budget::any(2)));
}

#[test]
fn i5_finds_what_is_done_before_it_is_journaled() {
    finds(I5, with(Bug::ActsBeforeItJournals, Strict, Budget::any(0)));
}

/// What I1 to I5 rest on is what journals say once and for all. The epoch keeps two from pulling at one migration.
#[test]
fn the_invariants_do_not_rest_on_epochs() {
    let protocol = Protocol { epochs: false, ..Protocol::new(Strict, Budget::any(1)) };
    assert_holds(protocol);
    assert_eq!(circle(&protocol), None);
}
