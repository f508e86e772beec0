//! How far a migration got that somebody else began, by the two hosts' records of it.

use super::aborted;
use crate::{
    agent::CallError,
    migration::{Cause, Order, Outcome, Phase, Record, Statistics},
    reason::Reason,
};

/// What is left to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// The guest was found on the destination: go forward.
    Completed(Option<Statistics>),
    /// The guest is on the source, found there or never moved: take back what is left.
    RolledBack(Cause),
    /// The job was begun; how it ends or ended is the source's to say.
    Moving,
    /// Nobody has looked yet where the guest runs.
    Undecided(CallError),
}

/// The source's half decides: it was the first to begin and is the last to end. The destination's may know the cause.
pub(super) fn standing(
    order: &Order,
    source: Result<Option<Record>, CallError>,
    destination: Result<Option<Record>, CallError>,
    cancelled: bool,
) -> Standing {
    let source = match source {
        Ok(record) => record,
        Err(error) => return Standing::Undecided(error),
    };
    let destination = destination.ok().flatten();
    let failure = || cause(order, source.as_ref(), destination.as_ref(), cancelled);
    let Some(record) = &source else { return Standing::Undecided(failure()) };
    match (record.outcome, record.phase()) {
        (Some(Outcome::Completed | Outcome::CompletedWithWarnings), _) | (None, Phase::Post) => {
            Standing::Completed(record.statistics)
        }
        (Some(Outcome::FailedRolledBack | Outcome::AbortedRolledBack), _)
        | (None, Phase::Check | Phase::Pre | Phase::Cleanup) => Standing::RolledBack(failure().into()),
        (None | Some(Outcome::Held), Phase::Migrate) => Standing::Moving,
        (Some(Outcome::Held), _) => Standing::Undecided(failure()),
    }
}

/// Why it would not have gone through: as it is recorded, or because somebody wants that now, or because nobody drove it any more.
pub(super) fn cause(
    order: &Order,
    source: Option<&Record>,
    destination: Option<&Record>,
    cancelled: bool,
) -> CallError {
    match [source, destination].into_iter().flatten().find_map(|record| record.cause.clone()) {
        Some(Cause { reason, host, message }) => CallError { host, reason, message },
        None if cancelled => aborted(order),
        None => lost(order, source.is_some()),
    }
}

fn lost(order: &Order, is_known: bool) -> CallError {
    CallError {
        host: order.source.host.clone(),
        reason: Reason::CoordinatorLost,
        message: match is_known {
            true => "the coordinator went away before the guest began to move".into(),
            false => format!("{} knows nothing of this migration", order.source.host),
        },
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        id::HostName,
        migration::{Endpoint, Kind, Limits, PhaseSpan, Side},
    };

    fn host(name: &str) -> HostName {
        name.parse().expect("valid")
    }

    fn order() -> Order {
        let endpoint = |name| Endpoint { host: host(name), address: "192.0.2.1:7443".into() };
        Order {
            id: "0190f5fe-7c00-7a00-8abc-012345678901".parse().expect("valid"),
            instance: "ed831ace-39ef-4960-8bae-a035d292c305".parse().expect("valid"),
            instance_name: "web".into(),
            source: endpoint("node-28"),
            destination: endpoint("node-31"),
            kind: Kind::Live,
            limits: Limits::default(),
            priority: Default::default(),
        }
    }

    fn half(side: Side, phase: Phase, outcome: Option<Outcome>, cause: Option<Cause>) -> Record {
        Record {
            order: order(),
            side,
            requested_by: "vmferry://c/coordinator/ops".into(),
            driver: None,
            started: Timestamp::UNIX_EPOCH,
            ended: outcome.map(|_| Timestamp::UNIX_EPOCH),
            phases: vec![PhaseSpan { phase, started: Timestamp::UNIX_EPOCH, duration: None }],
            outcome,
            cause,
            guest: None,
            statistics: (side == Side::Source).then(Statistics::default),
            pending: vec![],
            warnings: vec![],
            story: Default::default(),
        }
    }

    fn cause(reason: Reason) -> Cause {
        Cause { reason, host: host("node-31"), message: "why".into() }
    }

    fn of(source: Option<Record>, destination: Option<Record>) -> Standing {
        standing(&order(), Ok(source), Ok(destination), false)
    }

    #[test]
    fn what_the_source_ended_stays_ended_so() {
        let done = half(Side::Source, Phase::Post, Some(Outcome::Completed), None);
        let open = half(Side::Destination, Phase::Pre, None, None);
        assert_eq!(of(Some(done), Some(open.clone())), Standing::Completed(Some(Statistics::default())));

        let why = cause(Reason::MigrationFailed);
        let back = half(Side::Source, Phase::Cleanup, Some(Outcome::FailedRolledBack), Some(why.clone()));
        assert_eq!(of(Some(back), Some(open)), Standing::RolledBack(why));
    }

    #[test]
    fn a_begun_end_is_carried_on() {
        let post = half(Side::Source, Phase::Post, None, None);
        assert_eq!(of(Some(post), None), Standing::Completed(Some(Statistics::default())));
        let why = cause(Reason::MigrationAborted);
        let cleanup = half(Side::Source, Phase::Cleanup, None, Some(why.clone()));
        assert_eq!(of(Some(cleanup), None), Standing::RolledBack(why));
    }

    #[test]
    fn a_begun_job_is_joined_even_by_one_who_wants_to_abort() {
        let moving = half(Side::Source, Phase::Migrate, None, None);
        assert_eq!(standing(&order(), Ok(Some(moving)), Ok(None), true), Standing::Moving);
    }

    #[test]
    fn before_the_job_the_cause_is_the_one_recorded_or_the_abort_or_the_loss() {
        let pre = half(Side::Source, Phase::Pre, None, None);
        let why = cause(Reason::MemoryShort);
        let other = half(Side::Destination, Phase::Cleanup, Some(Outcome::FailedRolledBack), Some(why));
        let reason = |standing| match standing {
            Standing::RolledBack(cause) => cause.reason,
            Standing::Undecided(error) => error.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(of(Some(pre.clone()), Some(other))), Reason::MemoryShort);
        assert_eq!(reason(of(Some(pre.clone()), None)), Reason::CoordinatorLost);
        assert_eq!(reason(of(None, None)), Reason::CoordinatorLost);
        assert_eq!(reason(standing(&order(), Ok(Some(pre)), Ok(None), true)), Reason::MigrationAborted);
    }

    #[test]
    fn a_silent_source_decides_nothing() {
        let error = CallError { host: host("node-28"), reason: Reason::AgentUnreachable, message: "silent".into() };
        let done = half(Side::Destination, Phase::Post, Some(Outcome::Completed), None);
        assert_eq!(standing(&order(), Err(error.clone()), Ok(Some(done)), false), Standing::Undecided(error));
    }
}
