//! Who drives a migration: journaled like all else, but not by its task, which may be busy for as long as a guest moves.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;
use vmferry_core::migration::{Cause, Driver};

use super::{Entry, Error, file::Lines};

/// Grants the lease of a migration. Clones are one.
#[derive(Debug, Clone)]
pub struct Lessor {
    lines: Arc<Mutex<Lines>>,
    driver: watch::Sender<Option<Driver>>,
}

impl Lessor {
    pub(super) fn new(lines: Arc<Mutex<Lines>>, driver: Option<Driver>) -> Self {
        Self { lines, driver: watch::Sender::new(driver) }
    }

    /// Who drives.
    pub fn driver(&self) -> Option<Driver> {
        self.driver.borrow().clone()
    }

    /// Who drives, whenever that changes.
    pub fn watch(&self) -> watch::Receiver<Option<Driver>> {
        self.driver.subscribe()
    }

    /// `holder` drives from now on, under the epoch that `next` makes of the newest; `None`: nothing changes. Who drives then. Nobody else
    /// is granted the same epoch. On disk when this returns, unless the migration `is_over`: then it keeps nobody from anything.
    pub fn grant(
        &self,
        holder: &str,
        is_over: bool,
        next: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<Option<Driver>, Error> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.driver.borrow().as_ref().map_or(0, |driver| driver.epoch);
        let Some(epoch) = next(known).filter(|epoch| *epoch > known) else { return Ok(self.driver()) };
        let driver = Driver { epoch, holder: holder.to_owned(), since: Timestamp::now(), trouble: None };
        if !is_over {
            let Driver { epoch, holder, since: at, .. } = driver.clone();
            let entry = Entry::Leased { epoch, holder, at };
            lines.append(entry.line(), entry.weight())?;
        }
        self.driver.send_replace(Some(driver.clone()));
        Ok(Some(driver))
    }

    /// Says why who drives under this epoch could not end it. For people: nothing is written down.
    pub fn complain(&self, epoch: u64, trouble: Option<Cause>) {
        self.driver.send_if_modified(|driver| match driver {
            Some(driver) if driver.epoch == epoch && driver.trouble != trouble => {
                driver.trouble = trouble;
                true
            }
            _ => false,
        });
    }
}
