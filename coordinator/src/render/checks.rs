//! What the checks said: the plan of a dry run, and refusals.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use serde::Serialize;
use vmferry_core::{
    compatibility::{Check, Finding, Refusal},
    convergence::{Forecast, Measured},
    disk::{Resolved, to_copy},
    flow::Plan,
    migration::{Kind, Order},
};

use super::{
    Paint, Terminal,
    forecast::{forecast, forecast_document},
    table::table,
    units::{bytes, count},
};
use crate::exit::Exit;

/// A live migration that nothing hinders, as it may go: what was measured, and what follows.
pub(crate) type Foreseen = (Measured, Forecast);

/// What would be done, how that may go, and every check with its outcome.
pub(crate) fn plan(order: &Order, plan: &Plan, foreseen: Option<&Foreseen>) -> String {
    let guest = &plan.leaving.instance;
    let verdict = if plan.is_refused() { "cannot move" } else { "can move" };
    let (steps, to_move) = match plan.is_refused() {
        true => (String::new(), String::new()),
        false => (steps(order), to_move(order, plan)),
    };
    format!(
        "{} ({}, {}, {} of memory) {verdict} from {} to {}\n{steps}{to_move}{}\n{}",
        order.instance_name,
        order.instance,
        count(guest.vcpus, "vCPU"),
        bytes(guest.memory),
        order.source.host,
        order.destination.host,
        foreseen.map(|(measured, course)| forecast(order, measured, course)).unwrap_or_default(),
        checks(&plan.checks)
    )
}

fn steps(order: &Order) -> String {
    let migrate = match order.kind {
        Kind::Live => "while the guest runs",
        Kind::Cold { shutdown: Some(_) } => "the guest is shut down, moved and started: it sees a reboot",
        Kind::Cold { shutdown: None } => "the guest is off and stays off",
    };
    format!("steps: check, pre (both hosts get ready), migrate ({migrate}), post (the source is tidied)\n")
}

fn to_move(order: &Order, plan: &Plan) -> String {
    let memory = (!order.kind.is_cold()).then(|| format!("{} of memory", bytes(plan.leaving.instance.memory)));
    let disks = match to_copy(&plan.resolved).as_u64() {
        0 => None,
        disks => Some(format!("{} of disks", bytes(ByteSize::b(disks)))),
    };
    match (memory, disks) {
        (Some(memory), Some(disks)) => format!("to move: {memory}, {disks}\n"),
        (Some(memory), None) => format!("to move: {memory}; its disks stay where they are\n"),
        (None, Some(disks)) => format!("to move: {disks}\n"),
        (None, None) => "to move: its definition; its disks stay where they are\n".to_owned(),
    }
}

fn checks(checks: &[Check]) -> String {
    table(
        ["HOST", "CHECK", "OUTCOME", "DETAIL"],
        checks.iter().map(|check| {
            let (outcome, detail) = match &check.finding {
                Finding::Passed { detail } => ("ok".to_owned(), detail.clone()),
                Finding::Refused(refusal) => {
                    (format!("REFUSED {}", refusal.reason), format!("{}; {}", refusal.message, refusal.remedy))
                }
            };
            [check.host.to_string(), check.subject.clone(), outcome, detail]
        }),
    )
}

/// Who refuses: the sentence before the refusals.
pub(crate) fn refused(order: &Order, plan: &Plan) -> String {
    let refusals: Vec<_> = plan.checks.iter().filter(|check| check.refusal().is_some()).collect();
    let hosts: BTreeSet<_> = refusals.iter().map(|check| check.host.as_str()).collect();
    let hosts: Vec<_> = hosts.into_iter().collect();
    format!(
        "{} cannot move to {}: {} refused, {} of {} checks failed; nothing was changed, {}",
        order.instance_name,
        order.destination.host,
        hosts.join(" and "),
        refusals.len(),
        plan.checks.len(),
        super::migration::untouched(order),
    )
}

/// All refusals, each with its remedy.
pub(crate) fn refusals(terminal: Terminal, plan: &Plan) -> String {
    plan.checks
        .iter()
        .filter_map(|check| check.refusal().map(|refusal| (check, refusal)))
        .map(|(check, refusal)| {
            let reason = terminal.paint(Paint::Red, refusal.reason.as_str());
            lines_of(&format!("{} {}", check.host, check.subject), refusal, &reason)
        })
        .collect()
}

/// A refusal with its remedy, behind who refuses.
pub(crate) fn refusal_lines(who: &str, refusal: &Refusal) -> String {
    lines_of(who, refusal, refusal.reason.as_str())
}

fn lines_of(who: &str, refusal: &Refusal, reason: &str) -> String {
    format!("  {who}: {} [{reason}]\n    → {}\n", refusal.message, refusal.remedy)
}

/// One check, for documents.
#[derive(Debug, Serialize)]
pub(crate) struct CheckDocument<'a> {
    host: &'a str,
    subject: &'a str,
    /// `passed` or `refused`
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
}

impl<'a> From<&'a Check> for CheckDocument<'a> {
    fn from(check: &'a Check) -> Self {
        let refusal = check.refusal();
        Self {
            host: check.host.as_str(),
            subject: &check.subject,
            outcome: if refusal.is_some() { "refused" } else { "passed" },
            detail: match &check.finding {
                Finding::Passed { detail } => Some(detail),
                Finding::Refused(_) => None,
            },
            reason: refusal.map(|refusal| refusal.reason.as_str()),
            message: refusal.map(|refusal| refusal.message.as_str()),
            remedy: refusal.map(|refusal| refusal.remedy.as_str()),
        }
    }
}

/// A dry run's document.
pub(crate) fn plan_document<'a>(
    order: &'a Order,
    plan: &'a Plan,
    foreseen: Option<&Foreseen>,
    exit: Exit,
) -> impl Serialize + use<'a> {
    #[derive(Serialize)]
    struct Document<'a, F> {
        instance: &'a str,
        instance_id: String,
        source: &'a str,
        destination: &'a str,
        vcpus: u32,
        memory_bytes: u64,
        /// How each disk gets there, of those for which there is a way.
        disks: &'a [Resolved],
        disk_bytes_to_copy: u64,
        would_migrate: bool,
        /// `null`: it is refused, it is off meanwhile, or nothing could be measured.
        forecast: Option<F>,
        exit_code: u8,
        checks: Vec<CheckDocument<'a>>,
    }
    Document {
        instance: &order.instance_name,
        instance_id: order.instance.to_string(),
        source: order.source.host.as_str(),
        destination: order.destination.host.as_str(),
        vcpus: plan.leaving.instance.vcpus,
        memory_bytes: plan.leaving.instance.memory.as_u64(),
        disks: &plan.resolved,
        disk_bytes_to_copy: to_copy(&plan.resolved).as_u64(),
        would_migrate: !plan.is_refused(),
        forecast: foreseen.map(|(measured, forecast)| forecast_document(measured, forecast)),
        exit_code: exit.code(),
        checks: plan.checks.iter().map(Into::into).collect(),
    }
}
