//! What is found of a run that is over: of the guest, and of what was told of it.

use std::fs;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    draw::Side,
    inject::{JOURNAL, journals},
    report::{Bound, Broken},
    run::{Stands, Trial},
    wire::Heard,
};

/// A host that ends its half has looked at the guest so long ago at most; libvirt sees that a QEMU is gone a moment later.
const LOOKED: SignedDuration = SignedDuration::from_millis(500);

/// What a host has noted.
struct Half {
    host: usize,
    /// What it saw of the guest.
    guest: String,
    ended: Option<Timestamp>,
}

impl Trial<'_> {
    /// What did not hold: of the guest, and of what was told of it.
    pub(super) fn judge(
        &self,
        stands: Stands,
        from: usize,
        heard: &Heard,
        document: &Value,
        exit: Option<i32>,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut is = |bound: Bound, what: String| broken.push(Broken { bound, what });
        if let Some(what) = heard.is_double() {
            is(Bound::Double, what);
        }
        let (last, to) = (heard.last().unwrap_or(from), 1 - from);
        match stands {
            Stands::On(host) if host != last => {
                is(
                    Bound::Double,
                    format!("it runs on {}, and was heard last from another", self.rig.host(host).name()),
                );
            }
            Stands::On(_) => {}
            Stands::Off(_) if self.may_be_off(from, last) => {}
            Stands::Off(_) | Stands::Unclear => is(Bound::Guest, format!("nobody killed it, and it is {stands:?}")),
        }
        match self.rig.guest().and_then(|guest| guest.console().assert_steady()) {
            Ok(()) => {}
            Err(error) => is(Bound::Double, format!("{error:#}")),
        }
        match self.rig.lost_writes(stands.host().unwrap_or(last)) {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => is(Bound::LostWrite, format!("{} acknowledged writes are lost: {lost:?}", lost.len())),
            Err(error) => is(Bound::LostWrite, format!("the volume cannot be read: {error:#}")),
        }
        let told = document["runs_on"].as_str();
        let outcome = document["outcome"].as_str().unwrap_or_default();
        let halves = self.halves();
        let is_untrue = match stands {
            Stands::Off(host) => told.is_some() && !self.has_died_since(&halves, host),
            Stands::On(_) | Stands::Unclear => {
                outcome.starts_with("completed") && (exit != Some(0) || last != to)
                    || outcome.ends_with("rolled_back") && last != from
                    || told.is_some_and(|told| told != self.rig.host(last).name())
                    || document["guest"].as_str().is_some_and(|guest| guest != "running")
            }
        };
        if is_untrue {
            is(
                Bound::Truth,
                format!(
                    "told {outcome} on {told:?}, {}, exit {exit:?}; it is {stands:?}, last heard on {}",
                    document["guest"],
                    self.rig.host(last).name()
                ),
            );
        }
        // What is told to whoever asks later.
        for Half { host, guest, .. } in &halves {
            let is_true = match stands {
                Stands::On(_) => guest == "running",
                Stands::Off(_) => guest == "shutoff" || self.has_died_since(&halves, *host),
                Stands::Unclear => true,
            };
            if !is_true || stands.host().is_some_and(|stands| stands != *host) {
                is(
                    Bound::Truth,
                    format!("{} has noted that it was {guest}; it is {stands:?}", self.rig.host(*host).name()),
                );
            }
        }
        broken
    }

    /// What the hosts have noted of the guest at the end.
    fn halves(&self) -> Vec<Half> {
        let mut halves = Vec::new();
        for (host, before) in self.before.iter().enumerate() {
            let host_of = self.rig.host(host);
            for name in journals(host_of).unwrap_or_default().difference(before) {
                let Ok(directory) = host_of.path(JOURNAL) else { continue };
                let journal = fs::read_to_string(directory.join(name)).unwrap_or_default();
                let entries: Vec<Value> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                let seen = entries.iter().rev().find_map(|entry| entry["seen"].as_str());
                let ended = entries.iter().rev().find_map(|entry| entry["ended"]["at"].as_str()?.parse().ok());
                halves.extend(seen.map(|seen| Half { host, guest: seen.to_owned(), ended }));
            }
        }
        halves
    }

    /// Whether the guest may have been killed after its host had looked for the last time.
    fn has_died_since(&self, halves: &[Half], host: usize) -> bool {
        let ended = halves.iter().find(|half| half.host == host).and_then(|half| half.ended);
        self.broke.zip(ended).is_some_and(|(broke, ended)| broke + LOOKED > ended)
    }

    /// Whether it runs nowhere because its own QEMU was killed: where it ran last, or where it had arrived.
    fn may_be_off(&self, from: usize, last: usize) -> bool {
        let Some(side) = self.plan.fault.kills_guest_on().filter(|_| self.broke.is_some()) else { return false };
        let killed = if side == Side::Source { from } else { 1 - from };
        killed == last || side == Side::Destination && self.is_released(from).unwrap_or(false)
    }

    /// Whether the source has given the guest away for good.
    fn is_released(&self, from: usize) -> Result<bool> {
        let host = self.rig.host(from);
        for name in journals(host)?.difference(&self.before[from]) {
            let journal = fs::read_to_string(host.path(JOURNAL)?.join(name))?;
            if journal.lines().any(|line| line.contains("\"released\"")) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
