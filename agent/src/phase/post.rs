//! post: the guest runs on the destination; this host makes that final.
//!
//! Each half first looks at its own host: the destination's copy must have run, the source's must not run any more.

use vmferry_core::{agent::Sighting, migration::Order, reason::Reason, undo::Undo};

use super::Steps;
use crate::hypervisor::{Fault, Hypervisor};

/// The destination's half. Returns warnings.
pub async fn destination(host: &impl Hypervisor, order: &Order, steps: &mut Steps<'_>) -> Result<Vec<String>, Fault> {
    let name = &order.instance_name;
    let mut warnings = Vec::new();
    match host.sighting(order.instance).await? {
        Sighting::Running => {}
        // It ran here and was stopped or paused since, by its user or by itself: that is no longer the move's matter.
        seen @ (Sighting::Paused | Sighting::Shutoff) => {
            warnings.push(format!("{name} arrived on {} and does not run there any more ({seen:?})", host.name()));
        }
        seen @ (Sighting::Absent | Sighting::Arriving) => {
            return Err(Fault::new(
                Reason::PhaseOutOfOrder,
                format!("{name} has not run on {} ({seen:?}); its move cannot be made final there", host.name()),
            ));
        }
    }
    // The guest ran here: from now on its copy here must not be destroyed.
    steps.keep(&Undo::DestroyIncoming { instance: order.instance })?;
    if let Err(fault) = host.make_persistent(order.instance).await {
        warnings.push(format!("{}: {name} runs but its definition is not kept: {fault}", host.name()));
    }
    warnings.extend(steps.unwind(host).await);
    Ok(warnings)
}

/// The source's half. Returns warnings.
pub async fn source(host: &impl Hypervisor, order: &Order, steps: &mut Steps<'_>) -> Result<Vec<String>, Fault> {
    let name = &order.instance_name;
    let mut warnings = Vec::new();
    match host.sighting(order.instance).await? {
        Sighting::Absent => {}
        Sighting::Shutoff => {
            if let Err(fault) = host.undefine(order.instance).await {
                warnings.push(format!("{}: the definition of {name} is still there: {fault}", host.name()));
            }
        }
        seen @ (Sighting::Running | Sighting::Arriving | Sighting::Paused) => {
            return Err(Fault::new(
                Reason::PhaseOutOfOrder,
                format!("{name} is still on {} ({seen:?}); its move cannot be made final there", host.name()),
            ));
        }
    }
    warnings.extend(steps.unwind(host).await);
    Ok(warnings)
}
