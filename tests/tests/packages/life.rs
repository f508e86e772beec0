//! From nothing to the first migration, an upgrade in the middle of another, and back to nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Host, Testbed,
    guest::BootSectorGuest,
    wait::{SOON, until},
};

use crate::{
    page::{Part, parts},
    rig::{ADMIN, HOSTS, Move, Version, attempt, follow, hand_out, package, shell, up},
};

/// All files of a host that are the packages', or of their making; what logs, caches and databases of others have is theirs.
fn files(host: &Host) -> Result<BTreeSet<String>> {
    let all = host.sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root -o -path /srv -o -path /var/log \
         -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/libvirt -o -path /etc/libvirt \
         -o -path /var/tmp \\) -prune -o -print
         find /run -path '*vmferry*' -print",
    )?;
    Ok(all.lines().map(str::to_owned).collect())
}

/// A guest runs there and nowhere else.
fn assert_runs_on(testbed: &Testbed, host: &str) -> Result<()> {
    let runners = testbed.runners("web")?;
    ensure!(runners == [host], "web runs on {runners:?}, not on {host}");
    Ok(())
}

/// As the page has it.
fn follow_all(testbed: &Testbed, parts: &[Part]) -> Result<()> {
    for part in parts {
        println!("--- {}", part.heading);
        part.blocks.iter().try_for_each(|block| follow(testbed, block))?;
    }
    Ok(())
}

/// An agent cannot be taken away from a migration that needs it.
fn assert_removal_is_refused(host: &Host, migration: &mut Move) -> Result<()> {
    let agent = host.agent().main_pid()?;
    for way in ["remove", "purge"] {
        let (status, said) = attempt(host, &format!("apt-get {way} --yes vmferry-agent"))?;
        ensure!(!status.success(), "it was not refused: {said}");
        for words in ["web to node-31: in its phase migrate", "vmferry migrations resolve"] {
            ensure!(said.contains(words), "no `{words}` in {said}");
        }
    }
    ensure!(host.agent().is_active()? && host.agent().main_pid()? == agent, "the agent is another");
    migration.assert_goes_on()
}

/// A version that could not read what is there does not replace one that can.
fn assert_downgrade_is_refused(host: &Host) -> Result<()> {
    const FROM_THE_FUTURE: &str = "/var/lib/vmferry/journal/0197a000-0000-7000-8000-000000000001.jsonl";
    host.write(FROM_THE_FUTURE, "{\"opened\":{\"format\":4711}}\n")?;
    let earlier = package("vmferry-agent", Version::This, ".deb")?;
    let name = earlier.file_name().and_then(|name| name.to_str()).context("a file has a name")?;
    host.write(format!("/root/earlier/{name}"), std::fs::read(&earlier)?)?;
    let agent = host.agent().main_pid()?;
    let (status, said) = attempt(host, &format!("apt-get install --allow-downgrades ./earlier/{name}"))?;
    ensure!(!status.success(), "it was not refused: {said}");
    for words in ["is of format 4711", "install the later version again", "was left running"] {
        ensure!(said.contains(words), "no `{words}` in {said}");
    }
    ensure!(host.agent().is_active()? && host.agent().main_pid()? == agent, "the agent is another");
    // As it is told; and the agent that reads it can be had again.
    host.sh(&format!("rm {FROM_THE_FUTURE}"))?;
    shell(host, "apt-get install ./vmferry-agent_*.deb").map(drop)
}

