//! What it costs to choose among ten thousand hosts, and to empty some of them.

#[path = "../tests/fleet.rs"]
mod fleet;
#[path = "../tests/world.rs"]
mod world;

use std::time::Duration;

use nix::sys::{
    resource::{Usage, UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};
use vmferry_core::schedule::{Weights, Wish, rank};

use fleet::{Make, seen};
use world::{Course, Size, World, limits};

/// How often what is measured is done.
const TIMES: usize = 21;
const SIZE: Size = Size { hosts: 10_000, guests_per_host: 20, memory: 128 };

fn main() {
    let hosts = World::facts(1, SIZE);
    println!("10000 hosts: their facts are in memory with {} MiB", peak());
    let leaving = Make::guest("web", hosts[0].name.as_str()).leaving();
    let mut times: Vec<_> = (0..TIMES)
        .map(|_| {
            let (time, ranking) = measured(|| rank(&Wish::default(), &leaving, &seen(&hosts), &Weights::default()));
            assert!(ranking.candidates.len() + ranking.refused.len() == SIZE.hosts);
            time
        })
        .collect();
    times.sort();
    println!("one guest over them: {:.1?} of CPU in the middle, {:.1?} at most", times[TIMES / 2], times[TIMES - 1]);
    let large = Make::guest("large", hosts[0].name.as_str()).memory(1 << 20).leaving();
    let (time, ranking) = measured(|| rank(&Wish::default(), &large, &seen(&hosts), &Weights::default()));
    println!("one that all of them refuse: {time:.1?} of CPU for {} hosts with their reasons", ranking.refused.len());
    drop((ranking, times));
    println!("all of this: {} MiB at most", peak());
    drop(hosts);

    let mut world = World::of(1, SIZE);
    let guests = world.guests();
    let drained = [0, 1, 2_500, 5_000, 9_999];
    let of = format!("of {} hosts with {guests} guests", SIZE.hosts);
    world.cpu = cpu;
    let (plan, cost) = world.plan(&[0], &limits(4, 2));
    println!("the plan of a drain of one {of}: {cost:.1?} of CPU for {} moves", plan.moves.len());
    let course = world.drain(&drained, &limits(8, 2), 10);
    let Course { moved, failed, blocked, asked, cost, .. } = course;
    println!(
        "a drain of {} {of}, one move of ten refused: {moved} moved, {failed} refused, {blocked} stay for a reason",
        drained.len()
    );
    println!("what may start was asked for {asked} times: {cost:.1?} of CPU");
}

/// What it took of the CPU.
fn measured<T>(what: impl FnOnce() -> T) -> (Duration, T) {
    let before = cpu();
    let done = what();
    (cpu() - before, done)
}

fn cpu() -> Duration {
    let usage = usage();
    [usage.user_time(), usage.system_time()]
        .map(|time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs()))
        .iter()
        .sum()
}

/// The most that this process has had of memory, in MiB.
fn peak() -> i64 {
    usage().max_rss() >> 10
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_SELF).expect("of this process")
}
