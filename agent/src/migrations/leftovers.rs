//! What migrations have left on this host: looked for, and removed where that is sure.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vmferry_core::{
    leftovers::{Finding, Fix, LeftoverName, Needs, Removal, findings},
    reason::Reason,
};

use super::Migrations;
use crate::hypervisor::{Examining, Fault, Hypervisor};

/// How long it is waited for that nobody gets ready for a guest.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often this host is looked at without being asked.
const AGAIN: Duration = Duration::from_secs(60);

impl<H: Hypervisor + Examining> Migrations<H> {
    /// What is here and nobody needs.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub async fn leftovers(&self) -> Result<Vec<Finding>, Fault> {
        // What is made for a guest looks like a leftover until all of it is there. Whoever only looks does not insist.
        let _at_rest = self.gate.at_rest(PATIENCE).await;
        self.look().await
    }

    /// Removes these of what is left, and nothing else: each only if it is still left over. What became of them, in their order.
    ///
    /// # Errors
    /// libvirt does not answer, or the host gets ready for guests all the time: nothing was changed.
    pub async fn remove_leftovers(&self, names: &[LeftoverName]) -> Result<Vec<Removal>, Fault> {
        // Whoever comes next finds either what was there or nothing, never what is about to go.
        let Some(_at_rest) = self.gate.at_rest(PATIENCE).await else {
            let message = format!("{} is getting ready for a guest; nothing was removed, try again", self.host.name());
            return Err(Fault::new(Reason::InstanceMigrating, message));
        };
        let found = self.look().await?;
        let mut removals = Vec::new();
        for name in names {
            let fix = found.iter().find(|finding| finding.leftover.name() == *name).and_then(|it| it.fix.as_ref());
            removals.push(match fix {
                None => Removal::NotFound,
                Some(fix) => match self.carry_out(fix).await {
                    Ok(()) => Removal::Removed,
                    Err(fault) => Removal::Failed(self.call_error(fault)),
                },
            });
        }
        Ok(removals)
    }

    /// Removes what no guest could come to need, from now on until `stop`: what is left of migrations whose journals are lost.
    pub async fn keep_tidy(&self, stop: CancellationToken) {
        let mut told = None;
        loop {
            let problem = self.tidy().await.err().map(|fault| fault.message);
            if let Some(problem) = problem.as_ref().filter(|_| problem != told) {
                warn!("cannot see what migrations have left on {}: {problem}", self.host.name());
            }
            told = problem;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(AGAIN) => {}
            }
        }
    }

    async fn tidy(&self) -> Result<(), Fault> {
        let halves_before = self.halves();
        let held = self.host.debris().await?;
        let needs = Needs { halves: self.halves(), halves_before, ..Needs::default() };
        let mut failed = None;
        for fix in findings(&held, &needs, Timestamp::now()).into_iter().filter_map(|finding| finding.fix) {
            if fix.needs_no_asking()
                && let Err(fault) = self.carry_out(&fix).await
            {
                failed.get_or_insert(fault);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Holdings before needs: what comes meanwhile is not seen, and not taken for a leftover.
    async fn look(&self) -> Result<Vec<Finding>, Fault> {
        let halves_before = self.halves();
        let mut holdings = self.host.holdings().await?;
        match self.probe_lists() {
            Ok(lists) => holdings.probes = lists,
            Err(error) => holdings.unseen.push(("lists of probe files".into(), error.to_string())),
        }
        let needs = self.host.needs().await?;
        let needs = Needs { halves: self.halves(), halves_before, ..needs };
        Ok(findings(&holdings, &needs, Timestamp::now()))
    }

    async fn carry_out(&self, fix: &Fix) -> Result<(), Fault> {
        match fix {
            Fix::RemoveProbes { migration } => self.probes.remove(*migration).await?,
            fix => self.host.remove(fix).await?,
        }
        info!("a leftover is gone: {fix}");
        Ok(())
    }
}
