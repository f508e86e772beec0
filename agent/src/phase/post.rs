//! post: the guest runs on the destination; this host makes that final.
//!
//! Each half first looks at its own host, before anything is journaled: the destination's copy must have run, the
//! source's must not be there any more.

use vmferry_core::{
    agent::Sighting,
    disk,
    migration::{Kind, Order, Side},
    reason::Reason,
    undo::Undo,
};

use super::Steps;
use crate::hypervisor::{Fault, Hypervisor};

/// Whether this host's half may be done. Returns warnings; a refusal has changed nothing.
pub async fn judge(host: &impl Hypervisor, order: &Order, side: Side) -> Result<Vec<String>, Fault> {
    let name = &order.instance_name;
    let refuse = |message| Err(Fault::new(Reason::PhaseOutOfOrder, message));
    match (side, host.sighting(order.instance).await?) {
        (Side::Destination, Sighting::Running) | (Side::Source, Sighting::Absent | Sighting::Shutoff) => Ok(Vec::new()),
        (Side::Destination, Sighting::Shutoff) if order.kind == (Kind::Cold { shutdown: None }) => Ok(Vec::new()),
        // It ran here and was stopped or paused since, by its user or by itself: that is no longer the move's matter.
        (Side::Destination, seen @ (Sighting::Paused | Sighting::Shutoff)) => {
            Ok(vec![format!("{name} arrived on {} and does not run there any more ({seen:?})", host.name())])
        }
        (Side::Destination, seen @ (Sighting::Absent | Sighting::Arriving)) => {
            refuse(format!("{name} has not run on {} ({seen:?}); its move cannot be made final there", host.name()))
        }
        (Side::Source, seen @ (Sighting::Running | Sighting::Arriving | Sighting::Paused)) => refuse(format!(
            "{name} is still on {} ({seen:?}); if it runs on {}, its copy on {} must not go on: virsh destroy {name}",
            host.name(),
            order.destination.host,
            host.name()
        )),
    }
}

/// The destination's half. Returns warnings.
pub async fn destination(host: &impl Hypervisor, order: &Order, steps: &mut Steps<'_>) -> Result<Vec<String>, Fault> {
    let mut warnings = Vec::new();
    // The guest ran here: from now on neither its copy here nor its disks may be taken back.
    steps.keep_what_the_guest_has()?;
    if let Err(fault) = host.make_persistent(order.instance).await {
        let name = &order.instance_name;
        warnings.push(format!("{}: {name} runs but its definition is not kept: {fault}", host.name()));
    }
    if steps.autostart() {
        // libvirt does not carry it along.
        steps.promise(Undo::RestoreAutostart { instance: order.instance })?;
    }
    warnings.extend(steps.unwind(host).await);
    Ok(warnings)
}

/// The source's half. Returns warnings.
pub async fn source(host: &impl Hypervisor, order: &Order, steps: &mut Steps<'_>) -> Result<Vec<String>, Fault> {
    // Before anything else: the guest runs elsewhere, and must not come up here again.
    steps.keep_what_retired_the_guest()?;
    // What must go, journaled as a step is: whatever cannot be done now is tried again until it can.
    for undo in disk::left_behind(steps.disks()) {
        steps.promise(undo)?;
    }
    // The first to go: while the guest is defined here its disks are its own.
    steps.promise(Undo::ForgetDefinition { instance: order.instance })?;
    Ok(steps.unwind(host).await)
}
