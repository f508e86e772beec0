//! Which way a guest's memory and disks take, and what this host has for the direct one. Where libvirt looks for that, the
//! configuration says: only libvirt reads its `qemu.conf`.

use std::{
    fs::File,
    io,
    net::UdpSocket,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use jiff::Timestamp;
use vmferry_core::{
    direct::{Certificate, DirectFacts, TlsFile},
    migration::{Order, Path as DataPath, Progress, Side},
    reason::Reason,
};
use vmferry_transport::{CertificateFacts, read_certificates};

use super::LibvirtHost;
use crate::{
    config::Direct,
    hypervisor::{Control, Fault, files},
    libvirt::Way,
    storage::with_causes,
    tunnel,
};

impl LibvirtHost {
    /// What there is for the direct path now, for this half of a migration; `None`: it is not configured.
    pub(super) async fn look_at_direct(&self, side: Side) -> Option<DirectFacts> {
        match &self.direct {
            Some(configured) => Some(look(configured, side).await),
            None => None,
        }
    }

    /// Which way libvirt's job sends what it sends.
    pub(super) async fn way(&self, order: &Order) -> Result<Way, Fault> {
        match order.limits.path {
            DataPath::Tunnel => Ok(Way::Tunnel {
                memory_socket: tunnel::memory_socket(order.id),
                disk_socket: tunnel::disk_socket(order.id),
            }),
            DataPath::Direct => self.listeners.direct_end(order).await.map(Way::Direct).map_err(|error| {
                let (to, from) = (&order.destination.host, &self.name);
                let message = format!("{to} does not say where QEMU of {from} reaches its own: {error}");
                Fault::new(Reason::TunnelFailed, message)
            }),
        }
    }
}

/// Whether a job sends anything.
#[derive(Debug, Clone)]
pub(super) struct Flow(Arc<Mutex<Sent>>);

#[derive(Debug)]
struct Sent {
    bytes: ByteSize,
    /// Since when it has been no more.
    since: Instant,
    is_stopped: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Sent { bytes: ByteSize::default(), since: Instant::now(), is_stopped: false })))
    }
}

impl Flow {
    /// The same control of a job, looked at.
    pub(super) fn seen_by(&self, control: Control) -> Control {
        let (sent, told) = (Arc::clone(&self.0), Arc::clone(&control.progress));
        let progress = Arc::new(move |sample: Progress| {
            {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                if sample.transferred != sent.bytes {
                    (sent.bytes, sent.since) = (sample.transferred, Instant::now());
                }
                sent.is_stopped = sample.stopped;
            }
            told(sample);
        });
        Control { progress, ..control }
    }

    /// For how long nothing has been sent; `None` while the guest is stopped, for its hand-over perhaps.
    pub(super) fn idle(&self) -> Option<Duration> {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!sent.is_stopped).then(|| sent.since.elapsed())
    }
}

/// Whether several streams of the agents' may have to be let go: of those that go directly only QEMU can.
pub(super) fn holds_several(order: &Order) -> bool {
    order.limits.streams.are_several() && order.limits.path == DataPath::Tunnel
}

/// What there is now, for this half of a migration.
async fn look(direct: &Direct, side: Side) -> DirectFacts {
    let (direct, at) = (direct.clone(), Timestamp::now());
    let own = match side {
        Side::Source => "client",
        Side::Destination => "server",
    };
    let end = direct.end.clone();
    let path = |name: &str| direct.certificates.join(name);
    let paths = [path("ca-cert.pem"), path(&format!("{own}-cert.pem")), path(&format!("{own}-key.pem"))];
    let [authority, certificate, key] = paths.clone();
    let looked = files::within_limit(move || Ok((read(&authority), read(&certificate), there(&key)))).await;
    let (authority, certificate, key) = looked.unwrap_or_else(|error| {
        let unread = error.to_string();
        (Err(unread.clone()), Err(unread.clone()), Err(unread))
    });
    let [at_authority, at_certificate, at_key] = paths.map(|path| path.display().to_string());
    DirectFacts {
        // No address of this host's cannot be bound to; no port is opened.
        listens: UdpSocket::bind((end.address, 0)).map(drop).map_err(|error| error.to_string()),
        end,
        authority: TlsFile { path: at_authority, read: authority },
        certificate: TlsFile { path: at_certificate, read: certificate },
        key: TlsFile { path: at_key, read: key },
        at,
    }
}

/// The first certificate of a file.
fn read(path: &Path) -> Result<Certificate, String> {
    there(path)?;
    let certificates = read_certificates(path).map_err(|error| with_causes(&error))?;
    let first = certificates.first().ok_or("it holds no certificate")?;
    let CertificateFacts { names, is_ca, not_before, not_after, .. } =
        CertificateFacts::read(first).map_err(|error| error.to_string())?;
    Ok(Certificate { names, is_authority: is_ca, not_before, not_after })
}

/// Whether it is there, and can be read. Of a key no more is wanted.
fn there(path: &Path) -> Result<(), String> {
    File::open(path).map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => error.to_string(),
    })
}
