//! Networks and filters that somebody tears down, and agents that die while they make them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    carrier::{By, start, up},
    frames::Kind,
    guest::{Guest, LinuxGuest, Tool},
    network::Link,
    wait::until,
};

use crate::{
    network_rig::{assert_nothing_made, made, restrict, succeed},
    rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, memory_flows, migrate, slow_down, speed_up},
};

/// How long a guest may be without its filters.
const REPAIRED: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that forges frames, and may not.
fn start_forger(testbed: &Testbed) -> Result<Guest> {
    let forger = testbed.launch(LinuxGuest::new("forger").with_tool(Tool::Forge), SOURCE)?;
    forger.console().wait_for_more(1, PATIENCE)?;
    restrict(testbed, &forger, &[])?;
    Ok(forger)
}

/// The filters of a host.
fn filters(host: &Host) -> Result<String> {
    host.sh("nft list table bridge vmferry 2>/dev/null || true")
}

/// Fails unless the filters of a host are as they were before this, a second later.
fn assert_repaired(host: &Host, what: &str, break_it: &str) -> Result<()> {
    let before = filters(host)?;
    ensure!(before.contains("vmft") || before.contains("vnet"), "nothing is filtered: {before}");
    host.sh(break_it)?;
    let begun = Instant::now();
    until(&format!("the filters after {what}"), SOON, || Ok((filters(host)? == before).then_some(())))
        .with_context(|| format!("before: {before}"))?;
    let took = begun.elapsed();
    println!("{what}: repaired after {} ms", took.as_millis());
    ensure!(took <= REPAIRED, "{what}: repaired only after {took:?}");
    Ok(())
}

/// Fails if a forged frame of the guest is heard from now on, or no honest one.
fn assert_filtered(testbed: &Testbed, host: &str) -> Result<()> {
    let heard = testbed.capture_from(host, Link::Guests)?;
    heard.wait_for(Kind::Honest, 5, PATIENCE)?;
    let kinds: Vec<_> = heard.counts().into_keys().collect();
    ensure!(kinds == [Kind::Honest], "{kinds:?}");
    Ok(())
}

#[test]
fn filters_that_are_flushed_or_cut_down_by_hand_are_back_within_a_second() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let forger = start_forger(&testbed)?;
    let before = Before::of(&testbed)?;
    let host = testbed.host(SOURCE)?;
    assert_repaired(host, "a flush", "nft flush ruleset")?;
    assert_filtered(&testbed, SOURCE)?;
    // The first rule of the first chain that has one.
    let delete = "set -- $(nft -a list table bridge vmferry | awk '/chain/ { chain = $2 } \
                  / # handle / && !/chain|set |map |table/ { print chain, $NF; exit }'); \
                  nft delete rule bridge vmferry $1 handle $2";
    assert_repaired(host, "a deleted rule", delete)?;
    assert_filtered(&testbed, SOURCE)?;
    assert_only_on(&testbed, &forger, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn filters_that_are_flushed_while_a_guest_moves_are_back_before_it_runs() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let forger = start_forger(&testbed)?;
    slow_down(&testbed, &forger)?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let moving = Move::begin_until(&testbed, &forger, "memory to flow", || memory_flows(&testbed, &forger))?;
    for host in [source, destination] {
        assert_repaired(host, host.name(), "nft flush ruleset")?;
    }
    let heard = testbed.capture_from(DESTINATION, Link::Guests)?;
    speed_up(&testbed, &forger)?;
    let answer = moving.end(PATIENCE)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    heard.wait_for(Kind::Honest, 5, PATIENCE)?;
    let kinds: Vec<_> = heard.counts().into_keys().collect();
    ensure!(kinds == [Kind::Honest], "{kinds:?}");
    assert_nothing_made(source)?;
    succeed(&testbed, &["doctor"])?.assert_ended(0, &[])
}

#[test]
fn an_agent_that_dies_on_the_destination_leaves_neither_bridge_nor_filter() -> Result<()> {
    let testbed = up([By::Bridge("br0"), By::Vxlan])?;
    let guest = start(&testbed, SOURCE, By::Bridge("br0"), LinuxGuest::new("web-1"))?;
    restrict(&testbed, &guest, &[])?;
    slow_down(&testbed, &guest)?;
    let before = Before::of(&testbed)?;
    let destination = testbed.host(DESTINATION)?;
    // As soon as its bridge is there: what comes next may or may not have been made.
    let moving = Move::begin_until(&testbed, &guest, "memory to flow", || memory_flows(&testbed, &guest))?;
    ensure!(!made(destination)?.is_empty(), "nothing was made on the destination");
    destination.agent().kill_all()?;

    let answer = moving.end(PATIENCE)?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    destination.agent().wait_ready(SOON)?;
    assert_nothing_made(destination)?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn filters_stay_while_the_agent_is_away() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let forger = start_forger(&testbed)?;
    let host = testbed.host(SOURCE)?;
    let before = filters(host)?;
    // From the first moment without it to the first with it.
    let heard = testbed.capture_from(SOURCE, Link::Guests)?;
    host.agent().kill_for_good()?;
    ensure!(filters(host)? == before, "the filters went with the agent");
    heard.wait_for(Kind::Honest, 5, PATIENCE)?;
    host.agent().start()?;
    let seen = heard.counts()[&Kind::Honest];
    heard.wait_for(Kind::Honest, seen + 5, PATIENCE)?;
    let kinds: Vec<_> = heard.counts().into_keys().collect();
    ensure!(kinds == [Kind::Honest], "{kinds:?}");
    ensure!(filters(host)? == before, "{} is not {before}", filters(host)?);
    let answer = migrate(&testbed, forger.name(), DESTINATION)?;
    answer.assert_ended(0, &[])?;
    assert_filtered(&testbed, DESTINATION)
}

#[test]
fn a_host_that_boots_has_the_bridge_of_a_guest_before_it_is_started() -> Result<()> {
    let testbed = up([By::Vxlan, By::Vxlan])?;
    let guest = start(&testbed, SOURCE, By::Vxlan, LinuxGuest::new("web-1"))?;
    restrict(&testbed, &guest, &[])?;
    let host = testbed.host(SOURCE)?;
    host.power_off()?;
    host.forget_network()?;
    host.power_on()?;
    until("the bridge", SOON, || Ok(host.sh("ip -o link show type bridge | grep vmfb").ok()))?;
    host.virsh(["start", guest.name()])?;
    guest.wait_until_up(PATIENCE)?;
    let answer = migrate(&testbed, guest.name(), DESTINATION)?;
    answer.assert_ended(0, &[])?;
    assert_nothing_made(host)?;
    assert_only_on(&testbed, &guest, DESTINATION)
}
