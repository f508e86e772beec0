//! Security groups: the same on every host, whoever moves, and whatever is restarted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{Guest, LinuxGuest},
    wait::until,
};

use crate::{
    network_rig::{restrict, succeed},
    rig::{DESTINATION, SOURCE, migrate},
};

const PATIENCE: Duration = Duration::from_secs(90);
/// How many pings in a row must have the same fate.
const ENOUGH: usize = 4;

/// Waits until all the newest pings of a guest are answered, or none is. What was on its way before does not count.
fn wait_until_answered(guest: &Guest, are_answered: bool) -> Result<()> {
    let before = guest.console().pings()?.len();
    let mut seen = Vec::new();
    let settled = until("pings of one fate", PATIENCE, || {
        seen = guest.console().pings()?.split_off(before);
        let newest = seen.iter().rev().take(ENOUGH);
        Ok((seen.len() >= ENOUGH && newest.into_iter().all(|answered| *answered == are_answered)).then_some(()))
    });
    settled.with_context(|| format!("pings of {}, answered: {seen:?}", guest.name()))
}

/// Fails unless all further pings are answered, or none is.
fn assert_still_answered(guest: &Guest, are_answered: bool) -> Result<()> {
    let before = guest.console().pings()?.len();
    let mut seen = Vec::new();
    until("further pings", PATIENCE, || {
        seen = guest.console().pings()?.split_off(before);
        Ok((seen.len() > ENOUGH).then_some(()))
    })?;
    // The first may have been on its way.
    ensure!(seen.iter().skip(1).all(|answered| *answered == are_answered), "{}: {seen:?}", guest.name());
    Ok(())
}

fn restart_agent(testbed: &Testbed, host: &str) -> Result<()> {
    testbed.host(host)?.agent().restart()
}

fn moved(testbed: &Testbed, guest: &Guest, to: &str) -> Result<()> {
    let answer = migrate(testbed, guest.name(), to)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", to)
}

#[test]
fn a_member_on_another_host_is_let_in_for_as_long_as_it_is_one() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let db = testbed.start(LinuxGuest::new("db"), SOURCE)?;
    let web = testbed.start(LinuxGuest::new("web-1").pinging(db.address()?), DESTINATION)?;
    wait_until_answered(&web, true)?;
    restrict(&testbed, &db, &["--ingress", "icmp@group=web"])?;
    wait_until_answered(&web, false)?;

    // Nothing moves, and nobody speaks to db's host but the coordinator.
    restrict(&testbed, &web, &["--group", "web"])?;
    wait_until_answered(&web, true)?;
    restart_agent(&testbed, SOURCE)?;
    assert_still_answered(&web, true)?;

    restrict(&testbed, &web, &[])?;
    wait_until_answered(&web, false)?;
    restart_agent(&testbed, SOURCE)?;
    assert_still_answered(&web, false)
}

#[test]
fn a_member_that_moves_is_one_all_along() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let db = testbed.start(LinuxGuest::new("db"), SOURCE)?;
    let web = testbed.start(LinuxGuest::new("web-1").pinging(db.address()?), DESTINATION)?;
    restrict(&testbed, &web, &["--group", "web"])?;
    restrict(&testbed, &db, &["--ingress", "icmp@group=web"])?;
    wait_until_answered(&web, true)?;
    let before = web.console().pings()?.len();
    for to in [SOURCE, DESTINATION] {
        moved(&testbed, &web, to)?;
        assert_still_answered(&web, true).with_context(|| format!("on {to}"))?;
        let listed = succeed(&testbed, &["groups"])?.document;
        let hosts: Vec<_> = listed["members"].as_array().context("a list")?.iter().map(|row| &row["host"]).collect();
        ensure!(hosts == [to] && listed["behind"].as_array().is_some_and(Vec::is_empty), "{listed:#}");
    }
    // What db's host noted when the member left it is not in memory alone.
    restart_agent(&testbed, SOURCE)?;
    assert_still_answered(&web, true)?;
    let lost = web.console().pings()?.split_off(before).iter().filter(|answered| !**answered).count();
    // One may be lost where the guest stops for each move.
    ensure!(lost <= 2, "{lost} pings were not answered");
    // The guest whose rules name the group learns of it wherever it goes.
    moved(&testbed, &db, DESTINATION)?;
    assert_still_answered(&web, true)?;
    restrict(&testbed, &web, &[])?;
    wait_until_answered(&web, false)
}
