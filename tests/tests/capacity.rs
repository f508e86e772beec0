//! Hosts that have room for so much and no more, and hosts to which no guest shall come.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    wait::until,
};

use crate::rig::{Answer, Before, DESTINATION, SOON, SOURCE, active_migrations, assert_only_on, migrate, vmferry};

/// What a guest may have.
const GUEST_MIB: u64 = 128;
/// How long a guest that races others may take.
const RACE: Duration = Duration::from_secs(60);

/// Two hosts; the second promises memory to one guest and half of another, whatever the machine has.
fn up_with_one_place() -> Result<Testbed> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total: u64 = total.context("the kernel has a MemTotal")?.parse()?;
    let mut options = Options::default();
    options.hosts[1].configuration = format!("capacity.memory_reserve = \"{}KiB\"", total - GUEST_MIB * 1024 * 3 / 2);
    Testbed::up(options)
}

/// What `vmferry hypervisors` says of a host.
fn host(testbed: &Testbed, name: &str) -> Result<Value> {
    let answer = vmferry(testbed, &["hypervisors"])?;
    let hosts = answer.document["hypervisors"].as_array().context("a list of hosts")?;
    hosts.iter().find(|host| host["name"] == name).cloned().context("it is in the inventory")
}

/// What is taken of the destination: memory, guests, migrations that come.
fn taken(testbed: &Testbed) -> Result<[u64; 3]> {
    let taken = &host(testbed, DESTINATION)?["room"]["taken"];
    let figure = |key: &str| taken[key].as_u64().with_context(|| format!("no {key} in {taken}"));
    Ok([figure("memory_bytes")?, figure("instances")?, figure("migrations_incoming")?])
}

fn begin(testbed: &Testbed, guest: &Guest) -> Result<Child> {
    let mut command = testbed.vmferry(["migrate", guest.name(), "--to", DESTINATION, "-o", "json"])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start vmferry")
}

#[test]
fn of_guests_that_race_for_the_last_place_exactly_one_arrives() -> Result<()> {
    let testbed = up_with_one_place()?;
    let names = ["one", "two", "three", "four"];
    let guests: Vec<_> =
        names.iter().map(|name| testbed.start(BootSectorGuest::new(name), SOURCE)).collect::<Result<_>>()?;
    let before = Before::of(&testbed)?;
    ensure!(taken(&testbed)? == [0, 0, 0], "{:?}", taken(&testbed)?);

    let racing: Vec<_> = guests.iter().map(|guest| begin(&testbed, guest)).collect::<Result<_>>()?;
    let answers: Vec<_> =
        racing.into_iter().map(|child| Answer::ended(child.wait_with_output()?)).collect::<Result<_>>()?;
    let arrived: Vec<_> =
        guests.iter().zip(&answers).filter(|(_, answer)| answer.exit == Some(0)).map(|(guest, _)| guest).collect();
    let [winner] = arrived[..] else { anyhow::bail!("{answers:#?}") };
    assert_only_on(&testbed, winner, DESTINATION)?;
    for (guest, answer) in guests.iter().zip(&answers).filter(|(guest, _)| guest.name() != winner.name()) {
        // By the checks, or as the destination got ready.
        ensure!([Some(1), Some(3)].contains(&answer.exit), "{answer:#?}");
        ensure!(answer.reasons() == ["MEMORY_SHORT"], "{answer:#?}");
        ensure!(answer.stderr.contains("of the 192.0 MiB that node-31 may promise"), "{answer:#?}");
        assert_only_on(&testbed, guest, SOURCE)?;
    }
    ensure!(taken(&testbed)? == [GUEST_MIB << 20, 1, 0], "{:?}", taken(&testbed)?);
    before.assert_nothing_leaked(&testbed, &[winner.name()])?;

    // Where one has left there is room for another.
    let loser = guests.iter().find(|guest| guest.name() != winner.name()).context("there are four")?;
    migrate(&testbed, loser.name(), DESTINATION)?.assert_ended(3, &["MEMORY_SHORT"])?;
    migrate(&testbed, winner.name(), SOURCE)?.assert_ended(0, &[])?;
    migrate(&testbed, loser.name(), DESTINATION)?.assert_ended(0, &[])?;
    assert_only_on(&testbed, loser, DESTINATION)
}

