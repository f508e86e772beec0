//! Guests whose disks are volumes that QEMU opens itself, on a real Ceph cluster and a real iSCSI target, move between
//! zones while they run.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use vmferry_tests::{
    Testbed,
    console::{Mount, Report},
    guest::{Guest, LinuxGuest},
    storage::{
        Backend::{self, Ceph, Iscsi},
        Secret,
    },
};

use crate::rig::{
    Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, migrate, slow_down, speed_up,
    volumes::{
        self, MIB, Volume, assert_attached, assert_completed, assert_listed, assert_no_write_lost, assert_nothing_left,
        assert_secrets_not_written, assert_secrets_on, label, let_in, secrets, show, up, watching_arguments,
    },
};

/// Fails unless the guest has the devices and the file systems that it had, with the same room in them.
fn assert_same_storage(before: &Report, after: &Report) -> Result<()> {
    ensure!(before.devices == after.devices, "{before:?}\n{after:?}");
    ensure!(before.mounts.keys().eq(after.mounts.keys()), "{before:?}\n{after:?}");
    for (target, mount) in &before.mounts {
        let now = &after.mounts[target];
        let what = |mount: &Mount| {
            let [device, size, _, _, _, at] = mount.usage.as_slice() else { return None };
            Some([&mount.source, &mount.file_system, device, size, at].map(String::clone))
        };
        ensure!(what(mount).is_some() && what(mount) == what(now), "{mount:?}\n{now:?}");
        // The guest goes on writing.
        let used = |mount: &Mount| mount.usage[2].parse::<u64>();
        ensure!(used(now)? >= used(mount)?, "{mount:?}\n{now:?}");
    }
    Ok(())
}

/// `admin_vm01` boots from a volume, may have another, and moves from node-28 in zone nova to node-31 in zone nova2.
fn admin_vm01_moves(boot: Backend, data: Option<Backend>) -> Result<()> {
    let mut storage = vec![boot];
    storage.extend(data.filter(|data| *data != boot));
    let testbed = up(&storage)?;
    let boot = Volume::boot(&testbed, boot)?;
    let data = data.map(|backend| Volume::data(&testbed, backend)).transpose()?;
    let volumes: Vec<_> = [Some(&boot), data.as_ref()].into_iter().flatten().collect();
    let secrets = secrets(&volumes);
    let_in(&testbed, &volumes)?;
    let mut definition = LinuxGuest::new("admin_vm01").booted_from(&boot.disk("vda"));
    if let Some(data) = &data {
        definition = definition.with_disk(&data.disk("vdb"));
    }
    let guest = testbed.start(definition, SOURCE)?;
    label(&testbed, "admin_vm01", volumes.len())?;
    let leaks = Before::of(&testbed)?;
    assert_attached(&testbed, "admin_vm01", SOURCE, volumes.len())?;
    assert_secrets_on(&testbed, &secrets, &[SOURCE])?;
    assert_listed(&testbed, "admin_vm01", "ACTIVE", SOURCE)?;
    let disks = volumes::disks(&show(&testbed, "admin_vm01")?);
    let before = guest.console().next_report(SOON)?;
    let mounted: Vec<_> = before.mounts.keys().map(String::as_str).collect();
    ensure!(before.devices["vda"] == MIB << 20 && before.devices["vda1"] == (MIB - 1) << 20, "{before:?}");
    ensure!(mounted == ["/", "/mnt/vol01"][..volumes.len()], "{before:?}");

    slow_down(&testbed, &guest)?;
    let answer = watching_arguments(&secrets, || {
        let moving = Move::begin(&testbed, &guest)?;
        let shown = show(&testbed, "admin_vm01")?;
        ensure!(
            shown["state"] == "MIGRATING" && shown["host"] == SOURCE && volumes::disks(&shown) == disks,
            "{shown:#}"
        );
        ensure!(shown["migration_id"] == moving.id(), "{shown:#}");
        speed_up(&testbed, &guest)?;
        moving.end(Duration::from_secs(60))
    })?;
    assert_completed(&answer)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    assert_listed(&testbed, "admin_vm01", "ACTIVE", DESTINATION)?;
    ensure!(volumes::disks(&show(&testbed, "admin_vm01")?) == disks, "its disks are no longer {disks:#}");
    assert_attached(&testbed, "admin_vm01", DESTINATION, volumes.len())?;
    assert_same_storage(&before, &guest.console().next_report(SOON)?)?;
    guest.console().assert_steady()?;
    // Whoever made the source's secrets may need them; the destination has them for the guest.
    assert_secrets_on(&testbed, &secrets, &[SOURCE, DESTINATION])?;
    assert_nothing_left(&testbed, &leaks, &guest, DESTINATION, &secrets)?;

    if let Some(data) = &data {
        assert_completed_back(&testbed, &guest, &leaks, &secrets)?;
        assert_same_storage(&before, &guest.console().next_report(SOON)?)?;
        guest.console().assert_steady()?;
        assert_no_write_lost(&testbed, &guest, data)?;
    }
    assert_secrets_not_written(&testbed, &secrets)
}

