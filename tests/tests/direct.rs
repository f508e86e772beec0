//! The direct path: QEMU talks to QEMU by TCP and its own TLS, and the agents see nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use vmferry_tests::{
    Testbed,
    capture::{Direction, Tcp},
    direct::{CERTIFICATES, PORTS, install_certificates, table},
    guest::{BootSectorGuest, Guest},
    network::host_address,
    testbed::{HostSpec, Options},
    wait::until,
};

use crate::{
    block_rig::{disk, make, sum},
    rig::{Answer, Before, DESTINATION, Move, SOON, SOURCE, assert_unharmed_on, vmferry},
};

/// What the copied disk is full of: `yes` adds the end of a line.
const DISK: &[u8; 4] = b"VMF\n";

/// Two hosts whose agents are configured for it, and what else stands below `[direct]` on the second.
fn up_with(more: &str) -> Result<Testbed> {
    let mut hosts = HostSpec::defaults(2);
    for (host, index) in hosts.iter_mut().zip(0..) {
        host.configuration = table(host_address(index));
    }
    hosts[1].configuration += more;
    Testbed::up(Options { hosts, ..Options::default() })
}

/// The same, with certificates: each host's agent's own serve its QEMU as well.
fn up() -> Result<Testbed> {
    let testbed = up_with("")?;
    testbed.hosts().iter().try_for_each(install_certificates)?;
    Ok(testbed)
}

fn migrate(testbed: &Testbed, arguments: &[&str]) -> Result<Answer> {
    vmferry(testbed, &[&["migrate", "web-1", "--path", "direct"], arguments].concat())
}

fn guest(testbed: &Testbed) -> Result<Guest> {
    testbed.start(BootSectorGuest::new("web-1").dirtying(25), SOURCE)
}

/// What listens on ports of libvirt's on a host.
fn listeners(testbed: &Testbed, host: &str) -> Result<Vec<String>> {
    let listed = testbed.host(host)?.sh("ss -Hltn | awk '{print $4}'")?;
    let is_libvirts =
        |at: &&str| at.rsplit(':').next().and_then(|port| port.parse().ok()).is_some_and(|port| PORTS.contains(&port));
    Ok(listed.lines().map(str::trim).filter(is_libvirts).map(str::to_owned).collect())
}

/// Fails unless all that QEMU sent to QEMU was TLS's. Returns the ports that were used, and from how many connections.
fn assert_tls(seen: &[Tcp]) -> Result<(BTreeSet<u16>, usize)> {
    let mut opened: BTreeMap<(u16, u16), bool> = BTreeMap::new();
    for tcp in seen.iter().filter(|tcp| PORTS.contains(&tcp.to)) {
        let Tcp { from, to, begin } = *tcp;
        // A handshake of TLS 1 comes first. NBD says before it how it agrees on TLS, and that the server may not have it otherwise.
        let is_tls = opened.entry((from, to)).or_default();
        *is_tls |= begin[..2] == [0x16, 3];
        ensure!(*is_tls || [*b"\0\0\0\x03", *b"IHAV"].contains(&begin), "not by TLS: {tcp:?}");
        let plain = (0..4).map(|from| [0, 1, 2, 3].map(|at| DISK[(from + at) % 4]));
        ensure!(begin != *b"QEVM" && !plain.into_iter().any(|plain| begin == plain), "as it is: {tcp:?}");
    }
    ensure!(opened.values().all(|is_tls| *is_tls), "{opened:?}");
    Ok((opened.keys().map(|(_, to)| *to).collect(), opened.len()))
}

#[test]
fn a_guest_moves_with_its_disk_from_qemu_to_qemu_by_tls_and_back_over_several_streams() -> Result<()> {
    let testbed = up()?;
    let image = "/srv/local/web-1.raw";
    let text = DISK.escape_ascii();
    make(&testbed, SOURCE, &format!("yes \"$(printf '{text}')\" | head -c 8M >web-1.raw"))?;
    let mut definition = BootSectorGuest::new("web-1").dirtying(25);
    definition.domain.extra_devices += &disk("vdb", image, "raw");
    let guest = testbed.start(definition, SOURCE)?;
    let before = Before::of(&testbed)?;
    let was = sum(&testbed, SOURCE, "web-1.raw")?;

    let wire = testbed.host(DESTINATION)?.capture("underlay0", Direction::In)?;
    let limits = ["--path", "direct", "--bandwidth", "20MiB/s", "--policy", "gentle"];
    let moving = Move::begin_with(&testbed, &guest, &limits)?;
    let open = listeners(&testbed, DESTINATION)?;
    let address = testbed.host(DESTINATION)?.address().to_string();
    ensure!(!open.is_empty() && open.iter().all(|at| at.starts_with(&address)), "{open:?}");
    ensure!(testbed.host(DESTINATION)?.sh("ss -Hxn | grep -c /memory.sock || true")?.trim() == "0");
    vmferry(&testbed, &["set", "web-1", "bandwidth=unlimited", "max-downtime=2s"])?.assert_ended(0, &[])?;
    let answer = moving.end(SOON)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)?;
    let seen: Vec<_> = wire.take().iter().filter_map(|seen| seen.tcp).collect();
    // Memory, and the disk.
    let (ports, connections) = assert_tls(&seen)?;
    ensure!(ports.len() == 2 && connections == 2, "{ports:?}, {connections} connections");
    ensure!(sum(&testbed, DESTINATION, "web-1.raw")? == was, "the disk is another");
    ensure!(listeners(&testbed, DESTINATION)?.is_empty(), "QEMU listens on");

    let wire = testbed.host(SOURCE)?.capture("underlay0", Direction::In)?;
    let answer = migrate(&testbed, &["--to", SOURCE, "--streams", "4"])?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", SOURCE)?;
    let seen: Vec<_> = wire.take().iter().filter_map(|seen| seen.tcp).collect();
    // A main channel, four for memory, one for the disk.
    let (ports, connections) = assert_tls(&seen)?;
    ensure!(ports.len() == 2 && connections == 6, "{ports:?}, {connections} connections");
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &["web-1"])
}

