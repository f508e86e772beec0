//! What dies between a guest and its volumes while it moves: the guest waits, and loses nothing.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow, ensure};
use vmferry_tests::{
    Testbed,
    guest::{Guest, LinuxGuest},
    storage::{
        Backend::{self, Ceph, Iscsi},
        Endpoint,
    },
};

use crate::rig::{
    Before, DESTINATION, Move, SOURCE, assert_only_on, slow_down, speed_up, vmferry,
    volumes::{
        Volume, assert_completed, assert_no_write_lost, assert_nothing_left, assert_secrets_on, let_in, secrets, up,
    },
};

/// Long enough for a memory of this size to arrive.
const WHILE: Duration = Duration::from_secs(6);
const LONG: Duration = Duration::from_secs(60);

/// A guest on the source that writes to a volume, and moves slowly until it is told otherwise.
fn start_slow_writer(testbed: &Testbed, backend: Backend) -> Result<(Guest, Volume)> {
    let data = Volume::data(testbed, backend)?;
    let_in(testbed, &[&data])?;
    let guest = testbed.start(LinuxGuest::new("web-1").with_disk(&data.disk("vdb")), SOURCE)?;
    guest.console().wait_for_writes(3, LONG)?;
    slow_down(testbed, &guest)?;
    Ok((guest, data))
}

#[test]
fn a_move_waits_while_the_osd_is_down_and_loses_no_write() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let (guest, data) = start_slow_writer(&testbed, Ceph)?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;
    let ceph = testbed.storage()?.ceph()?;
    ceph.stop_osd()?;
    speed_up(&testbed, &guest)?;
    // A write is under way: QEMU does not let the guest go before that has ended.
    ensure!(guest.console().wait_for_writes(3, WHILE).is_err(), "who acknowledged a write?");
    ensure!(moving.goes_on()?, "the move has ended without the guest's writes");
    ceph.start_osd()?;

    assert_completed(&moving.end(LONG)?)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    guest.console().wait_for_writes(3, LONG)?;
    guest.console().assert_steady()?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets(&[&data]))?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_portal_that_the_destination_loses_in_the_middle_costs_no_write() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_slow_writer(&testbed, Iscsi)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    let storage = testbed.storage()?;
    let portal = Endpoint::Portal(*storage.iscsi()?.portals()[0].ip());
    storage.cut(testbed.host(DESTINATION)?, portal)?;
    speed_up(&testbed, &guest)?;

    // Its connection is open, and silence is no error yet: the guest arrives, and its writes wait there.
    assert_completed(&moving.end(LONG)?)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    ensure!(guest.console().wait_for_writes(2, Duration::from_secs(2)).is_err(), "a way past the cut");
    storage.mend(testbed.host(DESTINATION)?, portal)?;
    guest.console().wait_for_writes(3, LONG)?;
    guest.console().assert_steady()?;
    assert_nothing_left(&testbed, &before, &guest, DESTINATION, &secrets(&[&data]))?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn an_aborted_move_leaves_no_secret_on_the_destination() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_slow_writer(&testbed, Iscsi)?;
    let secrets = secrets(&[&data]);
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE, DESTINATION])?;

    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(LONG)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_killed_destination_agent_takes_its_secret_back_when_it_is_there_again() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_slow_writer(&testbed, Iscsi)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(DESTINATION)?.agent().kill_all()?;

    moving.end(LONG)?.assert_outcome("failed_rolled_back", SOURCE)?;
    assert_secrets_on(&testbed, &secrets(&[&data]), &[SOURCE])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_move_that_is_aborted_while_the_osd_is_down_is_taken_back_when_it_answers() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let (guest, data) = start_slow_writer(&testbed, Ceph)?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;
    let id = moving.id().to_owned();
    let ceph = testbed.storage()?.ceph()?;
    ceph.stop_osd()?;
    thread::scope(|scope| {
        let abort = scope.spawn(|| vmferry(&testbed, &["abort", &id]));
        // QEMU ends no job, not even one that is cancelled, before the guest's writes have.
        let silent = guest.console().wait_for_writes(3, WHILE).is_err() && moving.goes_on()?;
        // Before anything is judged: the scope waits for the thread.
        ceph.start_osd()?;
        ensure!(silent, "the move has ended without the guest's writes");
        abort.join().map_err(|_| anyhow!("it panicked"))??.assert_ended(0, &["MIGRATION_ABORTED"])
    })?;

    moving.end(LONG)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    guest.console().wait_for_writes(3, LONG)?;
    guest.console().assert_steady()?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])?;
    assert_no_write_lost(&testbed, &guest, &data)
}

#[test]
fn a_destination_without_power_takes_its_secret_back_when_it_is_there_again() -> Result<()> {
    let testbed = up(&[Iscsi])?;
    let (guest, data) = start_slow_writer(&testbed, Iscsi)?;
    let secrets = secrets(&[&data]);
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    testbed.host(DESTINATION)?.power_off()?;
    moving.end(Duration::from_secs(120))?.assert_outcome("failed_rolled_back", SOURCE)?;

    testbed.host(DESTINATION)?.power_on()?;
    vmferry(&testbed, &["migrations", "resolve"])?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    assert_nothing_left(&testbed, &before, &guest, SOURCE, &[])?;
    assert_no_write_lost(&testbed, &guest, &data)
}
