//! Volumes on this host, whoever opens them, and the secrets that open them.

pub(super) mod devices;
mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use futures::future::{join, join_all};
use secrecy::SecretString;
use vmferry_core::{
    compatibility::Refusal,
    domain_xml::{
        DiskDefinition,
        rewrite::{Place, Relocation},
    },
    id::{HostName, MigrationId},
    instance::DiskSource,
    reason::Reason,
    volume::{Attachment, Connection, Found, SecretName, Volume},
};

use self::{
    devices::Unseen,
    secrets::{BySecret, Key},
};
use crate::{
    config::Config,
    hypervisor::Fault,
    libvirt::Libvirt,
    storage::{
        by_host,
        by_qemu::{self, FindError, Sighting},
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

    /// How this host attaches those that it attaches itself.
    pub(super) fn settings(&self) -> &by_host::Settings {
        &self.settings
    }

    /// What they are, looked at from here without attaching anything: each cluster and each secret once.
    pub(super) async fn find(&self, volumes: &[&Volume]) -> Vec<Result<Sighting, Refusal>> {
        let keys = self.keys(volumes).await;
        self.look(volumes, &keys).await
    }

    async fn look(&self, volumes: &[&Volume], keys: &BySecret<Key>) -> Vec<Result<Sighting, Refusal>> {
        let connections: Vec<_> =
            volumes.iter().map(|volume| as_seen_by(volume.attachment, &volume.connection)).collect();
        let keys: Vec<_> = connections.iter().map(|connection| self.key(connection, keys)).collect();
        let with_key = connections.iter().zip(&keys);
        let asked: Vec<_> = with_key.filter_map(|(connection, key)| Some((connection, *key.as_ref().ok()?))).collect();
        let mut seen = by_qemu::find(&asked, LIMIT).await.into_iter();
        let answers = connections.iter().zip(keys).map(|(connection, key)| {
            key?;
            let seen = seen.next().expect("each that was asked for has an answer");
            seen.map_err(|error| self.refusal(connection, &error))
        });
        answers.collect()
    }

    /// Makes them volumes that a guest can have here.
    pub(super) async fn connect(
        &self,
        migration: MigrationId,
        volumes: &[&Volume],
    ) -> Vec<Result<(Found, Option<Relocation>), Fault>> {
        let look = async {
            let keys = self.keys(volumes).await;
            let seen = self.look(volumes, &keys).await;
            (keys, seen)
        };
        let (given, (keys, seen)) = join(self.give_secrets(migration, volumes), look).await;
        let (given, keys) = (&given, &keys);
        let connected = volumes.iter().zip(seen).map(async |(volume, seen)| {
            let connection = &volume.connection;
            let (found, place) = match volume.attachment {
                Attachment::ByQemu => {
                    self.was_given(connection, given)?;
                    let Sighting { found, portal } = seen?;
                    (found, portal.and_then(|portal| elsewhere(connection, &portal)))
                }
                Attachment::ByHost => self.attach(connection, self.key(connection, keys)?, seen?.found).await?,
            };
            Ok((found, place.map(|place| Relocation { target: volume.target.clone(), place })))
        });
        // All to their ends: what one of them still does must not come after its undo.
        join_all(connected).await
    }

    /// Makes what was `seen` there a block device.
    async fn attach(
        &self,
        connection: &Connection,
        secret: Option<&SecretString>,
        seen: Found,
    ) -> Result<(Found, Option<Place>), Fault> {
        let connected = by_host::connect(connection, secret, &self.settings).await;
        let connected = connected.map_err(|error| self.not_connected(&error))?;
        for warning in &connected.warnings {
            tracing::warn!("{}: {warning}", self.host);
        }
        // The kernel names a LUN in other words than the tools that looked at it, and led to the device by the same target and
        // LUN: its own words are for telling paths apart.
        let found = match connection {
            Connection::Rbd(_) => connected.found,
            Connection::Iscsi(_) => Found { size: connected.found.size, ..seen },
        };
        Ok((found, Some(Place::Device { path: connected.path })))
    }

    /// Detaches it, unless a domain of this host uses it.
    pub(super) async fn disconnect(&self, connection: &Connection) -> Result<(), Fault> {
        let unseen = |error: Unseen| {
            let message = format!(
                "volume {connection} stays connected to {}, which cannot tell whether a domain uses it: {}",
                self.host,
                with_causes(&error)
            );
            Fault::new(Reason::VolumeConnectFailed, message)
        };
        let domains = self.libvirt.domains().await?;
        let own = devices::devices_of(connection).await.map_err(unseen)?;
        // Labelled or not, it is used.
        let others = devices::unlabelled(domains.iter().flat_map(|domain| &domain.definition.disks));
        let below = devices::devices_below(others).await.map_err(unseen)?;
        let uses = |disk: &DiskDefinition| match (&disk.volume, &disk.disk.source) {
            (Some(volume), _) => volume.connection.is_same_volume(connection),
            (None, DiskSource::Block { path }) => below.get(path).is_some_and(|devices| !own.is_disjoint(devices)),
            (None, _) => false,
        };
        if let Some(domain) = domains.iter().find(|domain| domain.definition.disks.iter().any(uses)) {
            tracing::info!("volume {connection} stays connected: domain {} uses it", domain.name);
            return Ok(());
        }
        by_host::disconnect(connection, &self.settings).await.map_err(|error| self.not_connected(&error))
    }

    fn refusal(&self, connection: &Connection, error: &FindError) -> Refusal {
        let (host, addresses) = (&self.host, connection.addresses());
        let its_tool = match connection {
            Connection::Rbd(_) => "rbd info",
            Connection::Iscsi(_) => "iscsi-inq",
        };
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
            FindError::Unusable { .. } => (
                Reason::VolumeUnreachable,
                format!("see to the storage at {addresses}; {its_tool}, on {host}, asks it the same"),
            ),
            FindError::Failed(_) | FindError::Unreadable { .. } => {
                (Reason::VolumeUnreachable, format!("run it on {host} to see why"))
            }
        };
        Refusal { reason, message: format!("{host}: {}", with_causes(error)), remedy }
    }

    fn not_connected(&self, error: &by_host::Failed) -> Fault {
        Fault::new(Reason::VolumeConnectFailed, format!("{} (on {})", with_causes(error), self.host))
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
