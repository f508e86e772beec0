//! Hosts whose clocks are wrong: guests move all the same, and nothing is decided by comparing the times of two hosts.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed,
    guest::{BootSectorGuest, Guest},
};

use crate::rig::{Before, DESTINATION, SOON, SOURCE, assert_only_on, migrate, vmferry};

/// More than a move of a small guest takes, and less than any clock here is wrong.
const SENSIBLE_MS: u64 = 120_000;

/// From now on the agent of the host lives in another time, and all that it starts. What measures spans of time is as it is everywhere.
fn set_clock(host: &Host, offset: &str) -> Result<()> {
    let environment = format!(
        "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME={offset} \
         FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n"
    );
    host.write("/run/systemd/system/vmferry-agent.service.d/clock.conf", environment)?;
    host.run("systemctl", ["daemon-reload"])?;
    host.agent().restart()?;
    host.agent().wait_ready(SOON)
}

fn guests(testbed: &Testbed, host: &str) -> Result<Vec<Guest>> {
    ["web-1", "web-2", "web-3"].into_iter().map(|name| testbed.start(BootSectorGuest::new(name), host)).collect()
}

/// Fails unless the last migration of the guest took as long as moves take, by what both hosts have noted.
fn assert_times_make_sense(testbed: &Testbed, guest: &str) -> Result<()> {
    let shown = vmferry(testbed, &["migrations", "show", guest])?.document;
    let took = |value: &Value| value["duration_ms"].as_u64().with_context(|| format!("no duration: {shown:#}"));
    ensure!((1..SENSIBLE_MS).contains(&took(&shown)?), "{shown:#}");
    for half in ["source", "destination"] {
        let moment = |what: &str| -> Result<jiff::Timestamp> {
            Ok(shown[half][what].as_str().with_context(|| format!("no {what} of {half}: {shown:#}"))?.parse()?)
        };
        let span = moment("ended")?.duration_since(moment("started")?);
        ensure!(span.is_positive() && span.as_secs() < 120, "{half}: {span}");
        for phase in shown[half]["phases"].as_array().context("phases")? {
            ensure!(took(phase)? < SENSIBLE_MS, "{half}: {phase:#}");
        }
    }
    Ok(())
}

#[test]
fn guests_move_and_a_host_is_drained_whose_clock_is_hours_ahead() -> Result<()> {
    assert_nothing_depends_on_it("+7200s", "s ahead of ours")
}

#[test]
fn guests_move_and_a_host_is_drained_whose_clock_is_behind() -> Result<()> {
    assert_nothing_depends_on_it("-2400s", "s behind ours")
}

fn assert_nothing_depends_on_it(offset: &str, words: &str) -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guests = guests(&testbed, SOURCE)?;
    set_clock(testbed.host(DESTINATION)?, offset)?;
    let before = Before::of(&testbed)?;
    let hosts = vmferry(&testbed, &["hypervisors"])?;
    ensure!(hosts.exit == Some(0), "{hosts:#?}");
    let warnings: Vec<_> = hosts.stderr.lines().filter(|line| line.contains("the clock of")).collect();
    ensure!(warnings.len() == 1 && warnings[0].contains("node-31") && warnings[0].contains(words), "{hosts:#?}");

    // To the host with the wrong clock, and away from it.
    for to in [DESTINATION, SOURCE] {
        let answer = migrate(&testbed, "web-1", to)?;
        answer.assert_outcome("completed", to)?;
        assert_times_make_sense(&testbed, "web-1")?;
    }

    // This one has left before the drain, and is nobody's to bring back.
    for guest in ["web-1", "web-2", "web-3"] {
        migrate(&testbed, guest, DESTINATION)?.assert_ended(0, &[])?;
    }
    migrate(&testbed, "web-3", SOURCE)?.assert_ended(0, &[])?;
    let drained = vmferry(&testbed, &["drain", DESTINATION])?;
    ensure!(drained.exit == Some(0), "{drained:#?}");
    for guest in &guests {
        assert_only_on(&testbed, guest, SOURCE)?;
    }
    let returned = vmferry(&testbed, &["undrain", DESTINATION, "--return"])?;
    ensure!(returned.exit == Some(0), "{returned:#?}");
    for (guest, host) in guests.iter().zip([DESTINATION, DESTINATION, SOURCE]) {
        assert_only_on(&testbed, guest, host).with_context(|| format!("{returned:#?}"))?;
    }
    for guest in ["web-1", "web-2"] {
        assert_times_make_sense(&testbed, guest)?;
    }
    before.assert_nothing_leaked(&testbed, &["web-1", "web-2"])
}

/// A certificate is good from an hour before it was made, by the clock of whoever looks at it.
#[test]
fn a_clock_by_which_certificates_are_not_valid_yet_is_named() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    set_clock(testbed.host(DESTINATION)?, "-7200s")?;
    let hosts = vmferry(&testbed, &["hypervisors"])?;
    let row = &hosts.document["hypervisors"][1];
    ensure!(row["state"] == "down" && row["reason"] == "AGENT_UNTRUSTED", "{hosts:#?}");
    let refused = migrate(&testbed, "web-1", DESTINATION)?;
    refused.assert_ended(7, &["AGENT_UNTRUSTED"])?;
    refused.assert_error_says(&["node-31", "clock"])?;
    assert_only_on(&testbed, &guest, SOURCE)?;

    set_clock(testbed.host(DESTINATION)?, "+0s")?;
    migrate(&testbed, "web-1", DESTINATION)?.assert_ended(0, &[])?;
    assert_only_on(&testbed, &guest, DESTINATION)
}
