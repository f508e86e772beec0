//! `vmferry serve` on three hosts: a destination that programs leave open, and hosts that they have emptied and filled again.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vmferry_tests::{
    Options, Testbed,
    coordinator::Coordinator,
    guest::{BootSectorGuest, Guest},
    process,
    testbed::HostSpec,
    wait::until,
};

use crate::rig::{Before, SOON, active_migrations, assert_only_on, vmferry};

/// node-28 and node-27 in zone nova, node-31 in nova2.
const HOST: &str = "node-28";
const NEAR: &str = "node-27";

fn three() -> Result<(Testbed, Vec<Guest>)> {
    let testbed = Testbed::up(Options { hosts: HostSpec::defaults(3), ..Options::default() })?;
    let guests = (1..=3).map(|number| testbed.start(BootSectorGuest::new(&format!("web-{number}")), HOST));
    let guests = guests.collect::<Result<_>>()?;
    Ok((testbed, guests))
}

/// Slow enough to be met on its way.
fn slow(testbed: &Testbed, guests: &[Guest]) -> Result<()> {
    guests.iter().try_for_each(|guest| testbed.host(HOST)?.virsh(["migrate-setspeed", guest.name(), "40"]).map(drop))
}

fn has_left(testbed: &Testbed, guest: &Guest) -> Result<bool> {
    let runners = testbed.runners(guest.name())?;
    ensure!(runners.len() == 1, "{} runs on {runners:?}", guest.name());
    Ok(runners[0] != HOST)
}

/// A drain by the coordinator at `address`, one guest at a time.
fn begin(testbed: &Testbed, address: &str) -> Result<Child> {
    let mut command = testbed.emptier(address, HOST)?;
    command.args(["--parallel", "1"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot start the client")
}

fn one_moves(testbed: &Testbed) -> Result<()> {
    until("one to move", SOON, || {
        Ok(active_migrations(testbed)?.iter().any(|open| open["phase"] == "migrate").then_some(()))
    })
}

/// Stops what serves, so that its connections are gone, too.
fn stop(service: Coordinator) -> Result<()> {
    service.signal(Signal::SIGTERM)?;
    let exit = service.end(SOON)?;
    ensure!(exit == Some(0), "it ended with {exit:?}");
    Ok(())
}

#[test]
fn a_program_has_a_guest_moved_to_wherever_it_suits_best() -> Result<()> {
    let (testbed, guests) = three()?;
    let service = testbed.serve(7444)?;
    let before = Before::of(&testbed)?;
    let said = process::run(&mut testbed.client(service.address(), "web-1", "")?)?;
    ensure!(said.contains("web-1 runs on node-27"), "{said}");
    assert_only_on(&testbed, &guests[0], NEAR)?;
    // Nobody comes to a host that is closed: the other zone's is what is left.
    vmferry(&testbed, &["cordon", NEAR, "--reason", "fan"])?;
    let said = process::run(&mut testbed.client(service.address(), "web-2", "")?)?;
    ensure!(said.contains("web-2 runs on node-31"), "{said}");
    stop(service)?;
    before.assert_nothing_leaked(&testbed, &["web-1", "web-2"])
}

#[test]
fn a_host_is_emptied_by_one_coordinator_and_when_that_is_killed_by_another() -> Result<()> {
    let (testbed, guests) = three()?;
    let (first, second) = (testbed.serve(7444)?, testbed.serve(7445)?);
    slow(&testbed, &guests)?;
    let before = Before::of(&testbed)?;
    let client = begin(&testbed, first.address())?;
    one_moves(&testbed)?;
    first.signal(Signal::SIGKILL)?;
    first.end(SOON)?;
    let output = client.wait_with_output()?;
    ensure!(!output.status.success(), "{output:#?}");
    let open = active_migrations(&testbed)?.len();
    ensure!(open == 1, "{open} are under way");

    let said = process::run(&mut testbed.emptier(second.address(), HOST)?)?;
    ensure!(said.contains("3 moved, 0 did not"), "{said}");
    for guest in &guests {
        ensure!(has_left(&testbed, guest)?, "{} is still there: {said}", guest.name());
    }
    ensure!(active_migrations(&testbed)?.is_empty(), "all have ended");

    // Home again; and by a repeat nobody is moved twice.
    for moved in ["3 moved, 0 did not", "0 moved, 0 did not"] {
        let said = process::run(testbed.emptier(second.address(), HOST)?.arg("--back"))?;
        ensure!(said.contains(moved), "{said}");
    }
    for guest in &guests {
        assert_only_on(&testbed, guest, HOST)?;
    }
    stop(second)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_caller_that_goes_away_lets_nobody_start_any_more() -> Result<()> {
    let (testbed, guests) = three()?;
    let (service, other) = (testbed.serve(7444)?, testbed.serve(7445)?);
    slow(&testbed, &guests)?;
    let mut client = begin(&testbed, service.address())?;
    let (sender, lines) = mpsc::channel();
    let said = client.stdout.take().context("piped")?;
    let reading = thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            _ = sender.send(line);
        }
    });
    one_moves(&testbed)?;
    client.kill()?;
    client.wait()?;
    reading.join().ok().context("it reads to the end")?;
    let said: Vec<_> = lines.iter().collect();
    ensure!(said.iter().any(|line| line.contains("waits: 1 move runs already")), "{said:#?}");

    // The one that moved has arrived, and no other has begun.
    until("its end", SOON, || Ok(active_migrations(&testbed)?.is_empty().then_some(())))?;
    thread::sleep(std::time::Duration::from_secs(3));
    let answer = vmferry(&testbed, &["migrations"])?;
    let begun = answer.document["migrations"].as_array().map(Vec::len);
    ensure!(begun == Some(1), "{answer:#?}");
    let mut left = 0;
    for guest in &guests {
        left += usize::from(has_left(&testbed, guest)?);
    }
    ensure!(left == 1, "{left} have left");

    // The same again goes on.
    let said = process::run(&mut testbed.emptier(other.address(), HOST)?)?;
    ensure!(said.contains("2 moved, 0 did not"), "{said}");
    for guest in &guests {
        ensure!(has_left(&testbed, guest)?, "{} is still there: {said}", guest.name());
    }
    Ok(())
}
