//! The storage node and the guests on its volumes, without VMFerry moving anything: what the tests of volumes rely on.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    guest::{BootSectorGuest, Guest, LinuxGuest},
    layout::netns,
    storage::{Backend, Endpoint, RbdImage, Secret},
    wait::until,
};

use crate::rig::{DESTINATION, SOON, SOURCE};

/// Long enough that a guest which can write would have.
const SILENCE: Duration = Duration::from_secs(2);

fn up(storage: &[Backend]) -> Result<Testbed> {
    Testbed::up(Options { storage: storage.to_vec(), agents: false, ..Options::default() })
}

/// A Linux guest on the source that has both its volumes in Ceph; `on` puts the first under it.
fn start_on_rbd(testbed: &Testbed, on: fn(LinuxGuest, &str) -> LinuxGuest) -> Result<(Guest, RbdImage)> {
    let storage = testbed.storage()?;
    let ceph = storage.ceph()?;
    let boot = ceph.import("volumes/admin_vol01", &storage.boot_image(64)?)?;
    let data = ceph.import("volumes/admin_vol11", &storage.data_image(64)?)?;
    let secret = ceph.secret()?;
    testbed.host(SOURCE)?.define_secret(&secret)?;
    let guest = on(LinuxGuest::new("admin_vm01"), &boot.disk("vda", &secret)).with_disk(&data.disk("vdb", &secret));
    Ok((testbed.start(guest, SOURCE)?, data))
}

/// Pulls the guest's plug, and fails unless every write that it called stable is among those read back.
fn assert_no_write_lost(testbed: &Testbed, guest: &Guest, read_back: impl FnOnce() -> Result<Vec<u64>>) -> Result<()> {
    guest.console().wait_for_writes(5, SOON)?;
    testbed.host(SOURCE)?.virsh(["destroy", guest.name()])?;
    let (acknowledged, found) = (guest.console().acknowledged()?, read_back()?);
    let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
    Ok(())
}

/// Whether a host can list the images of the pool within five seconds.
fn reaches_ceph(host: &Host, secret: &Secret) -> Result<bool> {
    host.write("/run/key", &secret.value)?;
    let list = "timeout 5 rbd ls volumes --mon-host=192.0.2.5 --id=libvirt --keyfile=/run/key --no-config-file";
    Ok(host.sh(list).is_ok())
}

#[test]
fn a_linux_guest_boots_from_rbd_mounts_a_second_volume_and_loses_no_write() -> Result<()> {
    let testbed = up(&[Backend::Ceph])?;
    let (guest, data) = start_on_rbd(&testbed, LinuxGuest::booted_from)?;

    let report = guest.console().next_report(SOON)?;
    ensure!(report.devices["vda"] == 64 << 20 && report.devices["vdb1"] == 63 << 20, "{report:?}");
    let mounted = |target: &str| report.mounts.get(target).map(|mount| mount.file_system.as_str());
    ensure!(mounted("/") == Some("ext4") && mounted("/mnt/vol01") == Some("ext4"), "{report:?}");
    ensure!(report.mounts["/mnt/vol01"].source == "/dev/vdb1", "{report:?}");
    ensure!(report.mounts["/mnt/vol01"].usage.len() == 6, "{report:?}");
    guest.console().assert_steady()?;

    let ceph = testbed.storage()?.ceph()?;
    assert_no_write_lost(&testbed, &guest, || ceph.sequence(&data))
}

#[test]
fn a_linux_guest_boots_from_iscsi_with_chap_and_has_its_second_volume_in_ceph() -> Result<()> {
    let testbed = up(&[Backend::Ceph, Backend::Iscsi])?;
    let storage = testbed.storage()?;
    let (ceph, iscsi) = (storage.ceph()?, storage.iscsi()?);
    let target = iscsi.create_target("admin-vol01")?;
    let boot = iscsi.import(&target, &storage.boot_image(64)?)?;
    let data = ceph.import("volumes/admin_vol11", &storage.data_image(64)?)?;
    let key = ceph.secret()?;
    for secret in [&key, &target.secret] {
        testbed.host(SOURCE)?.define_secret(secret)?;
    }
    let guest = LinuxGuest::new("admin_vm01").booted_from(&boot.disk("vda")).with_disk(&data.disk("vdb", &key));
    let guest = testbed.start(guest, SOURCE)?;
    assert_no_write_lost(&testbed, &guest, || ceph.sequence(&data))
}

#[test]
fn luns_of_one_target_are_told_apart_and_a_wrong_password_is_refused() -> Result<()> {
    let testbed = up(&[Backend::Iscsi])?;
    let storage = testbed.storage()?;
    let (iscsi, source) = (storage.iscsi()?, testbed.host(SOURCE)?);
    let target = iscsi.create_target("volumes")?;
    let guest = BootSectorGuest::new("web-1");
    let boot = iscsi.import(&target, &storage.raw_image(&guest.image()?)?)?;
    let data = iscsi.import(&target, &storage.data_image(64)?)?;
    let empty = iscsi.create_lun(&target, 32)?;

    let password = &target.secret.value;
    let size = source.run("iscsi-readcapacity16", [empty.url(password)])?;
    ensure!(size.contains(&format!("Total size:{}", 32 << 20)), "{size}");
    for lun in [&boot, &data, &empty] {
        let serial = source.run("iscsi-inq", ["-e", "1", "-c", "128", &lun.url(password)])?;
        ensure!(serial.contains(&lun.serial), "{} is not in {serial}", lun.serial);
        let identity = source.run("iscsi-inq", ["-e", "1", "-c", "131", &lun.url(password)])?;
        ensure!(identity.contains(&lun.scsi_id), "{} is not in {identity}", lun.scsi_id);
    }
    iscsi.remove_lun(&empty)?;
    ensure!(source.run("iscsi-readcapacity16", [empty.url(password)]).is_err(), "the LUN was removed");

    let wrong = Secret { value: "0123456789abcdef".to_owned(), ..target.secret.clone() };
    source.define_secret(&wrong)?;
    let guest = guest.booted_from(&boot.disk("vda"));
    ensure!(testbed.launch(guest.clone(), SOURCE).is_err(), "the password is wrong");
    // libvirt does not always wait for QEMU's last words; its log has them.
    until("QEMU's reason", SOON, || {
        let log = source.sh("cat /var/log/libvirt/qemu/web-1.log")?;
        Ok(log.contains("Authentication failure").then_some(()))
    })?;
    source.define_secret(&target.secret)?;
    testbed.start(guest, SOURCE)?.console().assert_memory_intact()?;

    let definition = LinuxGuest::new("web-2").with_disk(&data.disk_by("vdb", data.portals[1]));
    let guest = testbed.start(definition, SOURCE)?;
    assert_no_write_lost(&testbed, &guest, || iscsi.sequence(&data))
}

