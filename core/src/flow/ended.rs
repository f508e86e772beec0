//! What a migration came to that somebody else drove.

use super::{Completed, Failure};
use crate::{
    migration::{Cause, Outcome, Record},
    reason::Reason,
};

/// What it came to, by the hosts' records; `None`: the source has not ended its half. What the destination has not ended is told.
pub fn ended(source: &Record, destination: Option<&Record>) -> Option<Result<Completed, Failure>> {
    let outcome = source.outcome?;
    let mut complaints = source.warnings.clone();
    match destination {
        Some(half) if half.outcome.is_some() => complaints.extend(half.warnings.iter().cloned()),
        _ => complaints.push(format!("{} has not said that it has ended its half", source.order.destination.host)),
    }
    Some(match outcome {
        Outcome::Completed | Outcome::CompletedWithWarnings => {
            let guest = destination.and_then(|half| half.guest);
            Ok(Completed { statistics: source.statistics, guest, warnings: complaints })
        }
        Outcome::FailedRolledBack | Outcome::AbortedRolledBack => {
            Err(Failure::RolledBack { cause: cause(source), guest: source.guest, leftovers: complaints })
        }
        Outcome::Held => {
            let cause = cause(source);
            Err(Failure::Held { reason: cause.reason, message: cause.message.clone(), cause })
        }
    })
}

fn cause(source: &Record) -> Cause {
    source.cause.clone().unwrap_or_else(|| Cause {
        reason: Reason::Internal,
        host: source.order.source.host.clone(),
        message: format!("{} does not say why", source.order.source.host),
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{agent::Sighting, flow::tests::order, migration::Side};

    fn half(side: Side, outcome: Option<Outcome>, warnings: &[&str]) -> Record {
        Record {
            order: order(),
            side,
            requested_by: "vmferry://c/coordinator/ops".into(),
            driver: None,
            started: Timestamp::UNIX_EPOCH,
            ended: outcome.map(|_| Timestamp::UNIX_EPOCH),
            phases: vec![],
            outcome,
            cause: Some(Cause {
                reason: Reason::MigrationAborted,
                host: order().source.host,
                message: "aborted".into(),
            }),
            statistics: None,
            guest: outcome.map(|_| if side == Side::Source { Sighting::Shutoff } else { Sighting::Running }),
            pending: vec![],
            warnings: warnings.iter().map(|&warning| warning.into()).collect(),
            story: Default::default(),
        }
    }

    #[test]
    fn the_source_says_what_it_came_to_and_both_what_needs_a_look() {
        let source = |outcome| half(Side::Source, outcome, &["one"]);
        let there = |outcome| half(Side::Destination, outcome, &["two"]);
        assert_eq!(ended(&source(None), Some(&there(Some(Outcome::Completed)))), None);

        let completed = ended(&source(Some(Outcome::Completed)), Some(&there(Some(Outcome::Completed))));
        let warnings = vec!["one".to_owned(), "two".to_owned()];
        assert_eq!(completed, Some(Ok(Completed { statistics: None, guest: Some(Sighting::Running), warnings })));

        let back = Some(Outcome::AbortedRolledBack);
        let Some(Err(Failure::RolledBack { cause, guest, leftovers })) = ended(&source(back), Some(&there(None)))
        else {
            panic!("it was rolled back");
        };
        assert_eq!(guest, Some(Sighting::Shutoff), "what the source saw");
        assert_eq!(cause.reason, Reason::MigrationAborted);
        assert!(leftovers[1].contains("node-31 has not said"), "{leftovers:?}");
        assert!(
            matches!(ended(&source(back), None), Some(Err(Failure::RolledBack { leftovers, .. })) if leftovers.len() == 2)
        );
    }
}
