//! What libvirt keeps of a migration's limits for the guest's next one, put back after a job that did not end well.

use virt::domain::Domain;
use virt_sys as sys;
use vmferry_core::id::InstanceId;

use super::{Changed, Steersman, Usual};
use crate::libvirt::{Error, Libvirt, ffi, reading::lookup};

impl Steersman {
    /// After a job that did not end well: what the guest's next migration, by whomever, shall find as it was. There being no guest
    /// any more is success.
    ///
    /// libvirt lets a guest go on that was stopped meanwhile. One that was stopped too late for that had gone on by then: libvirt calls
    /// it paused by its user, not by a migration, and it is let go on again.
    pub(in crate::libvirt::job) async fn restore(&self) {
        let Changed { downtime, bandwidth, suspended } = self.changed;
        if let Some(Usual { downtime_millis, bandwidth_mib }) = self.usual {
            if downtime {
                let restore = move |domain: &Domain| Ok(domain.migrate_set_max_downtime(downtime_millis, 0)?);
                self.restored(self.of_guest("restore the migration downtime of", restore).await);
            }
            if bandwidth {
                let restore = move |domain: &Domain| Ok(domain.migrate_set_max_speed(bandwidth_mib, 0)?);
                self.restored(self.of_guest("restore the migration bandwidth of", restore).await);
            }
        }
        if suspended {
            let go_on = |domain: &Domain| match ffi::state(domain)? {
                (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER) => Ok(domain.resume()?),
                _ => Ok(()),
            };
            self.restored(self.of_guest("let go on", go_on).await);
        }
    }

    fn restored(&self, restored: Result<(), Error>) {
        if let Err(error) = restored
            && !matches!(error, Error::NoDomain { .. })
        {
            tracing::warn!(id = %self.instance, %error, "the guest is not quite as it was before its migration");
        }
    }
}

/// What is usual for the guest's migrations, before anybody says otherwise.
pub(super) async fn usual(libvirt: &Libvirt, id: InstanceId) -> Option<Usual> {
    let asked = format!("read the migration limits of domain {id}");
    let read = libvirt.read(asked, move |connection| {
        let Some(domain) = lookup(connection, id)? else { return Ok(None) };
        Ok(Some(Usual { downtime_millis: ffi::max_downtime(&domain)?, bandwidth_mib: domain.migrate_max_speed(0)? }))
    });
    read.await.inspect_err(|error| tracing::debug!(%id, %error, "libvirt's usual limits are not known")).ok().flatten()
}
