//! Guests with disks that only their host has: the disks go with them.

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Testbed,
    guest::{BootSectorGuest, LinuxGuest},
};

use crate::{
    block_rig::{
        LOCAL, allocated, assert_files, assert_no_write_lost, describe, disk, make, medium, other, power_off, print,
        random, start_idler, start_writer, sum, up,
    },
    rig::{
        Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, disks_flow, migrate,
        slow_down, vmferry,
    },
};

const MIB: u64 = 1 << 20;

#[test]
fn local_disks_move_there_and_back_with_every_acknowledged_write() -> Result<()> {
    let testbed = up()?;
    let script = "truncate -s 512M web-1-b.raw; qemu-img create -q -f qcow2 web-1-a.qcow2 512M";
    make(&testbed, SOURCE, script)?;
    let disks =
        [disk("vdb", &format!("{LOCAL}/web-1-a.qcow2"), "qcow2"), disk("vdc", &format!("{LOCAL}/web-1-b.raw"), "raw")];
    let guest = start_writer(&testbed, &disks)?;
    let before = Before::of(&testbed)?;

    for destination in [DESTINATION, SOURCE] {
        let answer = migrate(&testbed, "web-1", destination)?;
        answer.assert_ended(0, &[])?;
        answer.assert_outcome("completed", destination)?;
        guest.console().wait_for_writes(5, SOON)?;
        assert_only_on(&testbed, &guest, destination)?;
        // Once, and where the guest is.
        assert_files(&testbed, destination, &["web-1-a.qcow2", "web-1-b.raw"])?;
        assert_files(&testbed, other(destination), &[])?;
        for file in ["web-1-a.qcow2", "web-1-b.raw"] {
            let taken = allocated(&testbed, destination, file)?;
            ensure!(taken < 16 * MIB, "{file} takes {taken} bytes on {destination}: its holes are filled");
        }
    }
    guest.console().assert_steady()?;
    before.assert_nothing_leaked(&testbed, &[])?;
    power_off(&testbed, &guest, SOURCE)?;
    for file in ["web-1-a.qcow2", "web-1-b.raw"] {
        assert_no_write_lost(&testbed, &guest, SOURCE, file)?;
    }
    Ok(())
}

#[test]
fn images_that_others_build_on_are_sent_once_and_then_only_compared() -> Result<()> {
    let testbed = up()?;
    let [overlay, middle, base] =
        ["web-1-a.qcow2", "web-1-mid.qcow2", "web-1-base.raw"].map(|file| format!("{LOCAL}/{file}"));
    let script = format!(
        "truncate -s 64M {base}
         {}qemu-img create -q -f qcow2 -b {base} -F raw {middle} 64M
         qemu-io -c 'write -P 0x4d 48M 1M' {middle} >/dev/null
         qemu-img create -q -f qcow2 -b {middle} -F qcow2 {overlay} 256M",
        random(&base, 8)
    );
    make(&testbed, SOURCE, &script)?;
    let guest = start_writer(&testbed, &[disk("vdb", &overlay, "qcow2")])?;
    let contents = [sum(&testbed, SOURCE, BELOW[0])?, sum(&testbed, SOURCE, BELOW[1])?];
    let before = Before::of(&testbed)?;

    // They are not there: they are sent before the guest moves.
    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--dry-run"])?;
    assert_told(&plan, &format!("{overlay}, local: "))?;
    assert_told(&plan, &format!("; below it {middle}, read-only: 1."))?;
    assert_told(&plan, &format!("; below it {base}, read-only: 8.0 MiB to be copied"))?;
    assert_files(&testbed, DESTINATION, &[])?;
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(0, &[])?;
    guest.console().wait_for_writes(5, SOON)?;
    assert_chain(&testbed, DESTINATION)?;
    ensure!(
        [sum(&testbed, DESTINATION, BELOW[0])?, sum(&testbed, DESTINATION, BELOW[1])?] == contents,
        "they were sent, but not as they are"
    );
    assert_files(&testbed, SOURCE, &BELOW)?;

    // They are there: they are compared and left as they are.
    let prints = || -> Result<Vec<String>> {
        let places = [SOURCE, DESTINATION].into_iter().flat_map(|host| BELOW.map(|file| (host, file)));
        places.map(|(host, file)| print(&testbed, host, file)).collect()
    };
    let earlier = prints()?;
    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", SOURCE, "--dry-run"])?;
    assert_told(&plan, &format!("; below it {middle}, read-only: on both hosts; below it {base}, read-only: on both"))?;
    migrate(&testbed, "web-1", SOURCE)?.assert_ended(0, &[])?;
    guest.console().wait_for_writes(5, SOON)?;
    assert_chain(&testbed, SOURCE)?;
    let now = prints()?;
    ensure!(now == earlier, "touched: {earlier:?} is now {now:?}");
    assert_files(&testbed, DESTINATION, &BELOW)?;

    guest.console().assert_steady()?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &BELOW)?;
    power_off(&testbed, &guest, SOURCE)?;
    assert_no_write_lost(&testbed, &guest, SOURCE, "web-1-a.qcow2")
}

