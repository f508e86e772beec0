//! Agents whose journals' disk is full: what was begun comes to its end, and nothing more is begun.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmferry_tests::{Host, Options, Testbed};

use crate::rig::{Before, DESTINATION, Move, SOURCE, assert_unharmed_on, busy_guest, migrate, speed_up, vmferry};

/// Two hosts whose agents have 4 MiB for their journals.
fn up() -> Result<Testbed> {
    let testbed = Testbed::up(Options::default())?;
    for host in testbed.hosts() {
        host.agent().stop()?;
        host.sh("mount -t tmpfs -o size=4M small /var/lib/vmferry")?;
        host.agent().start()?;
        host.agent().wait_ready(Duration::from_secs(20))?;
    }
    Ok(testbed)
}

fn fill(host: &Host) -> Result<()> {
    let full = host.sh(
        "dd if=/dev/zero of=/var/lib/vmferry/other bs=4k 2>&1 || true; df --output=avail /var/lib/vmferry | tail -1",
    )?;
    ensure!(full.contains("No space left") && full.trim_end().ends_with(" 0"), "{full}");
    Ok(())
}

fn free(host: &Host) -> Result<()> {
    host.sh("rm /var/lib/vmferry/other").map(drop)
}

#[test]
fn a_move_whose_journals_disks_fill_up_is_taken_back_when_it_is_aborted() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    for host in testbed.hosts() {
        fill(host)?;
    }
    vmferry(&testbed, &["abort", "web-1"])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;

    for name in [SOURCE, DESTINATION] {
        let answer = migrate(&testbed, "web-1", DESTINATION)?;
        answer.assert_ended(1, &["JOURNAL_FAILED"])?;
        answer.assert_error_says(&[name, "/var/lib/vmferry/journal/", "No space left on device"])?;
        assert_unharmed_on(&testbed, &guest, SOURCE)?;
        before.assert_nothing_leaked(&testbed, &[])?;
        free(testbed.host(name)?)?;
    }
    speed_up(&testbed, &guest)?;
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_move_whose_journals_disks_fill_up_comes_to_its_end() -> Result<()> {
    let testbed = up()?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    for host in testbed.hosts() {
        fill(host)?;
    }
    speed_up(&testbed, &guest)?;
    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    // Restarted, they find what they wrote.
    for host in testbed.hosts() {
        host.agent().restart()?;
        host.agent().wait_ready(Duration::from_secs(20))?;
    }
    let listed = vmferry(&testbed, &["migrations"])?;
    ensure!(listed.document["migrations"][0]["outcome"] == "completed", "{listed:#?}");
    before.assert_nothing_leaked(&testbed, &["web-1"])
}
