//! Exit codes, and the error that ends a command. The only place where outcomes and reasons become numbers.
//!
//! | code | meaning | where the guest is |
//! | --- | --- | --- |
//! | 0 | done; for `migrations resolve`: ended, one way or the other | for `migrate`: on the destination |
//! | 1 | failed and rolled back; for other commands: failed; for `doctor`: something was left behind | on the source |
//! | 2 | usage or configuration, unknown or ambiguous names | untouched |
//! | 3 | refused by the checks | untouched |
//! | 4 | aborted by the user and rolled back | on the source |
//! | 5 | given up in time by its policy and rolled back | on the source |
//! | 6 | held: it does not run, or it cannot be told where | see the message |
//! | 7 | an agent, or what the inventory has its hosts from, cannot be reached or refuses us | untouched |
//! | 9 | several were asked for, and they did not all end the same way | see the messages |
//! | 130 | interrupted; the migration goes on without us | see `vmferry migrations show` |

use std::process::ExitCode;

use vmferry_core::{
    agent::CallError,
    flow::{Completed, Failure},
    id::HostName,
    migration::Outcome,
    reason::Reason,
};
use vmferry_remote::Unserved;

use crate::{history::Migration, inventory::Invalid};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed; a guest that should have moved stays on the source.
    Failed = 1,
    /// What was asked for cannot be meant.
    Usage = 2,
    /// The checks refuse it; nothing was changed.
    Refused = 3,
    /// Aborted by the user; the guest stays on the source.
    Aborted = 4,
    /// Its policy gave it up in time; the guest stays on the source.
    Late = 5,
    /// The guest does not run, or it cannot be told where.
    Held = 6,
    /// An agent, or what the inventory has its hosts from, does not answer or refuses us.
    Unreachable = 7,
    /// Several were asked for, with different ends.
    Partly = 9,
    /// Interrupted; what goes on in the agents goes on.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// For a migration that came about.
    pub(crate) fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed | Outcome::CompletedWithWarnings => Self::Done,
            Outcome::FailedRolledBack => Self::Failed,
            Outcome::AbortedRolledBack => Self::Aborted,
            Outcome::Held => Self::Held,
        }
    }

    /// For a command that ended with an error of this kind, before anything was changed.
    pub(crate) fn of_reason(reason: Reason) -> Self {
        use Reason as R;
        match reason {
            R::AgentUnreachable
            | R::AgentUntrusted
            | R::CoordinatorUnreachable
            | R::CoordinatorUntrusted
            | R::CoordinatorStopping
            | R::InventoryUnavailable
            | R::InventoryConflict
            | R::PermissionDenied => Self::Unreachable,
            R::InstanceNotFound | R::InstanceAmbiguous | R::HostNotFound | R::MigrationNotFound | R::InvalidRequest => {
                Self::Usage
            }
            R::MigrationAborted => Self::Aborted,
            R::NotConverging => Self::Late,
            R::RunnerUnknown | R::NotRunning | R::RunsTwice | R::PostcopyUnfinished | R::PostcopyLost => Self::Held,
            R::InstanceShutoff
            | R::InstanceTransient
            | R::InstanceSaved
            | R::HostState
            | R::InstancePaused
            | R::InstanceNotRunnable
            | R::InstanceMigrating
            | R::InstanceBusy
            | R::SnapshotsPresent
            | R::HostDevice
            | R::DiskNotShared
            | R::DiskKindUnsupported
            | R::DiskCacheUnsafe
            | R::DiskUsedTwice
            | R::DiskDiffers
            | R::ProbeFailed
            | R::StreamsUnsupported
            | R::HandoverUnsupported
            | R::DirectPathMissing
            | R::MigrationTlsMissing
            | R::PlanDiffers
            | R::SameHost
            | R::DomainExists
            | R::MemoryShort
            | R::HostCordoned
            | R::CpusShort
            | R::HostFull
            | R::HugepagesShort
            | R::CpuPinUnavailable
            | R::TooManyMigrations
            | R::TooManyVcpus
            | R::CpuIncompatible
            | R::VirtTypeMissing
            | R::MachineTypeMissing
            | R::HypervisorTooOld
            | R::PostcopyUnavailable
            | R::GuestLimits
            | R::LimitsLabelInvalid
            | R::AffinityLabelInvalid
            | R::AffinityViolated
            | R::HostExcluded
            | R::ZoneDiffers
            | R::RoomUnknown
            | R::NetworkMissing
            | R::MtuTooSmall
            | R::MacInUse
            | R::AddressInUse
            | R::VifLabelInvalid
            | R::FirewallMissing
            | R::FilterMissing
            | R::FilterDriverMissing
            | R::FilterDiffers
            | R::DiskSpaceShort
            | R::VolumeLabelInvalid
            | R::VolumeUnreachable
            | R::VolumeLoginRefused
            | R::VolumeMissing
            | R::VolumeSecretMissing
            | R::StorageToolMissing
            | R::VolumeDiffers
            | R::VolumeInUse => Self::Refused,
            R::PhaseOutOfOrder
            | R::LibvirtFailed
            | R::JournalFailed
            | R::TunnelFailed
            | R::CopyFailed
            | R::VolumeConnectFailed
            | R::NetworkFailed
            | R::FirewallFailed
            | R::MigrationFailed
            | R::HandoverFailed
            | R::ShutdownIgnored
            | R::StartFailed
            | R::ResumeUnanswered
            | R::TooLateToAbort
            | R::NothingToSteer
            | R::CoordinatorLost
            | R::LeaseLost
            | R::AgentRestarted
            | R::Internal => Self::Failed,
        }
    }

    /// For a migration as the records have it.
    pub(crate) fn of_migration(migration: &Migration) -> Self {
        let outcome = migration.outcome();
        match migration.cause() {
            Some(cause) if cause.reason == Reason::NotConverging && outcome == Some(Outcome::FailedRolledBack) => {
                Self::Late
            }
            _ => outcome.map_or(Self::Failed, Self::of_outcome),
        }
    }

    /// For what the flow returned.
    pub(crate) fn of_flow(result: &Result<Completed, Failure>) -> Self {
        match result {
            Ok(completed) => Self::of_outcome(completed.outcome()),
            Err(Failure::Refused(_)) => Self::Refused,
            Err(Failure::NotStarted(error)) => Self::of_reason(error.reason),
            Err(Failure::RolledBack { cause, .. }) if cause.reason == Reason::NotConverging => Self::Late,
            Err(failure) => failure.outcome().map_or(Self::Failed, Self::of_outcome),
        }
    }

    /// For several that were done in one command: the loudest must not be lost among others.
    pub(crate) fn of_several(exits: &[Self]) -> Self {
        match exits {
            [] => Self::Done,
            exits if exits.contains(&Self::Held) => Self::Held,
            [first, rest @ ..] if rest.iter().all(|exit| exit == first) => *first,
            _ => Self::Partly,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command could not do its work: one sentence of what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failed {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// The stable code, where there is one.
    pub(crate) reason: Option<Reason>,
    /// The host it is about, where it is about one.
    pub(crate) host: Option<HostName>,
    /// For people.
    pub(crate) message: String,
}

impl Failed {
    /// Something about the command line or the inventory.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, reason: None, host: None, message: message.into() }
    }

    /// Something that has a code, of no host in particular.
    pub(crate) fn because(reason: Reason, message: impl Into<String>) -> Self {
        Self { exit: Exit::of_reason(reason), reason: Some(reason), host: None, message: message.into() }
    }

    /// The same with another way to end.
    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl From<Unserved> for Failed {
    fn from(Unserved { reason, message }: Unserved) -> Self {
        Self::because(reason, message)
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self {
            exit: Exit::of_reason(error.reason),
            reason: Some(error.reason),
            host: Some(error.host),
            message: error.message,
        }
    }
}

impl From<Invalid> for Failed {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Unavailable { .. } => Self::because(Reason::InventoryUnavailable, invalid.to_string()),
            _ => Self::usage(invalid.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::migration::Cause;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_design() {
        let numbers = |exits: &[Exit]| exits.iter().map(|exit| exit.code()).collect::<Vec<_>>();
        use Exit as E;
        assert_eq!(
            numbers(&[
                E::Done,
                E::Failed,
                E::Usage,
                E::Refused,
                E::Aborted,
                E::Late,
                E::Held,
                E::Unreachable,
                E::Partly
            ]),
            [0, 1, 2, 3, 4, 5, 6, 7, 9]
        );
        assert_eq!(Exit::Interrupted.code(), 130);
    }

    #[test]
    fn an_outcome_never_lies() {
        let code = |outcome| Exit::of_outcome(outcome).code();
        assert_eq!(code(Outcome::Completed), 0);
        assert_eq!(code(Outcome::CompletedWithWarnings), 0);
        assert_eq!(code(Outcome::FailedRolledBack), 1);
        assert_eq!(code(Outcome::AbortedRolledBack), 4);
        assert_eq!(code(Outcome::Held), 6);
    }

    #[test]
    fn what_was_given_up_in_time_is_told_from_what_failed() {
        let rolled_back = |reason| {
            let cause = Cause { reason, host: "node-28".parse().expect("valid"), message: "why".into() };
            Exit::of_flow(&Err(Failure::RolledBack { cause, guest: None, leftovers: Vec::new() }))
        };
        assert_eq!(rolled_back(Reason::NotConverging), Exit::Late);
        assert_eq!(rolled_back(Reason::MigrationAborted), Exit::Aborted);
        assert_eq!(rolled_back(Reason::MigrationFailed), Exit::Failed);
    }

    #[test]
    fn no_reason_means_success() {
        for reason in Reason::ALL {
            assert_ne!(Exit::of_reason(*reason), Exit::Done, "{reason}");
        }
    }

    #[test]
    fn held_is_the_loudest_of_several() {
        use Exit::{Done, Failed, Held, Partly};
        assert_eq!(Exit::of_several(&[]), Done);
        assert_eq!(Exit::of_several(&[Failed, Failed]), Failed);
        assert_eq!(Exit::of_several(&[Done, Failed]), Partly);
        assert_eq!(Exit::of_several(&[Done, Held, Failed]), Held);
    }
}
