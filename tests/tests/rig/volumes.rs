//! Volumes for guests that move, the secrets that open them, and what must be true of both afterwards.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use vmferry_tests::{
    Host, Options, Testbed,
    guest::Guest,
    leaks::Difference,
    network::STORAGE,
    storage::{Backend, Lun, RbdImage, Secret},
    wait::until,
};

use super::{Answer, Before, DESTINATION, SOON, SOURCE, vmferry};

/// The size of every volume here, unless a test needs another.
pub(crate) const MIB: u64 = 64;

/// Two hosts with agents, and a storage node.
pub(crate) fn up(storage: &[Backend]) -> Result<Testbed> {
    Testbed::up(Options { storage: storage.to_vec(), ..Options::default() })
}

/// A volume of either kind.
#[derive(Debug, Clone)]
pub(crate) enum Volume {
    Rbd(RbdImage, Secret),
    Iscsi(Lun),
}

impl Volume {
    /// One that a guest boots from.
    pub(crate) fn boot(testbed: &Testbed, backend: Backend) -> Result<Self> {
        Self::import(testbed, backend, "admin_vol01", &testbed.storage()?.boot_image(MIB)?)
    }

    /// One that a guest mounts and writes to.
    pub(crate) fn data(testbed: &Testbed, backend: Backend) -> Result<Self> {
        Self::import(testbed, backend, "admin_vol11", &testbed.storage()?.data_image(MIB)?)
    }

    fn import(testbed: &Testbed, backend: Backend, name: &str, image: &Path) -> Result<Self> {
        let storage = testbed.storage()?;
        Ok(match backend {
            Backend::Ceph => {
                let ceph = storage.ceph()?;
                Self::Rbd(ceph.import(&format!("volumes/{name}"), image)?, ceph.secret()?)
            }
            Backend::Iscsi => {
                let iscsi = storage.iscsi()?;
                Self::Iscsi(iscsi.import(&iscsi.create_target(&name.replace('_', "-"))?, image)?)
            }
        })
    }

    /// It as a guest's disk.
    pub(crate) fn disk(&self, target: &str) -> String {
        match self {
            Self::Rbd(image, secret) => image.disk(target, secret),
            Self::Iscsi(lun) => lun.disk(target),
        }
    }

    /// What opens it.
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::Rbd(_, secret) => secret,
            Self::Iscsi(lun) => &lun.target.secret,
        }
    }

    /// Every number that a guest wrote to it.
    fn sequence(&self, testbed: &Testbed) -> Result<Vec<u64>> {
        match self {
            Self::Rbd(image, _) => testbed.storage()?.ceph()?.sequence(image),
            Self::Iscsi(lun) => testbed.storage()?.iscsi()?.sequence(lun),
        }
    }
}

/// What opens these volumes, each once.
pub(crate) fn secrets(volumes: &[&Volume]) -> Vec<Secret> {
    let mut secrets = Vec::<Secret>::new();
    for volume in volumes {
        if !secrets.contains(volume.secret()) {
            secrets.push(volume.secret().clone());
        }
    }
    secrets
}

/// Both agents have the secrets. The source's libvirt has them from somebody else, who started the guest.
pub(crate) fn let_in(testbed: &Testbed, volumes: &[&Volume]) -> Result<()> {
    for secret in secrets(volumes) {
        for host in testbed.hosts() {
            host.give_secret(&secret)?;
        }
        testbed.host(SOURCE)?.define_secret(&secret)?;
    }
    Ok(())
}

/// Whether the host's libvirt has the secret.
pub(crate) fn has_secret(host: &Host, secret: &Secret) -> Result<bool> {
    Ok(host.virsh(["secret-list"])?.contains(&secret.uuid))
}

/// Fails unless libvirt has every secret on these hosts and on no other.
pub(crate) fn assert_secrets_on(testbed: &Testbed, secrets: &[Secret], hosts: &[&str]) -> Result<()> {
    for host in testbed.hosts() {
        for secret in secrets {
            let expected = hosts.contains(&host.name());
            ensure!(
                has_secret(host, secret)? == expected,
                "libvirt of {} {} {}",
                host.name(),
                if expected { "lacks" } else { "has" },
                secret.usage
            );
        }
    }
    Ok(())
}

