//! `--policy auto`, for those who look on.

use vmferry_core::{agent::Pair, instance::Instance, migration::Order};

use super::Session;
use crate::{
    client::RemoteAgent,
    exit::Failed,
    journey::{Asked, Policies, choose_policy},
    render::live::Live,
};

/// The order as it is to be carried out: with a policy that was chosen, if that was left open.
pub(super) async fn settle(
    session: &Session,
    policies: &Policies,
    hosts: &Pair<RemoteAgent, RemoteAgent>,
    asked: &Asked,
    order: Order,
    guest: &Instance,
) -> Result<Order, Failed> {
    let live = Live::quiet(session.terminal);
    let settled = choose_policy(policies, hosts, asked, order, guest, &live).await;
    live.leave();
    let (order, is_chosen) = settled?;
    if is_chosen {
        session.terminal.note(&format!("policy {}: chosen by what was measured", order.limits.policy.name()));
    }
    Ok(order)
}
