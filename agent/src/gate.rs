//! What lets guests in: one at a time is judged and claims its room, so that no two have the same; and none while the host is
//! cordoned.
//!
//! The claims are entries in the journals. What is kept here of them follows each entry, and is read back from the journals.

mod cordon;
mod ledger;

use std::{path::Path, time::Duration};

use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::timeout,
};
use vmferry_core::{
    compatibility::{Check, room},
    domain_xml::Definition,
    host::{Claim, Claims, Cordon, Uncordoned},
    id::MigrationId,
    migration::Order,
    undo::Undo,
};

use self::{cordon::CordonFile, ledger::Ledger};
use crate::{
    hypervisor::{Fault, Hypervisor},
    journal::State,
    phase::Steps,
};

/// This host's.
#[derive(Debug)]
pub struct Gate {
    ledger: Ledger,
    cordon: CordonFile,
    /// Held from the look at the room that is left to the claim of it.
    alone: tokio::sync::Mutex<()>,
    /// Shared by those that get ready for a guest: what they have made already nobody needs yet.
    preparing: RwLock<()>,
}

impl Gate {
    /// As the agent's last process left it, but for the claims, which the journals tell: see [`Gate::follow`].
    pub fn load(state_directory: &Path) -> Self {
        let cordon = CordonFile::load(state_directory);
        Self { ledger: Ledger::default(), cordon, alone: tokio::sync::Mutex::default(), preparing: RwLock::default() }
    }

    /// Takes notice of what a journal says by now.
    pub fn follow(&self, state: &State) {
        self.ledger.follow(state);
    }

    /// What is promised, but by the migration `except`.
    pub fn claims(&self, except: Option<MigrationId>) -> Claims {
        self.ledger.claims(except)
    }

    /// Why no guest shall come; `None`: they may.
    pub fn cordon(&self) -> Option<Cordon> {
        self.cordon.get()
    }

    /// Lets no guest in from now on, also none of those that were checked already. On disk when this returns. The same said again by
    /// the same changes nothing.
    ///
    /// # Errors
    ///
    /// `INVALID_REQUEST`: there is no reason, or it is no line of text; `JOURNAL_FAILED`: it could not be written. Nothing was changed.
    pub fn close(&self, reason: &str, by: &str) -> Result<Cordon, Fault> {
        self.cordon.put(reason, by)
    }

    /// Lets guests in again. On disk when this returns. Returns what kept them out, now or the last time.
    ///
    /// # Errors
    ///
    /// `JOURNAL_FAILED`: it could not be written. Nothing was changed.
    pub fn open(&self) -> Result<Uncordoned, Fault> {
        self.cordon.remove()
    }

    /// This host gets ready for a guest, for as long as this is held.
    pub(crate) async fn preparing(&self) -> RwLockReadGuard<'_, ()> {
        self.preparing.read().await
    }

    /// This host gets ready for nobody, for as long as this is held. `None`: it has done so all the time for this long.
    pub(crate) async fn at_rest(&self, patience: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        timeout(patience, self.preparing.write()).await.ok()
    }

    /// Judges again whether the guest may come, now that nobody else claims anything, and journals its claim before anybody else may.
    ///
    /// # Errors
    ///
    /// The reason of the first check that refuses, with the words of all that do; or the host cannot be looked at.
    pub(crate) async fn admit(
        &self,
        host: &impl Hypervisor,
        order: &Order,
        definition: &Definition,
        steps: &mut Steps<'_>,
    ) -> Result<(), Fault> {
        let _alone = self.alone.lock().await;
        // Claims before guests: one that is released meanwhile belongs to a guest that is then seen.
        let space = host.space(&self.claims(Some(order.id))).await?;
        let claim = Claim::of(definition, order.kind, space.page_size);
        // Whoever is told that the host is cordoned knows that no guest comes any more but those which its journals have.
        self.cordon.look(|cordon| {
            let checks = room(host.name(), definition, order.kind, &space, cordon);
            refuse(&checks)?;
            claim.map_or(Ok(()), |claim| steps.promise(Undo::ReleaseClaim(claim)))
        })?;
        self.follow(steps.state());
        Ok(())
    }
}

fn refuse(checks: &[Check]) -> Result<(), Fault> {
    let refusals: Vec<_> = checks.iter().filter_map(Check::refusal).collect();
    let Some(first) = refusals.first() else { return Ok(()) };
    let words = refusals.iter().map(|refusal| format!("{}; {}", refusal.message, refusal.remedy));
    Err(Fault::new(first.reason, words.collect::<Vec<_>>().join(". And ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_is_at_rest_once_it_gets_ready_for_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let gate = Gate::load(directory.path());
        let (one, other) = (gate.preparing().await, gate.preparing().await);
        drop(one);
        assert!(gate.at_rest(Duration::from_secs(10)).await.is_none());
        drop(other);
        let rest = gate.at_rest(Duration::from_secs(10)).await;
        assert!(rest.is_some());
        assert!(timeout(Duration::from_secs(10), gate.preparing()).await.is_err(), "who comes waits");
        drop(rest);
        drop(gate.preparing().await);
    }
}
