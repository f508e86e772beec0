//! Volumes on this host, whoever opens them, and the secrets that open them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use secrecy::SecretString;
use vmferry_core::{
    compatibility::Refusal,
    domain_xml::{
        DiskDefinition, SecretKind,
        rewrite::{Place, Relocation},
    },
    id::{HostName, MigrationId},
    instance::DiskSource,
    reason::Reason,
    volume::{Attachment, Connection, Found, Login, SecretName, Volume},
};

use crate::{
    config::Config,
    hypervisor::Fault,
    libvirt::Libvirt,
    storage::{
        by_host,
        by_qemu::{self, FindError},
        secrets::Secrets,
        with_causes,
    },
};

/// How long a storage system may take to say what it has.
const LIMIT: Duration = Duration::from_secs(10);

/// What this host does for volumes.
#[derive(Debug)]
pub(super) struct Volumes {
    host: HostName,
    libvirt: Libvirt,
    secrets: Secrets,
    settings: by_host::Settings,
    /// Migrations that bring guests here, by the secret that the guest will need. A guest that is not there yet is not among
    /// those that libvirt knows to need it; of another process, no guest arrives any more.
    awaited: Mutex<BTreeMap<SecretName, BTreeSet<MigrationId>>>,
}

impl Volumes {
    pub(super) fn new(config: &Config, libvirt: Libvirt) -> Self {
        Self {
            host: config.name.clone(),
            libvirt,
            secrets: config.secrets.clone(),
            settings: config.storage.by_host,
            awaited: Mutex::default(),
        }
    }

    /// What there is, looked at from here without attaching anything; and which of its portals answered, if it has any.
    pub(super) async fn find(&self, volume: &Volume) -> Result<(Found, Option<String>), Refusal> {
        let connection = &as_seen_by(volume.attachment, &volume.connection);
        let secret = self.secret_of(connection).await?;
        let seen = by_qemu::find(connection, secret.as_ref(), LIMIT).await;
        let seen = seen.map_err(|error| self.refusal(connection, &error))?;
        Ok((seen.found, seen.portal))
    }

    /// Makes it a volume that a guest can have here.
    pub(super) async fn connect(
        &self,
        migration: MigrationId,
        volume: &Volume,
    ) -> Result<(Found, Option<Relocation>), Fault> {
        let connection = &volume.connection;
        let place = match volume.attachment {
            Attachment::ByQemu => {
                self.ensure_secret(migration, connection).await?;
                let (found, portal) = self.find(volume).await?;
                (found, portal.and_then(|portal| elsewhere(connection, &portal)))
            }
            Attachment::ByHost => {
                let secret = self.secret_of(connection).await?;
                let connected = by_host::connect(connection, secret.as_ref(), &self.settings).await;
                let connected = connected.map_err(|error| self.not_connected(&error))?;
                for warning in &connected.warnings {
                    tracing::warn!("{}: {warning}", self.host);
                }
                // The kernel names a LUN in other words than the tools that looked at it in the checks, and led to the device
                // by the same target and LUN: its own words are for telling paths apart.
                let found = match connection {
                    Connection::Rbd(_) => connected.found,
                    Connection::Iscsi(_) => Found { size: connected.found.size, ..self.find(volume).await?.0 },
                };
                (found, Some(Place::Device { path: connected.path }))
            }
        };
        let (found, place) = place;
        Ok((found, place.map(|place| Relocation { target: volume.target.clone(), place })))
    }

    /// Detaches it, unless a domain of this host uses it.
    pub(super) async fn disconnect(&self, connection: &Connection) -> Result<(), Fault> {
        let devices = by_host::devices_of(connection).await.unwrap_or_default();
        for domain in self.libvirt.domains().await? {
            let mut disks = domain.definition.disks.iter();
            let uses = |disk: &DiskDefinition| match (&disk.volume, &disk.disk.source) {
                (Some(volume), _) => volume.connection.is_same_volume(connection),
                // Labelled or not, it is used.
                (None, DiskSource::Block { path }) => !devices.is_disjoint(&by_host::devices_below(path)),
                (None, _) => false,
            };
            if disks.any(uses) {
                tracing::info!("volume {connection} stays connected: domain {} uses it", domain.name);
                return Ok(());
            }
        }
        by_host::disconnect(connection, &self.settings).await.map_err(|error| self.not_connected(&error))
    }

    /// Forgets the secret that VMFerry gave to libvirt for this volume, unless a domain needs it that is here or arriving.
    pub(super) async fn release_secret(&self, migration: MigrationId, connection: &Connection) -> Result<(), Fault> {
        let Some(Login { secret, .. }) = connection.login() else { return Ok(()) };
        {
            let mut awaited = self.awaited();
            let waiting = awaited.entry(secret.clone()).or_default();
            waiting.remove(&migration);
            if !waiting.is_empty() {
                return Ok(());
            }
            awaited.remove(secret);
        }
        let kind = kind(connection);
        let Some(reading) = self.libvirt.secret(kind, secret).await? else { return Ok(()) };
        if !reading.ours || reading.is_among(&self.libvirt.secrets_in_use().await?) {
            return Ok(());
        }
        Ok(self.libvirt.release_secret(kind, secret).await.map(drop)?)
    }

