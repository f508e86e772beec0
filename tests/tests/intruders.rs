//! Who calls an agent's port without any business there.

use std::{
    fs::File,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use vmferry_proto::v1::{TunnelChannel, TunnelRequest, TunnelResponse};
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest, layout::netns, process, testbed::HostSpec};
use vmferry_transport::{CertificateFiles, Protocol, dial};

use crate::rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, assert_unharmed_on, busy_guest, vmferry};

const LIMIT: Duration = Duration::from_secs(5);
/// The time a client has for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Does something where the operator is: all agents are in reach.
fn in_fabric<T: Send>(testbed: &Testbed, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    let fabric = File::open(netns(&testbed.layout().fabric()))?;
    thread::scope(|scope| {
        // A thread of its own: it never comes back from there.
        let there = scope.spawn(move || {
            setns(fabric, CloneFlags::CLONE_NEWNET).context("cannot enter the fabric")?;
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
        });
        there.join().unwrap_or_else(|_| Err(anyhow!("it panicked")))
    })
}

/// Asks the destination's agent for a migration's tunnel, as the holder of a certificate. Returns its refusal; empty: it is open.
fn ask_for_tunnel(testbed: &Testbed, holder: &str, migration: &str, channel: TunnelChannel) -> Result<String> {
    let credentials = vmferry_transport::load(&CertificateFiles::in_directory(&testbed.layout().pki().join(holder)))?;
    let address = format!("{}:7443", testbed.host(DESTINATION)?.address());
    let request =
        TunnelRequest { migration_id: migration.to_owned(), channel: channel.into(), image: 0, image_bytes: vec![] }
            .encode_to_vec();
    // Bytes are carried by another process than the agent.
    let protocol = if channel == TunnelChannel::Probe { Protocol::Agents } else { Protocol::Tunnel };
    in_fabric(testbed, async move || {
        let mut tls = dial(&credentials, &address, DESTINATION, protocol, LIMIT).await?;
        tls.write_u16(u16::try_from(request.len())?).await?;
        tls.write_all(&request).await?;
        tls.flush().await?;
        let mut answer = vec![0; timeout(LIMIT, tls.read_u16()).await??.into()];
        tls.read_exact(&mut answer).await?;
        Ok(TunnelResponse::decode(answer.as_slice())?.refusal)
    })
}

#[test]
fn a_tunnel_opens_for_the_source_of_its_migration_and_for_nobody_else() -> Result<()> {
    let testbed = Testbed::up(Options { hosts: HostSpec::defaults(3), ..Options::default() })?;
    let guest = busy_guest(&testbed, "web-1")?;
    let before = Before::of(&testbed)?;
    let mut moving = Move::begin(&testbed, &guest)?;

    let intruders = ["coordinator-operator", "viewer-watcher", "agent-node-27", "agent-node-31"];
    for (holder, channel) in
        intruders.into_iter().flat_map(|holder| [TunnelChannel::Libvirt, TunnelChannel::Memory].map(|c| (holder, c)))
    {
        let refusal = ask_for_tunnel(&testbed, holder, moving.id(), channel)?;
        ensure!(refusal.contains("was granted no tunnel"), "{holder}: {refusal:?}");
    }
    // The source's agent gets in, but only to the migration that is.
    let unknown = "01900000-0000-7000-8000-000000000000";
    let refusal = ask_for_tunnel(&testbed, "agent-node-28", unknown, TunnelChannel::Libvirt)?;
    ensure!(refusal.contains("was granted no tunnel"), "{refusal:?}");
    let refusal = ask_for_tunnel(&testbed, "agent-node-28", moving.id(), TunnelChannel::Libvirt)?;
    ensure!(refusal.is_empty(), "the source's own agent: {refusal}");

    // A probe leads nowhere: agents may, and nobody else.
    for (holder, may) in [("agent-node-27", true), ("coordinator-operator", false), ("viewer-watcher", false)] {
        let refusal = ask_for_tunnel(&testbed, holder, "", TunnelChannel::Probe)?;
        ensure!(refusal.is_empty() == may, "{holder}: {refusal:?}");
    }

    ensure!(moving.goes_on()?, "the move has ended");
    let id = moving.id().to_owned();
    vmferry(&testbed, &["abort", &id])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    // Nor does it open for its source once the migration is over.
    let refusal = ask_for_tunnel(&testbed, "agent-node-28", &id, TunnelChannel::Libvirt)?;
    ensure!(refusal.contains("was granted no tunnel"), "{refusal:?}");
    assert_unharmed_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

/// Fails unless both agents answer as if nothing were the matter.
fn assert_all_answer(testbed: &Testbed) -> Result<()> {
    let answer = vmferry(testbed, &["hypervisors"])?;
    let hosts = answer.document["hypervisors"].as_array().context("a list of hosts")?;
    ensure!(answer.exit == Some(0) && hosts.iter().all(|host| host["state"] == "up"), "{answer:#?}");
    Ok(())
}

#[test]
fn garbage_on_the_port_is_cut_off_and_harms_nobody() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(BootSectorGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let agent = testbed.host(SOURCE)?.agent().main_pid()?;

    let noise: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    // A record of TLS that promises more than comes, and a ClientHello that is none.
    let half: &[u8] = &[0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc];
    let garbage =
        [noise.as_slice(), b"GET / HTTP/1.1\r\nHost: node-28\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", half];
    for (number, bytes) in garbage.into_iter().enumerate() {
        let cut = in_fabric(&testbed, async move || {
            let mut tcp = TcpStream::connect("192.0.2.10:7443").await?;
            // It may be cut off before all is sent.
            let _ = tcp.write_all(bytes).await;
            let mut rest = Vec::new();
            Ok(timeout(Duration::from_secs(15), tcp.read_to_end(&mut rest)).await.is_ok())
        })?;
        ensure!(cut, "connection {number} stays");
        assert_all_answer(&testbed)?;
    }
    ensure!(testbed.host(SOURCE)?.agent().main_pid()? == agent, "the agent is another one");
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked(&testbed, &[])
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out_and_are_closed() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let before = Before::of(&testbed)?;
    // Often 1,024 by default, which is not enough.
    process::run(Command::new("prlimit").args(["--nofile=8192:", &format!("--pid={}", std::process::id())]))?;

    in_fabric(&testbed, async || {
        let began = Instant::now();
        let mut idle = Vec::new();
        for _ in 0..1_000 {
            idle.push(timeout(LIMIT, TcpStream::connect("192.0.2.10:7443")).await??);
        }
        assert_all_answer(&testbed)?;
        let answered = began.elapsed();
        ensure!(answered < HANDSHAKE_LIMIT, "the answer came after {answered:?}: when the first had been closed");
        for mut tcp in idle {
            let limit = (HANDSHAKE_LIMIT * 2).saturating_sub(began.elapsed());
            let end = timeout(limit, tcp.read_u8()).await.context("an idle connection stays open")?;
            ensure!(end.is_err(), "the agent has something to say");
        }
        ensure!(began.elapsed() >= HANDSHAKE_LIMIT, "they were closed too early to have been in anybody's way");
        Ok(())
    })?;
    assert_all_answer(&testbed)?;
    before.assert_nothing_leaked(&testbed, &[])
}
