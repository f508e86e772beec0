//! Three hosts in two zones: a destination that is chosen, and hosts that are emptied and filled again.

use std::{collections::BTreeSet, process::Stdio};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    testbed::HostSpec,
};

use crate::rig::{Answer, Before, SOON, active_migrations, assert_only_on, vmferry};

/// node-28 and node-27 in zone nova, node-31 in nova2.
const ZONE: [&str; 2] = ["node-28", "node-27"];
const OTHER_ZONE: &str = "node-31";

fn three() -> Options {
    Options { hosts: HostSpec::defaults(3), ..Options::default() }
}

fn host_of<'a>(testbed: &'a Testbed, guest: &Guest) -> Result<&'a str> {
    let runners = testbed.runners(guest.name())?;
    ensure!(runners.len() == 1, "{} runs on {runners:?}", guest.name());
    Ok(runners[0])
}

fn refusals<'a>(answer: &'a Answer, host: &str) -> BTreeSet<&'a str> {
    let hosts = answer.document["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = hosts.iter().find(|row| row["host"] == host);
    let refusals = row.and_then(|row| row["refusals"].as_array()).map(Vec::as_slice).unwrap_or_default();
    refusals.iter().filter_map(|refusal| refusal["reason"].as_str()).collect()
}

#[test]
fn a_guest_goes_where_it_suits_it_and_where_its_user_wants_it() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), ZONE[0])?;
    let before = Before::of(&testbed)?;

    // In its own zone, although the other has as much room.
    let answer = vmferry(&testbed, &["migrate", "web-1"])?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", ZONE[1])?;
    ensure!(answer.stderr.contains("web-1: node-27 is chosen (the best of 2: same zone"), "{answer:#?}");
    // Where it is asked for.
    let answer = vmferry(&testbed, &["migrate", "web-1", "--zone", "nova2"])?;
    answer.assert_outcome("completed", OTHER_ZONE)?;
    // Of those that are named.
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", "node-27,node-28", "--exclude", "node-27"])?;
    answer.assert_outcome("completed", ZONE[0])?;
    let plan = vmferry(&testbed, &["plan", "web-1", "--exclude", "node-27"])?;
    ensure!(plan.exit == Some(0) && plan.document["destination"] == OTHER_ZONE, "{plan:#?}");
    assert_only_on(&testbed, &guest, ZONE[0])?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn without_a_host_every_reason_of_every_host_is_told() -> Result<()> {
    let mut options = three();
    options.hosts[2].configuration = "[capacity]\ninstances = 0\n".to_owned();
    let testbed = Testbed::up(options)?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), ZONE[0])?;
    let before = Before::of(&testbed)?;
    vmferry(&testbed, &["cordon", OTHER_ZONE, "--reason", "new disks"])?;

    let answer = vmferry(&testbed, &["migrate", "web-1"])?;
    ensure!(answer.exit == Some(3), "{answer:#?}");
    ensure!(refusals(&answer, OTHER_ZONE) == BTreeSet::from(["HOST_CORDONED"]), "{answer:#?}");
    ensure!(refusals(&answer, ZONE[1]) == BTreeSet::from(["HOST_FULL"]), "{answer:#?}");
    answer.assert_error_says(&["web-1 cannot move", "none of 2 hosts", "nothing was changed", "stays on node-28"])?;
    ensure!(answer.stderr.contains("new disks"), "{answer:#?}");
    // Named, its own agent refuses it.
    vmferry(&testbed, &["migrate", "web-1", "--to", OTHER_ZONE])?.assert_ended(3, &["HOST_CORDONED"])?;

    // Asked themselves they say the same; that of the zone besides.
    let answer = vmferry(&testbed, &["check", "web-1", "--all-hosts", "--zone", "nova2"])?;
    ensure!(answer.exit == Some(3), "{answer:#?}");
    ensure!(refusals(&answer, OTHER_ZONE) == BTreeSet::from(["HOST_CORDONED"]), "{answer:#?}");
    ensure!(refusals(&answer, ZONE[1]) == BTreeSet::from(["HOST_FULL", "ZONE_DIFFERS"]), "{answer:#?}");

    vmferry(&testbed, &["uncordon", OTHER_ZONE])?;
    let answer = vmferry(&testbed, &["check", "web-1"])?;
    ensure!(answer.exit == Some(0) && answer.document["hosts"][0]["host"] == OTHER_ZONE, "{answer:#?}");
    ensure!(answer.document["hosts"][0]["takes_it"] == true && answer.document["hosts"][0]["asked"] == true);
    assert_only_on(&testbed, &guest, ZONE[0])?;
    before.assert_nothing_leaked(&testbed, &[])
}

