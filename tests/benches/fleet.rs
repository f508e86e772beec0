//! What a fleet costs: listing and choosing among 500 agents of which 20 are dead, 10,000 guests of which some move, and a host that is
//! drained beside `virsh migrate` in a row. Run by `make bench`; prints what it measured. Fails if a guest is lost or on two hosts, or a host
//! has more than there is room for.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use vmferry_tests::{
    Options, Testbed, alone,
    cost::{self, Cost},
    fleet::{Fleet, Hosts, Serving, Simulated, guest_name, node, own_network},
    guest::BootSectorGuest,
    process::run,
    testbed::HostSpec,
};

const AGENTS: usize = 500;
const DEAD: usize = 20;
/// Runs of each command.
const RUNS: usize = 5;
/// 10,000 guests, and room for 2,000 more.
const HOST: Simulated = Simulated { guests: 20, room: 24, guest_memory: 512, dirty_rate: 8, bandwidth: 1024 };
/// Hosts that are drained at the same time, by a coordinator each.
const DRAINED: usize = 10;
/// Guests that are drained from a real host, and times that they are.
const GUESTS: usize = 8;
const DRAINS: usize = 5;

fn main() -> Result<()> {
    for many in [listed, moved] {
        // In a network of their own, which the thread and its children are in.
        let measured = thread::spawn(move || {
            own_network()?;
            many()
        });
        measured.join().map_err(|_| anyhow!("what was to be measured panicked"))??;
    }
    drains()
}

fn up(hosts: Hosts, what: &str) -> Result<Fleet> {
    let begun = Instant::now();
    let mut fleet = Fleet::up(AGENTS, hosts)?;
    let kib = fleet.memory()?;
    println!(
        "{AGENTS} real agents with {what}, up after {:.0} s, each with {kib} KiB of its own",
        begun.elapsed().as_secs_f64()
    );
    // Half of the dead refuse connections, the others take them and say nothing.
    (0..DEAD / 2).try_for_each(|number| fleet.kill(number))?;
    (DEAD / 2..DEAD).try_for_each(|number| fleet.freeze(number))?;
    ensure!(fleet.answering()? == AGENTS - DEAD, "those that live are listed");
    println!("{DEAD} of them are dead: half refuse, half say nothing. Least to most of {RUNS} runs");
    Ok(fleet)
}

/// One line for several runs of one thing.
fn show(what: &str, costs: &mut [Cost]) {
    costs.sort_by_key(|cost| cost.took);
    let (least, middle, most) = (costs[0], costs[costs.len() / 2], costs[costs.len() - 1]);
    println!(
        "{what:>34}  {} ms ({} to {}), {:.2} s of CPU, {} MiB at most",
        middle.took.as_millis(),
        least.took.as_millis(),
        most.took.as_millis(),
        middle.cpu.as_secs_f64(),
        middle.peak
    );
}

fn repeat(fleet: &Fleet, arguments: &[&str]) -> Result<()> {
    let cost = |_| cost::of(fleet.vmferry(arguments).args(["-o", "json"]));
    let mut costs = (0..RUNS).map(cost).collect::<Result<Vec<_>>>()?;
    show(&arguments.join(" "), &mut costs);
    Ok(())
}

/// Guests that stay: libvirt's own simulated hypervisor moves none.
fn listed() -> Result<()> {
    let fleet = up(Hosts::TestDriver { guests: 10 }, "libvirt's test driver")?;
    for arguments in [&["hypervisors"] as &[_], &["instances"], &["migrations"]] {
        repeat(&fleet, arguments)?;
    }
    // Nobody takes such a guest.
    let begun = Instant::now();
    fleet.document(&["check", "guest-100-3"])?;
    println!("{:>34}  {} ms", "check guest-100-3", begun.elapsed().as_millis());
    Ok(())
}

/// Guests that move.
fn moved() -> Result<()> {
    let fleet = up(Hosts::Simulated(HOST), "simulated hosts")?;
    for arguments in [&["hypervisors"] as &[_], &["instances"], &["migrations"], &["check", "guest-100-3"]] {
        repeat(&fleet, arguments)?;
    }
    repeat(&fleet, &["check", "guest-100-3", "--all-hosts"])?;
    let (serving, coordinator) = fleet.serve()?;
    for listed in ["hypervisors", "instances"] {
        repeat(&fleet, &["--coordinator", coordinator, listed])?;
    }
    let migrate = |run| cost::of(&mut fleet.vmferry(&["migrate", &guest_name(200 + run, 0)]));
    let mut costs = (0..RUNS).map(migrate).collect::<Result<Vec<_>>>()?;
    show("migrate NAME", &mut costs);
    let mut costs = [cost::of(&mut fleet.vmferry(&["drain", &node(100)]))?];
    show(&format!("drain of {} guests", HOST.guests), &mut costs);
    at_once(&fleet, &serving, coordinator)?;

    let census = fleet.census()?;
    for number in 100..=100 + DRAINED {
        ensure!(census[&node(number)].is_empty(), "{} is not empty: {:?}", node(number), census[&node(number)]);
    }
    let left = fleet.leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    let guests = census.values().map(Vec::len).sum::<usize>();
    println!("{guests} guests are on one host each, nothing of a migration is left");
    Ok(())
}

