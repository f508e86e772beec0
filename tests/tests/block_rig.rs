//! Guests with disks that only their own host has, and a look at the images.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest, LinuxGuest},
};

use crate::rig::{DESTINATION, SOURCE};

/// What the Linux guest writes at once.
const BLOCK: usize = 4096;

/// Where each host has its own files.
pub(crate) const LOCAL: &str = "/srv/local";

/// Two hosts with agents.
pub(crate) fn up() -> Result<Testbed> {
    Testbed::up(Options::default())
}

/// A disk that the guest writes to; `cache='none'`, as one would have it on a host of a cloud.
pub(crate) fn disk(target: &str, path: &str, format: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='none'/><source file='{path}'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

/// A medium that the guest only reads: `device` is `disk` or `cdrom`.
pub(crate) fn medium(device: &str, bus: &str, target: &str, path: &str) -> String {
    format!(
        "<disk type='file' device='{device}'><driver name='qemu' type='raw'/><source file='{path}'/>\
         <target dev='{target}' bus='{bus}'/><readonly/></disk>"
    )
}

/// Runs a script in `/srv/local` on a host, and lets QEMU open the files that it makes there.
pub(crate) fn make(testbed: &Testbed, host: &str, script: &str) -> Result<()> {
    let script = format!("cd {LOCAL}; {script}\nfind . -type f -exec chmod 666 {{}} +");
    testbed.host(host)?.sh(&script).map(drop)
}

/// Makes data that do not compress and are no holes.
pub(crate) fn random(path: &str, mib: u64) -> String {
    format!("dd if=/dev/urandom of={path} bs=1M count={mib} conv=notrunc,fsync status=none\n")
}

/// A guest on the source that writes its numbers to each of these disks.
pub(crate) fn start_writer(testbed: &Testbed, disks: &[String]) -> Result<Guest> {
    let definition = disks.iter().fold(LinuxGuest::new("web-1"), |guest, disk| guest.with_disk(disk));
    let guest = testbed.start(definition, SOURCE)?;
    guest.console().wait_for_writes(3, crate::rig::SOON)?;
    Ok(guest)
}

/// A guest on the source with such disks that writes to none of them: it is up at once.
pub(crate) fn start_idler(testbed: &Testbed, disks: &[String]) -> Result<Guest> {
    let mut definition = BootSectorGuest::new("web-1").dirtying(1);
    definition.domain.extra_devices = disks.concat();
    testbed.start(definition, SOURCE)
}

/// The names of the files that a host has of its own.
pub(crate) fn files(testbed: &Testbed, host: &str) -> Result<BTreeSet<String>> {
    let names = testbed.host(host)?.sh(&format!("cd {LOCAL}; find . -mindepth 1 -printf '%P\\n'"))?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Fails unless these are a host's own files, and no others.
pub(crate) fn assert_files(testbed: &Testbed, host: &str, expected: &[&str]) -> Result<()> {
    let found = files(testbed, host)?;
    let expected: BTreeSet<_> = expected.iter().map(|&name| name.to_owned()).collect();
    ensure!(found == expected, "{host} has {found:?}, expected {expected:?}");
    Ok(())
}

/// What a file takes up, in bytes.
pub(crate) fn allocated(testbed: &Testbed, host: &str, file: &str) -> Result<u64> {
    Ok(fs::metadata(testbed.layout().local(host).join(file))?.blocks() * 512)
}

/// What tells whether a file was touched: inode, time of change, size, and its contents.
pub(crate) fn print(testbed: &Testbed, host: &str, file: &str) -> Result<String> {
    testbed.host(host)?.sh(&format!("cd {LOCAL}; stat -c '%i %y %s' {file}; sha256sum {file}"))
}

/// The SHA-256 of a file.
pub(crate) fn sum(testbed: &Testbed, host: &str, file: &str) -> Result<String> {
    let sum = testbed.host(host)?.run("sha256sum", [format!("{LOCAL}/{file}")])?;
    Ok(sum.split(' ').next().unwrap_or_default().to_owned())
}

/// The same of a qcow2 image's description.
pub(crate) fn describe(testbed: &Testbed, host: &str, file: &str) -> Result<serde_json::Value> {
    let said = testbed.host(host)?.sh(&format!("qemu-img info -U --output=json {LOCAL}/{file}"))?;
    serde_json::from_str(&said).context("qemu-img speaks JSON")
}

/// Fails unless every write that the guest was told to be stable is in the image. The guest must be off.
pub(crate) fn assert_no_write_lost(testbed: &Testbed, guest: &Guest, host: &str, file: &str) -> Result<()> {
    let acknowledged = guest.console().acknowledged()?;
    ensure!(acknowledged.len() > 5, "{acknowledged:?} are few");
    testbed.host(host)?.sh(&format!("cd {LOCAL}; qemu-img convert -O raw {file} read.raw && chmod 644 read.raw"))?;
    let raw = testbed.layout().local(host).join("read.raw");
    let mut image = fs::File::open(&raw)?;
    // One that was rebooted has begun anew.
    let length = (acknowledged.iter().max().copied().unwrap_or_default() + 1) * BLOCK as u64;
    let mut contents = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut image, length), &mut contents)?;
    let numbers = contents.chunks(BLOCK).filter_map(|block| std::str::from_utf8(block).ok()?.trim().parse().ok());
    let on_disk: BTreeSet<u64> = numbers.collect();
    let lost: Vec<_> = acknowledged.iter().filter(|number| !on_disk.contains(number)).collect();
    ensure!(lost.is_empty(), "{file}: acknowledged and lost: {lost:?} of {}", acknowledged.len());
    fs::remove_file(raw)?;
    Ok(())
}

/// Stops the guest's power, so that its images can be looked at.
pub(crate) fn power_off(testbed: &Testbed, guest: &Guest, host: &str) -> Result<()> {
    testbed.host(host)?.virsh(["destroy", guest.name()]).map(drop)
}

/// The other host.
pub(crate) fn other(host: &str) -> &'static str {
    if host == SOURCE { DESTINATION } else { SOURCE }
}
