//! What the host is and what its hypervisor can give to a guest.

use std::collections::BTreeSet;

use virt::connect::Connect;
use virt_sys as sys;
use vmferry_core::domain_xml::{Capabilities, Definition, HostCapabilities};

use super::{Error, Fault, Libvirt, connection::is_alive, ffi};

/// What libvirt says of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReading {
    /// Architecture, CPU model, machine types.
    pub capabilities: HostCapabilities,
    /// Logical CPUs that are on.
    pub cpus: u32,
    /// libvirt's version, libvirt's number: 9.0.0 is 9000000.
    pub libvirt_version: u64,
    /// QEMU's version, libvirt's number: 7.2.22 is 7002022. 0: the host has none for its own architecture.
    pub qemu_version: u64,
}

impl Libvirt {
    /// What the host is.
    pub async fn host(&self) -> Result<HostReading, Error> {
        let asked = "describe the host";
        let (xml, node, libvirt_version, qemu_version) = self
            .read(asked, |connection| {
                Ok((
                    connection.capabilities()?,
                    connection.node_info()?,
                    connection.lib_version()?,
                    match connection.hyp_version().map_err(Fault::from) {
                        // How libvirt says that the host has no emulator for its own architecture.
                        Err(fault) => absent(connection, fault, &[sys::VIR_ERR_INTERNAL_ERROR])?.unwrap_or(0),
                        Ok(version) => version,
                    },
                ))
            })
            .await?;
        let capabilities =
            HostCapabilities::parse(&xml).map_err(|source| Error::Unreadable { asked: asked.to_owned(), source })?;
        Ok(HostReading {
            capabilities,
            cpus: node.cpus,
            libvirt_version: libvirt_version.into(),
            qemu_version: qemu_version.into(),
        })
    }

    /// What this host's emulator offers to a guest of the definition's kind; `None` when it does not know that
    /// architecture, virtualisation or machine type, or when the emulator that the definition names is not there.
    pub async fn domain_capabilities(&self, definition: &Definition) -> Result<Option<Capabilities>, Error> {
        let asked = format!("tell what it offers to a {} guest", definition.machine);
        let guest = definition.clone();
        let xml = self
            .read(asked.clone(), move |connection| {
                let answer = connection.domain_capabilities(
                    guest.emulator.as_deref(),
                    Some(&guest.architecture),
                    Some(&guest.machine),
                    Some(&guest.virt_type),
                    0,
                );
                answer.map(Some).or_else(|error| absent(connection, error.into(), UNKNOWN_GUEST))
            })
            .await?;
        xml.map(|xml| Capabilities::parse(&xml)).transpose().map_err(|source| Error::Unreadable { asked, source })
    }

    /// The models of CPUs that guests of this kind can have here. Empty: it has no such guests.
    pub async fn cpu_models(&self, architecture: &str, virt_type: &str) -> Result<BTreeSet<String>, Error> {
        let asked = format!("tell the CPUs that it gives to {virt_type} guests");
        let (architecture, virt_type) = (architecture.to_owned(), virt_type.to_owned());
        let xml = self
            .read(asked.clone(), move |connection| {
                let answer = connection.domain_capabilities(None, Some(&architecture), None, Some(&virt_type), 0);
                answer.map(Some).or_else(|error| absent(connection, error.into(), UNKNOWN_GUEST))
            })
            .await?;
        let capabilities = xml.map(|xml| Capabilities::parse(&xml)).transpose();
        let capabilities = capabilities.map_err(|source| Error::Unreadable { asked, source })?;
        Ok(capabilities.map(|capabilities| capabilities.cpu_models).unwrap_or_default())
    }

    /// Whether this host can give the guest the CPU it has: `Err` says what is missing. `None` when there is nothing
    /// to compare: the definition has no CPU, or this host's libvirt cannot tell what it has for such a guest.
    ///
    /// Says nothing of `host-passthrough`: libvirt compares models and features, and there it has neither.
    pub async fn compare_cpu(&self, definition: &Definition) -> Result<Option<Result<(), String>>, Error> {
        let Some(cpu) = definition.cpu.clone() else { return Ok(None) };
        let asked = format!("compare the CPU of {} with its host's", definition.name);
        let guest = definition.clone();
        self.read(asked, move |connection| {
            // By the guest's own virtualisation type: on a host without KVM the default compares with nothing.
            match ffi::compare_cpu(connection, &guest.architecture, &guest.machine, &guest.virt_type, &cpu) {
                Ok(()) => Ok(Some(Ok(()))),
                Err(fault) if fault.is(&[sys::VIR_ERR_CPU_INCOMPATIBLE]) => Ok(Some(Err(fault.message))),
                Err(fault) => absent(connection, fault, UNKNOWN_GUEST),
            }
        })
        .await
    }

    /// The names of libvirt's networks that are up.
    pub async fn active_networks(&self) -> Result<Vec<String>, Error> {
        self.read("list its networks", |connection| {
            match connection.list_all_networks(sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE) {
                Ok(networks) => networks.iter().map(|network| Ok(network.name()?)).collect(),
                // Without a network driver there is no network.
                Err(error) => {
                    absent(connection, error.into(), &[sys::VIR_ERR_NO_SUPPORT]).map(Option::unwrap_or_default)
                }
            }
        })
        .await
    }
}

/// How libvirt refuses a question about guests that it could not run: an architecture or machine type it does not
/// know, an emulator that is not there, a virtualisation type that the host has not.
const UNKNOWN_GUEST: &[sys::virErrorNumber] = &[
    sys::VIR_ERR_INVALID_ARG,
    sys::VIR_ERR_CONFIG_UNSUPPORTED,
    sys::VIR_ERR_OPERATION_UNSUPPORTED,
    sys::VIR_ERR_NO_SUPPORT,
    sys::VIR_ERR_SYSTEM_ERROR,
];

/// `None` if the refusal is an answer. A broken connection answers nothing, whatever its error's code.
fn absent<T>(connection: &Connect, fault: Fault, answers: &[sys::virErrorNumber]) -> Result<Option<T>, Fault> {
    if fault.is(answers) && is_alive(connection) { Ok(None) } else { Err(fault) }
}