    async fn ensure_secret(&self, migration: MigrationId, connection: &Connection) -> Result<(), Fault> {
        let Some(Login { secret, .. }) = connection.login() else { return Ok(()) };
        self.awaited().entry(secret.clone()).or_default().insert(migration);
        let kind = kind(connection);
        let failed = |why: String| {
            let message =
                format!("the secret of volume {connection} cannot be given to libvirt on {}: {why}", self.host);
            Fault::new(Reason::VolumeSecretMissing, message)
        };
        let Some(own) = self.secrets.find(kind, secret) else {
            // Somebody else has given it to libvirt: the checks have opened the volume with it.
            return match self.libvirt.secret(kind, secret).await? {
                Some(_) => Ok(()),
                None => Err(self.has_no_secret(connection, secret).into()),
            };
        };
        let value = own.read_for_libvirt().map_err(|error| failed(with_causes(&error)))?;
        let ensured = self.libvirt.ensure_secret(kind, own.uuid, own.usage.as_deref(), value).await;
        ensured.map(drop).map_err(|error| failed(with_causes(&error)))
    }

    async fn secret_of(&self, connection: &Connection) -> Result<Option<SecretString>, Refusal> {
        let Some(Login { secret, .. }) = connection.login() else { return Ok(None) };
        let value = self.secrets.value(&self.libvirt, kind(connection), secret).await.map_err(|error| Refusal {
            reason: Reason::VolumeSecretMissing,
            message: format!(
                "the secret of volume {connection} cannot be read on {}: {}",
                self.host,
                with_causes(&error)
            ),
            remedy: format!("see to the [[secret]] in the configuration of the agent of {}", self.host),
        })?;
        if value.is_some() {
            return Ok(value);
        }
        let known = self.libvirt.secret(kind(connection), secret).await.ok().flatten();
        Err(match known.filter(|reading| reading.has_value.is_none()) {
            Some(_) => self.hides_secret(connection, secret),
            None => self.has_no_secret(connection, secret),
        })
    }

    fn hides_secret(&self, connection: &Connection, secret: &SecretName) -> Refusal {
        let host = &self.host;
        Refusal {
            reason: Reason::VolumeSecretMissing,
            message: format!(
                "libvirt on {host} has secret {secret}, which opens volume {connection}, but it is private: only guests \
                 can use it"
            ),
            remedy: format!("give it to the agent of {host}, too: a [[secret]] in its configuration"),
        }
    }

    fn has_no_secret(&self, connection: &Connection, secret: &SecretName) -> Refusal {
        Refusal {
            reason: Reason::VolumeSecretMissing,
            message: format!("{} does not have secret {secret}, which opens volume {connection}", self.host),
            remedy: format!("give it to the agent of {}: a [[secret]] in its configuration", self.host),
        }
    }

    fn refusal(&self, connection: &Connection, error: &FindError) -> Refusal {
        let (host, addresses) = (&self.host, connection.addresses());
        let (reason, remedy) = match error {
            FindError::Unreachable { .. } => (
                Reason::VolumeUnreachable,
                format!("see that {host} reaches {addresses}, and that somebody answers there"),
            ),
            FindError::Denied { .. } => {
                (Reason::VolumeLoginRefused, format!("see to the user and the secret that {host} has for it"))
            }
            FindError::NoSecret { .. } => (
                Reason::VolumeSecretMissing,
                format!("give it to the agent of {host}: a [[secret]] in its configuration"),
            ),
            FindError::Gone { .. } => {
                (Reason::VolumeMissing, format!("see that it is there, and that {host} may see it, at {addresses}"))
            }
            FindError::NoTool { .. } => (Reason::StorageToolMissing, format!("install it on {host}")),
            FindError::Failed(_) | FindError::Unreadable { .. } => {
                (Reason::VolumeUnreachable, format!("run it on {host} to see why"))
            }
        };
        Refusal { reason, message: format!("{host}: {}", with_causes(error)), remedy }
    }

    fn not_connected(&self, error: &by_host::Failed) -> Fault {
        Fault::new(Reason::VolumeConnectFailed, format!("{} (on {})", with_causes(error), self.host))
    }

    fn awaited(&self) -> std::sync::MutexGuard<'_, BTreeMap<SecretName, BTreeSet<MigrationId>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A volume that the host attaches is looked at under the host's own name: the target may know no other.
fn as_seen_by(attachment: Attachment, connection: &Connection) -> Connection {
    let mut connection = connection.clone();
    if let (Attachment::ByHost, Connection::Iscsi(iscsi)) = (attachment, &mut connection)
        && iscsi.initiator.is_none()
    {
        iscsi.initiator = by_host::initiator();
    }
    connection
}

/// The portal that answered, if it is not the one that the guest's definition names: that one stands first.
fn elsewhere(connection: &Connection, portal: &str) -> Option<Place> {
    let Connection::Iscsi(iscsi) = connection else { return None };
    if iscsi.portals.first().is_some_and(|first| first == portal) {
        return None;
    }
    let (host, port) = portal.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Place::Portal { host, port: port.parse().ok()? })
}

fn kind(connection: &Connection) -> SecretKind {
    match connection {
        Connection::Rbd(_) => SecretKind::Ceph,
        Connection::Iscsi(_) => SecretKind::Iscsi,
    }
}
