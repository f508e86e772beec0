//! Guests that move between hosts which carry their network in different ways.

use std::process::Stdio;

use anyhow::{Result, ensure};
use vmferry_tests::{
    Host, Testbed,
    carrier::{By, start, up},
    guest::{Guest, LinuxGuest},
};

use crate::{
    network_rig::{ASTRAY, assert_nothing_made, made, restrict, succeed},
    rig::{Answer, Before, DESTINATION, SOON, SOURCE, assert_only_on, migrate},
};

/// Moves a guest that is pinged all the while.
fn move_pinged(testbed: &Testbed, guest: &Guest, to: &str) -> Result<()> {
    let pinger = testbed.ping(guest.address()?)?;
    let answer = migrate(testbed, guest.name(), to)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", to)?;
    guest.console().wait_for_more(5, SOON)?;
    let pings = pinger.stop()?;
    println!("to {to}: longest gap {} ms", pings.longest_gap.as_millis());
    ensure!(pings.longest_gap < ASTRAY, "to {to}: {pings:?}");
    assert_only_on(testbed, guest, to)
}

/// What is on a host for guests, apart from their taps: those have other names each time.
fn made_but_taps(host: &Host) -> Result<Vec<String>> {
    let is_tap = |line: &&str| line.contains("vnet") || line.contains("vmft");
    Ok(made(host)?.lines().filter(|line| !is_tap(line)).map(str::to_owned).collect())
}

/// A guest with a policy goes there and comes back, and what was made for it on either host goes with it.
fn assert_moves_there_and_back(by: [By; 2]) -> Result<()> {
    let testbed = up(by)?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let guest = start(&testbed, SOURCE, by[0], LinuxGuest::new("web-1"))?;
    restrict(&testbed, &guest, &["--ingress", "icmp"])?;
    let before = Before::of(&testbed)?;
    let given = [by[0].administrators(source)?, by[1].administrators(destination)?];
    let made_at_first = made_but_taps(source)?;

    move_pinged(&testbed, &guest, DESTINATION)?;
    assert_nothing_made(source)?;
    let made_there = made_but_taps(destination)?;
    ensure!(matches!(by[1], By::Bridge(_)) == made_there.is_empty(), "made: {made_there:?}");
    succeed(&testbed, &["doctor"])?.assert_ended(0, &[])?;
    move_pinged(&testbed, &guest, SOURCE)?;
    assert_nothing_made(destination)?;

    let made_at_last = made_but_taps(source)?;
    ensure!(made_at_last == made_at_first, "{made_at_last:?} is not {made_at_first:?}");
    ensure!(given == [by[0].administrators(source)?, by[1].administrators(destination)?], "no longer as in {given:?}");
    guest.console().assert_steady()?;
    // Its tap is another now, and its filters with it.
    before.assert_nothing_leaked_but(&testbed, &["web-1"], |host, new| host == SOURCE && new.kind == "firewall rule")
}

#[test]
fn a_guest_moves_between_bridges_of_different_names() -> Result<()> {
    assert_moves_there_and_back([By::Bridge("br0"), By::Bridge("br-guests")])
}

#[test]
fn a_guest_moves_on_a_vxlan() -> Result<()> {
    assert_moves_there_and_back([By::Vxlan, By::Vxlan])
}

#[test]
fn a_guest_moves_between_bridges_of_open_vswitch() -> Result<()> {
    assert_moves_there_and_back([By::Ovs, By::Ovs])
}

#[test]
fn a_guest_moves_from_a_bridge_to_a_vxlan_and_back() -> Result<()> {
    assert_moves_there_and_back([By::Bridge("br0"), By::Vxlan])
}

#[test]
fn a_guest_moves_from_a_vxlan_to_open_vswitch_and_back() -> Result<()> {
    assert_moves_there_and_back([By::Vxlan, By::Ovs])
}

#[test]
fn a_bridge_stays_for_the_second_guest_and_goes_with_the_last() -> Result<()> {
    let testbed = up([By::Vxlan, By::Vxlan])?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let first = start(&testbed, SOURCE, By::Vxlan, LinuxGuest::new("web-1"))?;
    let second = start(&testbed, SOURCE, By::Vxlan, LinuxGuest::new("web-2"))?;

    move_pinged(&testbed, &first, DESTINATION)?;
    let pinger = testbed.ping(second.address()?)?;
    ensure!(!made(source)?.is_empty(), "web-2 has lost its bridge");
    second.console().wait_for_more(5, SOON)?;
    let pings = pinger.stop()?;
    ensure!(pings.longest_gap < ASTRAY, "web-2 is no longer reached: {pings:?}");
    move_pinged(&testbed, &second, DESTINATION)?;
    assert_nothing_made(source)?;

    // Both at once: neither takes away what the other still needs.
    let start = |name| {
        let mut command = testbed.vmferry(["migrate", name, "--to", SOURCE, "-o", "json"])?;
        anyhow::Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    let moving = [start("web-1")?, start("web-2")?];
    for child in moving {
        let answer = Answer::ended(child.wait_with_output()?)?;
        answer.assert_ended(0, &[])?;
        answer.assert_outcome("completed", SOURCE)?;
    }
    assert_nothing_made(destination)?;
    for guest in [&first, &second] {
        guest.wait_until_up(SOON)?;
        assert_only_on(&testbed, guest, SOURCE)?;
    }
    succeed(&testbed, &["doctor"])?.assert_ended(0, &[])
}