/// Both fit one by one on node-27, which suits both best; the one that comes second is refused there, and goes on to the other.
#[test]
fn who_is_refused_by_the_best_host_goes_to_the_next() -> Result<()> {
    let mut options = three();
    // Room for one more guest of 128 MiB, whatever the machine has.
    options.hosts[2].configuration = "[capacity]\ninstances = 1\n".to_owned();
    let testbed = Testbed::up(options)?;
    let guests = ["web-1", "web-2", "web-3"]
        .map(|name| testbed.start(BootSectorGuest::new(name), ZONE[0]))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let before = Before::of(&testbed)?;
    let begun = guests.iter().map(|guest| {
        let mut command = testbed.vmferry(["migrate", guest.name(), "-o", "json"])?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    });
    let begun = begun.collect::<Result<Vec<_>>>()?;
    let ended = begun.into_iter().map(|child| Answer::ended(child.wait_with_output()?));
    let ended = ended.collect::<Result<Vec<_>>>()?;
    let mut tried = 0;
    for answer in &ended {
        ensure!(answer.exit == Some(0), "{ended:#?}");
        tried += answer.document["tried"].as_array().map_or(0, Vec::len);
    }
    ensure!(tried > 0, "three at once, and nobody was refused: {ended:#?}");
    // Not by the checks, which leave no record: as the host got ready, since another had come first.
    let records = vmferry(&testbed, &["migrations", "--limit", "0"])?.document;
    let records = records["migrations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let at_pre = records.iter().filter(|record| {
        record["outcome"] == "failed_rolled_back"
            && record["cause"]["reason"] == "HOST_FULL"
            && record["destination"] == ZONE[1]
    });
    ensure!(at_pre.count() > 0, "nobody was refused at pre: {records:#?}");
    let there: Vec<_> = guests.iter().map(|guest| host_of(&testbed, guest)).collect::<Result<_>>()?;
    ensure!(there.iter().filter(|host| **host == ZONE[1]).count() == 1, "{there:?}");
    ensure!(there.iter().filter(|host| **host == OTHER_ZONE).count() == 2, "{there:?}");
    before.assert_nothing_leaked(&testbed, &["web-1", "web-2", "web-3"])
}

/// Faster than the guest writes, and slow enough to be met on its way.
fn slow(testbed: &Testbed, guest: &Guest) -> Result<()> {
    testbed.host(ZONE[0])?.virsh(["migrate-setspeed", guest.name(), "40"]).map(drop)
}

fn six(testbed: &Testbed) -> Result<Vec<Guest>> {
    (1..=6).map(|number| testbed.start(BootSectorGuest::new(&format!("web-{number}")), ZONE[0])).collect()
}

fn ends<'a>(answer: &'a Answer, key: &str) -> Vec<&'a Value> {
    let instances = answer.document["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    instances.iter().map(|instance| &instance[key]).collect()
}

