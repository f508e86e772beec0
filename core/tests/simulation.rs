//! Drains in fleets that are made up: nobody is overfilled, nobody is with whom it must be apart from, everybody goes or is told why not.

use proptest::prelude::*;

use crate::world::{Size, World, limits};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_drain_overfills_nobody_and_forgets_nobody(
        seed in any::<u64>(), hosts in 2_usize..14, guests_per_host in 1_usize..9, memory in 8_u64..48,
        drained in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        parallel in 1_u32..7, per_destination in 1_u32..4, mishaps in 0_u64..40,
    ) {
        let mut world = World::of(seed, Size { hosts, guests_per_host, memory });
        let mut drained: Vec<_> = drained.into_iter().map(|index| index.index(hosts)).collect();
        drained.sort_unstable();
        drained.dedup();
        let limits = limits(parallel, per_destination);
        let mut cordoned = world.clone();
        drained.iter().for_each(|at| cordoned.cordon(*at));
        cordoned.plan(&drained, &limits);
        world.drain(&drained, &limits, mishaps);
    }
}

#[test]
fn a_large_fleet_is_drained_host_by_host() {
    let mut world = World::of(7, Size { hosts: 1_000, guests_per_host: 20, memory: 128 });
    assert!(world.guests() > 19_000, "{} guests", world.guests());
    let drained = [3, 500, 998];
    let course = world.drain(&drained, &limits(8, 2), 10);
    assert!(course.moved > 50 && course.failed > 0 && course.blocked > 0, "{course:?}");
    // Those that must be together stay together, and nobody else stays.
    assert!(course.blocked <= 6, "{course:?}");
    let again =
        World::of(7, Size { hosts: 1_000, guests_per_host: 20, memory: 128 }).drain(&drained, &limits(8, 2), 10);
    assert_eq!(again, course, "the same each time");
}
