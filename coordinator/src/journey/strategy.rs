//! `auto`: how a migration comes to its end is chosen by what is measured before it begins.

use vmferry_core::{
    agent::Pair,
    convergence::{AUTO, InvalidPolicy, Job, Strategy, candidates, choose, load},
    disk::copied_by_the_job,
    flow,
    instance::Instance,
    migration::{Kind, Limits, Order},
    reason::Reason,
};

use super::{Asked, Policies, limits};
use crate::{
    client::RemoteAgent,
    exit::{Exit, Failed},
    render::forecast,
};

/// The order as it is to be carried out: with a policy that was chosen, if that was left open; and whether it was.
pub(crate) async fn choose_policy(
    policies: &Policies,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    asked: &Asked,
    order: Order,
    guest: &Instance,
    watch: &impl flow::Watch,
) -> Result<(Order, bool), Failed> {
    if asked.policy.as_deref() != Some(AUTO) || order.kind != Kind::Live {
        return Ok((order, false));
    }
    let checked = Box::pin(flow::check(hosts, &order, watch)).await;
    // What is refused, or cannot be asked, is told by the migration itself.
    let Ok(checked) = checked else { return Ok((order, false)) };
    if checked.is_refused() {
        return Ok((order, false));
    }
    let measured = hosts.source.measure(&order).await?;
    let (disks, sizes) = copied_by_the_job(&checked.resolved);
    let job = Job { disks, load: load(measured.memory, sizes) };
    let mut fitting = Vec::new();
    for name in candidates() {
        let named = policies.policy(name, &guest.host).await?;
        // Nobody's guest depends on two hosts who has not said that it may.
        if named.may_postcopy() && !limits::may_follow(guest, asked) {
            continue;
        }
        let fitted = limits::fitted(guest, &named, asked);
        fitting.push(fitted.map_err(|invalid: InvalidPolicy| Failed::usage(invalid.to_string()))?);
    }
    match choose(&measured, job, fitting, order.limits.bandwidth) {
        Ok(Strategy { policy, .. }) => Ok((Order { limits: Limits { policy, ..order.limits }, ..order }, true)),
        Err(foreseen) => {
            let why = foreseen.map(|foreseen| forecast::forecast(&order, &measured, &foreseen)).unwrap_or_default();
            let message = format!(
                "{} was not moved: it would not arrive by any policy of which `auto` chooses\n{}",
                order.instance_name,
                why.trim_end()
            );
            Err(Failed { exit: Exit::Refused, ..Failed::because(Reason::NotConverging, message) })
        }
    }
}
