//! Hosts that say in etcd that they are there, over TLS with certificates on both sides.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{Host, Options, Testbed, etcd::Etcd, guest::BootSectorGuest, wait::until};

use crate::rig::{Answer, DESTINATION, SOON, SOURCE, assert_only_on};

/// How long etcd keeps a host whose agent gives no sign of life, and some seconds to notice it.
const LEASE: Duration = Duration::from_secs(15 + 10);

const AGENT: &str = "[etcd]\nendpoints = [\"https://192.0.2.1:2379\"]\n\
    tls = { ca = \"/etc/vmferry/pki/ca.pem\", certificate = \"/etc/vmferry/pki/cert.pem\", key = \"/etc/vmferry/pki/key.pem\" }\n";

fn up() -> Result<Testbed> {
    let mut options = Options::default();
    for host in &mut options.hosts {
        host.configuration = AGENT.into();
    }
    Testbed::up(options)
}

/// An inventory of the operator's, whose hosts are in etcd, and `more` lines.
fn inventory(testbed: &Testbed, with_certificate: bool, more: &str) -> Result<PathBuf> {
    let pki = testbed.layout().pki().join("coordinator-operator");
    let [ca, certificate, key] =
        ["ca", "cert", "key"].map(|file| pki.join(format!("{file}.pem")).display().to_string());
    let tls = format!("ca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    let etcd = if with_certificate { tls.clone() } else { format!("ca = \"{ca}\"\n") };
    let path = testbed.layout().run_dir().join("inventory-etcd.toml");
    let text = format!("[tls]\n{tls}[etcd]\nendpoints = [\"https://192.0.2.1:2379\"]\n{more}[etcd.tls]\n{etcd}");
    fs::write(&path, text)?;
    Ok(path)
}

/// `vmferry ARGUMENTS` with such an inventory, and what it remembers beside it.
fn vmferry(testbed: &Testbed, with_certificate: bool, more: &str, arguments: &[&str]) -> Result<Answer> {
    let mut command = testbed.vmferry(arguments)?;
    command.env("VMFERRY_INVENTORY", inventory(testbed, with_certificate, more)?);
    command.env("XDG_CACHE_HOME", testbed.layout().run_dir().join("cache"));
    Answer::of(&mut command)
}

