//! migrate: the source runs libvirt's job.

use tokio_util::sync::CancellationToken;
use vmferry_core::{
    disk,
    migration::{Order, Statistics},
    reason::Reason,
};

use crate::hypervisor::{Fault, Hypervisor, OnProgress};

/// Moves the guest. Returns when the job is over.
///
/// libvirt makes the definition persistent on the destination and forgets it on the source in the same hand-over, so
/// that the guest is defined in exactly one place even if every agent dies at that moment.
///
/// `proven` are the files that the destination has seen to be shared. The guest may have been given another disk since
/// then; it is looked at again here, where libvirt's own objection is about to be waived.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    proven: &[String],
    progress: OnProgress,
    cancel: CancellationToken,
) -> Result<Statistics, Fault> {
    if cancel.is_cancelled() {
        return Err(Fault::new(
            Reason::MigrationAborted,
            format!("the migration of {} was aborted before it began to move", order.instance_name),
        ));
    }
    let sharing = disk::sharing(&host.disks(order.instance).await?, proven).map_err(|target| {
        let (name, destination) = (&order.instance_name, &order.destination.host);
        Fault::new(
            Reason::DiskNotShared,
            format!("disk {target} of {name} was not proved to be shared with {destination}; migrate again"),
        )
    })?;
    host.migrate(order, sharing, progress, cancel).await
}
