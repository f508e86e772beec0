//! What a guest must be doing to move in the way that was asked for, and what would be lost if it were off.

use super::{Refusal, SourceFacts, already_moving};
use crate::{
    domain_xml::{Definition, DiskDefinition},
    instance::{DiskSource, InstanceState},
    migration::{Kind, Shutdown},
    reason::Reason,
};

/// Whether the guest does what the order takes it to do.
pub(super) fn state(facts: &SourceFacts) -> Result<String, Refusal> {
    let SourceFacts { host, definition, state, kind, .. } = facts;
    let name = &definition.name;
    let runs = matches!(state, InstanceState::Active | InstanceState::Migrating);
    let is_off = *state == InstanceState::Shutoff;
    match kind {
        Kind::Live if runs => return Ok(state.to_string()),
        Kind::Cold { shutdown: Some(Shutdown { .. }) } if runs => return Ok(format!("{state}; it will be shut down")),
        Kind::Cold { shutdown: None } if is_off => return Ok(format!("{state}; it stays so")),
        _ => {}
    }
    // Who moves it lets it go on.
    if let (InstanceState::Paused, Some(id)) = (state, facts.migration) {
        return Err(already_moving(name, id));
    }
    Err(match state {
        InstanceState::Shutoff => Refusal {
            reason: Reason::InstanceShutoff,
            message: match kind {
                Kind::Live => format!("instance {name} is shut off on {host}; a live migration moves running guests"),
                Kind::Cold { .. } => format!("instance {name} is shut off on {host}; it ran when the move was ordered"),
            },
            remedy: match kind {
                Kind::Live => {
                    format!(
                        "move it as it is: vmferry migrate {name} --cold; or start it (virsh start {name}), then migrate"
                    )
                }
                Kind::Cold { .. } => "migrate again: it is then moved as it is".to_owned(),
            },
        },
        InstanceState::Paused if facts.crosses => Refusal {
            reason: Reason::InstancePaused,
            message: format!("instance {name} is paused on {host} by a migration, and may run on another host"),
            remedy: format!(
                "wait until that has ended (virsh domjobinfo {name}), then migrate it from where it runs; let it go on by hand nowhere before \
                 you know that: it might run twice"
            ),
        },
        InstanceState::Paused | InstanceState::Suspended => Refusal {
            reason: Reason::InstancePaused,
            message: format!("instance {name} is {state} on {host}"),
            remedy: format!("resume it on {host} (virsh resume {name}), then migrate"),
        },
        InstanceState::Active | InstanceState::Migrating => Refusal {
            reason: Reason::InstanceNotRunnable,
            message: format!("instance {name} runs on {host}; it was off when the move was ordered"),
            remedy: "migrate again".to_owned(),
        },
        _ => Refusal {
            reason: Reason::InstanceNotRunnable,
            message: format!("instance {name} is {state} on {host}"),
            remedy: format!("look at it on {host} (virsh domstate --reason {name})"),
        },
    })
}

/// The disks and vifs that a running guest has and its persistent definition has not: they were attached, or exchanged, only
/// until it stops.
pub fn until_it_stops(running: &Definition, persistent: &Definition) -> Vec<String> {
    let is_kept = |disk: &&DiskDefinition| {
        let own = persistent.disks.iter().find(|other| other.disk.target == disk.disk.target);
        disk.disk.source == DiskSource::Empty || own.is_some_and(|own| own.disk.source == disk.disk.source)
    };
    let disks = running.disks.iter().filter(|disk| !is_kept(disk));
    let disks = disks.map(|disk| format!("disk {} ({})", disk.disk.target, disk.disk.source));
    let vifs = running.vifs.iter().filter(|vif| persistent.vifs.iter().all(|other| other.mac != vif.mac));
    disks.chain(vifs.map(|vif| format!("vif {}", vif.mac))).collect()
}

/// Whether there is a definition to move once the guest is off.
pub(super) fn is_kept(facts: &SourceFacts) -> Result<String, Refusal> {
    let (host, name) = (&facts.host, &facts.definition.name);
    if !facts.passing.is_empty() {
        return Err(Refusal {
            reason: Reason::InstanceTransient,
            message: format!(
                "instance {name} has on {host} what it will not have any more when it is started again: {}",
                facts.passing.join(", ")
            ),
            remedy: format!("make it permanent (virsh attach-device {name} FILE --config), detach it, or migrate live"),
        });
    }
    if facts.persistent {
        return Ok("libvirt keeps it".to_owned());
    }
    Err(Refusal {
        reason: Reason::InstanceTransient,
        message: format!("instance {name} is transient on {host}: once it is off, nothing of it is left to move"),
        remedy: format!("migrate it live; or keep its definition first (virsh dumpxml {name} and virsh define)"),
    })
}

/// Whether everything that the guest has is on its disks.
pub(super) fn is_in_its_disks(facts: &SourceFacts) -> Result<String, Refusal> {
    let (host, name) = (&facts.host, &facts.definition.name);
    if facts.saved {
        return Err(Refusal {
            reason: Reason::InstanceSaved,
            message: format!(
                "the memory of instance {name} was saved on {host} when it was stopped, and would be lost"
            ),
            remedy: format!("start it (virsh start {name}), or drop its memory (virsh managedsave-remove {name})"),
        });
    }
    if facts.definition.host_state.is_empty() {
        return Ok("none".to_owned());
    }
    let kept: Vec<_> = facts.definition.host_state.iter().map(ToString::to_string).collect();
    Err(Refusal {
        reason: Reason::HostState,
        message: format!("{host} keeps what a cold migration does not carry for {name}: {}", kept.join(", ")),
        remedy: "migrate it live: QEMU then carries it along".to_owned(),
    })
}