/// Several hosts are drained by a coordinator each, while another lists all hosts.
fn at_once(fleet: &Fleet, serving: &Serving, coordinator: &str) -> Result<()> {
    let over = AtomicBool::new(false);
    let (agents, served) = (fleet.cpu(), cost::cpu(serving.pid())?);
    let begun = Instant::now();
    let (mut costs, took, listings) = thread::scope(|scope| {
        let drain = |number| move || cost::of(&mut fleet.vmferry(&["drain", &node(number)]));
        let drains: Vec<_> = (101..=100 + DRAINED).map(|number| scope.spawn(drain(number))).collect();
        let listings = scope.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                times.push(cost::of(&mut fleet.vmferry(&["--coordinator", coordinator, "hypervisors"]))?.took);
                let overfilled = fleet.overfilled()?;
                ensure!(overfilled.is_empty(), "more guests than there is room for: {overfilled:?}");
            }
            Ok(times)
        });
        let panicked = |_| anyhow!("it panicked");
        let costs: Vec<_> = drains.into_iter().map(|drain| drain.join().map_err(panicked)?).collect();
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let listings: Result<Vec<Duration>> = listings.join().map_err(panicked)?;
        let costs = costs.into_iter().collect::<Result<Vec<_>>>()?;
        Ok::<_, anyhow::Error>((costs, took, listings?))
    })?;
    let moves = DRAINED * HOST.guests;
    println!(
        "{DRAINED} drains at once, {moves} guests: {:.1} s, {:.1} moves a second; the agents took {:.1} s of CPU",
        took.as_secs_f64(),
        moves as f64 / took.as_secs_f64(),
        (fleet.cpu() - agents).as_secs_f64()
    );
    show("each of these coordinators", &mut costs);
    let mut listings = listings;
    listings.sort_unstable();
    let at = |percent: usize| listings[(listings.len() * percent).div_ceil(100).saturating_sub(1)].as_millis();
    println!(
        "{:>34}  {} ms (99 % within {} ms, of {} meanwhile); the coordinator that serves it: {:.1} s of CPU, {} MiB at most",
        "hypervisors, by another",
        at(50),
        at(99),
        listings.len(),
        (cost::cpu(serving.pid())? - served).as_secs_f64(),
        cost::peak(serving.pid()).unwrap_or_default()
    );
    Ok(())
}

fn drains() -> Result<()> {
    // In one zone: nobody leaves his to be drained sooner.
    let hosts = ["node-28", "node-31", "node-27"].map(|name| HostSpec::new(name, "nova")).into();
    let testbed = Testbed::up(Options { hosts, ..Options::default() })?;
    alone::open(&testbed)?;
    let [first, second, _] = testbed.hosts() else { anyhow::bail!("three hosts were asked for") };
    let names: Vec<_> = (1..=GUESTS).map(|number| format!("web-{number}")).collect();
    for name in &names {
        testbed.start(BootSectorGuest::new(name), first.name())?;
    }
    let (mut drained, mut in_a_row) = (Vec::new(), Vec::new());
    let vmferry = |arguments: &[&str]| -> Result<Duration> {
        let begun = Instant::now();
        run(testbed.vmferry(arguments)?.stdin(Stdio::null()))?;
        Ok(begun.elapsed())
    };
    for _ in 0..DRAINS {
        drained.push(vmferry(&["drain", first.name()])?);
        vmferry(&["undrain", first.name(), "--return"])?;
        let begun = Instant::now();
        for name in &names {
            alone::migrate(name, first, second, &[])?;
        }
        in_a_row.push(begun.elapsed());
        for name in &names {
            alone::migrate(name, second, first, &[])?;
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (ours, theirs) = (median(&mut drained), median(&mut in_a_row));
    println!(
        "\n{GUESTS} guests leave a host, medians of {DRAINS} by turns: `vmferry drain` {} ms ({} to {}), `virsh migrate` in a row {} ms ({} to \
         {}): {:.2} times",
        ours.as_millis(),
        drained[0].as_millis(),
        drained[DRAINS - 1].as_millis(),
        theirs.as_millis(),
        in_a_row[0].as_millis(),
        in_a_row[DRAINS - 1].as_millis(),
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
    testbed.down()
}