/// Runs it, and fails if meanwhile any process of this machine had one of the secrets among its arguments.
pub(crate) fn watching_arguments<T>(secrets: &[Secret], during: impl FnOnce() -> Result<T>) -> Result<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
                    let arguments = String::from_utf8_lossy(&arguments);
                    if secrets.iter().any(|secret| arguments.contains(&secret.value)) {
                        seen.insert(arguments.replace('\0', " "));
                    }
                }
                // As often as it can without taking the guests' time.
                thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let done = during();
        ended.store(true, Ordering::Relaxed);
        let seen = watch.join().map_err(|_| anyhow!("the watch panicked"))?;
        ensure!(seen.is_empty(), "arguments with a secret: {seen:?}");
        done
    })
}

/// Fails if a secret is in a log, a journal or a file that VMFerry wrote on any host, but for the files it was given in.
pub(crate) fn assert_secrets_not_written(testbed: &Testbed, secrets: &[Secret]) -> Result<()> {
    let values: Vec<_> = secrets.iter().map(|secret| secret.value.as_str()).collect();
    for host in testbed.hosts() {
        let logged = host.sh("journalctl --no-pager --all --output=export")?;
        ensure!(logged.contains("vmferry-agent"), "the agent of {} has logged nothing", host.name());
        ensure!(!values.iter().any(|value| logged.contains(value)), "a secret is in the log of {}", host.name());
        host.write("/root/secrets", values.join("\n"))?;
        let files =
            host.sh("grep -rlFf /root/secrets /var/lib/vmferry /run/vmferry /var/log || true; rm /root/secrets")?;
        ensure!(files.is_empty(), "a secret is on {} in {files}", host.name());
    }
    Ok(())
}

/// Pulls the plug of the guest wherever it runs, and fails unless every write that it called stable is on the volume.
pub(crate) fn assert_no_write_lost(testbed: &Testbed, guest: &Guest, volume: &Volume) -> Result<()> {
    guest.console().wait_for_writes(5, SOON)?;
    let runners = testbed.runners(guest.name())?;
    let [host] = runners.as_slice() else { bail!("{} runs on {runners:?}", guest.name()) };
    testbed.host(host)?.virsh(["destroy", guest.name()])?;
    let found: BTreeSet<_> = volume.sequence(testbed)?.into_iter().collect();
    let acknowledged = guest.console().acknowledged()?;
    let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
    println!("{} acknowledged writes, all on the volume", acknowledged.len());
    Ok(())
}

/// Fails unless each host has what it had before, and `there` besides it what the guest needs.
pub(crate) fn assert_nothing_left(
    testbed: &Testbed,
    before: &Before,
    guest: &Guest,
    there: &str,
    secrets: &[Secret],
) -> Result<()> {
    // Connections to storage are the guest's; their number changes on the source too, whenever one breaks.
    let storage = |new: &Difference| STORAGE.iter().any(|address| new.item.starts_with(&format!("{address}:")));
    let came: &[&str] = if there == SOURCE { &[] } else { &[guest.name()] };
    before.assert_nothing_leaked_but(testbed, came, |host, new| {
        host == there
            && match new.kind {
                "TCP connection" => storage(new),
                "secret" => secrets.iter().any(|secret| secret.uuid == new.item),
                _ => false,
            }
    })
}

/// Fails unless the checks refused to move the guest for these reasons, told in these words, and it has noticed nothing.
pub(crate) fn assert_refused(
    testbed: &Testbed,
    before: &Before,
    guest: &Guest,
    answer: &Answer,
    reasons: &[&str],
    words: &[&str],
) -> Result<()> {
    answer.assert_ended(3, reasons)?;
    answer.assert_error_says(&["nothing was changed", "stays on node-28", guest.name()])?;
    for word in words {
        ensure!(answer.stderr.contains(word), "no `{word}` in: {}", answer.stderr);
    }
    assert_nothing_left(testbed, before, guest, SOURCE, &[])?;
    super::assert_only_on(testbed, guest, SOURCE)
}

