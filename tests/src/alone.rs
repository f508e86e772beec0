//! What users would do without VMFerry: `virsh migrate --p2p` from one host's libvirt to the other's, with nothing between them but
//! UNIX sockets in the directory that all hosts share. For benchmarks, to stand beside.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Host, Testbed};

/// What libvirt says of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// From the beginning of its job to its end.
    pub total: Duration,
    /// The guest ran nowhere, by QEMU's account.
    pub downtime: Duration,
    /// What was sent.
    pub bytes: u64,
}

/// Opens the way between all hosts.
pub fn open(testbed: &Testbed) -> Result<()> {
    for host in testbed.hosts() {
        host.sh(&format!(
            "systemd-run --quiet --unit=proxy --socket-property=ListenStream={} \
             /lib/systemd/systemd-socket-proxyd /run/libvirt/libvirt-sock",
            socket(host)
        ))?;
    }
    Ok(())
}

/// Moves a guest over a UNIX socket, with more options of `virsh migrate`.
pub fn migrate(guest: &str, from: &Host, to: &Host, options: &[&str]) -> Result<Moved> {
    let memory = format!("unix://{}", to.shared(&format!("{guest}-{}.sock", to.name())));
    migrate_by(guest, from, to, &memory, options)
}

/// The same, its memory to this URI.
pub fn migrate_by(guest: &str, from: &Host, to: &Host, memory: &str, options: &[&str]) -> Result<Moved> {
    let uri = format!("qemu+unix:///system?socket={}", socket(to));
    let always = ["migrate", "--live", "--p2p", "--persistent", "--undefinesource"];
    from.virsh([&always[..], options, &[guest, &uri, memory]].concat())?;
    let job = to.virsh(["domjobinfo", "--completed", "--rawstats", guest])?;
    let figure = |what: &str| {
        let said = job.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        said.and_then(|said| said.trim().parse().ok()).with_context(|| format!("`{what}` in {job}"))
    };
    let time = |what: &str| figure(what).map(Duration::from_millis);
    Ok(Moved { total: time("time_elapsed")?, downtime: time("downtime")?, bytes: figure("data_processed")? })
}

/// Where libvirt of a host is to be found by the others.
fn socket(host: &Host) -> String {
    host.shared(&format!("{}-libvirt.sock", host.name()))
}
