//! Moves that are refused because of the destination: what the guest has on its source, that host cannot give.

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    guest::{BootSectorGuest, LinuxGuest},
};

use crate::rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, migrate, slow_down, vmferry};

/// Gives a host a QEMU of its own, with every `old` in the program replaced by `new`, and makes its libvirt look at it.
fn patch_qemu(host: &Host, old: &str, new: &str) -> Result<()> {
    ensure!(old.len() == new.len(), "a program keeps its length");
    let qemu = "/usr/bin/qemu-system-x86_64";
    let old = old.replace('.', r"\.");
    host.sh(&format!(
        "sed 's/{old}/{new}/g' {qemu} >/usr/bin/patched && ! cmp -s {qemu} /usr/bin/patched \
         && chmod 755 /usr/bin/patched && mv /usr/bin/patched {qemu}"
    ))
    .with_context(|| format!("QEMU has no {old}"))?;
    host.restart_libvirtd()
}

/// A line of the kernel's account of the machine's memory, which is also each host's.
fn memory_mib(line: &str) -> Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let value =
        meminfo.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("the kernel has no {line}"))?.trim().parse::<u64>()? / 1024)
}

#[test]
fn a_destination_without_the_memory_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    // All of the machine's memory: a guest that touches little of it starts nevertheless, but nobody has as much free.
    let mut definition = BootSectorGuest::new("huge-1");
    definition.domain.memory_mib = memory_mib("MemTotal")? - 64;
    let guest = testbed.start(definition, SOURCE)?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "huge-1", DESTINATION)?;
    answer.assert_ended(3, &["MEMORY_SHORT"])?;
    answer.assert_error_says(&["huge-1 needs", "of memory, node-31 has", "nothing was changed", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn memory_is_not_promised_to_two_guests_at_once() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    // Each would fit alone.
    let memory = memory_mib("MemAvailable")? * 6 / 10;
    let [mut one, mut two] = ["one", "two"].map(BootSectorGuest::new);
    one.domain.memory_mib = memory;
    two.domain.memory_mib = memory;
    let (one, two) = (testbed.start(one.dirtying(100), SOURCE)?, testbed.start(two, SOURCE)?);
    slow_down(&testbed, &one)?;
    let plan = vmferry(&testbed, &["migrate", "two", "--to", DESTINATION, "--dry-run"])?;
    ensure!(plan.exit == Some(0), "{plan:#?}");
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &one)?;

    let answer = migrate(&testbed, "two", DESTINATION)?;
    answer.assert_ended(3, &["MEMORY_SHORT"])?;
    answer.assert_error_says(&["two needs", "of memory, node-31 has", "stays on node-28"])?;
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    // The claim is gone with its migration.
    let plan = vmferry(&testbed, &["migrate", "two", "--to", DESTINATION, "--dry-run"])?;
    ensure!(plan.exit == Some(0), "{plan:#?}");
    assert_only_on(&testbed, &one, SOURCE)?;
    assert_only_on(&testbed, &two, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_without_a_feature_of_the_cpu_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let mut definition = BootSectorGuest::new("web-1");
    definition.domain.cpu = "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model>\
         <feature policy='require' name='fsgsbase'/><feature policy='require' name='hypervisor'/>\
         <feature policy='require' name='lahf_lm'/></cpu>"
        .to_owned();
    let guest = testbed.start(definition, SOURCE)?;
    // It is that feature alone which is missing: with it, the same host would take the guest.
    let plan = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--dry-run"])?;
    ensure!(plan.exit == Some(0), "{plan:#?}");
    patch_qemu(testbed.host(DESTINATION)?, "fsgsbase", "fsgs-was")?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["CPU_INCOMPATIBLE"])?;
    answer.assert_error_says(&["node-31", "cannot give web-1 the CPU", "fsgsbase", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_whose_qemu_does_not_know_the_machine_type_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    // `q35` is the newest one, by its number, as soon as the guest runs.
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let xml = testbed.host(SOURCE)?.virsh(["dumpxml", "web-1"])?;
    let machine = xml.split_once("machine='").and_then(|(_, rest)| rest.split_once('\''));
    let (machine, _) = machine.context("it has a machine type")?;
    let older = machine.replace(|c: char| c.is_ascii_digit() && c != '3' && c != '5', "0");
    patch_qemu(testbed.host(DESTINATION)?, &format!("{machine}-machine"), &format!("{older}-machine"))?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["MACHINE_TYPE_MISSING"])?;
    answer.assert_error_says(&["QEMU on node-31", machine, "upgrade QEMU on node-31", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_without_the_guests_emulator_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    testbed.host(DESTINATION)?.sh("rm /usr/bin/qemu-system-x86_64")?;
    testbed.host(DESTINATION)?.restart_libvirtd()?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["VIRT_TYPE_MISSING"])?;
    answer.assert_error_says(&["node-31 does not have /usr/bin/qemu-system-x86_64", "install", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_without_the_bridge_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    testbed.host(DESTINATION)?.sh("ip link delete br0")?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["NETWORK_MISSING"])?;
    answer.assert_error_says(&["bridge br0, which node-31 does not have", "ip link add br0", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    guest.console().assert_steady()?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_destination_with_another_file_in_the_place_of_what_the_guest_reads_refuses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let definition = BootSectorGuest::new("web-1");
    let image = testbed.layout().local(SOURCE).join("web-1.img");
    let mut elsewhere = definition.clone();
    elsewhere.domain.disk = "/srv/local/web-1.img".to_owned();
    let guest = testbed.define(definition, SOURCE)?;
    std::fs::copy(testbed.layout().shared().join("web-1.img"), image)?;
    testbed.start(elsewhere, SOURCE)?;
    testbed.host(DESTINATION)?.sh("truncate -s 2M /srv/local/web-1.img")?;
    let before = Before::of(&testbed)?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["DISK_DIFFERS"])?;
    let words = "disk vda of web-1, /srv/local/web-1.img, has 1048576 bytes on node-28 and 2097152 on node-31";
    answer.assert_error_says(&[words, "move it away: it is then copied", "stays on node-28"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
