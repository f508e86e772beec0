//! check: may it leave, can it be taken? Reads only.

use bytesize::ByteSize;
use vmferry_core::{
    agent::{CheckReport, Leaving},
    compatibility,
    id::MigrationId,
    migration::Order,
};

use crate::hypervisor::{Fault, Hypervisor};

/// The source's half. `other` is a migration of the same instance that has not ended.
pub async fn source(host: &impl Hypervisor, order: &Order, other: Option<MigrationId>) -> Result<CheckReport, Fault> {
    let (mut facts, leaving) = host.leaving(order).await?;
    facts.migration = other;
    let checks = compatibility::leaving(&facts, &order.destination.host);
    Ok(CheckReport { checks, leaving: Some(leaving) })
}

/// The destination's half. `other` is as for the source, `claimed` is memory that other incoming migrations have claimed.
pub async fn destination(
    host: &impl Hypervisor,
    leaving: &Leaving,
    other: Option<MigrationId>,
    claimed: ByteSize,
) -> Result<CheckReport, Fault> {
    let mut facts = host.arriving(&leaving.definition).await?;
    facts.migration = other;
    facts.memory_available = ByteSize::b(facts.memory_available.as_u64().saturating_sub(claimed.as_u64()));
    let checks = compatibility::arriving(&facts, &leaving.definition, leaving.qemu_version);
    Ok(CheckReport { checks, leaving: None })
}
