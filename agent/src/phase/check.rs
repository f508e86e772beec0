//! check: may it leave, can it be taken? Reads only, but for the source's probe files.

use std::sync::Arc;

use vmferry_core::{
    agent::{CheckReport, Leaving},
    compatibility,
    domain_xml::DiskDefinition,
    host::{Claims, Cordon},
    id::MigrationId,
    migration::Order,
};

use crate::{
    hypervisor::{Fault, Hypervisor},
    probes::Probes,
};

/// The source's half. `other` is a migration of the same instance that has not ended.
pub async fn source<H: Hypervisor>(
    host: &H,
    probes: &Arc<Probes<H>>,
    order: &Order,
    other: Option<MigrationId>,
) -> Result<CheckReport, Fault> {
    let (mut facts, mut leaving) = host.leaving(order).await?;
    facts.migration = other;
    facts.postcopy = facts.postcopy.filter(|_| order.limits.policy.may_postcopy());
    facts.policy = (!order.kind.is_cold()).then(|| order.limits.policy.clone());
    let directories = to_be_proved(&leaving);
    probes.place(order.id, &directories, &mut leaving.shown).await?;
    facts.shown = leaving.shown.clone();
    let checks = compatibility::leaving(&facts, &order.destination.host);
    Ok(CheckReport { checks, leaving: Some(leaving), resolved: Vec::new() })
}

/// The directories of all files, each once.
fn to_be_proved(leaving: &Leaving) -> Vec<String> {
    let Leaving { definition, shown, .. } = leaving;
    let files = definition.disks.iter().filter(|disk| disk.volume.is_none()).flat_map(DiskDefinition::files);
    shown.directories(files).into_iter().map(str::to_owned).collect()
}

/// The destination's half. `other` is as for the source, `claims` are those of other migrations, and `cordon` is why no guest shall come.
pub async fn destination(
    host: &impl Hypervisor,
    order: &Order,
    leaving: &Leaving,
    other: Option<MigrationId>,
    claims: &Claims,
    cordon: Option<Cordon>,
) -> Result<CheckReport, Fault> {
    let (mut facts, space) = futures::try_join!(host.arriving(leaving), host.space(claims))?;
    facts.space = space;
    facts.cordon = cordon;
    facts.kind = order.kind;
    facts.limits = order.limits.clone();
    facts.migration = other;
    facts.postcopy = facts.postcopy.filter(|_| order.limits.policy.may_postcopy());
    let checks = compatibility::arriving(&facts, leaving);
    Ok(CheckReport { checks, leaving: None, resolved: facts.disks(leaving).resolved() })
}
