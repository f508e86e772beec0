//! What an instance's live migrations may cost it, by its own limits.

use humantime::format_duration;
use serde::Serialize;
use vmferry_core::{
    convergence::{GuestLimits, May},
    instance::Instance,
};

use super::{table::facts, units::milliseconds};

/// A line for each thing that can be said of them.
pub(crate) fn show(guest: &Instance) -> String {
    let GuestLimits { policy, max_downtime, postcopy, suspend } = &guest.limits;
    let usual = || "as the policy says".to_owned();
    let stopped = match (suspend, max_downtime) {
        (Some(may), _) => may.to_string(),
        (None, Some(_)) => "never, since it may stand still no longer than that".to_owned(),
        (None, None) => usual(),
    };
    let mut rows = vec![
        ("instance", guest.name.clone()),
        ("policy", policy.clone().unwrap_or_else(|| "default, unless another is asked for".to_owned())),
        ("max downtime", max_downtime.map_or_else(usual, |most| format_duration(most).to_string())),
        ("postcopy", postcopy.map_or_else(usual, |may| may.to_string())),
        ("suspend", stopped),
    ];
    rows.extend(guest.problems.iter().map(|problem| ("problem", problem.clone())));
    facts(rows)
}

/// The same in a line; none if nothing is said.
pub(crate) fn line(limits: &GuestLimits) -> Option<String> {
    let GuestLimits { policy, max_downtime, postcopy, suspend } = limits;
    let said = [
        policy.as_ref().map(|policy| format!("policy {policy}")),
        max_downtime.map(|most| format!("stands still for {} at most", format_duration(most))),
        postcopy.map(|may| format!("postcopy {may}")),
        suspend.map(|may| format!("suspend {may}")),
    ];
    let said: Vec<_> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// The same for programs; `null`: nothing is said of it.
#[derive(Debug, Serialize)]
pub(crate) struct LimitsDocument<'a> {
    policy: Option<&'a str>,
    max_downtime_ms: Option<u64>,
    /// `never` or `allowed`.
    postcopy: Option<&'static str>,
    /// `never` or `allowed`.
    suspend: Option<&'static str>,
}

impl<'a> From<&'a GuestLimits> for LimitsDocument<'a> {
    fn from(limits: &'a GuestLimits) -> Self {
        Self {
            policy: limits.policy.as_deref(),
            max_downtime_ms: limits.max_downtime.map(milliseconds),
            postcopy: limits.postcopy.map(May::as_str),
            suspend: limits.suspend.map(May::as_str),
        }
    }
}

/// `{"name": …, "limits": {…}}`
pub(crate) fn document(guest: &Instance) -> impl Serialize + use<'_> {
    #[derive(Serialize)]
    struct Document<'a> {
        id: String,
        name: &'a str,
        host: &'a str,
        limits: LimitsDocument<'a>,
        /// What is wrong with the definition.
        problems: &'a [String],
    }
    Document {
        id: guest.id.to_string(),
        name: &guest.name,
        host: guest.host.as_str(),
        limits: (&guest.limits).into(),
        problems: &guest.problems,
    }
}
