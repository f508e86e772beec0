//! Migrations that wait for their turn.

use serde::Serialize;
use vmferry_core::{
    id::HostName,
    migration::{Outcome, Phase, Priority, Side},
    turns::{Waiter, Waiting},
};

use super::{
    table::table,
    units::{milliseconds, time},
};

/// A row each, with what it waits for.
pub(crate) fn list(waiters: &[Waiter]) -> String {
    table(
        ["ID", "INSTANCE", "SOURCE", "DESTINATION", "STATE", "PRIORITY", "SINCE", "WHY"],
        waiters.iter().map(|waiter| {
            [
                waiter.order.id.to_string(),
                waiter.order.instance_name.clone(),
                waiter.order.source.host.to_string(),
                waiter.order.destination.host.to_string(),
                "waiting".to_owned(),
                waiter.order.priority.to_string(),
                time(waiter.waited),
                why(waiter),
            ]
        }),
    )
}

/// Why one has not begun.
pub(crate) fn why(waiter: &Waiter) -> String {
    if waiter.has_turn { "it is its turn".to_owned() } else { waiter.waiting.to_string() }
}

/// One that has not begun, for programs: `{"id": …, "source_host": …, "outcome": null, "waiting": {…}}`, as [`super::migrations`] shows one
/// that has, as far as there is anything.
pub(crate) fn show_document(waiter: &Waiter) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        id: String,
        source_host: &'a HostName,
        destination_host: &'a HostName,
        instance: &'a str,
        instance_id: String,
        phase: Option<Phase>,
        outcome: Option<Outcome>,
        waiting: WaiterDocument<'a>,
    }
    let order = &waiter.order;
    Document {
        id: order.id.to_string(),
        source_host: &order.source.host,
        destination_host: &order.destination.host,
        instance: &order.instance_name,
        instance_id: order.instance.to_string(),
        phase: None,
        outcome: None,
        waiting: waiter.into(),
    }
}

/// The line of one that waits, where it is watched.
pub(crate) fn waiting_line(waiting: &Waiting) -> String {
    format!("{:<8} {waiting}", "waiting")
}

/// The same as [`list`], for programs.
#[derive(Serialize)]
pub(crate) struct WaiterDocument<'a> {
    id: String,
    instance: &'a str,
    instance_id: String,
    source: &'a str,
    destination: &'a str,
    priority: Priority,
    requested_by: &'a str,
    waited_ms: u64,
    /// One sentence.
    why: String,
    /// The host that lets it wait.
    host: &'a HostName,
    /// As which half.
    side: Side,
    /// How many it sends or takes at a time.
    limit: u32,
    /// The instances that have its places.
    busy: &'a [String],
    /// The instances that come before it.
    before: &'a [String],
}

impl<'a> From<&'a Waiter> for WaiterDocument<'a> {
    fn from(waiter: &'a Waiter) -> Self {
        let Waiter { order, requested_by, waited, has_turn: _, waiting } = waiter;
        Self {
            id: order.id.to_string(),
            instance: &order.instance_name,
            instance_id: order.instance.to_string(),
            source: order.source.host.as_str(),
            destination: order.destination.host.as_str(),
            priority: order.priority,
            requested_by,
            waited_ms: milliseconds(*waited),
            why: why(waiter),
            host: &waiting.host,
            side: waiting.side,
            limit: waiting.limit,
            busy: &waiting.busy,
            before: &waiting.before,
        }
    }
}
