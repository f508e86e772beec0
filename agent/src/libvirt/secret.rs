//! The secrets that libvirt keeps: looked at, made for a guest that arrives, and taken away again if they are ours.

use std::{collections::BTreeSet, sync::Arc};

use secrecy::{ExposeSecret as _, SecretSlice};
use uuid::Uuid;
use virt::{connect::Connect, secret::Secret};
use virt_sys as sys;
use vmferry_core::{
    domain_xml::{self, SecretDefinition, SecretKind},
    leftovers::HeldSecret,
    volume::SecretName,
};

use super::{Error, Fault, Libvirt, ffi, volume::definition_texts};

/// How a secret's description begins if VMFerry made it. People and [`Libvirt::release_secret`] know it by that.
const MARK: &str = "Made by VMFerry";

/// A secret as libvirt has it, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretReading {
    /// Its UUID.
    pub uuid: Uuid,
    /// What it opens; none if neither Ceph nor iSCSI.
    pub kind: Option<SecretKind>,
    /// Its second name.
    pub usage: String,
    /// Whether VMFerry made it.
    pub ours: bool,
    /// Whether it has a value. None: it is private, and libvirt tells nobody.
    pub has_value: Option<bool>,
}

impl SecretReading {
    /// Whether it is among those that guests need.
    pub fn is_among(&self, names: &BTreeSet<SecretName>) -> bool {
        names.contains(&SecretName::Uuid(self.uuid)) || names.contains(&SecretName::Usage(self.usage.clone()))
    }
}

/// What became of a secret that should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there and is now.
    Made,
    /// It was there and ours; it has the value of now.
    Renewed,
    /// It was there and somebody else's. It was left alone.
    Foreign,
}

/// What became of a secret that should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It is not there (any more).
    Gone,
    /// It is somebody else's and stays.
    Foreign,
}

/// A secret that is not there as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is somebody else's, and nobody gave it a value.
    #[error(
        "libvirt's secret {uuid} was not made by VMFerry and has no value; set it (virsh secret-set-value {uuid} --file FILE --plain) or remove it (virsh secret-undefine {uuid})"
    )]
    Valueless {
        /// The secret.
        uuid: Uuid,
    },
    /// Its UUID or its usage is taken by another.
    #[error("libvirt's secret {uuid} ({usage}) is in the place of the one that the guest needs; rename one of them")]
    Taken {
        /// The other's UUID.
        uuid: Uuid,
        /// The other's usage.
        usage: String,
    },
    /// libvirt did not answer, or said no.
    #[error(transparent)]
    Libvirt(#[from] Error),
}

impl Libvirt {
    /// The secret of this name. `kind` matters only for one that is named by its usage.
    pub async fn secret(&self, kind: SecretKind, name: &SecretName) -> Result<Option<SecretReading>, Error> {
        let (asked, name) = (format!("look for secret {name}"), name.clone());
        self.read(asked, move |connection| {
            lookup(connection, kind, &name)?.map_or(Ok(None), |secret| or_no_secret(read(&secret)))
        })
        .await
    }

    /// All secrets that libvirt keeps. A libvirt that keeps none has none.
    pub async fn secrets(&self) -> Result<Vec<HeldSecret>, Error> {
        let listed = self.read("list its secrets", |connection| {
            let mut held = Vec::new();
            let secrets = match connection.list_all_secrets(0).map_err(Fault::from) {
                Err(fault) if fault.is(&[sys::VIR_ERR_NO_SUPPORT]) => return Ok(held),
                secrets => secrets?,
            };
            for secret in secrets {
                // One that has gone since is none.
                let Some(definition) = or_no_secret(definition(&secret))? else { continue };
                let ours = definition.description.starts_with(MARK);
                held.push(HeldSecret { uuid: secret.uuid()?, usage: definition.usage, ours });
            }
            Ok(held)
        });
        listed.await
    }

