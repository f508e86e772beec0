//! The thin edge to libvirt: questions and single steps, in our words. What to do is decided elsewhere.
//!
//! `connection` keeps connections open and asks on threads that may block; `arrival`, `domain`, `host`, `job`, `nwfilter`, `power`,
//! `secret` and `volume` say what is asked; `process` watches a guest's QEMU without asking libvirt;
//! `event` runs libvirt's event loop; `ffi` has the C calls that `virt` lacks or gets wrong, and all the `unsafe`.

mod arrival;
mod connection;
mod domain;
mod event;
mod ffi;
mod host;
mod job;
mod load;
mod nwfilter;
mod power;
mod process;
mod reading;
mod secret;
mod statistics;
#[cfg(test)]
mod tests;
mod volume;

use std::time::Duration;

use virt_sys as sys;
use vmferry_core::{agent::Sighting, domain_xml, id::InstanceId};

pub use self::{
    connection::Libvirt,
    host::HostReading,
    job::{
        Control, Definitions, Helm, JobError, JobOrder, Lifeline, OnDeed, OnProgress, OnSwitch, Standing,
        SteeringError, Stopped, Switch, Way,
    },
    power::DefinitionOrder,
    process::QemuProcess,
    reading::DomainReading,
    secret::{Ensured, Released, SecretError, SecretReading},
    volume::{ChangeError, LabelChange},
};

/// A question that was not answered, or a step that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection, or it broke before the answer came.
    #[error("libvirt cannot be reached at {uri} (asked to {asked})")]
    Disconnected {
        /// Where libvirt was looked for.
        uri: String,
        /// What was asked.
        asked: String,
        /// What the connection says.
        #[source]
        source: Fault,
    },
    /// libvirt is there and keeps silent. What was asked may still happen.
    #[error("libvirt did not {asked} within {limit:?}")]
    Timeout {
        /// What was asked.
        asked: String,
        /// How long the answer was waited for.
        limit: Duration,
    },
    /// libvirt said no.
    #[error("libvirt could not {asked}")]
    Refused {
        /// What was asked.
        asked: String,
        /// What it said.
        #[source]
        source: Fault,
    },
    /// libvirt's answer lacks what every answer has.
    #[error("libvirt's answer makes no sense (asked to {asked})")]
    Unreadable {
        /// What was asked.
        asked: String,
        /// What is wrong with the answer.
        #[source]
        source: domain_xml::Error,
    },
    /// The domain does not exist.
    #[error("there is no domain {id}")]
    NoDomain {
        /// Its UUID.
        id: InstanceId,
    },
    /// The domain is active, so its definition was left alone.
    #[error("domain {id} is active; its definition stays")]
    Active {
        /// Its UUID.
        id: InstanceId,
    },
    /// The domain is not arriving: it may have run here. It was left alone.
    #[error("domain {id} is not arriving ({sighting:?}); it was not destroyed")]
    NotArriving {
        /// Its UUID.
        id: InstanceId,
        /// What is to be seen of it.
        sighting: Sighting,
    },
    /// A job runs on the domain and does not end, not even when aborted.
    #[error("a job ({job}) still runs on domain {id} after {limit:?}")]
    JobRuns {
        /// Its UUID.
        id: InstanceId,
        /// The job's name.
        job: String,
        /// How long its end was waited for.
        limit: Duration,
    },
}

/// What libvirt itself says went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (libvirt error {code})")]
pub struct Fault {
    /// libvirt's number of it, a `VIR_ERR_*`.
    pub code: sys::virErrorNumber,
    /// libvirt's text.
    pub message: String,
}

impl Fault {
    /// Whether it is one of these `VIR_ERR_*`.
    pub(crate) fn is(&self, codes: &[sys::virErrorNumber]) -> bool {
        codes.contains(&self.code)
    }
}

impl From<virt::error::Error> for Fault {
    fn from(error: virt::error::Error) -> Self {
        Self { code: error.code().to_raw(), message: error.message().to_owned() }
    }
}

impl From<std::ffi::NulError> for Fault {
    fn from(error: std::ffi::NulError) -> Self {
        Self { code: sys::VIR_ERR_INVALID_ARG, message: error.to_string() }
    }
}