#[test]
fn a_host_is_drained_and_its_guests_come_home() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guests = six(&testbed)?;
    let off = testbed.define(BootSectorGuest::new("off-1"), ZONE[0])?;
    // What cannot move stays, and does not hinder the others.
    testbed.host(ZONE[0])?.virsh(["suspend", "web-6"])?;
    let before = Before::of(&testbed)?;

    let plan = vmferry(&testbed, &["drain", ZONE[0], "--dry-run"])?;
    ensure!(plan.exit == Some(9), "{plan:#?}");
    ensure!(plan.document["moves"].as_array().map(Vec::len) == Some(5), "{plan:#?}");
    ensure!(plan.document["blocked"][0]["instance"] == "web-6", "{plan:#?}");
    ensure!(plan.document["blocked"][0]["objections"][0]["reason"] == "INSTANCE_PAUSED", "{plan:#?}");
    ensure!(plan.document["off"][0] == off.name(), "{plan:#?}");

    let answer = vmferry(&testbed, &["drain", ZONE[0], "--reason", "new disks", "--parallel", "2"])?;
    ensure!(answer.exit == Some(9), "{answer:#?}");
    ensure!(ends(&answer, "end").iter().filter(|end| **end == "moved").count() == 5, "{answer:#?}");
    for words in ["node-28 is cordoned (new disks)", "drain of node-28: 6 to move", "5 of 6 moved"] {
        ensure!(answer.stderr.contains(words), "{words}: {answer:#?}");
    }
    for guest in &guests[..5] {
        assert_only_on(&testbed, guest, host_of(&testbed, guest)?)?;
        ensure!(host_of(&testbed, guest)? != ZONE[0], "{} is still there", guest.name());
    }
    // Nobody comes to it.
    vmferry(&testbed, &["migrate", "web-1", "--to", ZONE[0]])?.assert_ended(3, &["HOST_CORDONED"])?;
    let hosts = vmferry(&testbed, &["hypervisors"])?;
    ensure!(hosts.document["hypervisors"][0]["cordon"]["reason"] == "new disks", "{hosts:#?}");

    // The same again goes on with the rest.
    testbed.host(ZONE[0])?.virsh(["resume", "web-6"])?;
    let answer = vmferry(&testbed, &["drain", ZONE[0], "--reason", "new disks"])?;
    ensure!(answer.exit == Some(0) && ends(&answer, "instance") == ["web-6"], "{answer:#?}");
    let again = vmferry(&testbed, &["drain", ZONE[0]])?;
    ensure!(again.exit == Some(0) && ends(&again, "instance").is_empty(), "{again:#?}");

    let answer = vmferry(&testbed, &["undrain", ZONE[0], "--return"])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    for guest in &guests {
        assert_only_on(&testbed, guest, ZONE[0])?;
    }
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn another_coordinator_finishes_a_drain_whose_own_was_killed() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guests = six(&testbed)?;
    for guest in &guests {
        slow(&testbed, guest)?;
    }
    let before = Before::of(&testbed)?;
    let mut command = testbed.vmferry(["drain", ZONE[0], "--parallel", "2", "-o", "json"])?;
    let mut first = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    vmferry_tests::wait::until("two to move", SOON, || {
        let moving = active_migrations(&testbed)?.iter().filter(|open| open["phase"] == "migrate").count();
        Ok((moving == 2).then_some(()))
    })?;
    first.kill()?;
    first.wait()?;
    let open = active_migrations(&testbed)?.len();
    ensure!(open == 2, "{open} are under way");

    let answer = vmferry(&testbed, &["drain", ZONE[0]])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    ensure!(ends(&answer, "end").iter().all(|end| **end == "moved"), "{answer:#?}");
    for guest in &guests {
        ensure!(host_of(&testbed, guest)? != ZONE[0], "{} is still there", guest.name());
    }
    ensure!(active_migrations(&testbed)?.is_empty(), "all have ended");
    before.assert_nothing_leaked(&testbed, &guests.iter().map(Guest::name).collect::<Vec<_>>())
}

#[test]
fn an_interrupted_drain_begins_no_further_move() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guests = six(&testbed)?;
    for guest in &guests {
        slow(&testbed, guest)?;
    }
    let mut command = testbed.vmferry(["drain", ZONE[0], "--parallel", "1", "-o", "json"])?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    vmferry_tests::wait::until("one to move", SOON, || {
        Ok(active_migrations(&testbed)?.iter().any(|open| open["phase"] == "migrate").then_some(()))
    })?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(pid, Signal::SIGINT)?;
    let answer = Answer::ended(child.wait_with_output()?)?;
    ensure!(answer.exit == Some(9), "{answer:#?}");
    ensure!(ends(&answer, "end").iter().filter(|end| **end == "moved").count() == 1, "{answer:#?}");
    ensure!(ends(&answer, "end").iter().filter(|end| **end == "not_begun").count() == 5, "{answer:#?}");
    ensure!(answer.stderr.contains("no further move is begun"), "{answer:#?}");
    Ok(())
}

