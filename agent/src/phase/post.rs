//! post: the guest runs on the destination; this host makes that final.
//!
//! Each half first looks at its own host, before anything is journaled: the destination's copy must have run, the
//! source's must not be there any more. Whether the guest still runs there then is told beside the end, not here.

use std::time::Duration;

use vmferry_core::{
    agent::Sighting,
    disk,
    migration::{Kind, Order, Phase, Side},
    reason::Reason,
    undo::Undo,
    vif::Placement,
};

use super::Steps;
use crate::{
    hypervisor::{Fault, Hypervisor},
    journal::State,
};

/// How long it may take until the source's own bridges hear of the guest from elsewhere. QEMU announces it within half a second.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(1);

/// Whether this host's half may be done. A refusal has changed nothing.
pub async fn judge(host: &impl Hypervisor, state: &State) -> Result<(), Fault> {
    let (order, side) = (state.order(), state.side());
    let name = &order.instance_name;
    let refuse = |message| Err(Fault::new(Reason::PhaseOutOfOrder, message));
    match (side, host.sighting(order.instance).await?) {
        (Side::Destination, Sighting::Running) | (Side::Source, Sighting::Absent | Sighting::Shutoff) => Ok(()),
        (Side::Destination, Sighting::Paused) if order.is_strict() && !state.has_done(Phase::Migrate) => {
            refuse(format!("{name} has arrived on {} and waits for {} to release it", host.name(), order.source.host))
        }
        // It ran here and was stopped or paused since, by its user or by itself: that is no longer the move's matter.
        (Side::Destination, Sighting::Paused | Sighting::Shutoff) => Ok(()),
        (Side::Destination, Sighting::Incomplete) | (Side::Source, Sighting::Departing) => refuse(format!(
            "a part of the memory of {name} is still on {}; its move cannot be made final before it is on {}",
            order.source.host, order.destination.host
        )),
        (Side::Destination, seen @ (Sighting::Absent | Sighting::Arriving | Sighting::Departing)) => {
            refuse(format!("{name} has not run on {} ({seen:?}); its move cannot be made final there", host.name()))
        }
        (Side::Source, seen @ (Sighting::Running | Sighting::Arriving | Sighting::Paused | Sighting::Incomplete)) => {
            refuse(format!(
                "{name} is still on {} ({seen:?}); if it runs on {}, its copy on {} must not go on: virsh destroy {name}",
                host.name(),
                order.destination.host,
                host.name()
            ))
        }
    }
}

/// The destination's half. Returns warnings.
pub async fn destination(host: &impl Hypervisor, order: &Order, steps: &mut Steps<'_>) -> Result<Vec<String>, Fault> {
    let mut warnings = Vec::new();
    // The guest ran here: from now on neither its copy here nor its disks may be taken back.
    steps.keep_what_the_guest_has()?;
    // Whoever asks for this may have lost the source just now, whose libvirt must still hear that the guest is here.
    host.retire_tunnel(order.id).await?;
    steps.keep_tunnel()?;
    host.settle(order.id, steps.vifs()).await;
    host.settle_filters(order.id);
    if let Err(fault) = host.make_persistent(order.instance).await {
        let name = &order.instance_name;
        warnings.push(format!("{}: {name} runs but its definition is not kept: {fault}", host.name()));
    }
    // QEMU has said where its MAC address is; those who know the guest by its IP addresses may ask for more. Nobody speaks for a
    // guest that is off.
    let runs = host.sighting(order.instance).await.is_ok_and(|seen| seen == Sighting::Running);
    if runs && let Err(fault) = host.announce(steps.vifs()).await {
        warnings.push(format!("{}: the addresses of {} were not announced: {fault}", host.name(), order.instance_name));
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
    for name in steps.filters().to_vec() {
        steps.promise(Undo::UndefineFilter { name })?;
    }
    let placed = steps.vifs().to_vec();
    for undo in placed.iter().flat_map(Placement::undos) {
        steps.promise(undo)?;
    }
    // Before its definition goes: while that is there, the guest's groups are known by it.
    let noted = host.note_departure(order, &placed).await;
    // The first to go: while the guest is defined here its disks are its own.
    steps.promise(Undo::ForgetDefinition { instance: order.instance })?;
    let heard = match order.kind {
        Kind::Live => host.await_departure(&placed, ARRIVAL_LIMIT).await,
        // It may have nothing to say for a while.
        Kind::Cold { .. } => Ok(Vec::new()),
    };
    let mut warnings = unheard(host, order, heard);
    warnings.extend(noted.err().map(|fault| unnoted(host, order, &fault)));
    warnings.extend(steps.unwind(host).await);
    Ok(warnings)
}

fn unnoted(host: &impl Hypervisor, order: &Order, fault: &Fault) -> String {
    let (name, here) = (&order.instance_name, host.name());
    format!("{here} may not know any more which groups {name} is in: {fault}; run `vmferry groups sync`")
}

fn unheard(host: &impl Hypervisor, order: &Order, heard: Result<Vec<String>, Fault>) -> Vec<String> {
    let (name, here, there) = (&order.instance_name, host.name(), &order.destination.host);
    match heard {
        Ok(vifs) => vifs
            .into_iter()
            .map(|vif| {
                format!(
                    "{here} has not heard from {vif} of {name} within {ARRIVAL_LIMIT:?} since that runs on {there}; \
                     see that both hosts' uplinks lead to one network"
                )
            })
            .collect(),
        Err(fault) => vec![format!("{here} cannot tell whether the network has found {name} on {there}: {fault}")],
    }
}
