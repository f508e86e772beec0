//! That it ends (I3): no way through the protocol goes on for ever once nothing goes wrong any more.
//!
//! Where a way stops, the invariant I3 looks. What is left to prove is that each of them stops: that the steps which are no
//! faults lead round in no circle.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
};

use stateright::Model as _;

use crate::{Action, Protocol, world::World};

/// A state that can come round to itself without anything going wrong, if there is one.
pub fn circle(protocol: &Protocol) -> Option<World> {
    let mut after: Vec<Vec<u32>> = Vec::new();
    explore(protocol, |_, _, next| after.push(next));
    // Whatever nothing leads to is on no circle, and then neither is what only that leads to.
    let mut ways_in = vec![0_u32; after.len()];
    for next in after.iter().flatten() {
        ways_in[*next as usize] += 1;
    }
    let mut loose: Vec<_> = (0..after.len()).filter(|state| ways_in[*state] == 0).collect();
    let mut is_left = vec![true; after.len()];
    while let Some(state) = loose.pop() {
        is_left[state] = false;
        for next in &after[state] {
            ways_in[*next as usize] -= 1;
            if ways_in[*next as usize] == 0 {
                loose.push(*next as usize);
            }
        }
    }
    // Nor is what leads to nothing that is left.
    while let Some(state) =
        (0..after.len()).find(|state| is_left[*state] && !after[*state].iter().any(|next| is_left[*next as usize]))
    {
        is_left[state] = false;
    }
    let example = is_left.iter().position(|left| *left)?;
    let mut found = None;
    explore(protocol, |number, state, _| {
        if number == example {
            found = Some(state.clone());
        }
    });
    found
}

/// Shows each state, in one order, with its number and those of the states that come after it if nothing goes wrong.
fn explore(protocol: &Protocol, mut show: impl FnMut(usize, &World, Vec<u32>)) {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut numbers = HashMap::new();
    let mut waiting = VecDeque::new();
    for state in protocol.init_states() {
        numbers.insert(hasher.hash_one(&state), 0);
        waiting.push_back(state);
    }
    let (mut shown, mut actions) = (0, Vec::new());
    while let Some(state) = waiting.pop_front() {
        protocol.actions(&state, &mut actions);
        let mut after = Vec::new();
        for action in actions.drain(..) {
            let Some(next) = protocol.next_state(&state, action) else { continue };
            let fresh = u32::try_from(numbers.len()).expect("a bounded space has fewer states");
            let number = match numbers.entry(hasher.hash_one(&next)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    waiting.push_back(next);
                    *place.insert(fresh)
                }
            };
            // Who asks again and hears the same has got no further, nor anywhere else.
            if !matches!(action, Action::GoesWrong(_) | Action::AsksAgain(_)) {
                after.push(number);
            }
        }
        show(shown, &state, after);
        shown += 1;
    }
}