/// What the overlay of the test above lies on.
const BELOW: [&str; 2] = ["web-1-base.raw", "web-1-mid.qcow2"];

/// Fails unless the overlay is still one: on its base, and with nothing of it in itself.
fn assert_chain(testbed: &Testbed, host: &str) -> Result<()> {
    for (file, below, format) in
        [("web-1-a.qcow2", "web-1-mid.qcow2", "qcow2"), ("web-1-mid.qcow2", "web-1-base.raw", "raw")]
    {
        let image = describe(testbed, host, file)?;
        let named = (image["backing-filename"].as_str(), image["backing-filename-format"].as_str());
        ensure!(named == (Some(&format!("{LOCAL}/{below}")), Some(format)), "{image:#}");
    }
    let taken = allocated(testbed, host, "web-1-a.qcow2")?;
    ensure!(taken < 4 * MIB, "the overlay takes {taken} bytes on {host}: it has swallowed its base");
    Ok(())
}

#[test]
fn a_base_that_came_with_an_aborted_move_stays_where_another_guest_builds_on_it() -> Result<()> {
    let testbed = up()?;
    let base = format!("{LOCAL}/web-base.raw");
    let script = format!(
        "truncate -s 64M {base}
         {}for guest in web-1 web-2; do qemu-img create -q -f qcow2 -b {base} -F raw $guest.qcow2 64M; done
         qemu-io -c 'write -P 0x4d 0 48M' web-1.qcow2 >/dev/null",
        random(&base, 4)
    );
    make(&testbed, SOURCE, &script)?;
    let [one, two] = ["web-1", "web-2"].map(|name| {
        let mut guest = BootSectorGuest::new(name).dirtying(1);
        guest.domain.extra_devices = disk("vdb", &format!("{LOCAL}/{name}.qcow2"), "qcow2");
        testbed.start(guest, SOURCE)
    });
    let (one, two) = (one?, two?);
    slow_down(&testbed, &one)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_until(&testbed, &one, "its disk to flow", || disks_flow(&testbed, &one))?;
    migrate(&testbed, "web-2", DESTINATION)?.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &two, DESTINATION)?;
    // Of a guest that is off libvirt does not say what its image lies on.
    power_off(&testbed, &two, DESTINATION)?;
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;

    assert_unharmed_on(&testbed, &one, SOURCE)?;
    testbed.host(DESTINATION)?.virsh(["start", "web-2"])?;
    assert_only_on(&testbed, &two, DESTINATION)?;
    assert_files(&testbed, SOURCE, &["web-1.qcow2", "web-base.raw"])?;
    assert_files(&testbed, DESTINATION, &["web-2.qcow2", "web-base.raw"])?;
    ensure!(
        sum(&testbed, SOURCE, "web-base.raw")? == sum(&testbed, DESTINATION, "web-base.raw")?,
        "the base did not arrive as it is"
    );
    before.assert_nothing_leaked(&testbed, &["web-2", "web-base"])
}