#[test]
fn while_the_osd_is_down_writes_wait_and_the_guest_lives() -> Result<()> {
    let testbed = up(&[Backend::Ceph])?;
    let (guest, data) = start_on_rbd(&testbed, LinuxGuest::rooted_on)?;
    let ceph = testbed.storage()?.ceph()?;
    guest.console().wait_for_writes(5, SOON)?;

    ceph.stop_osd()?;
    let before = guest.console().acknowledged()?.len();
    ensure!(guest.console().wait_for_writes(2, SILENCE).is_err(), "who acknowledged {before}?");
    guest.console().wait_for_more(3, SOON)?;
    ceph.start_osd()?;
    guest.console().wait_for_writes(5, SOON)?;

    ceph.stop_monitor()?;
    guest.console().wait_for_writes(5, SOON)?;
    ceph.start_monitor()?;
    assert_no_write_lost(&testbed, &guest, || ceph.sequence(&data))
}

#[test]
fn a_cut_is_felt_by_one_host_only() -> Result<()> {
    let testbed = up(&[Backend::Ceph, Backend::Iscsi])?;
    let storage = testbed.storage()?;
    let (source, destination) = (testbed.host(SOURCE)?, testbed.host(DESTINATION)?);
    let secret = storage.ceph()?.secret()?;

    storage.cut(destination, Endpoint::Monitor)?;
    ensure!(reaches_ceph(source, &secret)?, "the source was not cut off");
    ensure!(!reaches_ceph(destination, &secret)?, "the monitor was cut off");
    storage.mend(destination, Endpoint::Monitor)?;
    ensure!(reaches_ceph(destination, &secret)?, "the cut was mended");

    let iscsi = storage.iscsi()?;
    let lun = iscsi.create_lun(&iscsi.create_target("volume")?, 8)?;
    let [first, second] = lun.portals;
    let discover = |host: &Host, portal| {
        let (user, password) = (&lun.target.secret.user, &lun.target.secret.value);
        host.run("timeout", ["3", "iscsi-ls", &format!("iscsi://{user}%{password}@{portal}")])
    };
    storage.cut(destination, Endpoint::Portal(*first.ip()))?;
    ensure!(discover(destination, first).is_err(), "the portal was cut off");
    ensure!(discover(destination, second)?.contains(&lun.target.iqn), "the other portal was not");
    ensure!(discover(source, first)?.contains(&lun.target.iqn), "the source was not");
    storage.mend(destination, Endpoint::Portal(*first.ip()))?;
    ensure!(discover(destination, first)?.contains(&lun.target.iqn), "the cut was mended");
    Ok(())
}

#[test]
fn images_grow_shrink_and_go() -> Result<()> {
    let testbed = up(&[Backend::Ceph])?;
    let ceph = testbed.storage()?.ceph()?;
    let image = ceph.create_image("volumes/admin_vol01", "64M")?;
    let size = || ceph.rbd(&["info", "--format=json", &image.name]);
    ceph.resize(&image, "96M")?;
    ensure!(size()?.contains(&format!("\"size\":{}", 96 << 20)), "{}", size()?);
    ceph.resize(&image, "32M")?;
    ensure!(size()?.contains(&format!("\"size\":{}", 32 << 20)), "{}", size()?);
    ceph.delete(&image)?;
    ensure!(ceph.rbd(&["ls", "volumes"])?.is_empty(), "it was deleted");
    Ok(())
}

#[test]
fn the_storage_node_goes_with_its_testbed() -> Result<()> {
    let testbed = up(&[Backend::Ceph, Backend::Iscsi])?;
    let layout = testbed.layout().clone();
    let pid = testbed.storage()?.node().sh("systemctl show --value --property MainPID ceph-osd.service")?;
    ensure!(pid.trim() != "0", "the OSD runs");
    let machine = layout.machine("storage");
    ensure!(netns(&machine).exists(), "the node has a network");
    let running = |machine: &str| {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cgroup")).ok());
        lines.filter(|cgroups| cgroups.contains(machine)).count()
    };
    ensure!(running(&machine) > 3, "it runs a monitor, an OSD and a target");

    testbed.down()?;
    ensure!(running(&machine) == 0, "its processes are left");
    for path in
        [&netns(&machine), &layout.run_dir(), &layout.disk_dir(), Path::new("/sys/fs/cgroup").join(&machine).as_path()]
    {
        ensure!(!path.exists(), "{} is left", path.display());
    }
    Ok(())
}
