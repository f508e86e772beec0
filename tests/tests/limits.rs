//! What a guest's own limits and its source's configuration make of its moves.

use anyhow::{Result, ensure};
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest};

use crate::rig::{Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_unharmed_on, vmferry};

const NAMESPACE: &str = "https://vmferry.org/xmlns/migration/1";

fn limits(testbed: &Testbed, arguments: &[&str]) -> Result<Answer> {
    vmferry(testbed, &[&["instance", "limits"], arguments].concat())
}

#[test]
fn a_guest_moves_by_its_own_limits_with_a_policy_of_its_source_and_keeps_them() -> Result<()> {
    let mut options = Options::default();
    options.hosts[0].configuration =
        "[policy.night]\ndowntime = \"300ms\"\nsteps = [{ after = \"5m\", do = \"abort\" }]\n".into();
    let testbed = Testbed::up(options)?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let migrate =
        |to: &str, arguments: &[&str]| vmferry(&testbed, &[&["migrate", "web-1", "--to", to], arguments].concat());

    // By hand, and misspelled.
    let set = ["metadata", "web-1", NAMESPACE, "--key", "vmferry", "--set", "<migration max-downtme='1s'/>", "--live"];
    testbed.host(SOURCE)?.virsh(set)?;
    migrate(DESTINATION, &[])?.assert_ended(3, &["LIMITS_LABEL_INVALID"])?;
    limits(&testbed, &["set", "web-1", "--policy", "night", "--max-downtime", "500ms", "--postcopy", "never"])?
        .assert_ended(0, &[])?;

    for beyond in [&["--postcopy"][..], &["--policy", "must-finish"], &["--max-downtime", "2s"]] {
        let refused = migrate(DESTINATION, beyond)?;
        refused.assert_ended(3, &["GUEST_LIMITS"])?;
        refused.assert_error_says(&["web-1 on node-28", "vmferry instance limits set web-1"])?;
    }
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])?;

    let moved = migrate(DESTINATION, &[])?;
    moved.assert_ended(0, &[])?;
    moved.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])?;
    let id = moved.document["migration_id"].as_str().unwrap_or_default().to_owned();
    let record = vmferry(&testbed, &["migrations", "show", &id])?.document;
    ensure!(record["policy"] == "night", "{record:#}");

    let kept = limits(&testbed, &["show", "web-1"])?.document;
    ensure!(kept["limits"]["max_downtime_ms"] == 500 && kept["limits"]["postcopy"] == "never", "{kept:#}");
    let there = testbed.host(DESTINATION)?;
    for definition in [&["dumpxml", "web-1"][..], &["dumpxml", "web-1", "--inactive"]] {
        let xml = there.virsh(definition.iter().copied())?;
        ensure!(xml.contains(NAMESPACE) && xml.contains("max-downtime=\"500ms\""), "{definition:?}: {xml}");
    }
    // That host has no such policy.
    let back = migrate(SOURCE, &[])?;
    ensure!(back.exit == Some(2), "{back:#?}");
    back.assert_error_says(&["web-1's own limits name its policy: no policy night", "--policy"])?;
    limits(&testbed, &["unset", "web-1"])?.assert_ended(0, &[])?;
    let xml = there.virsh(["dumpxml", "web-1", "--inactive"])?;
    ensure!(!xml.contains(NAMESPACE), "{xml}");
    Ok(())
}

#[test]
fn what_a_guest_does_not_allow_is_not_done_to_it_by_hand() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1").dirtying(100), SOURCE)?;
    let before = Before::of(&testbed)?;
    limits(&testbed, &["set", "web-1", "--max-downtime", "200ms", "--postcopy", "never"])?.assert_ended(0, &[])?;
    let moving = Move::begin_with(&testbed, &guest, &["--bandwidth", "40MiB/s", "--policy", "gentle"])?;
    for beyond in [
        &["set", "web-1", "max-downtime=30s"][..],
        &["force-complete", "web-1"],
        &["force-complete", "web-1", "--how", "postcopy"],
    ] {
        let refused = vmferry(&testbed, beyond)?;
        refused.assert_ended(3, &["GUEST_LIMITS"])?;
    }
    let running = limits(&testbed, &["unset", "web-1"])?;
    ensure!(running.reasons() == ["INSTANCE_MIGRATING"], "what holds is not taken away meanwhile: {running:#?}");
    vmferry(&testbed, &["set", "web-1", "max-downtime=200ms", "deadline=1s"])?.assert_ended(0, &[])?;
    moving.end(SOON)?.assert_ended(5, &["NOT_CONVERGING"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
