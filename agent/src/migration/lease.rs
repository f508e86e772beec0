//! Who drives a migration, as this host has heard: whoever is heard under an older epoch is refused, and who is not heard for a while is
//! taken for gone.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use vmferry_core::{
    migration::{Cause, Driver, Record},
    reason::Reason,
};

use super::Migration;
use crate::{durable::in_place, hypervisor::Fault};

/// When who drives was heard last.
#[derive(Debug)]
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Migration {
    /// A call of `by`, who drives under this epoch. Refused if somebody else does by now; one that was not heard of yet is written down.
    pub fn hear(&self, epoch: u64, by: &str) -> Result<(), Fault> {
        let driver = self.grant(by, |known| (epoch > known).then_some(epoch))?;
        if let Some(driver) = driver.filter(|driver| driver.epoch > epoch) {
            return Err(self.lost(epoch, &driver));
        }
        self.heard.again();
        Ok(())
    }

    /// A call for the migration by somebody who says nothing of an epoch, as coordinators of before.
    pub fn hear_of(&self) {
        self.heard.again();
    }

    /// `by` takes over from whoever drove. The epoch under which it does.
    pub fn take_lease(&self, by: &str) -> Result<u64, Fault> {
        let driver = self.grant(by, |known| Some(known + 1))?;
        self.heard.again();
        Ok(driver.map_or(0, |driver| driver.epoch))
    }

    /// `by` takes over if nobody drives by now that has not been heard for as long as this.
    pub fn take_lapsed(&self, by: &str, lasts: Duration) -> Result<Option<u64>, Fault> {
        let mut taken = None;
        self.grant(by, |known| {
            taken = (self.silence() >= lasts).then_some(known + 1);
            taken
        })?;
        if taken.is_some() {
            self.heard.again();
        }
        Ok(taken)
    }

    /// For how long nobody has been heard who drives it.
    pub fn silence(&self) -> Duration {
        self.heard.last().elapsed()
    }

    /// Who drives.
    pub fn driver(&self) -> Option<Driver> {
        self.lessor.driver()
    }

    /// Who drives, whenever that changes.
    pub fn watch_driver(&self) -> watch::Receiver<Option<Driver>> {
        self.lessor.watch()
    }

    /// Says why who drives under this epoch could not end it.
    pub fn complain(&self, epoch: u64, trouble: Option<Cause>) {
        self.lessor.complain(epoch, trouble);
    }

    /// As others see it, but for the story of its job.
    pub fn record(&self) -> Record {
        Record { driver: self.driver(), ..self.state().record() }
    }

    /// As others see it.
    pub fn whole_record(&self) -> Record {
        Record { driver: self.driver(), ..self.state().whole_record() }
    }

    fn grant(&self, by: &str, next: impl FnOnce(u64) -> Option<u64>) -> Result<Option<Driver>, Fault> {
        let is_over = self.state.borrow().outcome().is_some();
        Ok(in_place(|| self.lessor.grant(by, is_over, next))?)
    }

    fn lost(&self, epoch: u64, Driver { epoch: newest, holder, since, .. }: &Driver) -> Fault {
        let state = self.state.borrow();
        let (name, id) = (&state.order().instance_name, state.order().id);
        Fault::new(
            Reason::LeaseLost,
            format!(
                "migration {id} of {name} is driven by {holder} since {since}, under epoch {newest}; a call under epoch {epoch} comes too late: \
                 vmferry watch {id} shows how it goes on"
            ),
        )
    }
}
