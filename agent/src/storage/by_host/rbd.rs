//! RBD images, by the kernel's client: `rbd map`. Nothing else of VMFerry's runs `rbd`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::sleep;
use vmferry_core::volume::{Found, Rbd};

use super::{Connected, Settings, failed::Failed, scsi, session::value};
use crate::storage::{
    key_file::KeyFile,
    rbd::{Meaning, identity},
    tool::{self, Tool},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// What `rbd` may take longer than its cluster.
const SLACK: Duration = Duration::from_secs(30);
/// How long the kernel may take to let go of an image.
const LIMIT: Duration = Duration::from_secs(60);
/// Monitors speak their second protocol there, and nothing else.
const SECOND_PROTOCOL: &str = ":3300";

/// Exit statuses of `rbd`, which are error numbers.
const BUSY: i32 = libc::EBUSY;

/// What `rbd info --format json` says, as far as it matters.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Image {
    id: String,
    size: ByteSize,
}

/// An entry of `rbd showmapped --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Mapped {
    id: String,
    pool: String,
    #[serde(default)]
    namespace: String,
    name: String,
    /// `-`: none.
    snap: String,
    device: String,
}

/// An image's name, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    pool: &'a str,
    namespace: &'a str,
    image: &'a str,
    snapshot: Option<&'a str>,
}

pub(super) async fn connect(
    rbd: &Rbd,
    secret: Option<&SecretString>,
    settings: &Settings,
) -> Result<Connected, Failed> {
    let name = name(rbd)?;
    let volume = rbd.to_string();
    let key = match (&rbd.login, secret) {
        (None, _) => None,
        (Some(login), None) => return Err(Failed::NoSecret { volume, secret: login.secret.clone() }),
        (Some(_), Some(key)) => {
            let file = |source| Failed::File { volume: volume.clone(), path: "memfd".into(), source };
            Some(KeyFile::new(key).map_err(file)?)
        }
    };
    let said = info(rbd, key.as_ref(), settings.device_timeout).run().await.map_err(|source| failed(rbd, source))?;
    let image: Image = serde_json::from_str(&said).map_err(|source| unintelligible(rbd, "rbd info", source))?;

    // The kernel would map it a second time: two caches of one image.
    let mapped = mapped(rbd, name).await?;
    for one in &mapped {
        // Of another cluster, or of an image that had this name before.
        if let Some(other) = value(format!("/sys/bus/rbd/devices/{}/image_id", one.id)).filter(|id| *id != image.id) {
            return Err(Failed::Ambiguous { volume, one: image.id, other });
        }
    }
    let (device, is_new) = match mapped.into_iter().next() {
        Some(mapped) => (mapped.device, false),
        None => {
            let device =
                map(rbd, key.as_ref(), settings.device_timeout).run().await.map_err(|source| {
                    match failed(rbd, source) {
                        Failed::Tool { volume, source, .. } => Failed::MapFailed { volume, at: monitors(rbd), source },
                        failed => failed,
                    }
                })?;
            (device.trim().to_owned(), true)
        }
    };
    let connected = found(rbd, &device, image, name.path(), settings).await;
    // Had it been mapped before, its name would be there.
    if connected.is_err()
        && is_new
        && let Err(failed) = unmap(rbd, &device).await
    {
        tracing::warn!(volume, device, "is still mapped: {failed}");
    }
    connected
}

/// What is mapped there, once it has the name that Ceph's udev rules give it.
async fn found(rbd: &Rbd, device: &str, image: Image, path: String, settings: &Settings) -> Result<Connected, Failed> {
    let volume = rbd.to_string();
    // Linux says so since 4.9.
    let said = format!("/sys/bus/rbd/devices/{}/cluster_fsid", device.trim_start_matches("/dev/rbd"));
    let cluster = fs::read_to_string(&said).map_err(|source| Failed::File {
        volume: volume.clone(),
        path: said.into(),
        source,
    })?;
    let deadline = Instant::now() + settings.device_timeout;
    while fs::canonicalize(&path).ok().as_deref() != Some(Path::new(device)) {
        if Instant::now() >= deadline {
            return Err(Failed::DeviceTimeout { volume, device: path, timeout: settings.device_timeout });
        }
        sleep(INTERVAL).await;
    }
    let found = Found { size: image.size, identity: identity(&image.id, cluster.trim()) };
    Ok(Connected { path, found, warnings: Vec::new() })
}

pub(super) async fn disconnect(rbd: &Rbd) -> Result<(), Failed> {
    for mapped in mapped(rbd, name(rbd)?).await? {
        unmap(rbd, &mapped.device).await?;
    }
    Ok(())
}

async fn unmap(rbd: &Rbd, device: &str) -> Result<(), Failed> {
    let tool = |doing| move |source| Failed::Tool { volume: rbd.to_string(), doing, source };
    scsi::flush(device.trim_start_matches("/dev/")).await.map_err(tool("flush the image"))?;
    match unmap_command(device).run().await {
        Err(failed) if failed.code == Some(BUSY) => {
            Err(Failed::InUse { volume: rbd.to_string(), device: device.to_owned() })
        }
        result => result.map(|_| ()).map_err(tool("unmap the image")),
    }
}

