//! What it means that libvirt's job did not end well.

use std::time::Duration;

use vmferry_core::{
    migration::{Order, Path, Progress},
    reason::Reason,
};

use crate::{hypervisor::Fault, libvirt::JobError};

/// What the flow is told.
pub(super) fn fault(order: &Order, error: JobError) -> Fault {
    let (name, to) = (&order.instance_name, &order.destination.host);
    match error {
        JobError::Aborted => {
            Fault::new(Reason::MigrationAborted, format!("the migration of {name} to {to} was aborted"))
        }
        JobError::NotConverging { last } => Fault::new(Reason::NotConverging, not_converging(order, &last)),
        JobError::BeforeHandover { message } => {
            Fault::new(Reason::MigrationFailed, format!("{name} could not be moved to {to}: {message}{}", way(order)))
        }
        JobError::Handover { message } => {
            Fault::new(Reason::HandoverFailed, format!("{name} could not be handed over to {to}: {message}"))
        }
        JobError::Libvirt(error) => error.into(),
    }
}

/// What QEMU's own connections take, if the guest was to move by them: the network between the hosts may not let them through.
fn way(order: &Order) -> String {
    if order.limits.path != Path::Direct {
        return String::new();
    }
    let (from, to) = (&order.source.host, &order.destination.host);
    format!(
        "; on the direct path QEMU of {from} connects to direct.address of {to}, at ports that libvirt of {to} takes from \
         migration_port_min to migration_port_max of its qemu.conf (49152 to 49215 unless they are set there): see that no \
         firewall is in the way and that both trust each other's certificates, or migrate without --path direct"
    )
}

/// How it stood when its policy gave it up, and what would help.
fn not_converging(order: &Order, last: &Progress) -> String {
    let Progress { elapsed, remaining, rate, dirty_rate, round, .. } = last;
    let (name, to, policy) = (&order.instance_name, &order.destination.host, order.limits.policy.name());
    let elapsed = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
    format!(
        "{name} was not on {to} after {elapsed}, when the policy `{policy}` gives up: in round {round} {remaining} were left, {rate}/s \
         were sent, and the guest wrote to {dirty_rate}/s; let it be stopped (--policy must-finish), allow a longer downtime or \
         deadline, or move it when it writes less"
    )
}
