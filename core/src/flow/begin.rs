//! Where a migration becomes one: from here on there is something to take back. Other coordinators may have been asked for the same.

use super::{Plan, Watch, admit::keeping, go_on};
use crate::{
    agent::{Agent, CallError, Half, Pair},
    domain_xml::rewrite::Relocation,
    migration::{Order, Phase},
    reason::Reason,
};

/// The source first: its lock makes this the only migration of the instance.
pub(super) async fn pre<S: Agent, D: Agent>(
    hosts: &Pair<S, D>,
    order: &Order,
    plan: &Plan,
    watch: &impl Watch,
) -> Result<Vec<Relocation>, CallError> {
    go_on(order, watch)?;
    watch.phase(Phase::Pre);
    let Plan { leaving, resolved, .. } = plan.clone();
    // A coordinator that was asked for the same may have got ahead since, and its job may run.
    if let Ok(Some(_)) = hosts.source.record(order).await {
        return Err(driven(order));
    }
    // The destination has given it a turn, and hears nothing of it until this is over.
    let half = Half::Source { resolved: resolved.clone() };
    keeping(hosts, order, hosts.source.pre(order, &half)).await?;
    go_on(order, watch)?;
    let relocations = hosts.destination.pre(order, &Half::Destination { leaving: Box::new(leaving), resolved }).await?;
    go_on(order, watch)?;
    Ok(relocations)
}

/// Who has begun what a failed pre found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// We have, if anybody. No job was started: the guest is where it was.
    ByUs,
    /// Somebody else, as another migration of the instance.
    Otherwise,
    /// Somebody else, as this migration.
    BySomebodyElse,
}

/// What somebody else has begun is not ours to take back.
pub(super) async fn begun_by<S: Agent, D: Agent>(hosts: &Pair<S, D>, order: &Order, error: &CallError) -> Begun {
    if error.host != *hosts.source.host() || !matches!(error.reason, Reason::InstanceMigrating | Reason::InvalidRequest)
    {
        return Begun::ByUs;
    }
    match (error.reason, hosts.source.record(order).await) {
        (Reason::InstanceMigrating, Ok(Some(_))) => Begun::BySomebodyElse,
        (Reason::InstanceMigrating, _) => Begun::Otherwise,
        (_, Ok(Some(record))) if record.order != *order => Begun::BySomebodyElse,
        _ => Begun::ByUs,
    }
}

fn driven(order: &Order) -> CallError {
    let Order { id, instance_name: name, source, .. } = order;
    let message = format!(
        "migration {id} of {name} was begun by another coordinator meanwhile; see how it goes with `vmferry watch {id}`"
    );
    CallError { host: source.host.clone(), reason: Reason::InstanceMigrating, message }
}
