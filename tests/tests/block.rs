//! Guests with disks that only their host has: the disks go with them.

use anyhow::{Context, Result, ensure};

use crate::{
    block_rig::{
        LOCAL, allocated, assert_files, assert_no_write_lost, describe, disk, make, medium, other, power_off, print,
        random, start_idler, start_writer, sum, up,
    },
    rig::{Answer, Before, DESTINATION, SOON, SOURCE, assert_only_on, migrate, vmferry},
};

const MIB: u64 = 1 << 20;

#[test]
fn local_disks_move_there_and_back_with_every_acknowledged_write() -> Result<()> {
    let testbed = up()?;
    let script = "truncate -s 512M web-1-b.raw; qemu-img create -q -f qcow2 web-1-a.qcow2 512M";
    make(&testbed, SOURCE, script)?;
    let disks = [
        disk("vdb", &format!("{LOCAL}/web-1-a.qcow2"), "qcow2"),
        disk("vdc", &format!("{LOCAL}/web-1-b.raw"), "raw"),
    ];
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
