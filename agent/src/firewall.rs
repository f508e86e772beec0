//! The host's firewall: what guests send and receive, filtered by one table of nftables that is ours.
//!
//! Taps are known by name, so filters are there before them. A change is one transaction of `nft`, which costs the same among few
//! vifs and among many, unless they all have different rules. What was asked for is `ruleset`, what is there is `read`, both as `part`s of the table.

mod difference;
mod flows;
mod frame;
mod held;
mod nft;
mod part;
mod read;
mod ruleset;
mod transaction;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Mutex;
use vmferry_core::{
    network::LinkName,
    policy::{Flow, Flows, Guarded, Members},
    reason::Reason,
};

pub use self::held::{Held, Seen};
use self::{
    nft::{Failure, failed},
    part::{Owner, Part, Parts},
    watch::Watch,
};
use crate::hypervisor::Fault;

/// The host's firewall. Nothing else changes its table while it is there; if something does, [`reconcile`](Self::reconcile) tells
/// and repairs.
#[derive(Debug, Default)]
pub struct Firewall {
    /// Held while a transaction is made: none is lost between two.
    applied: Mutex<Applied>,
    watch: Mutex<Option<Watching>>,
}

/// How long, in seconds, and how many flows of a guest another host may have remembered: no longer and no more than this one would.
const LONGEST_FLOW: u32 = 12 * 3600;
const MOST_FLOWS: usize = 16_384;

/// What this agent knows of the table.
#[derive(Debug, Default)]
struct Applied {
    /// `None`: nothing yet; the table may be there from before.
    parts: Option<Parts>,
    transactions: u64,
}

#[derive(Debug)]
struct Watching {
    watch: Watch,
    /// How many transactions there had been of our own, of those that the watch has heard of.
    own: u64,
}

impl Firewall {
    /// One that knows nothing yet of what the table has.
    pub fn new() -> Self {
        Self::default()
    }

    /// Filters these vifs, in one transaction; replaces what was there for the same taps, but remembers their flows. The taps need
    /// not exist yet. `members` replace those of the groups that are named there.
    ///
    /// # Errors
    ///
    /// `FIREWALL_MISSING`, `FIREWALL_FAILED`: nothing was changed.
    pub async fn guard(&self, vifs: &[Guarded], members: &Members) -> Result<(), Fault> {
        vifs.iter().try_for_each(|vif| ruleset::nameable(&vif.tap))?;
        let mut applied = self.applied.lock().await;
        let parts = applied.known().await?;
        let mut wanted = Parts::new();
        for vif in vifs {
            wanted.insert(Owner::Tap(vif.tap.clone()), ruleset::filters(vif));
            wanted.extend(ruleset::rules(&vif.policy));
            for name in ruleset::groups(&vif.policy) {
                let owner = Owner::Group(ruleset::group_stem(name));
                if !parts.contains_key(&owner) || members.contains_key(name) {
                    wanted.insert(owner, ruleset::group(name, members));
                }
            }
        }
        for name in members.keys() {
            let owner = Owner::Group(ruleset::group_stem(name));
            if parts.contains_key(&owner) {
                wanted.insert(owner, ruleset::group(name, members));
            }
        }
        applied.change(wanted, BTreeSet::new()).await
    }

