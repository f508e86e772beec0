//! Guests that write to disks: moved where both hosts see the same file, refused where that cannot be proved.

use std::{collections::BTreeSet, fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest, LinuxGuest},
    wait::until,
};

use crate::rig::{
    Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, migrate, slow_down, vmferry,
};

const BLOCK: usize = 4096;

/// A second disk that is written to.
fn disk(path: &str, cache: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='{cache}'/><source file='{path}'/>\
         <target dev='vdb' bus='virtio'/></disk>"
    )
}

/// Makes an empty image on a host.
fn make_image(testbed: &Testbed, host: &str, path: &str) -> Result<()> {
    testbed.host(host)?.sh(&format!("truncate -s 16M {path} && chmod 666 {path}")).map(drop)
}

/// A guest on the source with such a disk.
fn start_writer(testbed: &Testbed, path: &str, cache: &str) -> Result<Guest> {
    make_image(testbed, SOURCE, path)?;
    let mut definition = BootSectorGuest::new("web-1").dirtying(100);
    definition.domain.extra_devices = disk(path, cache);
    testbed.start(definition, SOURCE)
}

/// Fails unless both hosts' checks ended with these refusals alone, and the guest has not noticed.
fn assert_refused(testbed: &Testbed, guest: &Guest, answer: &Answer, reason: &str, words: &[&str]) -> Result<()> {
    answer.assert_ended(3, &[reason])?;
    answer.assert_error_says(words)?;
    assert_only_on(testbed, guest, SOURCE)
}

/// The probe files that lie beside the shared disks.
fn probes(testbed: &Testbed) -> Result<usize> {
    let entries = fs::read_dir(testbed.layout().shared())?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(".vmferry-probe-")).count())
}

#[test]
fn a_guest_that_writes_to_a_shared_disk_moves_there_and_back_and_loses_no_write() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    make_image(&testbed, SOURCE, "/srv/shared/data.img")?;
    let mut definition = LinuxGuest::new("web-1");
    definition.domain.extra_devices = disk("/srv/shared/data.img", "none");
    let guest = testbed.start(definition, SOURCE)?;
    let before = Before::of(&testbed)?;
    let writes_on = || {
        let wanted = guest.console().acknowledged()?.len() + 10;
        until("ten more writes", SOON, || Ok((guest.console().acknowledged()?.len() >= wanted).then_some(())))
            .map_err(|error| error.context(guest.console().tail()))
    };
    writes_on()?;

    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--dry-run"])?;
    let checks = plan.document["checks"].as_array().context("a plan has checks")?;
    let told = |words: &str| checks.iter().any(|check| check["detail"].as_str().is_some_and(|text| text == words));
    ensure!(told("/srv/shared/data.img, shared: the probe file was seen"), "{plan:#?}");
    ensure!(told("/srv/shared/web-1.img, read-only: shared"), "{plan:#?}");

    for destination in [DESTINATION, SOURCE] {
        let answer = migrate(&testbed, "web-1", destination)?;
        answer.assert_ended(0, &[])?;
        answer.assert_outcome("completed", destination)?;
        writes_on()?;
        guest.console().assert_steady()?;
    }
    before.assert_nothing_leaked(&testbed, &[])?;

    testbed.host(SOURCE)?.virsh(["destroy", "web-1"])?;
    let acknowledged = guest.console().acknowledged()?;
    let image = fs::read(testbed.layout().shared().join("data.img"))?;
    let on_disk = image.chunks(BLOCK).filter_map(|block| std::str::from_utf8(block).ok()?.trim().parse().ok());
    let on_disk: BTreeSet<u64> = on_disk.collect();
    let lost: Vec<_> = acknowledged.iter().filter(|number| !on_disk.contains(number)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
    println!("{} acknowledged writes, all on the disk", acknowledged.len());
    Ok(())
}

