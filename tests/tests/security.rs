//! Who may do what: certificates that are missing, wrong, expired or of the wrong role, and one that is renewed.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest, wait::until};

use crate::rig::{
    Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, busy_guest, migrate, speed_up,
    vmferry,
};

/// `vmferry pki …` in a directory.
fn pki(testbed: &Testbed, directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = testbed.vmferry(["pki"])?;
    let issued = Answer::of(command.args(arguments).arg("--directory").arg(directory))?;
    ensure!(issued.exit == Some(0), "{issued:#?}");
    Ok(())
}

/// A copy of the testbed's CA, to issue more from. Goes with the value.
fn authority(testbed: &Testbed) -> Result<tempfile::TempDir> {
    let copy = tempfile::tempdir_in(testbed.layout().run_dir())?;
    for file in ["ca.pem", "ca-key.pem"] {
        fs::copy(testbed.layout().pki().join(file), copy.path().join(file))?;
    }
    Ok(copy)
}

/// `vmferry migrate web-1` by whoever holds this directory's certificate.
fn migrate_as(testbed: &Testbed, holder: &Path) -> Result<Answer> {
    let operator = testbed.layout().pki().join("coordinator-operator");
    let inventory = fs::read_to_string(testbed.layout().inventory())?;
    let other = tempfile::NamedTempFile::new_in(testbed.layout().run_dir())?;
    fs::write(other.path(), inventory.replace(&operator.display().to_string(), &holder.display().to_string()))?;
    let mut command = testbed.vmferry(["migrate", "web-1", "--to", DESTINATION])?;
    Answer::of(command.arg("--inventory").arg(other.path()))
}

/// Puts a directory's certificate and key in the place of an agent's own.
fn install(testbed: &Testbed, host: &str, directory: &Path) -> Result<()> {
    for file in ["cert.pem", "key.pem"] {
        // Into the same file: its permissions stay.
        testbed.host(host)?.write(format!("/etc/vmferry/pki/{file}"), fs::read(directory.join(file))?)?;
    }
    Ok(())
}

#[test]
fn a_destination_whose_agent_is_down_gets_no_guest() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    testbed.host(DESTINATION)?.agent().stop()?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(7, &["AGENT_UNREACHABLE"])?;
    answer.assert_error_says(&[
        "node-31",
        "192.0.2.11:7443",
        "start vmferry-agent",
        "nothing was changed",
        "stays on node-28",
    ])?;
    testbed.host(DESTINATION)?.agent().start()?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_coordinator_of_another_ca_or_with_an_expired_certificate_is_refused() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let stranger = tempfile::tempdir_in(testbed.layout().run_dir())?;
    pki(&testbed, stranger.path(), &["init", "--cluster", "testbed"])?;
    pki(&testbed, stranger.path(), &["issue", "coordinator", "operator"])?;
    let late = authority(&testbed)?;
    pki(&testbed, late.path(), &["issue", "coordinator", "operator", "--expires-at", "2025-01-01T00:00:00Z"])?;

    for (directory, words) in [(&stranger, ["ca.pem", "node-28"]), (&late, ["expired", "it refused our certificate"])] {
        let answer = migrate_as(&testbed, &directory.path().join("coordinator-operator"))?;
        answer.assert_ended(7, &["AGENT_UNTRUSTED"])?;
        answer.assert_error_says(&words)?;
        assert_only_on(&testbed, &guest, SOURCE)?;
    }
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn an_agent_with_an_expired_certificate_is_not_trusted() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let late = authority(&testbed)?;
    pki(&testbed, late.path(), &["issue", "agent", DESTINATION, "--expires-at", "2025-01-01T00:00:00Z"])?;
    install(&testbed, DESTINATION, &late.path().join("agent-node-31"))?;
    testbed.host(DESTINATION)?.agent().restart()?;

    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(7, &["AGENT_UNTRUSTED"])?;
    answer.assert_error_says(&["node-31", "expired", "nothing was changed", "stays on node-28"])?;
    // Without trust nothing can be asked of it, so the first is put back.
    install(&testbed, DESTINATION, &testbed.layout().pki().join("agent-node-31"))?;
    testbed.host(DESTINATION)?.agent().restart()?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn only_a_coordinator_may_move_a_guest() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;

    let mut viewer = testbed.vmferry_as_viewer(["migrate", "web-1", "--to", DESTINATION])?;
    let answer = Answer::of(&mut viewer)?;
    answer.assert_ended(7, &["PERMISSION_DENIED"])?;
    answer.assert_error_says(&["viewer/watcher may not call Check", "nothing was changed", "role coordinator"])?;
    ensure!(Answer::of(&mut testbed.vmferry_as_viewer(["instances"])?)?.exit == Some(0), "a viewer may look");
    // A host's own certificate is for tunnels only.
    let answer = migrate_as(&testbed, &testbed.layout().pki().join("agent-node-28"))?;
    answer.assert_ended(7, &["PERMISSION_DENIED"])?;
    answer.assert_error_says(&["agent/node-28 may not call"])?;

    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_host_listens_on_one_port_also_while_a_guest_moves() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &guest)?;
    for host in testbed.hosts() {
        let listening = host.sh("ss -Hltnp")?;
        let lines: Vec<_> = listening.lines().collect();
        let agent = format!("pid={},", host.agent().main_pid()?);
        let port = format!("{}:7443", host.address());
        ensure!(matches!(lines.as_slice(), [one] if one.contains(&agent) && one.contains(&port)), "{listening}");
    }
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

/// When the certificates of both agents expire, as they show them to a new connection.
fn expiries(testbed: &Testbed) -> Result<Vec<Value>> {
    let answer = vmferry(testbed, &["hypervisors"])?;
    let hosts = answer.document["hypervisors"].as_array().context("a list of hosts")?;
    Ok(hosts.iter().map(|host| host["certificate_expires"].clone()).collect())
}

/// The TCP connections between the hosts, by both ends.
fn connections(testbed: &Testbed) -> Result<Vec<String>> {
    let [from, to] = [SOURCE, DESTINATION].map(|host| testbed.host(host));
    let listed = from?.sh(&format!("ss -Htn state established dst {} | awk '{{print $3, $4}}'", to?.address()))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

#[test]
fn certificates_are_renewed_while_a_guest_moves() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;
    let (old, tunnels) = (expiries(&testbed)?, connections(&testbed)?);
    ensure!(tunnels.len() >= 2, "no two channels of a tunnel: {tunnels:?}");

    let renewed = authority(&testbed)?;
    for host in [SOURCE, DESTINATION] {
        pki(&testbed, renewed.path(), &["issue", "agent", host, "--days", "30"])?;
        install(&testbed, host, &renewed.path().join(format!("agent-{host}")))?;
    }
    until("both new certificates", SOON, || {
        let new = expiries(&testbed)?;
        Ok(new.iter().zip(&old).all(|(new, old)| new.is_string() && new != old).then_some(()))
    })?;

    // Nobody was restarted, nothing was dropped.
    for host in testbed.hosts() {
        ensure!(host.agent().restarts()? == 0, "the agent of {} was restarted", host.name());
    }
    let still = connections(&testbed)?;
    ensure!(tunnels.iter().all(|tunnel| still.contains(tunnel)), "{tunnels:?} have become {still:?}");
    ensure!(moving.goes_on()?, "the move has ended");
    speed_up(&testbed, &guest)?;
    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}
