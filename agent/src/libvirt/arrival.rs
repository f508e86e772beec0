//! A guest that has arrived and waits, paused, until its source has released it.

use virt::domain::Domain;
use virt_sys as sys;
use vmferry_core::id::InstanceId;

use super::{
    Error, Fault, Libvirt, ffi,
    reading::{lookup, or_gone},
};

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// Not all of it is here yet, or not all of that is known to libvirt.
    Under,
    /// It waits.
    Waits,
    /// It runs, or has run.
    HasRun,
    /// It is off.
    Off,
}

impl Libvirt {
    /// Lets it run. One that runs, or has run since, is success; one that is still arriving is refused.
    pub async fn resume_arrived(&self, id: InstanceId) -> Result<(), Error> {
        let resumed = self
            .change(format!("let domain {id} run, which has arrived"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                match or_gone(Arrival::of(&domain))? {
                    Some(Arrival::Waits) => or_gone(domain.resume().map(drop).map_err(Fault::from)),
                    Some(Arrival::HasRun) => Ok(Some(())),
                    Some(Arrival::Under) => Err(not_yet("it is still arriving")),
                    Some(Arrival::Off) | None => Ok(None),
                }
            })
            .await?;
        resumed.ok_or(Error::NoDomain { id })
    }

    /// Destroys it, and forgets its definition: it has never run here. There being none is success; one that has run stays.
    ///
    /// Nobody else lets it run but an administrator: one that did so, and paused it again, has a guest that has asked for its disks since.
    pub async fn destroy_arrived(&self, id: InstanceId) -> Result<(), Error> {
        self.change(format!("destroy domain {id}, which has arrived and never run"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(()) };
            match or_gone(Arrival::of(&domain))? {
                Some(Arrival::Waits) if !has_used_its_disks(&domain)? => or_gone(destroy(&domain)).map(drop),
                Some(Arrival::Waits | Arrival::HasRun) => Err(not_yet("it has run here")),
                Some(Arrival::Under) => Err(not_yet("it is still arriving")),
                Some(Arrival::Off) | None => Ok(()),
            }
        })
        .await
    }
}

impl Arrival {
    /// libvirt says of a guest that arrived paused that its user has paused it, and says so last of all.
    fn of(domain: &Domain) -> Result<Self, Fault> {
        let (state, reason) = ffi::state(domain)?;
        Ok(Self::read(state, reason))
    }

    fn read(state: sys::virDomainState, reason: u32) -> Self {
        match (state, reason) {
            (sys::VIR_DOMAIN_SHUTOFF, _) => Self::Off,
            (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER) => Self::Waits,
            (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_STARTING_UP | sys::VIR_DOMAIN_PAUSED_MIGRATION) => {
                Self::Under
            }
            _ => Self::HasRun,
        }
    }
}

/// QEMU counts what the guest asks of its disks, and counts from its own beginning.
fn has_used_its_disks(domain: &Domain) -> Result<bool, Fault> {
    // All disks together.
    let used = domain.block_stats("")?;
    Ok([used.rd_req, used.wr_req].into_iter().any(|requests| requests > 0))
}

fn destroy(domain: &Domain) -> Result<(), Fault> {
    match domain.destroy().map_err(Fault::from) {
        Err(fault) if fault.is(&[sys::VIR_ERR_NO_DOMAIN, sys::VIR_ERR_OPERATION_INVALID]) => {}
        answer => answer?,
    }
    // It came with the guest.
    match domain.is_persistent() {
        Ok(true) => Ok(domain.undefine_flags(sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM)?),
        Ok(false) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn not_yet(why: &str) -> Fault {
    Fault { code: sys::VIR_ERR_OPERATION_INVALID, message: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_nobody_has_let_run_waits() {
        let read = Arrival::read;
        assert_eq!(read(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER), Arrival::Waits);
        for arriving in [sys::VIR_DOMAIN_PAUSED_STARTING_UP, sys::VIR_DOMAIN_PAUSED_MIGRATION] {
            assert_eq!(read(sys::VIR_DOMAIN_PAUSED, arriving), Arrival::Under);
        }
        for has_run in [sys::VIR_DOMAIN_PAUSED_IOERROR, sys::VIR_DOMAIN_PAUSED_WATCHDOG, sys::VIR_DOMAIN_PAUSED_CRASHED]
        {
            assert_eq!(read(sys::VIR_DOMAIN_PAUSED, has_run), Arrival::HasRun);
        }
        assert_eq!(read(sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_UNPAUSED), Arrival::HasRun);
        assert_eq!(read(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_FAILED), Arrival::Off);
    }
}