#[test]
fn what_is_promised_to_a_guest_on_its_way_outlives_the_agent_as_far_as_its_migration_does() -> Result<()> {
    let testbed = up_with_one_place()?;
    let guest = testbed.start(BootSectorGuest::new("one").dirtying(100), SOURCE)?;
    crate::rig::slow_down(&testbed, &guest)?;
    let moving = crate::rig::Move::begin(&testbed, &guest)?;
    // It is there already, for libvirt, and is counted once.
    ensure!(taken(&testbed)? == [GUEST_MIB << 20, 1, 1], "{:?}", taken(&testbed)?);
    testbed.host(DESTINATION)?.agent().kill_all()?;
    moving.end(RACE)?.assert_outcome("failed_rolled_back", SOURCE)?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    until("the claim's release", SOON, || Ok((taken(&testbed)? == [0, 0, 0]).then_some(())))
}

#[test]
fn nobody_comes_to_a_cordoned_host_and_those_it_has_may_leave() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let answer = vmferry(&testbed, &["cordon", SOURCE, DESTINATION, "--reason", "new kernel"])?;
    answer.assert_ended(0, &[])?;
    let by = answer.document["hosts"][1]["cordon"]["by"].as_str().context("who said so")?.to_owned();
    ensure!(by.ends_with("/coordinator/operator"), "{by}");

    let refused = migrate(&testbed, "web-1", DESTINATION)?;
    refused.assert_ended(3, &["HOST_CORDONED"])?;
    refused.assert_error_says(&[
        "node-31 is cordoned",
        "new kernel",
        &by,
        "vmferry uncordon node-31",
        "nothing was changed",
    ])?;
    assert_only_on(&testbed, &guest, SOURCE)?;

    // Neither a crash nor a reboot makes the host forget it.
    testbed.host(DESTINATION)?.agent().kill()?;
    testbed.host(DESTINATION)?.agent().wait_ready(SOON)?;
    let shown = host(&testbed, DESTINATION)?;
    ensure!(shown["state"] == "cordoned" && shown["cordon"]["reason"] == "new kernel", "{shown:#}");
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(3, &["HOST_CORDONED"])?;

    vmferry(&testbed, &["uncordon", DESTINATION])?.assert_ended(0, &[])?;
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(0, &[])?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    let back = migrate(&testbed, "web-1", SOURCE)?;
    back.assert_ended(3, &["HOST_CORDONED"])?;
    vmferry(&testbed, &["uncordon", SOURCE])?.assert_ended(0, &[])?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn of_several_hosts_each_is_cordoned_that_hears_it() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    testbed.host(DESTINATION)?.agent().stop()?;
    let answer = vmferry(&testbed, &["cordon", SOURCE, DESTINATION, "--reason", "new kernel"])?;
    ensure!(answer.exit == Some(9) && answer.document["exit_code"] == 9, "{answer:#?}");
    ensure!(answer.document["hosts"][0]["host"] == SOURCE, "{answer:#?}");
    ensure!(answer.document["unreachable"][0]["host"] == DESTINATION, "{answer:#?}");
    ensure!(host(&testbed, SOURCE)?["state"] == "cordoned");
    testbed.host(DESTINATION)?.agent().start()?;
    testbed.host(DESTINATION)?.agent().wait_ready(SOON)?;
    ensure!(host(&testbed, DESTINATION)?["state"] == "up");
    let mut viewer = testbed.vmferry_as_viewer(["uncordon", SOURCE])?;
    Answer::of(&mut viewer)?.assert_ended(7, &["PERMISSION_DENIED"])?;
    ensure!(host(&testbed, SOURCE)?["state"] == "cordoned");
    ensure!(active_migrations(&testbed)?.is_empty());
    Ok(())
}

#[test]
fn cpus_that_a_host_has_not_are_missed_and_what_a_host_offers_is_told() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    // libvirt would not start it here, either: it stays off, and is refused nevertheless.
    let mut pinned = BootSectorGuest::new("pinned-1");
    pinned.domain.extra = "<cputune><vcpupin vcpu='0' cpuset='4095'/></cputune>".into();
    testbed.define(pinned, SOURCE)?;
    let answer = vmferry(&testbed, &["migrate", "pinned-1", "--to", DESTINATION, "--cold"])?;
    answer.assert_ended(3, &["CPU_PIN_UNAVAILABLE"])?;
    answer.assert_error_says(&[
        "pinned-1 is pinned to CPUs that are not on at node-31: 4095",
        "virsh vcpupin pinned-1",
    ])?;

    let cpus = std::thread::available_parallelism()?.get() as u64;
    let shown = host(&testbed, DESTINATION)?;
    let capacity = &shown["room"]["capacity"];
    ensure!(capacity["vcpus"].as_u64().is_some_and(|vcpus| vcpus >= cpus * 16), "{shown:#}");
    let [most, total] = [&capacity["memory_bytes"], &shown["memory_total_bytes"]].map(Value::as_u64);
    ensure!(most == total.map(|total| total - (512 << 20)), "{shown:#}");
    Ok(())
}
