//! The hosts of a program that stays: they come and go meanwhile.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};
use vmferry_transport::Credentials;

use super::Fleet;
use crate::inventory::{Loaded, Warning};

/// The hosts that there are now. Clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct Newest(watch::Receiver<Arc<Fleet>>);

impl Newest {
    /// Those that are loaded, and a task that takes up what is loaded later and logs what is to be looked at. It ends with the
    /// loading, or when nobody has the hosts any more. Certificates are as `credentials` say, whichever files an inventory names.
    pub(crate) fn follow(
        mut loaded: watch::Receiver<Loaded>,
        credentials: &watch::Receiver<Credentials>,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let first = loaded.borrow_and_update().clone();
        log(&[], &first.warnings);
        let (sender, receiver) = watch::channel(Arc::new(Fleet::new(first.clone(), credentials)));
        let following = async move {
            let mut last = first;
            loop {
                tokio::select! {
                    changed = loaded.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let next = loaded.borrow_and_update().clone();
                log(&last.warnings, &next.warnings);
                sender.send_modify(|fleet| take_up(fleet, next.clone()));
                last = next;
            }
        };
        (Self(receiver), following)
    }

    /// As they are now; whoever has them keeps them.
    pub(crate) fn get(&self) -> Arc<Fleet> {
        Arc::clone(&self.0.borrow())
    }
}

fn take_up(fleet: &mut Arc<Fleet>, next: Loaded) {
    if let Some(coordinator) = &next.inventory.coordinator {
        warn!("the inventory now names {coordinator}, but who serves calls the hosts itself: they stay as they were");
        return;
    }
    let renewed = fleet.renewed(next);
    if renewed.inventory != fleet.inventory {
        info!("the inventory has changed: {} hosts, {} before", renewed.agents.len(), fleet.agents.len());
    }
    *fleet = Arc::new(renewed);
}

/// Says what was not said before, and what is so no longer.
fn log(before: &[Warning], now: &[Warning]) {
    let is_in = |warning: &Warning, others: &[Warning]| others.iter().any(|other| warning.is_same(other));
    for warning in now.iter().filter(|warning| !is_in(warning, before)) {
        warn!("{warning}");
    }
    for over in before.iter().filter(|warning| !is_in(warning, now)).filter_map(Warning::over) {
        info!("{over}");
    }
}