#[test]
fn a_file_of_the_same_name_and_size_is_not_the_same_disk() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    make_image(&testbed, DESTINATION, "/srv/local/data.img")?;
    let guest = start_writer(&testbed, "/srv/local/data.img", "none")?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = [
        "/srv/local/data.img, is not known to be the same file on node-31",
        "the probe file that node-28 wrote is not in /srv/local there",
        "if the file there is a leftover, move it away",
    ];
    assert_refused(&testbed, &guest, &answer, "DISK_NOT_SHARED", &words)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_shared_overlay_needs_the_same_base_on_both_hosts() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    for host in [SOURCE, DESTINATION] {
        make_image(&testbed, host, "/srv/local/base.img")?;
    }
    let overlay = "qemu-img create -q -f qcow2 -b /srv/local/base.img -F raw /srv/shared/web.qcow2";
    testbed.host(SOURCE)?.sh(&format!("{overlay} && chmod 666 /srv/shared/web.qcow2"))?;
    let mut definition = BootSectorGuest::new("web-1").dirtying(1);
    definition.domain.extra_devices = disk("/srv/shared/web.qcow2", "none").replace("'raw'", "'qcow2'");
    let guest = testbed.start(definition, SOURCE)?;
    let before = Before::of(&testbed)?;

    // As large, and one byte is another.
    let change = "printf x | dd of=/srv/local/base.img conv=notrunc status=none";
    testbed.host(DESTINATION)?.sh(change)?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(1, &["DISK_DIFFERS"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    answer.assert_error_says(&["/srv/local/base.img", "has other contents on node-31 than on node-28"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;

    make_image(&testbed, DESTINATION, "/srv/local/base.img.new")?;
    testbed.host(DESTINATION)?.sh("mv /srv/local/base.img.new /srv/local/base.img")?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(0, &[])?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_shared_disk_that_its_host_caches_stays() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = start_writer(&testbed, "/srv/shared/data.img", "writeback")?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    let words = ["disk vdb of web-1", "cache mode writeback", "cache='none'"];
    assert_refused(&testbed, &guest, &answer, "DISK_CACHE_UNSAFE", &words)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_directory_that_takes_no_probe_file_is_named() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    // Room for the directory itself and one file.
    testbed.host(SOURCE)?.sh("mkdir /srv/full && mount -t tmpfs -o nr_inodes=2 full /srv/full")?;
    make_image(&testbed, SOURCE, "/srv/full/data.img")?;
    testbed.host(DESTINATION)?.sh("mkdir /srv/full")?;
    make_image(&testbed, DESTINATION, "/srv/full/data.img")?;
    let mut definition = BootSectorGuest::new("web-1");
    definition.domain.extra_devices = disk("/srv/full/data.img", "none");
    testbed.define(definition, SOURCE)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["INSTANCE_SHUTOFF", "DISK_NOT_SHARED"])?;
    answer.assert_error_says(&["node-28 cannot write a probe file to /srv/full", "No space left on device"])?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn an_aborted_move_leaves_no_probe_file() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = start_writer(&testbed, "/srv/shared/data.img", "none")?;
    slow_down(&testbed, &guest)?;
    let before = Before::of(&testbed)?;

    let moving = Move::begin(&testbed, &guest)?;
    ensure!(probes(&testbed)? == 0, "the checks are over, their probe files are not");
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_probe_file_of_a_killed_agent_is_gone_when_the_agent_is_back() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = start_writer(&testbed, "/srv/shared/data.img", "none")?;
    let before = Before::of(&testbed)?;
    // The destination keeps the check waiting.
    let destination = testbed.host(DESTINATION)?;
    let agent = destination.agent().main_pid()?.to_string();
    destination.run("kill", ["-STOP", &agent])?;
    let mut command = testbed.vmferry(["migrate", "web-1", "--from", SOURCE, "--to", DESTINATION])?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut coordinator = command.spawn().context("cannot start vmferry")?;
    let placed = until("a probe file", SOON, || Ok((probes(&testbed)? == 1).then_some(())));
    let killed = testbed.host(SOURCE)?.agent().kill_for_good();
    coordinator.kill()?;
    coordinator.wait()?;
    destination.run("kill", ["-CONT", &agent])?;
    placed.and(killed)?;
    ensure!(probes(&testbed)? == 1, "who removed it?");

    testbed.host(SOURCE)?.agent().start()?;
    until("the end of the probe file", Duration::from_secs(5), || Ok((probes(&testbed)? == 0).then_some(())))?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