/// What `vmferry instance show` says.
pub(crate) fn show(testbed: &Testbed, guest: &str) -> Result<Value> {
    let answer = vmferry(testbed, &["instance", "show", guest])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    Ok(answer.document)
}

/// What `vmferry instance show` says of the guest's disks, but for their sizes: a libvirt that is busy leaves them out.
pub(crate) fn disks(shown: &Value) -> Value {
    let mut disks = shown["disks"].clone();
    for disk in disks.as_array_mut().into_iter().flatten() {
        if let Some(volume) = disk["volume"].as_object_mut() {
            volume.remove("size_bytes");
        }
    }
    disks
}

/// The ids and names under which the guest's volumes are known.
const LABELS: [(&str, &str, &str); 2] = [
    ("vda", "5a272756-ab0c-4311-a1ce-3f1736d167df", "admin_vol01"),
    ("vdb", "7bf75168-8370-45f8-b1c5-e65926605960", "admin_vol11"),
];

/// Says which volumes the guest's first disks are; it boots from the first.
pub(crate) fn label(testbed: &Testbed, guest: &str, volumes: usize) -> Result<()> {
    for (target, id, name) in &LABELS[..volumes] {
        let mut arguments = vec!["volumes", "set", guest, target, "--id", id, "--name", name];
        arguments.extend((*target == "vda").then_some("--bootable"));
        vmferry(testbed, &arguments)?.assert_ended(0, &[])?;
    }
    Ok(())
}

/// Fails unless `vmferry volumes` shows the guest's volumes as `cinder list` would, attached to it on this host.
pub(crate) fn assert_attached(testbed: &Testbed, guest: &str, host: &str, volumes: usize) -> Result<()> {
    let mut last = Value::Null;
    let attached = until("all volumes with their sizes", SOON, || {
        last = vmferry(testbed, &["volumes"])?.document;
        let rows = last["volumes"].as_array().context("a list")?;
        let row_is = |row: &Value, (target, id, name): (&str, &str, &str)| {
            row["id"] == id
                && row["name"] == name
                && row["status"] == "in-use"
                && row["bootable"] == (target == "vda")
                && row["size_bytes"] == MIB << 20
                && row["instance_name"] == guest
                && row["target"] == target
                && row["host"] == host
        };
        let all = rows.len() == volumes && rows.iter().zip(LABELS).all(|(row, wanted)| row_is(row, wanted));
        Ok(all.then_some(()))
    });
    attached.with_context(|| format!("{last:#}"))
}

/// Fails unless every list has the guest in this state on this host.
pub(crate) fn assert_listed(testbed: &Testbed, guest: &str, state: &str, host: &str) -> Result<()> {
    let zone = testbed.host(host)?.zone();
    let shown = show(testbed, guest)?;
    let list = vmferry(testbed, &["instances"])?.document;
    let rows: Vec<_> =
        list["instances"].as_array().context("a list")?.iter().filter(|row| row["name"] == guest).collect();
    ensure!(rows.len() == 1, "{list:#}");
    for row in [&shown, rows[0]] {
        ensure!(row["state"] == state && row["host"] == host && row["zone"] == zone.as_str(), "{row:#}");
    }
    let hosts = vmferry(testbed, &["hypervisors"])?.document;
    for row in hosts["hypervisors"].as_array().context("a list")? {
        let expected = u64::from(row["name"] == host);
        ensure!(row["instances_active"] == expected, "{hosts:#}");
        ensure!(row["zone"] == testbed.host(row["name"].as_str().unwrap_or_default())?.zone(), "{hosts:#}");
    }
    Ok(())
}

/// Fails unless the guest has moved to the destination.
pub(crate) fn assert_completed(answer: &Answer) -> Result<()> {
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", DESTINATION)
}