/// Neither is one replaced that would not start again with what its administrator has written.
fn assert_upgrade_with_a_bad_configuration_is_refused(host: &Host) -> Result<()> {
    let agent = host.agent().main_pid()?;
    host.sh("echo 'nmae = \"node\"' | cat - /etc/vmferry/agent.toml >/root/bad.toml; cp /etc/vmferry/agent.toml /root/good.toml
        cp /root/bad.toml /etc/vmferry/agent.toml")?;
    let (status, said) = attempt(host, "apt-get install --reinstall ./vmferry-agent_*.deb")?;
    ensure!(!status.success() && said.contains("nmae: is unknown") && said.contains("was left running"), "{said}");
    ensure!(host.agent().is_active()? && host.agent().main_pid()? == agent, "the agent is another");
    host.sh("cp /root/good.toml /etc/vmferry/agent.toml")?;
    shell(host, "dpkg --configure vmferry-agent").map(drop)
}

/// One that hangs is started again by systemd, which hears from it while it does not.
fn assert_watched(host: &Host) -> Result<()> {
    // As long as it takes to see both, and not a minute.
    host.write(
        "/run/systemd/system/vmferry-agent.service.d/soon.conf",
        "[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\n",
    )?;
    host.sh("systemctl daemon-reload; systemctl restart vmferry-agent")?;
    let heard = || host.sh("systemctl show --value --property WatchdogTimestampMonotonic vmferry-agent");
    let first = heard()?;
    until("the agent to be heard again", SOON, || Ok((heard()? != first).then_some(())))?;
    let agent = host.agent().main_pid()?;
    host.sh(&format!("kill -STOP {agent}"))?;
    until("another agent", SOON, || {
        Ok((host.agent().is_active()? && ![agent, 0].contains(&host.agent().main_pid()?)).then_some(()))
    })?;
    host.sh("rm -r /run/systemd/system/vmferry-agent.service.d; systemctl daemon-reload").map(drop)
}

/// What a package brings is where it is looked for, and looks as it should.
fn assert_installed(testbed: &Testbed) -> Result<()> {
    let host = testbed.host(HOSTS[0])?;
    for (line, words) in [
        ("stat -c '%a %U' /etc/vmferry/pki /etc/vmferry/secrets /var/lib/vmferry", "700 root\n700 root\n700 root\n"),
        ("systemctl show --property KillMode vmferry-agent", "KillMode=process"),
        // As docs/install.md has it; a threshold is ten times that.
        ("systemd-analyze security --offline=true --threshold=48 vmferry-agent.service", "4.8 OK"),
        ("zcat /usr/share/man/man8/vmferry-agent.8.gz", "--open-migrations"),
        ("cat /etc/apparmor.d/local/abstractions/libvirt-qemu", "include if exists <abstractions/vmferry>"),
        ("cat /usr/share/doc/vmferry-agent/copyright", "/usr/share/common-licenses/Apache-2.0"),
        ("dpkg-query --show --showformat='${Conffiles}' vmferry-agent", "/etc/vmferry/agent.toml"),
    ] {
        let said = shell(host, line)?.replace("\\-", "-");
        ensure!(said.contains(words), "{line}: no `{words}` in {said}");
    }
    let admin = testbed.host(ADMIN)?;
    shell(admin, "zcat /usr/share/man/man1/vmferry-migrate.1.gz /usr/share/doc/vmferry/changelog.gz >/dev/null")?;
    shell(admin, "test -e /usr/share/vmferry/proto/vmferry/coordinator/v1/fleet.proto")?;
    shell(admin, "bash -c '. /usr/share/bash-completion/completions/vmferry; complete -p vmferry'")?;
    shell(admin, "systemd-analyze security --offline=true --threshold=14 vmferry-coordinator.service")?;
    shell(admin, "systemd-analyze verify vmferry-coordinator.service").map(drop)
}

#[test]
#[ignore = "needs packages: make test-packages"]
fn hosts_are_installed_used_upgraded_and_left_as_they_were_as_the_page_says() -> Result<()> {
    let testbed = up()?;
    let [source, destination] = HOSTS.map(|host| testbed.host(host));
    let (source, destination) = (source?, destination?);
    let before: Vec<_> = testbed.hosts().iter().map(files).collect::<Result<_>>()?;
    let guest = testbed.start(BootSectorGuest::new("web").dirtying(10), HOSTS[0])?;
    let parts = parts()?;
    let place = |heading: &str| {
        let found = parts.iter().position(|part| part.heading == heading);
        found.with_context(|| format!("the page has no `{heading}`"))
    };
    let (upgrade, remove) = (place("Upgrade")?, place("Remove")?);

    hand_out(&testbed, Version::This)?;
    follow_all(&testbed, &parts[..upgrade])?;
    assert_runs_on(&testbed, HOSTS[1])?;
    assert_installed(&testbed)?;
    shell(testbed.host(ADMIN)?, "vmferry migrate web --to node-28")?;
    assert_runs_on(&testbed, HOSTS[0])?;

    let mut migration = Move::begin(&testbed, HOSTS[0], HOSTS[1])?;
    assert_removal_is_refused(source, &mut migration)?;
    let agents = [source.agent().main_pid()?, destination.agent().main_pid()?];
    hand_out(&testbed, Version::Next)?;
    follow_all(&testbed, &parts[upgrade..remove])?;
    for (host, agent) in [source, destination].into_iter().zip(agents) {
        host.agent().wait_ready(SOON)?;
        ensure!(host.agent().main_pid()? != agent, "the agent of {} is the old one", host.name());
    }
    migration.assert_goes_on()?;
    migration.complete(&testbed, HOSTS[0])?;
    assert_runs_on(&testbed, HOSTS[1])?;
    guest.console().assert_memory_intact()?;

    assert_downgrade_is_refused(destination)?;
    assert_upgrade_with_a_bad_configuration_is_refused(destination)?;
    assert_watched(source)?;
    shell(testbed.host(ADMIN)?, "vmferry doctor")?;

    follow_all(&testbed, &parts[remove..])?;
    assert_runs_on(&testbed, HOSTS[1])?;
    for (host, before) in testbed.hosts().iter().zip(&before) {
        let left: Vec<_> = files(host)?.difference(before).cloned().collect();
        ensure!(left.is_empty(), "left on {}: {left:#?}", host.name());
        until("the end of all processes", SOON, || Ok(host.sh("pgrep -a vmferry || true")?.is_empty().then_some(())))?;
        let (status, _) = attempt(host, "systemctl cat vmferry-agent vmferry-coordinator")?;
        ensure!(!status.success(), "{} still knows the units", host.name());
    }
    testbed.down()
}
