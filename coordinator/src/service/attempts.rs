//! From a wish to a migration that has ended: one host after the other, where it was left open which.
//!
//! Nothing of this is kept: what the hosts have a record of was tried. Each try that they know has an id of its own, which follows from the
//! first, so that whoever is asked for the same again finds them all.

use std::sync::Arc;

use tokio::select;
use tracing::info;
use uuid::Uuid;
use vmferry_core::{
    flow::{Failure, Watch as _},
    id::MigrationId,
    migration::Outcome,
    reason::Reason,
};
use vmferry_proto::fleet::{
    self,
    migrate_response::{Event, Nowhere},
};

use super::{
    drive::Drive,
    drives::{Drives, Known},
    survey, wire,
    wish::{Settled, Try, is_open, settle},
};
use crate::{
    exit::Failed,
    history::Migration,
    journey::{Search, Turned, statistics, turned_away},
    lease,
};

/// The ids of the tries for one wish.
#[derive(Debug)]
struct Ids {
    first: MigrationId,
    tries: u32,
}

impl Ids {
    fn of(first: MigrationId) -> Self {
        Self { first, tries: 0 }
    }

    /// That of the try that is at hand.
    fn current(&self) -> MigrationId {
        match self.tries {
            0 => self.first,
            tries => MigrationId(Uuid::new_v5(&self.first.0, &tries.to_be_bytes())),
        }
    }

    /// The hosts have a record of it: what comes next is another.
    fn is_used(&mut self) {
        self.tries += 1;
    }
}

impl Drives {
    /// Brings to its end what was wished for: what the hosts know of it, and then what is left to do.
    pub(super) async fn wished(&self, drive: &Drive, wish: &fleet::Wish) -> Result<fleet::Ended, Failed> {
        let mut ids = Ids::of(drive.id);
        let mut tried = Vec::new();
        while let Some(Known { ended, turned }) = self.joined(drive, wish, ids.current()).await? {
            let Some(turned) = turned.filter(|_| is_open(wish) && !drive.is_cancelled()) else { return ended };
            drive.tell(Event::Refused(survey::turned(&turned)));
            tried.push(turned);
            ids.is_used();
        }
        let fleet = Arc::new(self.fleet().on_behalf_of(&drive.asker));
        let mut settled = match before_checks(drive, wish, settle(&fleet, wish)).await {
            Ok(settled) => settled,
            Err(failed) => {
                return self.joined(drive, wish, ids.current()).await?.map_or(Err(failed), |known| known.ended);
            }
        };
        settled.warnings.iter().for_each(|warning| info!("{warning}"));
        tried.into_iter().for_each(|turned| settled.search.was_turned_away(turned));
        Box::pin(self.tried(drive, wish, settled, ids)).await
    }

    /// Tries one host after the other, until one takes it.
    async fn tried(
        &self,
        drive: &Drive,
        wish: &fleet::Wish,
        mut settled: Settled,
        mut ids: Ids,
    ) -> Result<fleet::Ended, Failed> {
        while let Some(Try { order, hosts, chosen }) = before_checks(drive, wish, settled.next(ids.current())).await? {
            if let Some((candidate, others)) = &chosen {
                drive.tell(Event::Chosen(survey::chosen(candidate, *others)));
            }
            info!("moving {} from {} to {}", order.instance_name, order.source.host, order.destination.host);
            drive.carries_out(&order);
            let result = Box::pin(lease::run(&hosts, &order, drive)).await;
            let is_begun = !matches!(result, Err(Failure::NotStarted(_) | Failure::Refused(_)));
            let joined = match is_begun {
                true => None,
                // Somebody else who was asked for the same may have been quicker.
                false => self.joined(drive, wish, order.id).await?,
            };
            let is_known = is_begun || joined.is_some();
            let Known { ended, turned } = match joined {
                Some(known) => known,
                None => Known {
                    turned: result.as_ref().err().and_then(|failure| turned_away(&order, failure)),
                    ended: wire::ended(&order, &result, statistics(&hosts, &order, &result).await).map_err(Into::into),
                },
            };
            let Some(turned) = turned.filter(|_| chosen.is_some() && !drive.is_cancelled()) else { return ended };
            info!("{} does not take it", turned.host);
            drive.tell(Event::Refused(survey::turned(&turned)));
            if is_known {
                ids.is_used();
            }
            settled.search.turned_away(turned);
        }
        Err(nowhere(drive, &settled.search))
    }
}

/// Nothing is changed meanwhile, so that an abort need not wait for it.
async fn before_checks<T>(
    drive: &Drive,
    wish: &fleet::Wish,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    select! {
        biased;
        () = drive.cancelled.cancelled() => {
            let message =
                format!("the migration of {} was aborted before its checks; nothing was changed", wish.instance);
            Err(Failed::because(Reason::MigrationAborted, message))
        }
        done = Box::pin(work) => done,
    }
}

fn nowhere(drive: &Drive, search: &Search) -> Failed {
    let survey = search.nowhere();
    let source_checks = survey.source.iter().cloned().map(Into::into).collect();
    drive.tell(Event::Nowhere(Nowhere { source_checks, hosts: survey::candidates(&survey) }));
    survey.nowhere()
}

/// What the destination said in a migration that has ended, if another may take the guest.
pub(super) fn turned_away_before(migration: &Migration) -> Option<Turned> {
    let has_failed = migration.outcome() == Some(Outcome::FailedRolledBack);
    let cause = migration.cause().filter(|_| has_failed)?.clone();
    let (guest, leftovers) = (migration.guest(), migration.warnings());
    turned_away(&migration.order, &Failure::RolledBack { cause, guest, leftovers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_try_has_an_id_that_follows_from_the_first() {
        let first = MigrationId("0190f5fe-7c00-7a00-8abc-012345678901".parse().expect("valid"));
        let (mut one, mut other) = (Ids::of(first), Ids::of(first));
        assert_eq!(one.current(), first);
        let mut seen = vec![first];
        for _ in 0..3 {
            one.is_used();
            other.is_used();
            assert_eq!(one.current(), other.current());
            assert!(!seen.contains(&one.current()));
            seen.push(one.current());
        }
    }
}