    /// Lets go of these taps in one transaction, and forgets their flows; unknown ones are fine. The table
    /// goes with the last of them.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub async fn release(&self, taps: &[LinkName]) -> Result<(), Fault> {
        let mut applied = self.applied.lock().await;
        applied.change(Parts::new(), taps.iter().cloned().map(Owner::Tap).collect()).await?;
        // Whatever rules they have: there may have been others before, and this may be the second attempt.
        if applied.filters_nobody() { applied.remove().await } else { applied.forget(taps).await }
    }

    /// What is in the kernel; `None`: there is no table of ours.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub async fn look(&self) -> Result<Option<Held>, Fault> {
        let _quiet = self.applied.lock().await;
        Ok(nft::parts().await?.map(|parts| Held::of(&parts)))
    }

    /// Makes the table exactly this, in one transaction, if it differs; flows stay. A table that would filter nobody goes. Returns
    /// what differed, a sentence each. Without `repair` only says.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub async fn reconcile(&self, wanted: &[Guarded], members: &Members, repair: bool) -> Result<Vec<String>, Fault> {
        wanted.iter().try_for_each(|vif| ruleset::nameable(&vif.tap))?;
        let mut applied = self.applied.lock().await;
        let held = nft::parts().await?;
        if wanted.is_empty() {
            let Some(_) = held else { return Ok(Vec::new()) };
            if repair {
                applied.remove().await?;
            }
            return Ok(vec!["the table of the filters is there, and filters nobody".to_owned()]);
        }
        let wanted = ruleset::table(wanted, members);
        let differences = difference::differences(held.as_ref().unwrap_or(&Parts::new()), &wanted);
        if !repair {
            return Ok(differences);
        }
        if !differences.is_empty() {
            let gone = released(held.as_ref(), &wanted);
            applied.replace(held, &wanted).await?;
            applied.forget(&gone).await?;
        }
        applied.parts = Some(wanted);
        Ok(differences)
    }

    /// What is remembered of a tap's conversations; nothing where it has no rules.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub async fn flows(&self, tap: &LinkName) -> Result<Flows, Fault> {
        Ok(Flows(remembered(Some(tap)).await?.into_iter().map(|(_, flow)| flow).collect()))
    }

    /// Remembers conversations of a tap that were another host's until now, as long as that would have. The tap is
    /// [filtered](Self::guard), and need not exist yet; where it has no rules, none are needed.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub async fn restore_flows(&self, tap: &LinkName, flows: &Flows) -> Result<(), Fault> {
        let mut applied = self.applied.lock().await;
        let parts = applied.known().await?;
        if !parts.contains_key(&Owner::Tap(tap.clone())) {
            return Err(failed(format!(
                "`{tap}` is not filtered, so none of its flows can be remembered; filter it first"
            )));
        }
        let longest = |flow: &Flow| Flow { left: flow.left.min(LONGEST_FLOW), ..flow.clone() };
        let flows: Vec<_> = flows.0.iter().take(MOST_FLOWS).map(|flow| (tap.clone(), longest(flow))).collect();
        let added = additions(&flows, parts);
        if added.is_empty() {
            return Ok(());
        }
        // Forgotten first: what is there already would keep the time that it has.
        Ok(applied.apply(&(removals(&flows) + &added)).await?)
    }

    /// Ends once somebody else has changed nftables since the last time, whatever table: then [`reconcile`](Self::reconcile).
    ///
    /// # Errors
    ///
    /// `FIREWALL_MISSING`: the kernel does not tell.
    pub async fn changed(&self) -> Result<(), Fault> {
        let error = |error| failed(format!("cannot hear of changes of nftables: {error}"));
        let mut watching = self.watch.lock().await;
        if watching.is_none() {
            let applied = self.applied.lock().await;
            let watch = Watch::new().map_err(error)?;
            *watching = Some(Watching { watch, own: applied.transactions });
        }
        let Some(Watching { watch, own }) = watching.as_mut() else { return Ok(()) };
        loop {
            let applied = self.applied.lock().await;
            // No transaction of our own is under way, so those that were heard of and are not our own are somebody else's.
            let since = applied.transactions - std::mem::replace(own, applied.transactions);
            if watch.heard().map_err(error)? != Some(since) {
                return Ok(());
            }
            drop(applied);
            watch.listen().await.map_err(error)?;
        }
    }
}

impl Applied {
    /// Forgets what was remembered of taps that are filtered no more: a tap has the same name whenever its guest comes back, and may
    /// have another policy then.
    async fn forget(&mut self, taps: &[LinkName]) -> Result<(), Fault> {
        for tap in taps {
            let flows = remembered(Some(tap)).await?;
            self.apply(&removals(&flows)).await?;
        }
        Ok(())
    }

    fn filters_nobody(&self) -> bool {
        !self.parts.iter().flat_map(Parts::keys).any(|owner| matches!(owner, Owner::Tap(_)))
    }

    /// Takes the whole table away, flows and all.
    async fn remove(&mut self) -> Result<(), Fault> {
        self.parts = Some(Parts::new());
        Ok(self.apply(&format!("table {0} {{}}\ndelete table {0}\n", part::TABLE)).await?)
    }

    /// What the table has; read once, after the agent's start.
    async fn known(&mut self) -> Result<&Parts, Fault> {
        let parts = match self.parts.take() {
            Some(parts) => parts,
            None => nft::parts().await?.unwrap_or_default(),
        };
        Ok(self.parts.insert(parts))
    }

    /// Puts parts in place of those of the same owners, and takes away others'.
    async fn change(&mut self, mut wanted: Parts, mut gone: BTreeSet<Owner>) -> Result<(), Fault> {
        self.known().await?;
        let mut parts = self.parts.take().unwrap_or_default();
        if !parts.contains_key(&Owner::Frame) && !wanted.is_empty() {
            wanted.insert(Owner::Frame, frame::frame());
        }
        gone.extend(wanted.keys().cloned());
        let mut old: Parts = gone.iter().filter_map(|owner| parts.remove_entry(owner)).collect();
        while let Some(unused) = unneeded(&old, &wanted, &parts) {
            old.extend(parts.remove_entry(&unused));
        }
        let made: Vec<Owner> = wanted.keys().cloned().collect();
        let done = self.make(&old, wanted, &mut parts).await;
        if done.is_err() {
            parts.retain(|owner, _| !made.contains(owner));
            parts.extend(old);
        }
        self.parts = Some(parts);
        done
    }

