//! Guests that are shut down, moved while they are off, and started.

use std::{path::PathBuf, time::Duration};

use virt_sys as sys;
use vmferry_core::{agent::Sighting, id::InstanceId};

use super::{
    Error, Fault, Libvirt,
    ffi::{self, Parameter},
    job::socket_uri,
    reading::{Moment, lookup, or_gone},
};

/// How long a guest may take to come up to its first instruction, or a definition to move: libvirt connects its disks and
/// networks meanwhile, or talks to the other libvirt.
const SLOW: Duration = Duration::from_secs(120);
/// Only the definition, libvirt to libvirt; and it stays on the source until post removes it.
const DEFINITION_ONLY: sys::virDomainMigrateFlags =
    sys::VIR_MIGRATE_OFFLINE | sys::VIR_MIGRATE_PEER2PEER | sys::VIR_MIGRATE_PERSIST_DEST;

/// A guest that is off, and how its definition gets to the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionOrder {
    /// The guest.
    pub instance: InstanceId,
    /// Its name there; it may have another here.
    pub name: String,
    /// Where the destination's libvirt answers.
    pub libvirt_socket: PathBuf,
    /// A name for libvirt's job; nothing connects to it.
    pub memory_socket: PathBuf,
    /// The definition there, where it differs; with its secrets.
    pub definition: Option<String>,
}

impl Libvirt {
    /// Starts a domain that is defined. One that runs is success.
    ///
    /// It is made ready first, paused, and only then let run: an error says that it never ran, unless [`Sighting`] says
    /// otherwise.
    pub async fn start(&self, id: InstanceId) -> Result<(), Error> {
        let made = self
            .change_within(SLOW, format!("start domain {id}"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                let is_off = !domain.is_active()?;
                if is_off {
                    domain.create_with_flags(sys::VIR_DOMAIN_START_PAUSED)?;
                }
                Ok(Some(is_off))
            })
            .await?;
        let is_new = made.ok_or(Error::NoDomain { id })?;
        let resumed = self
            .change(format!("let domain {id} run"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                let seen = || Ok::<_, Fault>(Moment::read(&domain)?.sighting());
                if seen()? == Sighting::Paused {
                    let resumed = domain.resume().map_err(Fault::from);
                    // Left as it is it would look as if it had run.
                    if resumed.is_err() && is_new && seen()? == Sighting::Paused {
                        domain.destroy()?;
                    }
                    resumed?;
                }
                match seen()? {
                    Sighting::Running => Ok(Some(())),
                    other => Err(Fault {
                        code: sys::VIR_ERR_OPERATION_FAILED,
                        message: format!("it does not run, it is {other:?}"),
                    }),
                }
            })
            .await?;
        resumed.ok_or(Error::NoDomain { id })
    }

    /// Asks a guest to shut itself down. Returns before it has.
    pub async fn ask_to_shut_down(&self, id: InstanceId) -> Result<(), Error> {
        self.of_domain(id, "shut down", |domain| match domain.shutdown().map_err(Fault::from) {
            // Off already.
            Err(fault) if fault.is(&[sys::VIR_ERR_OPERATION_INVALID]) => Ok(()),
            answer => answer,
        })
        .await
    }

    /// Cuts a guest's power. One that is off is success.
    pub async fn power_off(&self, id: InstanceId) -> Result<(), Error> {
        self.of_domain(id, "power off", |domain| match domain.destroy().map_err(Fault::from) {
            Err(fault) if fault.is(&[sys::VIR_ERR_OPERATION_INVALID]) => Ok(()),
            answer => answer,
        })
        .await
    }

    /// Whether the host starts the domain with itself.
    pub async fn autostart(&self, id: InstanceId) -> Result<bool, Error> {
        let asked = format!("tell whether domain {id} starts with its host");
        let found = self
            .read(asked, move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                or_gone(domain.autostart().map_err(Fault::from))
            })
            .await?;
        found.ok_or(Error::NoDomain { id })
    }

    /// Has the host start the domain with itself, or not.
    pub async fn set_autostart(&self, id: InstanceId, autostart: bool) -> Result<(), Error> {
        self.of_domain(id, "change the autostart of", move |domain| Ok(domain.set_autostart(autostart)?)).await
    }

    /// Gives a domain that is off another name. Its own is success.
    pub async fn rename(&self, id: InstanceId, name: String) -> Result<(), Error> {
        self.of_domain(id, "rename", move |domain| {
            if domain.name()? == name {
                return Ok(());
            }
            domain.rename(&name, 0)?;
            Ok(())
        })
        .await
    }

    /// Whether libvirt keeps the memory that the domain had when it was stopped.
    pub async fn has_saved_memory(&self, id: InstanceId) -> Result<bool, Error> {
        let asked = format!("tell whether the memory of domain {id} is saved");
        let found = self
            .read(asked, move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                or_gone(domain.has_managed_save(0).map_err(Fault::from))
            })
            .await?;
        Ok(found.unwrap_or(false))
    }

    /// Defines a domain that is off on the destination, too.
    pub async fn move_definition(&self, order: DefinitionOrder) -> Result<(), Error> {
        let id = order.instance;
        let moved = self
            .change_within(SLOW, format!("move the definition of domain {id}"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                let libvirt = format!("qemu+unix:///system?socket={}", socket_uri(&order.libvirt_socket));
                let memory = format!("unix://{}", socket_uri(&order.memory_socket));
                let mut parameters = vec![
                    (sys::VIR_MIGRATE_PARAM_URI, Parameter::Text(&memory)),
                    (sys::VIR_MIGRATE_PARAM_DEST_NAME, Parameter::Text(&order.name)),
                ];
                if let Some(definition) = &order.definition {
                    parameters.push((sys::VIR_MIGRATE_PARAM_DEST_XML, Parameter::Text(definition)));
                }
                ffi::migrate(&domain, &libvirt, &parameters, DEFINITION_ONLY).map(Some)
            })
            .await?;
        moved.ok_or(Error::NoDomain { id })
    }

    async fn of_domain<F>(&self, id: InstanceId, what: &str, step: F) -> Result<(), Error>
    where
        F: Fn(&virt::domain::Domain) -> Result<(), Fault> + Send + Sync + 'static,
    {
        let done = self
            .change(format!("{what} domain {id}"), move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(step(&domain)),
                None => Ok(None),
            })
            .await?;
        done.ok_or(Error::NoDomain { id })
    }
}
