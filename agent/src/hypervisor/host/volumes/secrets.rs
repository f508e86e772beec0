//! The secrets of volumes: for those who look at them, and for the QEMU that will open them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
};

use futures::future::join_all;
use secrecy::SecretString;
use uuid::Uuid;
use vmferry_core::{
    compatibility::Refusal,
    domain_xml::SecretKind,
    id::MigrationId,
    reason::Reason,
    volume::{Attachment, Connection, Login, SecretName, Volume},
};

use super::Volumes;
use crate::{hypervisor::Fault, storage::with_causes};

/// What there is of each secret of some volumes.
pub(super) type BySecret<T> = BTreeMap<(SecretKind, SecretName), T>;

/// What this host has of a secret.
pub(super) enum Key {
    Known(SecretString),
    /// libvirt has it, and shows it to nobody.
    Private,
    Missing,
    Unreadable(String),
}

/// Why libvirt does not have a secret that a guest will need.
pub(super) enum NotGiven {
    Missing,
    Failed(String),
    Libvirt(Fault),
}

impl Volumes {
    /// The secrets that open these volumes, each looked for once.
    pub(super) async fn keys(&self, volumes: &[&Volume]) -> BySecret<Key> {
        let keys = distinct(volumes.iter().copied()).into_iter().map(|(kind, name)| async move {
            let key = match self.secrets.value(&self.libvirt, kind, &name).await {
                Ok(Some(value)) => Key::Known(value),
                Ok(None) => match self.libvirt.secret(kind, &name).await.ok().flatten() {
                    Some(reading) if reading.has_value.is_none() => Key::Private,
                    _ => Key::Missing,
                },
                Err(error) => Key::Unreadable(with_causes(&error)),
            };
            ((kind, name), key)
        });
        join_all(keys).await.into_iter().collect()
    }

    /// That of one of them; none if nobody asks for one.
    pub(super) fn key<'a>(
        &self,
        connection: &Connection,
        keys: &'a BySecret<Key>,
    ) -> Result<Option<&'a SecretString>, Refusal> {
        let Some(name) = name(connection) else { return Ok(None) };
        match keys.get(&name) {
            Some(Key::Known(value)) => Ok(Some(value)),
            Some(Key::Private) => Err(self.hides_secret(connection, &name.1)),
            Some(Key::Missing) | None => Err(self.has_no_secret(connection, &name.1)),
            Some(Key::Unreadable(why)) => Err(Refusal {
                reason: Reason::VolumeSecretMissing,
                message: format!("the secret of volume {connection} cannot be read on {}: {why}", self.host),
                remedy: format!("see to the [[secret]] in the configuration of the agent of {}", self.host),
            }),
        }
    }

    /// Gives libvirt the secrets with which QEMU will open those of these volumes that it opens, each once.
    pub(super) async fn give_secrets(
        &self,
        migration: MigrationId,
        volumes: &[&Volume],
    ) -> BySecret<Result<(), NotGiven>> {
        let of_qemu = volumes.iter().copied().filter(|volume| volume.attachment == Attachment::ByQemu);
        let given = distinct(of_qemu).into_iter().map(|(kind, name)| async move {
            self.awaited().entry(name.clone()).or_default().insert(migration);
            let given = self.give_secret(kind, &name).await;
            ((kind, name), given)
        });
        join_all(given).await.into_iter().collect()
    }

    async fn give_secret(&self, kind: SecretKind, name: &SecretName) -> Result<(), NotGiven> {
        let Some(own) = self.secrets.find(kind, name) else {
            // Somebody else has given it to libvirt: the checks have opened the volume with it.
            let known = self.libvirt.secret(kind, name).await.map_err(|error| NotGiven::Libvirt(error.into()))?;
            return known.map(drop).ok_or(NotGiven::Missing);
        };
        let value = own.read_for_libvirt().map_err(|error| NotGiven::Failed(with_causes(&error)))?;
        let ensured = self.libvirt.ensure_secret(kind, own.uuid, own.usage.as_deref(), value).await;
        ensured.map(drop).map_err(|error| NotGiven::Failed(with_causes(&error)))
    }

    /// Whether libvirt has that of one of them now.
    pub(super) fn was_given(
        &self,
        connection: &Connection,
        given: &BySecret<Result<(), NotGiven>>,
    ) -> Result<(), Fault> {
        let Some(name) = name(connection) else { return Ok(()) };
        match given.get(&name) {
            Some(Ok(())) => Ok(()),
            Some(Err(NotGiven::Libvirt(fault))) => Err(fault.clone()),
            Some(Err(NotGiven::Missing)) | None => Err(self.has_no_secret(connection, &name.1).into()),
            Some(Err(NotGiven::Failed(why))) => {
                let message =
                    format!("the secret of volume {connection} cannot be given to libvirt on {}: {why}", self.host);
                Err(Fault::new(Reason::VolumeSecretMissing, message))
            }
        }
    }

    /// Forgets the secret that VMFerry gave to libvirt for this volume, unless a domain needs it that is here or arriving.
    pub(in crate::hypervisor::host) async fn release_secret(
        &self,
        migration: MigrationId,
        connection: &Connection,
    ) -> Result<(), Fault> {
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

    /// Lets go of a secret that was left: one that VMFerry gave to libvirt, that no domain needs, and nobody who is on his way here.
    pub(in crate::hypervisor::host) async fn remove_secret(&self, uuid: Uuid) -> Result<(), Fault> {
        let name = SecretName::Uuid(uuid);
        // By its UUID it is found whatever its kind.
        let Some(reading) = self.libvirt.secret(SecretKind::Ceph, &name).await? else { return Ok(()) };
        let awaited: BTreeSet<_> = self.awaited().keys().cloned().collect();
        if !reading.ours || reading.is_among(&awaited) || reading.is_among(&self.libvirt.secrets_in_use().await?) {
            return Ok(());
        }
        Ok(self.libvirt.release_secret(SecretKind::Ceph, &name).await.map(drop)?)
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

    fn awaited(&self) -> MutexGuard<'_, BTreeMap<SecretName, BTreeSet<MigrationId>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The secrets that these volumes' logins name, each once.
fn distinct<'a>(volumes: impl IntoIterator<Item = &'a Volume>) -> BTreeSet<(SecretKind, SecretName)> {
    volumes.into_iter().filter_map(|volume| name(&volume.connection)).collect()
}

fn name(connection: &Connection) -> Option<(SecretKind, SecretName)> {
    connection.login().map(|Login { secret, .. }| (kind(connection), secret.clone()))
}

fn kind(connection: &Connection) -> SecretKind {
    match connection {
        Connection::Rbd(_) => SecretKind::Ceph,
        Connection::Iscsi(_) => SecretKind::Iscsi,
    }
}