    /// Makes `wanted` of `old` and adds it to `parts`, the others. If the table is not what it was taken to be, makes all anew.
    async fn make(&mut self, old: &Parts, wanted: Parts, parts: &mut Parts) -> Result<(), Fault> {
        let done = match transaction::between(old, &wanted) {
            // Nothing to do, if the table is still there: what it has can be added again, if only to learn that.
            Some(text) if text.is_empty() => match transaction::elements(&wanted) {
                Some(same) if !same.is_empty() => nft::apply(&same).await.map_err(Fault::from),
                _ => Ok(()),
            },
            Some(text) => self.apply(&text).await.map_err(Fault::from),
            None => Err(unknown_rule()),
        };
        parts.extend(wanted);
        match done {
            Err(fault) if fault.reason == Reason::FirewallFailed => {
                let held = nft::parts().await?;
                self.replace(held, parts).await.map_err(|_| fault)
            }
            done => done,
        }
    }

    /// Makes the table `wanted`, whatever it is.
    async fn replace(&mut self, held: Option<Parts>, wanted: &Parts) -> Result<(), Fault> {
        let mut flows = String::new();
        if let Some(held) = held {
            // What others have put there may be in use by what is ours, or be of a kind that is not read.
            if !held.contains_key(&Owner::Nobody) {
                let change = transaction::between(&held, wanted).ok_or_else(unknown_rule)?;
                if self.apply(&change).await.is_ok() {
                    return Ok(());
                }
            }
            flows = additions(&remembered(None).await?, wanted);
        }
        let whole = transaction::whole(wanted).ok_or_else(unknown_rule)?;
        Ok(self.apply(&(whole + &flows)).await?)
    }

    async fn apply(&mut self, transaction: &str) -> Result<(), Failure> {
        if transaction.is_empty() {
            return Ok(());
        }
        nft::apply(transaction).await?;
        self.transactions += 1;
        Ok(())
    }
}

/// A part that only what goes away needs.
fn unneeded(old: &Parts, wanted: &Parts, others: &Parts) -> Option<Owner> {
    let mut candidates: BTreeSet<_> = old.values().flat_map(Part::needs).collect();
    candidates.retain(|owner| others.contains_key(owner));
    for part in wanted.values().chain(others.values()) {
        if candidates.is_empty() {
            break;
        }
        part.needs().for_each(|needed| _ = candidates.remove(&needed));
    }
    candidates.pop_first()
}

/// The taps that have rules, and shall have none.
fn released(held: Option<&Parts>, wanted: &Parts) -> Vec<LinkName> {
    let shall = |owner| wanted.get(owner).is_some_and(ruleset::has_rules);
    let ruled = held.into_iter().flatten().filter(|(owner, part)| ruleset::has_rules(part) && !shall(owner));
    ruled.filter_map(|(owner, _)| if let Owner::Tap(tap) = owner { Some(tap.clone()) } else { None }).collect()
}

/// The flows of a tap, or of all.
async fn remembered(tap: Option<&LinkName>) -> Result<Vec<(LinkName, Flow)>, Fault> {
    let mut flows = Vec::new();
    for name in flows::flow_sets(tap) {
        match nft::set(&name).await {
            Ok(listing) => flows.extend(listing.flows().map_err(failed)?),
            // The table, or a set of it, was taken away.
            Err(Failure::Absent(_)) => {}
            Err(Failure::Fault(fault)) => return Err(fault),
        }
    }
    flows.retain(|(of, _)| tap.is_none_or(|tap| tap == of));
    Ok(flows)
}

/// What remembers these flows, of the taps that have rules.
fn additions(flows: &[(LinkName, Flow)], parts: &Parts) -> String {
    let mut sets = BTreeMap::<String, Vec<String>>::new();
    for (tap, flow) in flows.iter().filter(|(_, flow)| flow.left > 0) {
        if parts.get(&Owner::Tap(tap.clone())).is_some_and(ruleset::has_rules) {
            let (set, key) = flows::flow_element(tap, flow);
            sets.entry(set).or_default().push(format!("{key} timeout {}s", flow.left));
        }
    }
    let line = |(set, elements): (String, Vec<String>)| {
        format!("add element {} {set} {{ {} }}\n", part::TABLE, elements.join(", "))
    };
    sets.into_iter().map(line).collect()
}

/// What forgets these flows.
fn removals(flows: &[(LinkName, Flow)]) -> String {
    let line = |(tap, flow): &(LinkName, Flow)| {
        let (set, key) = flows::flow_element(tap, flow);
        // Added first: it may have run out since it was read, and what is not there cannot be deleted.
        format!("add element {0} {set} {{ {key} timeout 1m }}\ndelete element {0} {set} {{ {key} }}\n", part::TABLE)
    };
    flows.iter().map(line).collect()
}

fn unknown_rule() -> Fault {
    failed("the table of the filters has rules that this agent did not make and cannot make again; restart it")
}