#[test]
fn media_that_the_guest_only_reads_are_sent_and_stay_where_they_were() -> Result<()> {
    let testbed = up()?;
    // One in a directory that the destination does not have.
    let script = format!(
        "mkdir -p web-1-media; head -c 4M /dev/zero | tr '\\0' A >web-1-media/install.iso\n{}",
        random("web-1-config.img", 1)
    );
    make(&testbed, SOURCE, &script)?;
    let disks = [
        medium("cdrom", "sata", "sda", &format!("{LOCAL}/web-1-media/install.iso")),
        medium("disk", "virtio", "vdb", &format!("{LOCAL}/web-1-config.img")),
    ];
    let definition = disks.iter().fold(LinuxGuest::new("web-1"), |guest, disk| guest.with_disk(disk));
    let guest = testbed.start(definition, SOURCE)?;
    let config = guest.console().next_medium("vdb", SOON)?;
    let cd = sum(&testbed, SOURCE, "web-1-media/install.iso")?;
    let files = ["web-1-config.img", "web-1-media", "web-1-media/install.iso"];
    let before = Before::of(&testbed)?;

    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--dry-run"])?;
    assert_told(&plan, &format!("{LOCAL}/web-1-media/install.iso, read-only: 4.0 MiB to be copied"))?;
    for destination in [DESTINATION, SOURCE] {
        migrate(&testbed, "web-1", destination)?.assert_ended(0, &[])?;
        assert_only_on(&testbed, &guest, destination)?;
        ensure!(guest.console().next_medium("vdb", SOON)? == config, "the guest reads something else");
        assert_in_a_drive(&testbed, destination, &format!("{LOCAL}/web-1-media/install.iso"))?;
        ensure!(sum(&testbed, destination, "web-1-media/install.iso")? == cd, "the CD did not arrive as it is");
        assert_files(&testbed, SOURCE, &files)?;
        assert_files(&testbed, DESTINATION, &files)?;
    }
    guest.console().assert_steady()?;
    before.assert_nothing_leaked(&testbed, &["web-1-media", "web-1-config"])
}

/// Fails unless the guest's QEMU has this file open.
fn assert_in_a_drive(testbed: &Testbed, host: &str, path: &str) -> Result<()> {
    let open = testbed.host(host)?.sh("find /proc/$(pgrep -o qemu-system)/fd -printf '%l\\n'")?;
    ensure!(open.lines().any(|file| file == path), "QEMU on {host} does not have {path} open: {open}");
    Ok(())
}

#[test]
fn progress_counts_what_is_sent_ahead_and_the_disks_too() -> Result<()> {
    let testbed = up()?;
    let script = format!("truncate -s 64M web-1-a.raw\n{}{}", random("web-1-a.raw", 48), random("web-1.iso", 16));
    make(&testbed, SOURCE, &script)?;
    let disks = [
        disk("vdb", &format!("{LOCAL}/web-1-a.raw"), "raw"),
        medium("cdrom", "sata", "sda", &format!("{LOCAL}/web-1.iso")),
    ];
    let guest = start_idler(&testbed, &disks)?;
    slow_down(&testbed, &guest)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(0, &[])?;
    let samples = progress(&answer)?;
    println!("{samples:?}");
    ensure!(samples.len() >= 4, "{samples:?}");
    ensure!(samples.is_sorted_by_key(|sample| sample.percent), "it falls: {samples:?}");
    // 64 MiB of disk, 128 of memory, 16 of CD.
    ensure!(samples.iter().all(|sample| sample.total >= 200.0), "something is not counted: {samples:?}");
    let first = samples.first().context("there is one")?;
    ensure!(first.percent < 50, "so much was never done after a second: {samples:?}");
    let told = answer.document["transferred_bytes"].as_u64().unwrap_or_default();
    ensure!(told >= 64 * MIB, "{:#}", answer.document);
    Ok(())
}

/// A line of progress.
#[derive(Debug)]
struct Sample {
    percent: u8,
    /// In MiB.
    total: f64,
}

/// `migrate  round 1  61 %  98.0 MiB of 256.0 MiB left  …`; before the first round, none is named.
fn progress(answer: &Answer) -> Result<Vec<Sample>> {
    let lines = answer.stderr.lines().filter(|line| line.starts_with("migrate ") && line.contains(" left "));
    let samples = lines.map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [_, "round", _, percent, "%", _, _, "of", total, "MiB", "left", ..]
            | [_, percent, "%", _, _, "of", total, "MiB", "left", ..] => {
                Ok(Sample { percent: percent.parse()?, total: total.parse()? })
            }
            _ => anyhow::bail!("no progress: {line}"),
        }
    });
    samples.collect()
}

/// Fails unless a check of a plan says this somewhere.
fn assert_told(plan: &Answer, words: &str) -> Result<()> {
    let checks = plan.document["checks"].as_array().context("a plan has checks")?;
    let told = checks.iter().any(|check| check["detail"].as_str().is_some_and(|text| text.contains(words)));
    ensure!(told, "no `{words}` in {plan:#?}");
    Ok(())
}