async fn mapped(rbd: &Rbd, name: Name<'_>) -> Result<Vec<Mapped>, Failed> {
    // Without the module nothing is mapped, and a host without Ceph's tools has no need of them to know that.
    if !Path::new("/sys/bus/rbd").exists() {
        return Ok(Vec::new());
    }
    let tool = |source| Failed::Tool { volume: rbd.to_string(), doing: "list the mapped images", source };
    let said = Tool::new("rbd").args(["showmapped", "--format", "json"]).run().await.map_err(tool)?;
    let all: Vec<Mapped> =
        serde_json::from_str(&said).map_err(|source| unintelligible(rbd, "rbd showmapped", source))?;
    Ok(all.into_iter().filter(|mapped| name.is(mapped)).collect())
}

fn name(rbd: &Rbd) -> Result<Name<'_>, Failed> {
    let parts: Vec<_> = rbd.image.split('/').collect();
    let (pool, namespace, image) = match parts[..] {
        [pool, image] => (pool, "", image),
        [pool, namespace, image] if !namespace.is_empty() => (pool, namespace, image),
        _ => ("", "", ""),
    };
    let all = [pool, image, rbd.snapshot.as_deref().unwrap_or("-")];
    if all.contains(&"") || rbd.image.contains('@') || rbd.image.starts_with('-') {
        let problem = format!("`{}` is no image (pool/image or pool/namespace/image)", rbd.image);
        return Err(Failed::Description { volume: rbd.to_string(), problem });
    }
    Ok(Name { pool, namespace, image, snapshot: rbd.snapshot.as_deref() })
}

impl Name<'_> {
    fn is(&self, mapped: &Mapped) -> bool {
        let snapshot = Some(mapped.snap.as_str()).filter(|snapshot| *snapshot != "-");
        (self.pool, self.namespace, self.image, self.snapshot)
            == (&*mapped.pool, &*mapped.namespace, &*mapped.name, snapshot)
    }

    /// What Ceph's udev rules call it.
    fn path(&self) -> String {
        let parts = ["/dev/rbd", self.pool, self.namespace, self.image];
        let path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        self.snapshot.map_or_else(|| path.clone(), |snapshot| format!("{path}@{snapshot}"))
    }
}

fn info(rbd: &Rbd, key: Option<&KeyFile>, timeout: Duration) -> Tool {
    command(rbd, key, timeout).args(["info", &specification(rbd), "--format", "json"])
}

/// Not `--exclusive`: the lock must be able to pass to the other host while both have it mapped.
fn map(rbd: &Rbd, key: Option<&KeyFile>, timeout: Duration) -> Tool {
    let second = !rbd.monitors.is_empty() && rbd.monitors.iter().all(|monitor| monitor.ends_with(SECOND_PROTOCOL));
    let options = second.then_some(["--options", "ms_mode=prefer-crc"]);
    command(rbd, key, timeout).args(["map", &specification(rbd)]).args(options.into_iter().flatten())
}

fn unmap_command(device: &str) -> Tool {
    Tool::new("rbd").args(["unmap", device]).limit(LIMIT)
}

fn command(rbd: &Rbd, key: Option<&KeyFile>, timeout: Duration) -> Tool {
    let mut tool = Tool::new("rbd").limit(timeout + SLACK);
    if let Some(configuration) = &rbd.configuration {
        tool = tool.args(["--conf", configuration]);
    }
    if !rbd.monitors.is_empty() {
        tool = tool.args(["-m", &rbd.monitors.join(",")]);
    }
    if let (Some(login), Some(key)) = (&rbd.login, key) {
        tool = tool.args(["--id", &login.user, "--keyfile", &key.path()]);
    }
    // librados would wait for its cluster for 5 minutes.
    tool.args(["--client_mount_timeout", &timeout.as_secs().max(1).to_string()])
}

fn specification(rbd: &Rbd) -> String {
    rbd.snapshot.as_ref().map_or_else(|| rbd.image.clone(), |snapshot| format!("{}@{snapshot}", rbd.image))
}

fn monitors(rbd: &Rbd) -> String {
    if rbd.monitors.is_empty() { "the monitors of ceph.conf".to_owned() } else { rbd.monitors.join(",") }
}

fn failed(rbd: &Rbd, source: tool::Failed) -> Failed {
    let (volume, at) = (rbd.to_string(), monitors(rbd));
    // Its status is an error number; it has none if it was killed.
    match source.code.map_or(Meaning::Unreachable, Meaning::of) {
        Meaning::Gone => Failed::Missing { volume, at, source },
        Meaning::Denied => {
            let user = rbd.login.as_ref().map_or("a host without a user", |login| &login.user).to_owned();
            Failed::WrongCredentials { volume, at, user, source }
        }
        Meaning::Unreachable => Failed::Unreachable { volume, at, source },
        Meaning::Other => Failed::Tool { volume, doing: "look at the image", source },
    }
}

fn unintelligible(rbd: &Rbd, command: &'static str, source: serde_json::Error) -> Failed {
    Failed::Unintelligible { volume: rbd.to_string(), command, source }
}

#[cfg(test)]
mod tests;
