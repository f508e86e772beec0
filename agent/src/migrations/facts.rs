//! What this host says to whoever resolves a live migration.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use vmferry_core::{
    agent::CallError,
    migration::{Order, Side},
    reason::Reason,
    resolution::{DestinationFacts, DestinationMark, Seen, SourceFacts, SourceMark, Way},
};

use super::Migrations;
use crate::{hypervisor::Hypervisor, journal::State};

/// How long an answer is held back at most: less than a caller waits for it.
const HOLD: Duration = Duration::from_secs(5);

impl<H: Hypervisor> Migrations<H> {
    /// As its source. The answer may be held back for as long as `hold`, unless the half goes on meanwhile.
    pub async fn source_facts(&self, order: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        self.judge_address(order, Side::Source)?;
        let mark = |state: Option<State>| state.map_or(SourceMark::Nothing, |state| state.source_mark());
        let (mark, seen) = self.at_once(order, hold, mark).await?;
        Ok(SourceFacts { seen, mark })
    }

    /// As its destination, in the same way.
    pub async fn destination_facts(&self, order: &Order, hold: Duration) -> Result<DestinationFacts, CallError> {
        self.judge_address(order, Side::Destination)?;
        let told = |state: Option<State>| match state {
            Some(state) => (state.destination_mark(), state.way()),
            None => (DestinationMark::Nothing, Way::Cut),
        };
        let ((mark, way), seen) = self.at_once(order, hold, told).await?;
        Ok(DestinationFacts { seen, mark, way })
    }

    /// The journal's word and libvirt's, of one moment: the former is the same before and after the latter was asked for.
    async fn at_once<T: PartialEq>(
        &self,
        order: &Order,
        hold: Duration,
        told: impl Fn(Option<State>) -> T,
    ) -> Result<(T, Seen), CallError> {
        self.hold(order, hold.min(HOLD)).await;
        let mut before = told(self.state_of(order)?);
        loop {
            let seen = self.host.seen(order.instance).await.map_err(|fault| self.call_error(fault))?;
            let after = told(self.state_of(order)?);
            if before == after {
                return Ok((after, seen));
            }
            // It only ever goes on, and comes to its end.
            before = after;
        }
    }

    /// Until its half goes on.
    async fn hold(&self, order: &Order, hold: Duration) {
        match self.of(order) {
            Ok(migration) if !hold.is_zero() => _ = timeout(hold, migration.watch_state().changed()).await,
            Ok(_) => {}
            Err(_) => sleep(hold).await,
        }
    }

    fn state_of(&self, order: &Order) -> Result<Option<State>, CallError> {
        match self.of(order) {
            Ok(migration) => Ok(Some(migration.state())),
            Err(error) if error.reason == Reason::MigrationNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
