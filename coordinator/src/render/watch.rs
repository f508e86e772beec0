//! A migration that somebody looks at, for programs: a line of JSON for each sample, and one for the end.

use serde::Serialize;
use vmferry_core::{
    convergence::End,
    migration::{Order, Outcome, Phase, Progress},
    turns::Waiter,
};

use super::{migration::past_document, queue::show_document, units::milliseconds};
use crate::{exit::Exit, history::Migration};

/// The line of a sample, and how much is done, of which `before` was known.
pub(crate) fn sample_line(order: &Order, phase: Phase, token: u64, before: u8, sample: &Progress) -> (String, u8) {
    let done = sample.after(before).percent;
    let line = Line {
        migration_id: order.id.to_string(),
        instance: &order.instance_name,
        phase,
        outcome: None,
        token,
        percent: done,
        elapsed_ms: milliseconds(sample.elapsed),
        total_bytes: sample.total.as_u64(),
        remaining_bytes: sample.remaining.as_u64(),
        transferred_bytes: sample.transferred.as_u64(),
        rate_bytes_per_second: sample.rate.as_u64(),
        dirty_rate_bytes_per_second: sample.dirty_rate.as_u64(),
        round: sample.round,
        eta_ms: sample.forecast.map(|outlook| milliseconds(outlook.rest)),
        predicted_downtime_ms: sample.forecast.map(|outlook| milliseconds(outlook.downtime)),
        converges: sample.forecast.map(|outlook| !matches!(outlook.end, Some(End::Suspend | End::Abort))),
        predicted_end: sample.forecast.and_then(|outlook| outlook.end),
        throttle_percent: sample.throttle,
        stopped: sample.stopped,
        mode: sample.mode.as_str(),
    };
    (one_line(&line), done)
}

/// The line of one that waits for its turn.
pub(crate) fn waiting_line(waiter: &Waiter) -> String {
    one_line(&show_document(waiter))
}

/// The last line.
pub(crate) fn ended_line(migration: &Migration, exit: Exit, message: &str) -> String {
    one_line(&past_document(migration, exit, message))
}

fn one_line(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct Line<'a> {
    migration_id: String,
    instance: &'a str,
    phase: Phase,
    /// `null`: it goes on.
    outcome: Option<Outcome>,
    /// `vmferry watch --after TOKEN` goes on after this line.
    token: u64,
    /// Memory and disks in one; never falls, and never says 100.
    percent: u8,
    elapsed_ms: u64,
    total_bytes: u64,
    remaining_bytes: u64,
    transferred_bytes: u64,
    rate_bytes_per_second: u64,
    dirty_rate_bytes_per_second: u64,
    round: u32,
    /// Until libvirt's job is over, one way or the other; `null`, like all down to `converges`: not known.
    eta_ms: Option<u64>,
    /// For how long the guest will stand still in all; 0 if it stays where it is.
    predicted_downtime_ms: Option<u64>,
    /// Whether it will arrive without its policy having to end it.
    converges: Option<bool>,
    /// What its policy will do in the end; `null`: it will not have to, or that is not known.
    predicted_end: Option<End>,
    throttle_percent: u8,
    stopped: bool,
    /// `precopy`: the guest runs on the source; `postcopy`: on the destination, and its memory follows; `broken`: so, and it waits for the way.
    mode: &'static str,
}
