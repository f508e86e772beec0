//! Guests whose volumes are attached by their hosts, and guests on VLANs, moved between two hosts with kernels of their own:
//! `make test-kernel`.
//!
//! Each host is an emulated machine; the guest is KVM's in there. The storage is in a container beside them, and the CLI too.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use guest::{Guest, NAME};
use rig::{Answer, Rig, alone, holdings, timed};
use vmferry_tests::kernel_vm::KernelHost;

mod guest;
mod outside;
mod rig;
mod vlans;

/// Moves the guest. Fails unless it has moved with all that it wrote, by the devices' stable names, and nothing of it is
/// where it was but what was there before VMFerry.
fn move_with_volumes(
    rig: &Rig,
    guest: &mut Guest,
    from: &KernelHost,
    to: &KernelHost,
    stays: &BTreeSet<String>,
) -> Result<()> {
    let answer = timed(&format!("the guest is moved to {}", to.name()), || {
        rig.vmferry(&format!("migrate {NAME} --to {}", to.name()))
    })?;
    ensure!(answer.exit == Some(0) && answer.document["outcome"] == "completed", "{answer:#?}");
    guest.left(from)?;
    timed("it writes on, and nothing is lost", || guest.assert_unharmed(rig, to))?;
    let shown = rig.done(&format!("instance show {NAME}"))?;
    ensure!(shown["host"] == to.name() && shown["state"] == "ACTIVE", "{shown:#}");
    let listed = rig.done("instances")?;
    let rows = listed["instances"].as_array().context("a list")?;
    ensure!(rows.len() == 1 && rows[0]["host"] == to.name() && rows[0]["state"] == "ACTIVE", "{listed:#}");

    let stable = [guest.lun_by_id(to)?, format!("/dev/rbd/{}", guest.image.name)];
    for devices in guest.devices(to)? {
        ensure!(devices == stable, "{devices:?} instead of {stable:?}");
    }
    let left = holdings(from)?;
    ensure!(left == *stays, "left on {}: {left:?}", from.name());
    assert_healthy(rig)
}

/// Fails if `vmferry doctor` has anything to say.
fn assert_healthy(rig: &Rig) -> Result<()> {
    for host in &rig.hosts {
        let found = rig.leftovers(host)?;
        ensure!(found.is_empty(), "left on {}: {found:#?}", host.name());
    }
    Ok(())
}

/// Fails unless a move has ended so, told with these words, without any trace on the destination, and the guest has noticed
/// nothing.
fn assert_stays(rig: &Rig, guest: &Guest, answer: &Answer, exit: i32, reason: &str, words: &[&str]) -> Result<()> {
    let [source, destination] = &rig.hosts;
    let refusals = answer.document["refusals"].as_array().into_iter().flatten();
    let causes = [&answer.document["cause"], &answer.document["error"]];
    let reasons: BTreeSet<_> = refusals.chain(causes).filter_map(|place| place["reason"].as_str()).collect();
    ensure!(answer.exit == Some(exit) && reasons.contains(reason), "{answer:#?}");
    for word in words.iter().chain(&[source.name(), destination.name()]) {
        ensure!(answer.stderr.contains(word), "no `{word}` in: {}", answer.stderr);
    }
    ensure!(holdings(destination)?.is_empty(), "left: {:?}", holdings(destination)?);
    assert_healthy(rig)?;
    guest.assert_unharmed(rig, source)
}

/// LM-054, LM-055, LM-061, LM-082.
#[test]
#[ignore = "needs emulated machines: make test-kernel"]
fn a_guest_moves_between_two_kernels_and_back_with_volumes_that_the_hosts_attach() -> Result<()> {
    alone(|rig| {
        let [a, b] = &rig.hosts;
        rig.with_guest(|guest| {
            // The administrator's node record is not VMFerry's to delete.
            let record = format!("record {}/192.0.2.5,3260,1/default", rig.target.iqn);
            move_with_volumes(rig, guest, a, b, &BTreeSet::from([record]))?;
            move_with_volumes(rig, guest, b, a, &BTreeSet::new())
        })
    })
}