    /// The value of this secret. `None` if there is none, or if it is private.
    pub async fn secret_value(&self, kind: SecretKind, name: &SecretName) -> Result<Option<SecretSlice<u8>>, Error> {
        let (asked, name) = (format!("read secret {name}"), name.clone());
        self.read(asked, move |connection| {
            let Some(secret) = lookup(connection, kind, &name)? else { return Ok(None) };
            match or_no_secret(definition(&secret))? {
                Some(definition) if !definition.private => or_no_secret(ffi::secret_value(&secret)),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Makes sure that libvirt has the secret, and that one of ours has this value. It has at least one name.
    ///
    /// It is kept through restarts, of libvirt and of the host, because the guest is: without it no disk could be plugged in
    /// later. It is private: what reads it goes through libvirt. May be repeated.
    pub async fn ensure_secret(
        &self,
        kind: SecretKind,
        uuid: Option<Uuid>,
        usage: Option<&str>,
        value: SecretSlice<u8>,
    ) -> Result<Ensured, SecretError> {
        // libvirt wants a usage of every secret.
        let usage = usage.map_or_else(|| format!("vmferry {}", uuid.unwrap_or_default()), str::to_owned);
        let wanted = SecretDefinition {
            uuid,
            kind: Some(kind),
            usage,
            description: format!("{MARK} for guests of this host; goes with the last of them"),
            private: true,
        };
        let value = Arc::new(value);
        let asked = format!("keep secret {}", wanted.usage);
        self.change(asked, move |connection| ensure(connection, kind, &wanted, value.expose_secret())).await?
    }

    /// Takes away a secret of ours. There being none is success; somebody else's stays. Call it only when no guest needs it.
    pub async fn release_secret(&self, kind: SecretKind, name: &SecretName) -> Result<Released, Error> {
        let (asked, name) = (format!("undefine secret {name}"), name.clone());
        self.change(asked, move |connection| {
            let Some(secret) = lookup(connection, kind, &name)? else { return Ok(Released::Gone) };
            match or_no_secret(read(&secret))? {
                Some(reading) if !reading.ours => Ok(Released::Foreign),
                Some(_) => or_no_secret(secret.undefine().map_err(Fault::from)).map(|_| Released::Gone),
                None => Ok(Released::Gone),
            }
        })
        .await
    }

    /// The names of the secrets that this host's domains need, now or when they are next started. An error rather than
    /// too few.
    pub async fn secrets_in_use(&self) -> Result<BTreeSet<SecretName>, Error> {
        let asked = "tell which secrets its domains need";
        let definitions = self.read(asked, definition_texts).await?;
        let mut names = BTreeSet::new();
        for definition in definitions {
            let secrets = domain_xml::secrets(&definition);
            names.extend(secrets.map_err(|source| Error::Unreadable { asked: asked.to_owned(), source })?);
        }
        Ok(names)
    }
}

fn ensure(
    connection: &Connect,
    kind: SecretKind,
    wanted: &SecretDefinition,
    value: &[u8],
) -> Result<Result<Ensured, SecretError>, Fault> {
    let by_uuid = match wanted.uuid {
        Some(uuid) => lookup(connection, kind, &SecretName::Uuid(uuid))?,
        None => None,
    };
    let known = match by_uuid {
        Some(secret) => Some(secret),
        None => lookup(connection, kind, &SecretName::Usage(wanted.usage.clone()))?,
    };
    let Some(secret) = known else {
        let secret = connection.define_secret_xml(&wanted.to_xml(), 0)?;
        return match secret.set_value(value, 0) {
            Ok(()) => Ok(Ok(Ensured::Made)),
            // Without a value it would look like somebody else's mistake.
            Err(error) => {
                let fault = error.into();
                let _ = secret.undefine();
                Err(fault)
            }
        };
    };
    let reading = read(&secret)?;
    if wanted.uuid.is_some_and(|uuid| uuid != reading.uuid) || reading.kind != Some(kind) {
        return Ok(Err(SecretError::Taken { uuid: reading.uuid, usage: reading.usage }));
    }
    if reading.ours {
        secret.set_value(value, 0)?;
        return Ok(Ok(Ensured::Renewed));
    }
    if reading.has_value == Some(false) {
        return Ok(Err(SecretError::Valueless { uuid: reading.uuid }));
    }
    Ok(Ok(Ensured::Foreign))
}

fn lookup(connection: &Connect, kind: SecretKind, name: &SecretName) -> Result<Option<Secret>, Fault> {
    let found = match name {
        SecretName::Uuid(uuid) => connection.lookup_secret_by_uuid(*uuid),
        // No secret has such a name, and `virt` panics on it.
        SecretName::Usage(usage) if usage.contains('\0') => return Ok(None),
        SecretName::Usage(usage) => {
            let kind = match kind {
                SecretKind::Ceph => sys::VIR_SECRET_USAGE_TYPE_CEPH,
                SecretKind::Iscsi => sys::VIR_SECRET_USAGE_TYPE_ISCSI,
            };
            connection.lookup_secret_by_usage(kind.cast_signed(), usage)
        }
    };
    or_no_secret(found.map_err(Fault::from))
}

/// Not by `virt`'s `usage_id()`: it frees what libvirt still uses.
fn definition(secret: &Secret) -> Result<SecretDefinition, Fault> {
    let xml = secret.xml_desc(0)?;
    SecretDefinition::parse(&xml).map_err(|error| Fault { code: sys::VIR_ERR_XML_ERROR, message: error.to_string() })
}

fn read(secret: &Secret) -> Result<SecretReading, Fault> {
    let definition = definition(secret)?;
    let has_value = if definition.private { None } else { Some(or_no_secret(ffi::secret_value(secret))?.is_some()) };
    Ok(SecretReading {
        uuid: secret.uuid()?,
        kind: definition.kind,
        usage: definition.usage,
        ours: definition.description.starts_with(MARK),
        has_value,
    })
}

/// `None` if the secret, or its value, does not exist (any more).
fn or_no_secret<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.is(&[sys::VIR_ERR_NO_SECRET]) => Ok(None),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests;