/// Moves the guest home, and fails unless the other host has forgotten what it was told for it.
fn assert_completed_back(testbed: &Testbed, guest: &Guest, leaks: &Before, secrets: &[Secret]) -> Result<()> {
    let answer = migrate(testbed, guest.name(), SOURCE)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", SOURCE)?;
    assert_only_on(testbed, guest, SOURCE)?;
    assert_secrets_on(testbed, secrets, &[SOURCE])?;
    assert_nothing_left(testbed, leaks, guest, SOURCE, &[])
}

#[test]
fn admin_vm01_moves_to_another_zone_with_its_boot_volume_on_ceph() -> Result<()> {
    admin_vm01_moves(Ceph, None)
}

#[test]
fn admin_vm01_moves_to_another_zone_and_back_with_its_boot_volume_and_another_on_ceph() -> Result<()> {
    admin_vm01_moves(Ceph, Some(Ceph))
}

#[test]
fn admin_vm01_moves_to_another_zone_with_its_boot_volume_on_iscsi() -> Result<()> {
    admin_vm01_moves(Iscsi, None)
}

#[test]
fn admin_vm01_moves_to_another_zone_and_back_with_its_boot_volume_and_another_on_iscsi() -> Result<()> {
    admin_vm01_moves(Iscsi, Some(Iscsi))
}

#[test]
fn admin_vm01_moves_to_another_zone_and_back_with_its_boot_volume_on_ceph_and_another_on_iscsi() -> Result<()> {
    admin_vm01_moves(Ceph, Some(Iscsi))
}

#[test]
fn a_volume_a_local_image_and_a_config_drive_move_together() -> Result<()> {
    let testbed = up(&[Ceph])?;
    let boot = Volume::boot(&testbed, Ceph)?;
    let_in(&testbed, &[&boot])?;
    let (source, destination) = (testbed.host(SOURCE)?, testbed.host(DESTINATION)?);
    fs::copy(testbed.storage()?.data_image(MIB)?, testbed.layout().local(SOURCE).join("data.raw"))?;
    source.sh("cd /srv/local
        qemu-img convert -O qcow2 data.raw data.qcow2 && rm data.raw
        head -c 1M /dev/urandom >config.iso && chmod 666 data.qcow2")?;
    let disk = |target: &str, format: &str, file: &str, more: &str| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='none'/>\
             <source file='/srv/local/{file}'/><target dev='{target}' bus='virtio'/>{more}</disk>"
        )
    };
    let definition = LinuxGuest::new("admin_vm01")
        .rooted_on(&boot.disk("vda"))
        .with_disk(&disk("vdb", "qcow2", "data.qcow2", ""))
        .with_disk(&disk("vdc", "raw", "config.iso", "<readonly/>"));
    let guest = testbed.start(definition, SOURCE)?;
    let leaks = Before::of(&testbed)?;
    let before = guest.console().next_report(SOON)?;
    ensure!(before.devices["vdb"] == MIB << 20 && before.devices["vdc"] == 1 << 20, "{before:?}");
    let digest = source.sh("sha256sum /srv/local/config.iso")?;

    assert_completed(&migrate(&testbed, "admin_vm01", DESTINATION)?)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;
    assert_same_storage(&before, &guest.console().next_report(SOON)?)?;
    guest.console().assert_steady()?;
    guest.console().wait_for_writes(5, SOON)?;
    ensure!(source.sh("ls /srv/local")?.trim() == "config.iso", "the source keeps what was copied");
    ensure!(destination.sh("sha256sum /srv/local/config.iso")? == digest, "the config drive has other contents");
    let came = ["/srv/local/config.iso", "/srv/local/data.qcow2"];
    leaks.assert_nothing_leaked_but(&testbed, &["admin_vm01"], |host, new| {
        let is_storage = new.kind == "TCP connection" && new.item.starts_with("192.0.2.5:");
        let is_ours = came.contains(&new.item.as_str()) || boot.secret().uuid == new.item;
        host == DESTINATION && (is_storage || is_ours)
    })?;

    destination.virsh(["destroy", "admin_vm01"])?;
    destination.sh("cd /srv/local && qemu-img convert -O raw data.qcow2 data.raw")?;
    let copy = testbed.layout().local(DESTINATION).join("data.raw");
    // Its file system is read where the other volumes' is.
    let ceph = testbed.storage()?.ceph()?;
    let found = ceph.sequence(&ceph.import("volumes/copy", &copy)?)?;
    let acknowledged = guest.console().acknowledged()?;
    let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
    Ok(())
}