#[test]
fn hosts_that_cannot_are_refused_with_all_that_they_lack() -> Result<()> {
    let testbed = up_with("name = \"somebody-else\"\n")?;
    let guest = guest(&testbed)?;
    let before = Before::of(&testbed)?;
    let lacks = |answer: &Answer, host: &str, words: &str| {
        let refusals = answer.document["refusals"].as_array().cloned().unwrap_or_default();
        let found = refusals.iter().any(|refusal| {
            let [message, remedy] = ["message", "remedy"].map(|key| refusal[key].as_str().unwrap_or_default());
            refusal["host"] == host && message.contains(words) && remedy.contains("without --path direct")
        });
        ensure!(found, "no `{words}` of {host} in {answer:#?}");
        Ok(())
    };
    let answer = migrate(&testbed, &["--to", DESTINATION])?;
    answer.assert_ended(3, &["MIGRATION_TLS_MISSING"; 6])?;
    for (host, own) in [(SOURCE, "client"), (DESTINATION, "server")] {
        for file in ["ca-cert.pem", &format!("{own}-cert.pem"), &format!("{own}-key.pem")] {
            lacks(&answer, host, &format!("{CERTIFICATES}/{file}: it is not there"))?;
        }
    }

    // Of another name, and one that is no more.
    let install = |host: &str, script: &str| {
        testbed.host(host)?.sh(&format!("install -d {CERTIFICATES}; cd {CERTIFICATES}; {script}"))
    };
    let pki = "/etc/vmferry/pki";
    install(
        SOURCE,
        &format!("cp {pki}/ca.pem ca-cert.pem; cp {pki}/key.pem client-key.pem; echo nothing >client-cert.pem"),
    )?;
    install(
        DESTINATION,
        &format!("cp {pki}/ca.pem ca-cert.pem; cp {pki}/key.pem server-key.pem; cp {pki}/cert.pem server-cert.pem"),
    )?;
    let answer = migrate(&testbed, &["--to", DESTINATION])?;
    answer.assert_ended(3, &["MIGRATION_TLS_MISSING"; 2])?;
    lacks(&answer, SOURCE, "holds no certificate in PEM form")?;
    lacks(&answer, DESTINATION, &format!("it is not for somebody-else, but for {DESTINATION}"))?;

    // The other way round, and to one that is not configured any more.
    testbed.host(DESTINATION)?.sh("sed -i '/direct/,/^$/d' /etc/vmferry/agent.toml")?;
    testbed.host(DESTINATION)?.agent().restart()?;
    let answer = migrate(&testbed, &["--to", DESTINATION])?;
    answer.assert_ended(3, &["MIGRATION_TLS_MISSING", "DIRECT_PATH_MISSING"])?;
    lacks(&answer, DESTINATION, "is not configured for the direct path")?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_firewall_or_a_foreign_authority_between_qemus_takes_the_move_back() -> Result<()> {
    let testbed = up()?;
    let guest = guest(&testbed)?;
    let before = Before::of(&testbed)?;
    let destination = testbed.host(DESTINATION)?;
    let rule = "table inet closed { chain in { type filter hook input priority 0; tcp dport 49152-49215 reject with tcp reset; }; }";
    destination.sh(&format!("nft '{rule}'"))?;
    for streams in ["1", "4"] {
        let answer = migrate(&testbed, &["--to", DESTINATION, "--streams", streams])?;
        answer.assert_ended(1, &["MIGRATION_FAILED"])?;
        answer.assert_outcome("failed_rolled_back", SOURCE)?;
        answer.assert_error_says(&["onnect", "migration_port_min", "firewall", "web-1 runs on node-28 as before"])?;
        println!("{streams}: {}", answer.stderr);
    }
    destination.sh("nft delete table inet closed")?;

    // Somebody who has the address, and a certificate of his own.
    destination.sh(&format!(
        "vmferry pki init --cluster other --directory /root/other >&2
         vmferry pki issue agent {DESTINATION} --directory /root/other >&2
         cd /root/other/agent-{DESTINATION}
         cat ca.pem >{CERTIFICATES}/ca-cert.pem; cat cert.pem >{CERTIFICATES}/server-cert.pem; cat key.pem >{CERTIFICATES}/server-key.pem
         rm -r /root/other"
    ))?;
    let answer = migrate(&testbed, &["--to", DESTINATION])?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    println!("{}", answer.stderr);
    until("no listener", SOON, || Ok(listeners(&testbed, DESTINATION)?.is_empty().then_some(())))?;
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}
