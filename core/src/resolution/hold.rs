//! What to tell people when the facts allow no decision.

use crate::{migration::Order, reason::Reason};

/// Why nothing may be done yet. Every one of them is looked at again when a host says something else than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Neither host could be asked.
    BothSilent,
    /// The source could not be asked, and may have the only copy or none.
    SourceSilent,
    /// The destination could not be asked, and may run the guest.
    DestinationSilent,
    /// Both run it.
    RunsTwice,
    /// What the journals decided is not what the hosts show.
    Contradicted,
    /// It runs on neither host; its disks are whole.
    RunsNowhere,
    /// Strict: both have all of it, and stand still. The source's was left so when its libvirt died, and nobody has made sure that it stays so.
    Unreleased,
    /// It ran on the destination, or may have, and that copy is gone: the source's is stale.
    LostThere,
    /// It went with the source, before it could be handed over.
    LostHere,
    /// Some of its memory is on each host.
    PostcopyUnfinished,
    /// Some of its memory was on each host, and one of them has lost its part.
    PostcopyLost,
}

impl Hold {
    /// The stable code.
    pub fn reason(self) -> Reason {
        match self {
            Self::BothSilent | Self::SourceSilent | Self::DestinationSilent | Self::Contradicted => {
                Reason::RunnerUnknown
            }
            Self::RunsTwice => Reason::RunsTwice,
            Self::RunsNowhere | Self::Unreleased | Self::LostThere | Self::LostHere => Reason::NotRunning,
            Self::PostcopyUnfinished => Reason::PostcopyUnfinished,
            Self::PostcopyLost => Reason::PostcopyLost,
        }
    }

    /// One sentence: what is so, and why it is left so.
    pub fn message(self, order: &Order) -> String {
        let (name, from, to) = (&order.instance_name, &order.source.host, &order.destination.host);
        match self {
            Self::BothSilent => format!("neither {from} nor {to} could be asked where {name} runs"),
            Self::SourceSilent => {
                format!("{name} does not run on {to}, and {from} could not be asked what it has of it")
            }
            Self::DestinationSilent => {
                format!("{to} could not be asked whether {name} runs there; what {from} has of it is left as it is")
            }
            Self::RunsTwice => format!("{name} runs on {from} and on {to}: one of them must be stopped at once"),
            Self::Contradicted => format!(
                "what {from} and {to} show of {name} is not what their journals decided: somebody changed it by hand"
            ),
            Self::RunsNowhere => format!("{name} runs neither on {from} nor on {to}"),
            Self::Unreleased => {
                format!("{name} waits, paused, on {to} until {from} releases it, and is paused on {from} as well")
            }
            Self::LostThere => format!(
                "{name} ran on {to}, or may have, and is gone there; what {from} has of its memory is older than its disks and must never run"
            ),
            Self::LostHere => format!("{name} went down with {from} before {to} had it; its disks are as it left them"),
            Self::PostcopyUnfinished => {
                format!("{name} runs on {to}, and a part of its memory is still on {from}; neither copy may be stopped")
            }
            Self::PostcopyLost => {
                format!(
                    "{name} was switched to {to}, and a part of its memory is lost; its disks are as it left them there"
                )
            }
        }
    }

    /// What a person does about it.
    pub fn command(self, order: &Order) -> String {
        let (name, from, to) = (&order.instance_name, &order.source.host, &order.destination.host);
        let resolve = format!("vmferry migrations resolve {}", order.id);
        match self {
            Self::BothSilent => {
                format!("bring {from} or {to} back; it goes on by itself then, or at once with: {resolve}")
            }
            Self::SourceSilent => {
                format!("bring {from} back, it goes on by itself then; if {from} is dead for good, fence it first")
            }
            Self::DestinationSilent => {
                format!("bring {to} back, it goes on by itself then; if {to} is dead for good, fence it first")
            }
            Self::RunsTwice => {
                format!("virsh destroy {name} on {from} if it has been of use on {to}, else on {to}; then: {resolve}")
            }
            Self::Contradicted => {
                format!("virsh domstate --reason {name} on both hosts; let it be on one of them; then: {resolve}")
            }
            Self::RunsNowhere => format!(
                "see why (virsh domstate --reason {name}), let it run on one of them (virsh resume {name}, or virsh start {name} if it is off); \
                 then: {resolve}"
            ),
            Self::Unreleased => {
                format!("its copy on {from} must go (virsh destroy {name} on {from}), then: {resolve}")
            }
            Self::LostHere => format!("virsh start {name} where it is defined; then: {resolve}"),
            Self::LostThere | Self::PostcopyLost => {
                format!(
                    "virsh destroy {name} on {from} if it is there; virsh start {name} on {to}, or wherever its disks are; then: {resolve}"
                )
            }
            Self::PostcopyUnfinished => format!("mend the way between {from} and {to}: the rest is sent then"),
        }
    }
}
