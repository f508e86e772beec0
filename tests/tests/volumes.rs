//! Guests whose disks are volumes that QEMU opens itself: real Ceph, a real iSCSI target.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use vmferry_tests::{Testbed, guest::LinuxGuest, storage::Backend, testbed::Options};

use crate::rig::{DESTINATION, SOON, SOURCE, migrate};

#[test]
fn a_guest_moves_with_its_boot_volume_and_another_on_ceph() -> Result<()> {
    let testbed = Testbed::up(Options { storage: vec![Backend::Ceph], ..Options::default() })?;
    let storage = testbed.storage()?;
    let ceph = storage.ceph()?;
    let secret = ceph.secret()?;
    let boot = ceph.import("volumes/admin_vol01", &storage.boot_image(64)?)?;
    let data = ceph.import("volumes/admin_vol11", &storage.data_image(64)?)?;
    for host in testbed.hosts() {
        host.give_secret(&secret)?;
    }
    testbed.host(SOURCE)?.define_secret(&secret)?;
    let definition =
        LinuxGuest::new("admin_vm01").rooted_on(&boot.disk("vda", &secret)).with_disk(&data.disk("vdb", &secret));
    let guest = testbed.start(definition, SOURCE)?;
    guest.console().wait_for_writes(5, SOON)?;
    let before = guest.console().next_report(SOON)?;
    let answer = migrate(&testbed, "admin_vm01", DESTINATION)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    guest.console().wait_for_writes(5, SOON)?;
    let after = guest.console().next_report(SOON)?;
    println!("{before:?}\n{after:?}");
    guest.console().assert_steady()?;
    testbed.host(DESTINATION)?.virsh(["destroy", "admin_vm01"])?;
    let on_volume: BTreeSet<_> = ceph.sequence(&data)?.into_iter().collect();
    let lost: Vec<_> =
        guest.console().acknowledged()?.into_iter().filter(|number| !on_volume.contains(number)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    Ok(())
}
