//! What this host says to whoever resolves a live migration.

use vmferry_core::{
    agent::CallError,
    migration::{Order, Side},
    reason::Reason,
    resolution::{DestinationFacts, DestinationMark, Seen, SourceFacts, SourceMark, Way},
};

use super::Migrations;
use crate::{hypervisor::Hypervisor, journal::State};

impl<H: Hypervisor> Migrations<H> {
    /// As its source.
    pub async fn source_facts(&self, order: &Order) -> Result<SourceFacts, CallError> {
        self.judge_address(order, Side::Source)?;
        let mark = |state: Option<State>| state.map_or(SourceMark::Nothing, |state| state.source_mark());
        let (mark, seen) = self.at_once(order, mark).await?;
        Ok(SourceFacts { seen, mark })
    }

    /// As its destination.
    pub async fn destination_facts(&self, order: &Order) -> Result<DestinationFacts, CallError> {
        self.judge_address(order, Side::Destination)?;
        let told = |state: Option<State>| match state {
            Some(state) => (state.destination_mark(), state.way()),
            None => (DestinationMark::Nothing, Way::Cut),
        };
        let ((mark, way), seen) = self.at_once(order, told).await?;
        Ok(DestinationFacts { seen, mark, way })
    }

    /// The journal's word and libvirt's, of one moment: the former is the same before and after the latter was asked for.
    async fn at_once<T: PartialEq>(
        &self,
        order: &Order,
        told: impl Fn(Option<State>) -> T,
    ) -> Result<(T, Seen), CallError> {
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

    fn state_of(&self, order: &Order) -> Result<Option<State>, CallError> {
        match self.of(order) {
            Ok(migration) => Ok(Some(migration.state())),
            Err(error) if error.reason == Reason::MigrationNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
