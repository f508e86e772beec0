//! What dies while a guest moves. Wherever it ends up, it runs there, once, with all its memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest, network::Link, wait::until};

use crate::rig::{
    Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_unharmed_on, busy_guest, migrate, speed_up,
    vmferry,
};

/// Two hosts with agents.
fn up() -> Result<Testbed> {
    Testbed::up(Options::default())
}

#[test]
fn a_move_works_after_both_libvirts_were_restarted() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    // The agents have connections that are about to break.
    ensure!(vmferry(&testbed, &["instances"])?.exit == Some(0), "the agents cannot ask their libvirt");
    let before = Before::of(&testbed)?;
    for host in testbed.hosts() {
        host.restart_libvirtd()?;
    }

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_restart_of_the_sources_libvirt_takes_the_move_back() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(SOURCE)?.restart_libvirtd()?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(1, &["LIBVIRT_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 was not moved to node-31", "libvirt", "web-1 runs on node-28 as before"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_restart_of_the_destinations_libvirt_takes_the_move_back() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(DESTINATION)?.restart_libvirtd()?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 was not moved to node-31", "web-1 runs on node-28 as before"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_agent_that_is_killed_with_its_tunnel_leaves_the_guest_on_its_source() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(DESTINATION)?.agent().kill_all()?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 was not moved to node-31", "web-1 runs on node-28 as before"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    ensure!(testbed.host(DESTINATION)?.agent().restarts()? == 1, "systemd did not start the agent again");
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_source_agent_that_is_killed_with_its_tunnel_leaves_the_guest_on_its_source() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(SOURCE)?.agent().kill_all()?;

    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_cut_with_its_source()?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 runs on node-28 as before"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    ensure!(testbed.host(SOURCE)?.agent().restarts()? == 1, "systemd did not start the agent again");
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_without_power_leaves_the_guest_on_its_source() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    testbed.host(DESTINATION)?.power_off()?;

    // A dead host sends nothing, not even an end of its connections.
    let answer = moving.end(Duration::from_secs(90))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 was not moved to node-31", "web-1 runs on node-28 as before"])?;
    // Its half is still open, and the user is told.
    ensure!(answer.stderr.contains(&format!("vmferry migrations resolve {id}")), "{}", answer.stderr);
    ensure!(testbed.runners("web-1")? == [SOURCE]);

    testbed.host(DESTINATION)?.power_on()?;
    vmferry(&testbed, &["migrations", "resolve"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_cable_that_is_out_for_a_moment_only_delays_the_move() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let destination = testbed.host(DESTINATION)?;
    destination.cut(Link::Underlay)?;
    let answers = || Ok(destination_answers(&testbed)?.then_some(()));
    ensure!(!destination_answers(&testbed)?, "a way past the cut cable");
    destination.mend(Link::Underlay)?;
    until("the mended cable", SOON, answers)?;

    speed_up(&testbed, &guest)?;
    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_cable_that_stays_out_takes_the_move_back() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    testbed.host(DESTINATION)?.cut(Link::Underlay)?;

    // libvirt gives up a peer that is silent for half a minute.
    let answer = moving.end(Duration::from_secs(120))?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1 was not moved to node-31", "web-1 runs on node-28 as before"])?;
    ensure!(answer.stderr.contains(&format!("vmferry migrations resolve {id}")), "{}", answer.stderr);
    ensure!(testbed.runners("web-1")? == [SOURCE]);

    testbed.host(DESTINATION)?.mend(Link::Underlay)?;
    until("the mended cable", SOON, || Ok(destination_answers(&testbed)?.then_some(())))?;
    // Nobody asks the destination to.
    until("the destination's half to end", Duration::from_secs(120), || {
        Ok(active_migrations(&testbed)?.is_empty().then_some(()))
    })?;
    let answer = vmferry(&testbed, &["migrations", "resolve", &id])?;
    answer.assert_outcome_of_only("failed_rolled_back", SOURCE)?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

/// Whether the destination answers a ping within a second.
fn destination_answers(testbed: &Testbed) -> Result<bool> {
    let address = testbed.host(DESTINATION)?.address().to_string();
    Ok(testbed.command("ping").args(["-qnc1", "-W1", &address]).output()?.status.success())
}
