//! What guests with a policy cannot send, and cannot receive, wherever they are.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    capture::{Capture, Direction},
    frames::{KINDS, Kind},
    guest::{Guest, LinuxGuest, Tool},
    network::Link,
    stream::PORTS,
    wait::until,
};

use crate::{
    network_rig::{restrict, succeed},
    rig::{Before, DESTINATION, SOON, SOURCE, assert_only_on, migrate},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn up() -> Result<Testbed> {
    Testbed::up(Options::default())
}

fn moved(testbed: &Testbed, guest: &Guest, to: &str) -> Result<()> {
    let answer = migrate(testbed, guest.name(), to)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", to)
}

/// Looks at what reaches a guest.
fn reaching(testbed: &Testbed, guest: &str, host: &str) -> Result<Capture> {
    let host = testbed.host(host)?;
    let listed = host.virsh(["domiflist", guest])?;
    host.capture(listed.split_whitespace().next().context("it has a tap")?, Direction::Out)
}

/// Fails if something else than honest frames was heard, or not even those.
fn assert_only_honest(captures: &[&Capture]) -> Result<()> {
    for capture in captures {
        capture.wait_for(Kind::Honest, 5, PATIENCE)?;
        let heard = capture.counts();
        ensure!(heard.keys().copied().collect::<Vec<_>>() == [Kind::Honest], "forged frames were heard: {heard:?}");
    }
    Ok(())
}

#[test]
fn a_guest_with_a_policy_is_only_itself_before_during_and_after_a_move() -> Result<()> {
    let testbed = up()?;
    testbed.start(LinuxGuest::new("neighbour"), SOURCE)?;
    let forger = testbed.launch(LinuxGuest::new("forger").with_tool(Tool::Forge), SOURCE)?;
    {
        // Without a policy everything is heard: what follows is no accident.
        let (fabric, neighbour) =
            (testbed.capture_from(SOURCE, Link::Guests)?, reaching(&testbed, "neighbour", SOURCE)?);
        for kind in KINDS {
            fabric.wait_for(kind, 1, PATIENCE)?;
            neighbour.wait_for(kind, 1, PATIENCE)?;
        }
    }
    restrict(&testbed, &forger, &[])?;
    let [from_source, from_destination] =
        [testbed.capture_from(SOURCE, Link::Guests)?, testbed.capture_from(DESTINATION, Link::Guests)?];
    let neighbour = reaching(&testbed, "neighbour", SOURCE)?;
    assert_only_honest(&[&from_source, &neighbour])?;

    moved(&testbed, &forger, DESTINATION)?;
    assert_only_honest(&[&from_source, &from_destination, &neighbour])?;
    moved(&testbed, &forger, SOURCE)?;
    let again = testbed.capture_from(SOURCE, Link::Guests)?;
    assert_only_honest(&[&again, &from_source, &from_destination, &neighbour])?;
    // That the forger has not stopped is seen where it is not filtered: at its own tap.
    let host = testbed.host(SOURCE)?;
    let listed = host.virsh(["domiflist", "forger"])?;
    let sent = host.capture(listed.split_whitespace().next().context("it has a tap")?, Direction::In)?;
    KINDS.into_iter().try_for_each(|kind| sent.wait_for(kind, 1, PATIENCE))
}

#[test]
fn no_frame_leaves_the_source_once_the_guest_runs_elsewhere() -> Result<()> {
    let testbed = up()?;
    let definition = LinuxGuest::new("talker").with_tool(Tool::Forge);
    let mac = definition.domain.vif.as_ref().context("it has a vif")?.mac.clone();
    let talker = testbed.launch(definition, SOURCE)?;
    restrict(&testbed, &talker, &[])?;
    let [from_source, from_destination] =
        [testbed.capture_from(SOURCE, Link::Guests)?, testbed.capture_from(DESTINATION, Link::Guests)?];
    from_source.wait_for(Kind::Honest, 3, PATIENCE)?;
    moved(&testbed, &talker, DESTINATION)?;
    from_destination.wait_for(Kind::Honest, 10, PATIENCE)?;
    let last = from_source.last_of(&mac).context("it has talked on the source")?;
    let first = from_destination.first_of(&mac).context("it has talked on the destination")?;
    ensure!(last <= first, "the source's port sent a frame of the guest's {:?} too late", last - first);
    Ok(())
}

#[test]
fn rules_hold_and_open_connections_go_on_through_a_move() -> Result<()> {
    let testbed = up()?;
    let definition = LinuxGuest::new("web-1").with_tool(Tool::Serve).with_tool(Tool::Forge);
    let guest = testbed.launch(definition, SOURCE)?;
    let address = guest.address()?;
    // Neither port is closed by the guest.
    restrict(&testbed, &guest, &[])?;
    for port in PORTS {
        until("an open port", PATIENCE, || Ok(testbed.connect(address, port).ok()))?.stop()?;
    }
    // It may send nothing of its own but pings: all else are answers.
    let ports = [format!("tcp:{}@198.51.100.0/24", PORTS[0])];
    restrict(&testbed, &guest, &["--ingress", &ports[0], "--ingress", "icmp", "--egress", "icmp"])?;
    let reader = testbed.connect(address, PORTS[0])?;
    for to in [None, Some(DESTINATION), Some(SOURCE)] {
        let captures = [testbed.capture_from(SOURCE, Link::Guests)?, testbed.capture_from(DESTINATION, Link::Guests)?];
        if let Some(to) = to {
            moved(&testbed, &guest, to)?;
        }
        reader.wait_for_more(SOON)?;
        ensure!(testbed.connect(address, PORTS[1]).is_err(), "port {} is open, {to:?}", PORTS[1]);
        testbed.connect(address, PORTS[0])?.stop()?;
        guest.wait_until_up(SOON)?;
        let heard: BTreeSet<_> = captures.iter().flat_map(|capture| capture.counts().into_keys()).collect();
        ensure!(heard.is_empty(), "it sends what it may not, {to:?}: {heard:?}");
    }
    let flow = reader.stop()?;
    ensure!(flow.bytes > 0, "{flow:?}");
    // Told otherwise, it is otherwise at once.
    succeed(&testbed, &["instance", "policy", "unset", "web-1"])?;
    // Not by a connection: what it forges now leads those astray.
    let fabric = testbed.capture_from(SOURCE, Link::Guests)?;
    KINDS.into_iter().try_for_each(|kind| fabric.wait_for(kind, 1, PATIENCE))?;
    assert_only_on(&testbed, &guest, SOURCE)
}

#[test]
fn a_guest_that_may_only_answer_goes_on_answering_after_a_move() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(LinuxGuest::new("web-1").with_tool(Tool::Serve), SOURCE)?;
    let port = format!("tcp:{}", PORTS[0]);
    restrict(&testbed, &guest, &["--ingress", &port, "--ingress", "icmp", "--egress", "icmp"])?;
    // Nothing is asked of it again: what is remembered of the conversation is all that lets its next packet out.
    let reader = until("an open port", PATIENCE, || Ok(testbed.listen_to(guest.address()?, PORTS[0]).ok()))?;
    reader.wait_for_more(SOON)?;
    for to in [DESTINATION, SOURCE] {
        moved(&testbed, &guest, to)?;
        reader.wait_for_more(SOON).with_context(|| format!("on {to}"))?;
    }
    reader.stop().map(drop)
}

#[test]
fn a_connection_survives_ten_moves_in_a_row() -> Result<()> {
    let testbed = up()?;
    let guest = testbed.start(LinuxGuest::new("web-1").with_tool(Tool::Serve), SOURCE)?;
    let port = format!("tcp:{}", PORTS[0]);
    restrict(&testbed, &guest, &["--ingress", &port, "--ingress", "icmp", "--egress", "icmp"])?;
    let before = Before::of(&testbed)?;
    let reader = until("an open port", PATIENCE, || Ok(testbed.connect(guest.address()?, PORTS[0]).ok()))?;
    for to in [DESTINATION, SOURCE].into_iter().cycle().take(10) {
        moved(&testbed, &guest, to)?;
        reader.wait_for_more(SOON).with_context(|| format!("on {to}"))?;
    }
    let flow = reader.stop()?;
    println!("{} bytes, the longest wait for an answer {} ms", flow.bytes, flow.longest_wait.as_millis());
    guest.console().assert_steady()?;
    // Its tap has another name now, and its filters with it.
    before.assert_nothing_leaked_but(&testbed, &["web-1"], |host, new| host == SOURCE && new.kind == "firewall rule")
}
