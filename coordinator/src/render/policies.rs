//! How live migrations come to their end.

use serde::Serialize;
use vmferry_core::{
    convergence::{Action, DEFAULT, Policy, Throttle, When},
    id::HostName,
};

use super::{table::facts, units::milliseconds};
use crate::catalogue::{Catalogue, Origin};

/// Each with its steps.
pub(crate) fn policies(all: &Catalogue) -> String {
    let texts: Vec<_> = all.known().iter().map(|(origin, known)| policy(known, &place(all, *origin))).collect();
    texts.join("\n")
}

fn place(all: &Catalogue, origin: Origin) -> String {
    match origin {
        Origin::BuiltIn => "built in".to_owned(),
        Origin::Host => all.host().map(ToString::to_string).unwrap_or_default(),
        Origin::Inventory => "inventory".to_owned(),
    }
}

fn policy(policy: &Policy, place: &str) -> String {
    let mut rows =
        vec![("  at first", format!("may stand still for {}", humantime::format_duration(policy.downtime())))];
    if let Some(Throttle { initial, increment }) = policy.throttle() {
        rows.push((
            "  throttle",
            format!("while it writes too much its CPUs get {initial} % less time, then {increment} % less each time"),
        ));
    }
    if policy.may_postcopy() {
        rows.push(("  postcopy", "by hand at any time: vmferry force-complete --how postcopy".to_owned()));
    }
    rows.extend(policy.steps().iter().map(|step| ("  then", step.to_string())));
    let mark = if policy.name() == DEFAULT { "; unless another is asked for" } else { "" };
    format!("{} ({place}{mark})\n{}", policy.name(), facts(rows))
}

/// The same for programs.
pub(crate) fn policies_document(all: &Catalogue) -> impl Serialize {
    let known = all.known().iter();
    Document { policies: known.map(|(origin, policy)| PolicyDocument::of(policy, *origin, all.host())).collect() }
}

#[derive(Serialize)]
struct Document<'a> {
    policies: Vec<PolicyDocument<'a>>,
}

#[derive(Serialize)]
struct PolicyDocument<'a> {
    name: &'a str,
    downtime_ms: u64,
    /// `null`: the guest's CPUs are never slowed down.
    throttle: Option<ThrottleDocument>,
    /// Whether it may be switched to postcopy, by a step or by hand.
    postcopy: bool,
    steps: Vec<StepDocument>,
    /// `built_in`, `host` or `inventory`.
    origin: &'static str,
    /// Whose configuration has it; `null`: it is not from a host's.
    host: Option<String>,
}

#[derive(Serialize)]
struct ThrottleDocument {
    initial_percent: u8,
    increment_percent: u8,
}

/// One of the first three, or the first with the second; one of the last two.
#[derive(Serialize, Default)]
struct StepDocument {
    after_ms: Option<u64>,
    after_ms_per_gib: Option<u64>,
    round: Option<u32>,
    stalled_rounds: Option<u32>,
    downtime_ms: Option<u64>,
    r#do: Option<&'static str>,
}

impl<'a> PolicyDocument<'a> {
    fn of(policy: &'a Policy, origin: Origin, host: Option<&HostName>) -> Self {
        Self {
            name: policy.name(),
            downtime_ms: milliseconds(policy.downtime()),
            throttle: policy.throttle().map(|Throttle { initial, increment }| ThrottleDocument {
                initial_percent: initial,
                increment_percent: increment,
            }),
            postcopy: policy.may_postcopy(),
            steps: policy.steps().iter().map(|step| StepDocument::of(step.when, step.action)).collect(),
            origin: match origin {
                Origin::BuiltIn => "built_in",
                Origin::Host => "host",
                Origin::Inventory => "inventory",
            },
            host: host.filter(|_| origin == Origin::Host).map(ToString::to_string),
        }
    }
}

impl StepDocument {
    fn of(when: When, action: Action) -> Self {
        let mut step = Self::default();
        match when {
            When::After(span) => {
                step.after_ms = Some(milliseconds(span.base));
                step.after_ms_per_gib = Some(milliseconds(span.per_gib));
            }
            When::Round(round) => step.round = Some(round),
            When::Stalled(rounds) => step.stalled_rounds = Some(rounds),
        }
        match action {
            Action::Downtime(downtime) => step.downtime_ms = Some(milliseconds(downtime)),
            Action::Postcopy => step.r#do = Some("postcopy"),
            Action::Suspend => step.r#do = Some("suspend"),
            Action::Abort => step.r#do = Some("abort"),
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_that_are_always_there() {
        let texts: Vec<_> = Policy::all_named().iter().map(|known| policy(known, "built in")).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn a_policy_for_programs() {
        let policy = vmferry_core::convergence::named("must-finish").expect("one of them");
        insta::assert_json_snapshot!(PolicyDocument::of(&policy, Origin::BuiltIn, None));
    }
}
