use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use vmferry_core::{
    host::{Claim, Claims},
    id::{InstanceId, MigrationId},
    migration::Side,
    undo::Undo,
};

use crate::journal::State;

/// What each half of a migration takes of this host.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<BTreeMap<MigrationId, Entry>>);

#[derive(Debug)]
struct Entry {
    instance: InstanceId,
    /// Until it has ended.
    open: Option<Side>,
    claim: Option<Claim>,
    /// Whether the guest is off here, and comes up again here if it does not arrive.
    returns: bool,
}

impl Ledger {
    pub(super) fn follow(&self, state: &State) {
        let order = state.order();
        let open = state.outcome().is_none().then(|| state.side());
        let claim = state.pending.iter().find_map(|undo| match undo {
            Undo::ReleaseClaim(claim) => Some(claim.clone()),
            _ => None,
        });
        let starts_again = || state.pending.iter().any(|undo| matches!(undo, Undo::StartAgain { .. }));
        let returns = (open == Some(Side::Source) && order.kind.shutdown().is_some()) || starts_again();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() || claim.is_some() || returns {
            entries.insert(order.id, Entry { instance: order.instance, open, claim, returns });
        } else {
            entries.remove(&order.id);
        }
    }

    pub(super) fn claims(&self, except: Option<MigrationId>) -> Claims {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claims = Claims::default();
        for (_, entry) in entries.iter().filter(|(id, _)| Some(**id) != except) {
            if let Some(side) = entry.open {
                claims = claims.with_open(side);
            }
            claims.coming.extend(entry.claim.clone().map(|claim| (entry.instance, claim)));
            claims.returning.extend(entry.returns.then_some(entry.instance));
        }
        claims
    }
}