/// LM-062.
#[test]
#[ignore = "needs emulated machines: make test-kernel"]
fn a_destination_that_cannot_attach_the_volumes_leaves_the_guest_where_it_was() -> Result<()> {
    alone(|rig| {
        let [_, b] = &rig.hosts;
        let migrate = || rig.vmferry(&format!("migrate {NAME} --to {}", b.name()));
        rig.with_guest(|guest| {
            let volume = format!("{}/{}", guest.lun.target.iqn, guest.lun.lun);
            b.sh("nft 'table inet cut { chain output { type filter hook output priority 0; tcp dport 3260 drop; }
            }'")?;
            let answer = timed("refused: the destination does not reach the target", migrate)?;
            b.sh("nft delete table inet cut")?;
            let words = [&volume, "see that node-b reaches 192.0.2.5:3260"];
            assert_stays(rig, guest, &answer, 3, "VOLUME_UNREACHABLE", &words)?;

            // The checks find the LUN; then its disk gets no name. The image is mapped by then, or about to be.
            let rules = "/run/udev/rules.d/60-persistent-storage.rules /run/udev/rules.d/58-scsi-sg3_symlink.rules";
            b.sh(&format!("mkdir -p /run/udev/rules.d; touch {rules}; udevadm control --reload"))?;
            let answer = timed("rolled back: the disk has no stable name in time", migrate)?;
            b.sh(&format!("rm {rules}; udevadm control --reload"))?;
            let words = [&volume, "did not appear within 15s", "check the kernel's log and udev"];
            assert_stays(rig, guest, &answer, 1, "VOLUME_CONNECT_FAILED", &words)
        })
    })
}

#[test]
#[ignore = "needs emulated machines: make test-kernel"]
fn doctor_finds_a_session_and_a_map_that_were_left_and_its_commands_remove_them() -> Result<()> {
    alone(|rig| {
        let b = &rig.hosts[1];
        rig.with_guest(|guest| {
            guest.leave_behind(b)?;
            let held = holdings(b)?;
            ensure!(held.len() == 4, "a session, its record, its disk and a map are not {held:?}");
            // The other host has nothing.
            let answer = rig.vmferry("doctor")?;
            ensure!(answer.exit == Some(9), "{answer:#?}");
            let found = rig.leftovers(b)?;
            let levels: Vec<_> =
                found.iter().map(|leftover| (leftover["kind"].as_str(), leftover["level"].as_str())).collect();
            ensure!(
                levels == [(Some("iscsi_session"), Some("problem")), (Some("rbd_image"), Some("note"))],
                "{found:#?}"
            );
            for leftover in &found {
                let remedy = leftover["remedy"].as_str().context("it says what to do")?;
                // VMFerry cannot know whether somebody else has mapped an image.
                let command = remedy.strip_prefix("if nobody needs it: ").unwrap_or(remedy);
                timed(command, || b.sh(command))?;
            }
            b.sh("udevadm settle")?;
            ensure!(holdings(b)?.is_empty(), "left: {:?}", holdings(b)?);
            assert_healthy(rig)?;

            // The same, removed by the host's own agent. Whose the map is nobody can tell.
            guest.leave_behind(b)?;
            let fixed = timed("doctor --fix", || rig.vmferry("doctor --fix --yes"))?;
            ensure!(fixed.exit == Some(0), "{fixed:#?}");
            let left = rig.leftovers(b)?;
            ensure!(left.len() == 1 && left[0]["kind"] == "rbd_image", "{left:#?}");
            b.sh("rbd unmap /dev/rbd0; udevadm settle")?;
            ensure!(holdings(b)?.is_empty(), "left: {:?}", holdings(b)?);
            assert_healthy(rig)
        })
    })
}
