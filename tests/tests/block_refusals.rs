//! Guests whose disks only their host has, and which stay there: no room, something in the way, or something would be lost.

use anyhow::{Result, ensure};
use vmferry_tests::{Testbed, guest::Guest};

use crate::{
    block_rig::{LOCAL, assert_files, disk, make, print, random, start_idler, start_writer, up},
    rig::{Answer, Before, DESTINATION, SOURCE, assert_only_on, assert_unharmed_on, migrate},
};

/// Fails unless the checks refused it for this reason, told in these words, and all is as before on both hosts.
fn assert_refused(
    testbed: &Testbed,
    before: &Before,
    guest: &Guest,
    answer: &Answer,
    reason: &str,
    words: &[&str],
) -> Result<()> {
    answer.assert_ended(3, &[reason])?;
    answer.assert_error_says(&["nothing was changed", "stays on node-28"])?;
    answer.assert_error_says(words)?;
    assert_unharmed_on(testbed, guest, SOURCE)?;
    before.assert_nothing_leaked(testbed, &[])
}

/// A file system of this size, where the guest's disk would be on the destination.
fn small(testbed: &Testbed, options: &str) -> Result<()> {
    make(testbed, SOURCE, "mkdir small")?;
    let mount = format!("mkdir {LOCAL}/small && mount -t tmpfs -o {options} small {LOCAL}/small");
    testbed.host(DESTINATION)?.sh(&mount).map(drop)
}

#[test]
fn a_disk_that_takes_up_more_than_the_destination_has_stays() -> Result<()> {
    let testbed = up()?;
    small(&testbed, "size=4M")?;
    make(&testbed, SOURCE, &format!("truncate -s 16M small/web-1.raw\n{}", random("small/web-1.raw", 8)))?;
    let guest = start_idler(&testbed, &[disk("vdb", &format!("{LOCAL}/small/web-1.raw"), "raw")])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["the disks of web-1 take up 8.0 MiB, /srv/local/small on node-31 has 4.0 MiB available"];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_SPACE_SHORT", &words)?;

    // Whatever is allowed: it cannot be.
    allow_overcommit(&testbed)?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    assert_refused(&testbed, &before, &guest, &answer, "DISK_SPACE_SHORT", &words)
}

#[test]
fn a_disk_that_may_outgrow_the_destination_stays_unless_that_is_allowed() -> Result<()> {
    let testbed = up()?;
    small(&testbed, "size=16M")?;
    make(&testbed, SOURCE, &format!("truncate -s 64M small/web-1.raw\n{}", random("small/web-1.raw", 4)))?;
    let guest = start_idler(&testbed, &[disk("vdb", &format!("{LOCAL}/small/web-1.raw"), "raw")])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = [
        "the disks of web-1 may grow to 64.0 MiB, /srv/local/small on node-31 has 16.0 MiB available",
        "storage.disk_overcommit = true",
    ];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_SPACE_SHORT", &words)?;

    allow_overcommit(&testbed)?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    assert_files(&testbed, DESTINATION, &["small", "small/web-1.raw"])
}

/// On the destination.
fn allow_overcommit(testbed: &Testbed) -> Result<()> {
    let destination = testbed.host(DESTINATION)?;
    destination.sh("sed -i '1i storage.disk_overcommit = true' /etc/vmferry/agent.toml")?;
    destination.agent().restart()
}

#[test]
fn a_disk_stays_where_the_destination_cannot_write() -> Result<()> {
    let testbed = up()?;
    small(&testbed, "ro")?;
    make(&testbed, SOURCE, "truncate -s 16M small/web-1.raw")?;
    let guest = start_idler(&testbed, &[disk("vdb", &format!("{LOCAL}/small/web-1.raw"), "raw")])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["the disks of web-1 would be copied to /srv/local/small on node-31, a read-only file system"];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_SPACE_SHORT", &words)
}

#[test]
fn a_base_of_another_size_on_the_destination_is_not_built_upon() -> Result<()> {
    let testbed = up()?;
    make(&testbed, SOURCE, &overlay("32M"))?;
    make(&testbed, DESTINATION, "truncate -s 16M web-1-base.raw")?;
    let guest = start_idler(&testbed, &[disk("vdb", &format!("{LOCAL}/web-1-a.qcow2"), "qcow2")])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["disk vdb of web-1, /srv/local/web-1-base.raw, has 33554432 bytes on node-28 and 16777216 on node-31"];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_DIFFERS", &words)
}

#[test]
fn a_base_of_other_contents_on_the_destination_is_not_built_upon() -> Result<()> {
    let testbed = up()?;
    make(&testbed, SOURCE, &overlay("32M"))?;
    make(&testbed, DESTINATION, &format!("truncate -s 32M web-1-base.raw\n{}", random("web-1-base.raw", 1)))?;
    let guest = start_writer(&testbed, &[disk("vdb", &format!("{LOCAL}/web-1-a.qcow2"), "qcow2")])?;
    let before = Before::of(&testbed)?;
    let there = print(&testbed, DESTINATION, "web-1-base.raw")?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(1, &["DISK_DIFFERS"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["web-1-base.raw", "other contents on node-31 than on node-28", "move it away"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    guest.console().assert_steady()?;
    before.assert_nothing_leaked(&testbed, &[])?;
    assert_files(&testbed, DESTINATION, &["web-1-base.raw"])?;
    ensure!(print(&testbed, DESTINATION, "web-1-base.raw")? == there, "it was touched");

    // As the message says.
    testbed.host(DESTINATION)?.run("rm", [format!("{LOCAL}/web-1-base.raw")])?;
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(0, &[])
}

/// An overlay on a base of this size.
fn overlay(size: &str) -> String {
    format!(
        "truncate -s {size} web-1-base.raw
         qemu-img create -q -f qcow2 -b {LOCAL}/web-1-base.raw -F raw web-1-a.qcow2"
    )
}

#[test]
fn an_image_with_a_snapshot_inside_is_not_copied_without_it() -> Result<()> {
    let testbed = up()?;
    let script = "qemu-img create -q -f qcow2 web-1-a.qcow2 16M; qemu-img snapshot -c before web-1-a.qcow2";
    make(&testbed, SOURCE, script)?;
    let guest = start_idler(&testbed, &[disk("vdb", &format!("{LOCAL}/web-1-a.qcow2"), "qcow2")])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["disk vdb of web-1 (/srv/local/web-1-a.qcow2) cannot be copied: it has 1 snapshot inside"];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_KIND_UNSUPPORTED", &words)
}

#[test]
fn a_disk_that_several_guests_may_write_to_is_not_copied() -> Result<()> {
    let testbed = up()?;
    make(&testbed, SOURCE, "truncate -s 16M web-1-a.raw")?;
    let shareable = disk("vdb", &format!("{LOCAL}/web-1-a.raw"), "raw").replace("</disk>", "<shareable/></disk>");
    let guest = start_idler(&testbed, &[shareable])?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["may be written to by several guests, and node-31 does not see it", "mount the file system"];
    assert_refused(&testbed, &before, &guest, &answer, "DISK_NOT_SHARED", &words)
}
