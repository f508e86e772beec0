//! `vmferry serve`: moves by programs, by several coordinators at once, and by the CLI through one of them.

use std::{
    fs,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vmferry_tests::{
    Options, Testbed,
    coordinator::Coordinator,
    guest::{BootSectorGuest, Guest, LinuxGuest},
    process,
    wait::until,
};

use crate::rig::{
    Answer, Before, DESTINATION, Move, SOON, SOURCE, active_migrations, assert_only_on, assert_unharmed_on, busy_guest,
    memory_flows, speed_up, vmferry,
};

const UNIT: &str = include_str!("../../packaging/systemd/vmferry-coordinator.service");
const ID: &str = "0190f5fe-7c00-7a00-8abc-012345678901";

fn up() -> Result<Testbed> {
    Testbed::up(Options::default())
}

/// A client that moves a guest by the coordinator at `address`, and what it says.
fn begin(testbed: &Testbed, address: &str, guest: &Guest) -> Result<Child> {
    let mut client = testbed.client(address, guest.name(), DESTINATION)?;
    client.args(["--id", ID]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = client.spawn().context("cannot start the client")?;
    until("memory to flow", SOON, || Ok(memory_flows(testbed, guest)?.then_some(())))?;
    Ok(child)
}

fn kill(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// The only migration that the hosts know of, and how it ended.
fn assert_only_migration(testbed: &Testbed, outcome: &str) -> Result<()> {
    let answer = vmferry(testbed, &["migrations"])?;
    let migrations = answer.document["migrations"].as_array().context("a list")?;
    ensure!(migrations.len() == 1 && migrations[0]["outcome"] == outcome, "{migrations:#?}");
    Ok(())
}

/// Stops what serves, so that its connections are gone, too.
fn stop(service: Coordinator) -> Result<()> {
    service.signal(Signal::SIGTERM)?;
    let exit = service.end(SOON)?;
    ensure!(exit == Some(0), "it ended with {exit:?}");
    Ok(())
}

fn wait_for_end(testbed: &Testbed) -> Result<()> {
    until("the migration's end", Duration::from_secs(60), || Ok(active_migrations(testbed)?.is_empty().then_some(())))
}

#[test]
fn a_program_lists_plans_and_moves_by_the_client_crate() -> Result<()> {
    let testbed = up()?;
    let service = testbed.serve(7444)?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let said = process::run(&mut testbed.client(service.address(), "web-1", DESTINATION)?)?;
    for words in ["node-28 in zone", "node-31 in zone", "PHASE_CHECK", "PHASE_POST", "web-1 runs on node-31"] {
        ensure!(said.contains(words), "no `{words}` in: {said}");
    }
    assert_only_on(&testbed, &guest, DESTINATION)?;

    // The CLI through it, as without.
    let address = service.address().to_owned();
    let through = |arguments: &[&str]| {
        let mut command = testbed.vmferry(arguments)?;
        Answer::of(command.env("VMFERRY_COORDINATOR", &address))
    };
    for arguments in [&["instances"][..], &["migrations"], &["migrations", "show", "web-1"], &["volumes"]] {
        let (relayed, direct) = (through(arguments)?, vmferry(&testbed, arguments)?);
        ensure!(relayed.document == direct.document, "{arguments:?}: {relayed:#?} is not {direct:#?}");
    }
    let back = through(&["migrate", "web-1", "--to", SOURCE])?;
    back.assert_outcome("completed", SOURCE)?;
    let by = vmferry(&testbed, &["migrations", "show", "web-1"])?;
    let both = "vmferry://testbed/coordinator/operator via vmferry://testbed/coordinator/fleet";
    ensure!(by.document.to_string().contains(both), "{by:#?}");

    stop(service)?;
    through(&["instances"])?.assert_ended(7, &["COORDINATOR_UNREACHABLE"])?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn a_move_by_the_service_goes_on_when_its_caller_is_killed() -> Result<()> {
    let testbed = up()?;
    let service = testbed.serve(7444)?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    kill(begin(&testbed, service.address(), &guest)?)?;
    sleep(Duration::from_secs(1));
    ensure!(memory_flows(&testbed, &guest)?, "the job died with the caller");
    speed_up(&testbed, &guest)?;
    // Nobody asks for it, and nobody resolves it.
    wait_for_end(&testbed)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    assert_only_migration(&testbed, "completed")?;

    // The same request again is told how it ended.
    let mut again = testbed.client(service.address(), "web-1", DESTINATION)?;
    let said = process::run(again.args(["--id", ID]))?;
    ensure!(said.contains(ID) && said.contains("completed"), "{said}");
    assert_only_migration(&testbed, "completed")?;
    stop(service)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn what_a_killed_service_left_behind_another_ends_by_the_same_request() -> Result<()> {
    let testbed = up()?;
    let (first, second) = (testbed.serve(7444)?, testbed.serve(7445)?);
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let client = begin(&testbed, first.address(), &guest)?;
    first.signal(Signal::SIGKILL)?;
    first.end(SOON)?;
    kill(client)?;
    let active = active_migrations(&testbed)?;
    ensure!(active.len() == 1 && active[0]["id"] == ID, "{active:#?}");

    let client = begin(&testbed, second.address(), &guest)?;
    speed_up(&testbed, &guest)?;
    let output = client.wait_with_output()?;
    ensure!(output.status.success(), "{output:#?}");
    ensure!(String::from_utf8_lossy(&output.stdout).contains("web-1 runs on node-31"), "{output:#?}");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    assert_only_migration(&testbed, "completed")?;
    stop(second)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn two_coordinators_and_a_third_by_itself_asked_at_once_move_an_instance_once() -> Result<()> {
    let testbed = up()?;
    let services = [testbed.serve(7444)?, testbed.serve(7445)?];
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut racers = Vec::new();
    for service in &services {
        racers.push(testbed.client(service.address(), "web-1", DESTINATION)?);
    }
    racers.push(testbed.vmferry(["migrate", "web-1", "--to", DESTINATION])?);
    let mut children = Vec::new();
    for mut racer in racers {
        racer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push(racer.spawn().context("cannot start")?);
    }
    until("memory to flow", SOON, || Ok(memory_flows(&testbed, &guest)?.then_some(())))?;
    until("two to be refused", SOON, || {
        let mut ended = 0;
        for child in &mut children {
            ended += usize::from(child.try_wait()?.is_some());
        }
        Ok((ended == 2).then_some(()))
    })?;
    let active = active_migrations(&testbed)?;
    ensure!(active.len() == 1, "{active:#?}");
    speed_up(&testbed, &guest)?;
    let mut moved = 0;
    for child in children {
        let output = child.wait_with_output()?;
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        if output.status.success() {
            moved += 1;
        } else {
            ensure!(said.contains("already being moved") || said.contains("INSTANCE_MIGRATING"), "{said}");
        }
    }
    ensure!(moved == 1, "{moved} say that they moved it");
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    assert_only_migration(&testbed, "completed")?;
    services.into_iter().try_for_each(stop)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn an_interrupt_of_the_cli_takes_a_relayed_move_back() -> Result<()> {
    let testbed = up()?;
    let service = testbed.serve(7444)?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--coordinator", service.address()])?;
    moving.signal(Signal::SIGINT)?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(4, &["MIGRATION_ABORTED"])?;
    answer.assert_outcome("aborted_rolled_back", SOURCE)?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    stop(service)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_relayed_move_outlives_a_restart_of_the_coordinator_between() -> Result<()> {
    let testbed = up()?;
    let service = testbed.serve(7444)?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin_with(&testbed, &guest, &["--coordinator", service.address()])?;
    service.signal(Signal::SIGKILL)?;
    service.end(SOON)?;
    sleep(Duration::from_secs(2));
    let again = testbed.serve(7444)?;
    speed_up(&testbed, &guest)?;
    let answer = moving.end(Duration::from_secs(60))?;
    answer.assert_outcome("completed", DESTINATION)?;
    assert_unharmed_on(&testbed, &guest, DESTINATION)?;
    stop(again)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn an_agent_that_dies_behind_a_coordinator_is_told_as_that() -> Result<()> {
    let testbed = up()?;
    let service = testbed.serve(7444)?;
    testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    testbed.host(DESTINATION)?.agent().kill_for_good()?;
    let mut command = testbed.vmferry(["migrate", "web-1", "--to", DESTINATION])?;
    let answer = Answer::of(command.env("VMFERRY_COORDINATOR", service.address()))?;
    answer.assert_ended(7, &["AGENT_UNREACHABLE"])?;
    answer.assert_error_says(&["the agent of node-31", "web-1 stays on node-28"])?;
    // As soon as it is back it is called again.
    testbed.host(DESTINATION)?.agent().start()?;
    let mut command = testbed.vmferry(["migrate", "web-1", "--to", DESTINATION])?;
    Answer::of(command.env("VMFERRY_COORDINATOR", service.address()))?.assert_outcome("completed", DESTINATION)
}

#[test]
fn the_unit_serves_without_any_privilege() -> Result<()> {
    let testbed = up()?;
    testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let host = testbed.host(DESTINATION)?;
    let address = host.address().to_string();
    let pki = testbed.layout().pki();
    let mut issue = testbed.vmferry(["pki", "issue", "coordinator", "unit", "--address", &address, "--directory"])?;
    process::run(issue.arg(&pki))?;
    let place = "/etc/vmferry/coordinator";
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        host.write(format!("{place}/pki/{file}"), fs::read(pki.join("coordinator-unit").join(file))?)?;
    }
    let given = "/run/credentials/vmferry-coordinator.service";
    let operators = fs::read_to_string(testbed.layout().inventory())?;
    let own = operators.replace(&pki.join("coordinator-operator").display().to_string(), given);
    ensure!(own.contains(&format!("{given}/key.pem")), "{own}");
    host.write(format!("{place}/inventory.toml"), own)?;
    let programs = testbed.program_directory().context("there are agents")?;
    // Hosts share the /usr that they were made with.
    let program = "/var/lib/vmferry-coordinator/vmferry";
    host.write(program, fs::read(programs.join("vmferry"))?)?;
    host.write("/etc/systemd/system/vmferry-coordinator.service", UNIT.replace("/usr/bin/vmferry", program))?;
    host.sh(&format!(
        "chmod 755 {program} /var/lib/vmferry-coordinator; chmod 600 {place}/pki/key.pem; chmod 755 /etc/vmferry {place}
         systemctl daemon-reload; systemctl start vmferry-coordinator"
    ))?;
    let journal = || host.journal(Some("vmferry-coordinator.service"));
    let ready = until("the unit to be ready", SOON, || Ok(journal()?.contains("is ready on").then_some(())));
    ready.with_context(|| journal().unwrap_or_default())?;

    let pid = host.run("systemctl", ["show", "--value", "--property", "MainPID", "vmferry-coordinator"])?;
    let status = host.sh(&format!("cat /proc/{}/status", pid.trim()))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    ensure!(!field("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
    ensure!(field("CapEff:").trim_matches('0').is_empty(), "{status}");

    let through = |arguments: &[&str]| {
        let mut command = testbed.vmferry(arguments)?;
        Answer::of(command.env("VMFERRY_COORDINATOR", format!("{address}:7444")))
    };
    through(&["migrate", "web-1", "--to", DESTINATION])?.assert_outcome("completed", DESTINATION)?;
    host.run("systemctl", ["stop", "vmferry-coordinator"])?;
    ensure!(journal()?.contains("stopped"), "{}", journal()?);
    Ok(())
}