/// What is to come fills the only destination while the drain goes on.
#[test]
fn a_drain_whose_destination_fills_up_says_who_stays() -> Result<()> {
    let mut options = three();
    options.hosts[1].configuration = "[capacity]\ninstances = 3\n".to_owned();
    let testbed = Testbed::up(options)?;
    let guests = six(&testbed)?;
    let stranger = testbed.start(BootSectorGuest::new("other-1"), ZONE[1])?;
    for guest in &guests {
        slow(&testbed, guest)?;
    }
    let mut command = testbed.vmferry(["drain", ZONE[0], "--to", OTHER_ZONE, "--parallel", "1", "-o", "json"])?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    vmferry_tests::wait::until("one to move", SOON, || {
        Ok(active_migrations(&testbed)?.iter().any(|open| open["phase"] == "migrate").then_some(()))
    })?;
    // Somebody else's comes first.
    vmferry(&testbed, &["migrate", "other-1", "--to", OTHER_ZONE])?.assert_outcome("completed", OTHER_ZONE)?;
    let answer = Answer::ended(child.wait_with_output()?)?;
    ensure!(answer.exit == Some(9), "{answer:#?}");
    ensure!(ends(&answer, "end").iter().filter(|end| **end == "moved").count() == 2, "{answer:#?}");
    let full: Vec<_> = ends(&answer, "objections").into_iter().filter(|objections| !objections[0].is_null()).collect();
    ensure!(full.len() == 4, "{answer:#?}");
    for objections in full {
        ensure!(objections[0]["reason"] == "HOST_FULL", "{answer:#?}");
    }
    assert_only_on(&testbed, &stranger, OTHER_ZONE)
}

#[test]
fn a_guest_that_is_off_is_taken_by_the_next_host_as_well() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guest = testbed.define(BootSectorGuest::new("web-1"), ZONE[0])?;
    testbed.define(BootSectorGuest::new("web-1"), ZONE[1])?;
    let id = testbed.host(ZONE[0])?.virsh(["domuuid", "web-1"])?.trim().to_owned();
    let answer = vmferry(&testbed, &["migrate", &id, "--cold"])?;
    ensure!(answer.document["outcome"] == "completed" && answer.document["destination"] == OTHER_ZONE, "{answer:#?}");
    ensure!(answer.document["tried"][0]["host"] == ZONE[1], "{answer:#?}");
    ensure!(answer.document["tried"][0]["refusals"][0]["reason"] == "DOMAIN_EXISTS", "{answer:#?}");
    ensure!(testbed.host(OTHER_ZONE)?.domain_state(guest.name())?.as_deref() == Some("shut off"));
    Ok(())
}

#[test]
fn so_many_hosts_are_tried_as_was_said() -> Result<()> {
    let testbed = Testbed::up(three())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), ZONE[0])?;
    // What the best host has against it, only that host knows.
    testbed.define(BootSectorGuest::new("web-1"), ZONE[1])?;
    let which = |testbed: &Testbed| -> Result<String> {
        Ok(testbed.host(ZONE[0])?.virsh(["domuuid", "web-1"])?.trim().to_owned())
    };
    let id = which(&testbed)?;

    let answer = vmferry(&testbed, &["migrate", &id, "--retries", "0"])?;
    ensure!(answer.exit == Some(3), "{answer:#?}");
    ensure!(refusals(&answer, ZONE[1]) == BTreeSet::from(["DOMAIN_EXISTS"]), "{answer:#?}");
    ensure!(testbed.runners("web-1")? == [ZONE[0]], "it stays");

    let answer = vmferry(&testbed, &["migrate", &id, "--retries", "1"])?;
    answer.assert_outcome("completed", OTHER_ZONE)?;
    ensure!(answer.document["tried"][0]["host"] == ZONE[1], "{answer:#?}");
    ensure!(answer.document["tried"][0]["refusals"][0]["reason"] == "DOMAIN_EXISTS", "{answer:#?}");
    ensure!(testbed.runners(guest.name())? == [OTHER_ZONE], "it has moved");
    Ok(())
}
