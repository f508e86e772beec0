//! The policies that the hosts know.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;
use vmferry_core::{convergence::Policy, id::HostName};

use crate::{catalogue::Catalogue, exit::Failed, fleet::Fleet};

/// What the hosts know, for one command or call: each of them is asked once at most.
#[derive(Debug)]
pub(crate) struct Policies {
    fleet: Arc<Fleet>,
    known: Mutex<HashMap<HostName, Arc<OnceCell<Catalogue>>>>,
}

impl Policies {
    /// Nobody is asked yet.
    pub(crate) fn of(fleet: &Arc<Fleet>) -> Self {
        Self { fleet: Arc::clone(fleet), known: Mutex::default() }
    }

    /// Whose they are.
    pub(crate) fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The policy that a migration from `host` means by `name`. The host is not asked about one of the inventory's.
    pub(crate) async fn policy(&self, name: &str, host: &HostName) -> Result<Policy, Failed> {
        let ours = &self.fleet.inventory().policies;
        if let Some(policy) = ours.iter().find(|policy| policy.name() == name) {
            return Ok(policy.clone());
        }
        let known = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(host.clone()).or_default())
        };
        known.get_or_try_init(|| self.fleet.policies(Some(host))).await?.policy(name).cloned()
    }
}