/// The hosts that `vmferry hypervisors` shows as up, and all that it said.
fn hosts(testbed: &Testbed) -> Result<(Vec<String>, Answer)> {
    let answer = vmferry(testbed, true, "", &["hypervisors"])?;
    let rows = answer.document["hypervisors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let up = rows.iter().filter(|row| row["state"] == "up");
    Ok((up.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect(), answer))
}

/// The names below the prefix.
fn registered(etcd: &Etcd) -> Result<Vec<String>> {
    let pairs = etcd.pairs("/vmferry/hosts/")?;
    Ok(pairs.into_iter().filter_map(|(key, _)| key.strip_prefix("/vmferry/hosts/").map(str::to_owned)).collect())
}

fn wait_for(etcd: &Etcd, names: &[&str], limit: Duration) -> Result<()> {
    until(&format!("{names:?} in etcd"), limit, || Ok((registered(etcd)? == names).then_some(())))
}

/// How often an agent has said that etcd is away.
fn complaints(host: &Host) -> Result<usize> {
    Ok(host.agent().journal()?.lines().filter(|line| line.contains("trying again and again")).count())
}

#[test]
fn hosts_register_vanish_when_their_agents_die_and_are_remembered_while_etcd_is_away() -> Result<()> {
    let testbed = up()?;
    // The agents are ready without it.
    let nobody = vmferry(&testbed, true, "", &["hypervisors"])?;
    nobody.assert_ended(7, &["INVENTORY_UNAVAILABLE"])?;
    nobody.assert_error_says(&["etcd at https://192.0.2.1:2379", "onnection refused", "nobody has asked it yet"])?;

    let mut etcd = Etcd::in_fabric(&testbed)?;
    wait_for(&etcd, &[SOURCE, DESTINATION], SOON)?;
    let (up, answer) = hosts(&testbed)?;
    ensure!(up == [SOURCE, DESTINATION] && answer.exit == Some(0), "{answer:#?}");
    let everything = etcd.pairs("")?;
    ensure!(everything[0].1 == r#"{"address":"192.0.2.10:7443"}"# && everything.len() == 2, "{everything:?}");

    // Killed: gone when its lease is over, and said so.
    let destination = testbed.host(DESTINATION)?.agent();
    destination.kill_for_good()?;
    wait_for(&etcd, &[SOURCE], LEASE)?;
    let (up, answer) = hosts(&testbed)?;
    ensure!(up == [SOURCE] && answer.exit == Some(0), "{answer:#?}");
    let said = format!("{DESTINATION} at 192.0.2.11:7443 is no longer among the hosts of etcd");
    ensure!(answer.stderr.contains(&said), "{answer:#?}");
    destination.start()?;
    wait_for(&etcd, &[SOURCE, DESTINATION], SOON)?;
    let (up, answer) = hosts(&testbed)?;
    ensure!(up == [SOURCE, DESTINATION] && !answer.stderr.contains("no longer"), "{answer:#?}");

    // Killed and back within its lease: never gone.
    destination.kill()?;
    until("its return", SOON, || Ok((destination.restarts()? > 0 && destination.is_active()?).then_some(())))?;
    ensure!(registered(&etcd)? == [SOURCE, DESTINATION]);

    // Away: remembered, said so, and moves go on.
    etcd.stop()?;
    let (up, answer) = hosts(&testbed)?;
    ensure!(up == [SOURCE, DESTINATION] && answer.exit == Some(0), "{answer:#?}");
    ensure!(answer.stderr.contains("does not answer") && answer.stderr.contains(": 2 hosts as of "), "{answer:#?}");
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let moved = vmferry(&testbed, true, "", &["migrate", "web-1", "--to", DESTINATION])?;
    moved.assert_outcome("completed", DESTINATION)?;
    assert_only_on(&testbed, &guest, DESTINATION)?;

    // Back with nothing: they register again, and have said little meanwhile.
    etcd.lose()?;
    etcd.start()?;
    wait_for(&etcd, &[SOURCE, DESTINATION], SOON)?;
    for host in testbed.hosts() {
        let times = complaints(host)?;
        ensure!((1..10).contains(&times), "{times} complaints of {}", host.name());
    }

    // Stopped: it is known, and cannot be reached, until its lease is over.
    destination.stop()?;
    ensure!(registered(&etcd)? == [SOURCE, DESTINATION], "{:?}", registered(&etcd)?);
    let (up, answer) = hosts(&testbed)?;
    let rows = answer.document["hypervisors"].as_array().context("rows")?;
    ensure!(up == [SOURCE] && rows.len() == 2 && rows[1]["reason"] == "AGENT_UNREACHABLE", "{answer:#?}");
    wait_for(&etcd, &[SOURCE], LEASE)
}

#[test]
fn what_is_wrong_in_etcd_or_with_its_certificates_is_said() -> Result<()> {
    let testbed = up()?;
    let etcd = Etcd::in_fabric(&testbed)?;
    wait_for(&etcd, &[SOURCE, DESTINATION], SOON)?;

    // No certificate of ours, which etcd insists on.
    let refused = vmferry(&testbed, false, "", &["hypervisors"])?;
    refused.assert_ended(7, &["INVENTORY_UNAVAILABLE"])?;
    refused.assert_error_says(&["etcd at https://192.0.2.1:2379", "ertificate"])?;

    // Another host by a name that is taken: the first stays, and the other says so.
    let second = testbed.host(DESTINATION)?;
    second.agent().stop()?;
    etcd.ctl(&["put", &format!("/vmferry/hosts/{DESTINATION}"), r#"{"address":"192.0.2.10:7443"}"#])?;
    second.agent().start()?;
    until("its complaint", SOON, || {
        Ok(second.agent().journal()?.contains("another agent is registered by that name").then_some(()))
    })?;
    let answer = vmferry(&testbed, true, "", &["hypervisors"])?;
    // Whose certificate is there answers, and is hidden by nobody.
    let said = format!("has the address 192.0.2.10:7443, as {SOURCE} of etcd at https://192.0.2.1:2379");
    ensure!(answer.stderr.contains(&said), "{answer:#?}");
    let row = |number: usize, key: &str| answer.document["hypervisors"][number][key].as_str().map(str::to_owned);
    ensure!(row(0, "name").as_deref() == Some(SOURCE) && row(0, "state").as_deref() == Some("up"), "{answer:#?}");
    ensure!(row(1, "reason").as_deref() == Some("AGENT_UNTRUSTED"), "{answer:#?}");
    etcd.ctl(&["del", &format!("/vmferry/hosts/{DESTINATION}")])?;
    wait_for(&etcd, &[SOURCE, DESTINATION], SOON)?;

    // The file's own hosts count first.
    let more = format!("[[host]]\nname = \"{DESTINATION}\"\naddress = \"192.0.2.11:7444\"\n");
    let path = inventory(&testbed, true, "")?;
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}{more}"))?;
    let mut command = testbed.vmferry(["hypervisors"])?;
    command.env("VMFERRY_INVENTORY", &path).env("XDG_CACHE_HOME", testbed.layout().run_dir().join("cache"));
    let answer = Answer::of(&mut command)?;
    let rows = answer.document["hypervisors"].as_array().context("rows")?;
    ensure!(rows.len() == 3 && rows[0]["name"] == DESTINATION && rows[0]["state"] == "down", "{answer:#?}");
    ensure!(rows[2]["name"] == DESTINATION && rows[2]["reason"] == "INVENTORY_CONFLICT", "{answer:#?}");
    ensure!(
        answer.stderr.contains("192.0.2.11:7443 of etcd") && answer.stderr.contains("192.0.2.11:7444"),
        "{answer:#?}"
    );
    Ok(())
}
