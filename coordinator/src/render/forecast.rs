//! What a live migration will be like.

use serde::Serialize;
use vmferry_core::{
    convergence::{Course, End, Forecast, Measured, Needed, Policy},
    migration::Order,
};

use super::units::{bytes, count, milliseconds, rate, time};

/// A few lines below the plan.
pub(crate) fn forecast(order: &Order, measured: &Measured, forecast: &Forecast) -> String {
    let Forecast { likely, best, worst, needed } = forecast;
    let policy = &order.limits.policy;
    let name = &order.instance_name;
    let seen = format!(
        "measured: {name} writes to {}, the way to {} carries {}{}\n",
        rate(measured.dirty_rate),
        order.destination.host,
        rate(measured.path),
        measured.usual.map(|usual| format!(", former moves were sent {}", rate(usual))).unwrap_or_default()
    );
    let course = format!(
        "forecast: {} sent in {}, {} in all ({} to {})",
        bytes(likely.sent),
        count(likely.rounds, "round"),
        time(likely.total),
        time(best.total),
        time(worst.total)
    );
    let still = format!("{} ({} to {})", time(likely.downtime), time(best.downtime), time(worst.downtime));
    let end = match likely.end {
        None => format!("{course}; {name} stands still for {still}\n"),
        Some(End::Postcopy) => {
            format!("{course}; {name} is switched to postcopy by its policy, and stands still for {still}\n")
        }
        Some(End::Suspend) => format!("{course}; {name} is stopped by its policy for {still}\n"),
        Some(End::Abort) => {
            format!(
                "forecast: {name} does NOT ARRIVE: it writes faster than can be sent, and its policy gives up after {}\n",
                time(likely.total)
            )
        }
    };
    seen + &end + &needed.map(|needed| remedies(policy, needed)).unwrap_or_default() + &doubts(name, forecast)
}

fn remedies(policy: &Policy, Needed { bandwidth, downtime }: Needed) -> String {
    let ways: Vec<_> = [
        bandwidth.map(|bandwidth| format!("{} of bandwidth", rate(bandwidth))),
        downtime.map(|downtime| format!("--max-downtime {}", humantime::format_duration(downtime))),
        (!policy.may_suspend()).then(|| "--policy must-finish".to_owned()),
        (!policy.may_postcopy()).then(|| "--policy postcopy".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("it would take one of: {}\n", ways.join(", "))
}

/// Where the likely end is not the only one that is possible.
fn doubts(name: &str, Forecast { likely, best, worst, .. }: &Forecast) -> String {
    match (likely.end, best.end, worst.end) {
        (None, _, Some(_)) => {
            format!("it is close: if {name} writes more, or less can be sent, its policy has to end it\n")
        }
        (Some(_), None, _) => format!("it is close: if {name} writes less, or more can be sent, it arrives without\n"),
        _ => String::new(),
    }
}

/// The same for programs.
pub(crate) fn forecast_document(measured: &Measured, forecast: &Forecast) -> impl Serialize + use<> {
    let Forecast { likely, best, worst, needed } = *forecast;
    Document {
        dirty_rate_bytes_per_second: measured.dirty_rate.as_u64(),
        path_bytes_per_second: measured.path.as_u64(),
        usual_bytes_per_second: measured.usual.map(|usual| usual.as_u64()),
        resident_bytes: measured.resident.as_u64(),
        converges: likely.end.is_none(),
        likely: likely.into(),
        best: best.into(),
        worst: worst.into(),
        needed_bandwidth_bytes_per_second: needed.and_then(|needed| needed.bandwidth).map(|bytes| bytes.as_u64()),
        needed_downtime_ms: needed.and_then(|needed| needed.downtime).map(milliseconds),
    }
}

#[derive(Serialize)]
struct Document {
    dirty_rate_bytes_per_second: u64,
    path_bytes_per_second: u64,
    /// Of former moves; `null`: there were none.
    usual_bytes_per_second: Option<u64>,
    resident_bytes: u64,
    /// Whether the guest likely arrives without its policy having to end it.
    converges: bool,
    likely: CourseDocument,
    best: CourseDocument,
    worst: CourseDocument,
    /// `null` if it converges, or if no bandwidth would help.
    needed_bandwidth_bytes_per_second: Option<u64>,
    needed_downtime_ms: Option<u64>,
}

/// A course for programs.
#[derive(Serialize)]
pub(super) struct CourseDocument {
    /// What the policy does in the end; `null`: it does not have to.
    end: Option<End>,
    rounds: u32,
    transferred_bytes: u64,
    total_time_ms: u64,
    downtime_ms: u64,
}

impl From<Course> for CourseDocument {
    fn from(course: Course) -> Self {
        Self {
            end: course.end,
            rounds: course.rounds,
            transferred_bytes: course.sent.as_u64(),
            total_time_ms: milliseconds(course.total),
            downtime_ms: milliseconds(course.downtime),
        }
    }
}
