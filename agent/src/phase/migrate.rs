//! migrate: the source runs libvirt's job.

use tokio_util::sync::CancellationToken;
use vmferry_core::{
    migration::{Order, Statistics},
    reason::Reason,
};

use crate::hypervisor::{Fault, Hypervisor, OnProgress};

/// Moves the guest. Returns when the job is over.
///
/// libvirt makes the definition persistent on the destination and forgets it on the source in the same hand-over, so
/// that the guest is defined in exactly one place even if every agent dies at that moment.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    progress: OnProgress,
    cancel: CancellationToken,
) -> Result<Statistics, Fault> {
    if cancel.is_cancelled() {
        return Err(Fault::new(
            Reason::MigrationAborted,
            format!("the migration of {} was aborted before it began to move", order.instance_name),
        ));
    }
    host.migrate(order, progress, cancel).await
}
