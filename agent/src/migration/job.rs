//! A live job beside its journal: what it tells, and what it wants remembered, is written while it runs.

use std::{pin::pin, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::Task;
use crate::{
    hypervisor::{Hypervisor, OnSwitch, Switch},
    journal::Entry,
    phase::migrate::{Reports, Steering},
};

/// What a job wants remembered, and where it waits until it is.
pub(super) type Remember = (Switch, oneshot::Sender<Result<(), String>>);

impl<H: Hypervisor> Task<H> {
    /// Where a job tells how it goes, what it is steered by, and what it wants remembered meanwhile.
    pub(super) fn steering(&self) -> (Reports, Steering, mpsc::Receiver<Remember>) {
        let reports = Reports {
            progress: self.chronicle.on_progress(Arc::clone(&self.samples)),
            deed: self.chronicle.on_deed(),
            foresight: self.chronicle.foresight(),
        };
        let (sender, remembers) = mpsc::channel(1);
        let remember: OnSwitch = Arc::new(move |switch| {
            let sender = sender.clone();
            Box::pin(async move {
                let (reply, done) = oneshot::channel();
                let asked = sender.send((switch, reply)).await.is_ok();
                let done = if asked { done.await.ok() } else { None };
                done.unwrap_or_else(|| Err("the migration is over".to_owned()))
            })
        });
        (reports, Steering { helm: self.helm.clone(), remember, cancel: self.cancel.clone() }, remembers)
    }

    /// Journals what is to be while the job runs.
    pub(super) async fn accompany<T>(
        &mut self,
        job: impl Future<Output = T>,
        mut remembers: mpsc::Receiver<Remember>,
    ) -> T {
        let mut job = pin!(job);
        loop {
            tokio::select! {
                biased;
                done = &mut job => return done,
                Some((switch, reply)) = remembers.recv() => {
                    let written = self.append(match switch {
                        Switch::Begins => Entry::Switching,
                        Switch::Stayed => Entry::Stayed,
                        Switch::Released => Entry::Released,
                    });
                    _ = reply.send(written.map_err(|error| error.message));
                }
                news = self.chronicle.next() => self.note(news),
            }
        }
    }
}
