//! What a migration that goes on was told.

use serde::Serialize;
use vmferry_core::migration::{FLOOR, Order, Steering};

use super::units::{milliseconds, rate};

/// A sentence each.
pub(crate) fn told(order: &Order, wishes: &[Steering]) -> String {
    let (name, source) = (&order.instance_name, &order.source.host);
    let sentence = |wish: &Steering| match wish {
        Steering::Downtime(downtime) => {
            format!("{name} may stand still for {}, whatever its policy says\n", humantime::format_duration(*downtime))
        }
        Steering::Bandwidth(Some(bandwidth)) => format!("of {name}'s memory {} may be sent\n", rate(*bandwidth)),
        Steering::Bandwidth(None) => format!("as much of {name}'s memory is sent as goes\n"),
        Steering::Deadline(deadline) => format!(
            "the policy takes its last step {} after the job has begun\n",
            humantime::format_duration(*deadline)
        ),
        Steering::Pause => {
            format!(
                "{} of the memory of {name} is sent from {source}, until `vmferry resume {}`\n",
                rate(FLOOR),
                order.id
            )
        }
        Steering::Resume => format!("{name} moves on\n"),
        Steering::Postcopy => {
            format!(
                "{name} goes on on {}, and the rest of its memory follows; there is no way back\n",
                order.destination.host
            )
        }
        Steering::Suspend => format!("{name} is stopped; it goes on where it arrives, once the rest is sent\n"),
    };
    wishes.iter().map(sentence).collect()
}

/// The same for programs.
pub(crate) fn told_document<'a>(order: &'a Order, wishes: &[Steering]) -> impl Serialize + use<'a> {
    let mut document = Document {
        migration_id: order.id.to_string(),
        instance: &order.instance_name,
        max_downtime_ms: None,
        bandwidth_bytes_per_second: None,
        deadline_ms: None,
        told: Vec::new(),
    };
    for wish in wishes {
        document.told.push(match wish {
            Steering::Downtime(downtime) => {
                document.max_downtime_ms = Some(milliseconds(*downtime));
                "max_downtime"
            }
            Steering::Bandwidth(bandwidth) => {
                document.bandwidth_bytes_per_second = bandwidth.map(|bandwidth| bandwidth.as_u64());
                "bandwidth"
            }
            Steering::Deadline(deadline) => {
                document.deadline_ms = Some(milliseconds(*deadline));
                "deadline"
            }
            Steering::Pause => "pause",
            Steering::Resume => "resume",
            Steering::Postcopy => "postcopy",
            Steering::Suspend => "suspend",
        });
    }
    document
}

#[derive(Serialize)]
struct Document<'a> {
    migration_id: String,
    instance: &'a str,
    /// In the order in which it was told.
    told: Vec<&'static str>,
    max_downtime_ms: Option<u64>,
    /// `null` also if as much may be sent as goes.
    bandwidth_bytes_per_second: Option<u64>,
    deadline_ms: Option<u64>,
}
