//! A host that is emptied, and filled again.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use vmferry_core::{
    drain::Limits,
    host::{Cordon, Host, LastCordon},
    id::{HostName, InstanceId},
    instance::{Instance, InstanceState},
    migration::{Kind, Outcome, Record, Side},
    reason::Reason,
};

use super::{Convoy, Goal, Stray};
use crate::{
    client::Which,
    exit::Failed,
    find::guests,
    fleet::Fleet,
    journey::{Asked, Policies, Target, judge_limits, judge_target, wish},
    render,
};

/// How much is done at the same time, and what each move may cost.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// How much at the same time.
    pub(crate) limits: Limits,
    /// What each may cost.
    pub(crate) each: Asked,
}

/// A host that is about to be emptied, or filled again.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The guests that shall move.
    pub(crate) convoy: Convoy,
    /// Those that stay because they are off.
    pub(crate) off: Vec<Instance>,
    /// Drain: why nobody comes any more. Undrain: why nobody came until now. None: nobody has said so.
    pub(crate) cordon: Option<Cordon>,
    /// Undrain: since when guests may come, if that was so before.
    pub(crate) open_since: Option<Timestamp>,
}

/// Closes the host, unless it is only asked what would be done, and looks who shall leave it.
pub(crate) async fn drain(
    fleet: &Arc<Fleet>,
    host: &HostName,
    reason: &str,
    target: &Target,
    pace: Pace,
    dry_run: bool,
) -> Result<Begun, Failed> {
    judge_limits(&pace.each)?;
    judge_target(fleet, target)?;
    let agent = fleet.agent(host)?;
    let mut cordon = None;
    if !dry_run {
        // Before anybody is asked: who comes meanwhile would have to go again.
        let Host { cordon: known, .. } = agent.facts().await?;
        // Since when it is, tells who has left it: what was said first stays.
        cordon = Some(match known {
            Some(known) => known,
            None => agent.cordon(reason).await?,
        });
    }
    // Before the guests are: whoever has begun to leave may be gone when these are listed.
    let leaving = agent.migrations(Which::Active).await?;
    let leaving = leaving.into_iter().filter(|_| !dry_run);
    let leaving: Vec<_> = leaving.map(|half| Stray::of(&half.order, host)).collect();
    let here = agent.instances().await?;
    let (mut off, mut here): (Vec<_>, Vec<_>) =
        here.into_iter().partition(|guest| guest.state == InstanceState::Shutoff);
    off.retain(|guest| guest.migration.is_none());
    here.retain(|guest| leaving.iter().all(|stray| !stray.is(guest)));
    let mut convoy = Convoy::new(fleet, Goal::Leave(host.clone()), target, pace);
    convoy.strays.extend(leaving);
    convoy.load(here).await;
    Ok(Begun { convoy, off, cordon, open_since: None })
}

/// Opens the host, and looks who shall come home to it: those that left it while it was closed, if that is wanted.
pub(crate) async fn undrain(
    fleet: &Arc<Fleet>,
    host: &HostName,
    bring_back: bool,
    pace: Pace,
) -> Result<Begun, Failed> {
    judge_limits(&pace.each)?;
    let agent = fleet.agent(host)?;
    let Host { cordon, .. } = agent.facts().await?;
    let (mut coming, mut away) = (Vec::new(), Vec::new());
    let mut open_since = None;
    if let Some(cordon) = cordon.as_ref().filter(|_| bring_back) {
        // Before it is opened: if nobody can tell who shall come, it stays closed.
        away = self::away(fleet, host, cordon.since, None).await?;
    }
    let opened = agent.uncordon().await?;
    // Somebody has opened it before, who may not have come to the end of it.
    if let (None, Some(LastCordon { cordon, ended }), true) = (&cordon, &opened.last, bring_back) {
        open_since = Some(*ended);
        let halves = agent.migrations(Which::Active).await?;
        let arrives = halves.into_iter().filter(|half| half.order.destination.host == *host);
        coming = arrives.map(|half| Stray::of(&half.order, host)).collect();
        away = self::away(fleet, host, cordon.since, Some(*ended)).await?;
        away.retain(|guest| coming.iter().all(|stray: &Stray| !stray.is(guest)));
    }
    let mut convoy = Convoy::new(fleet, Goal::Reach(host.clone()), &Target::host(host.clone()), pace);
    convoy.strays.extend(coming);
    convoy.load(away).await;
    let cordon = cordon.or_else(|| opened.last.filter(|_| bring_back).map(|last| last.cordon));
    Ok(Begun { convoy, off: Vec::new(), cordon, open_since })
}

impl Convoy {
    /// Nobody in it yet.
    fn new(fleet: &Arc<Fleet>, goal: Goal, target: &Target, Pace { limits, each }: Pace) -> Self {
        Self {
            fleet: Arc::clone(fleet),
            policies: Arc::new(Policies::of(fleet)),
            goal,
            wish: wish(target, Kind::Live),
            limits,
            asked: each,
            trips: HashMap::new(),
            waiting: Vec::new(),
            against: HashMap::new(),
            strays: Vec::new(),
            ended: Vec::new(),
        }
    }
}

/// The guests that have left a host while it was closed, and that run elsewhere now.
async fn away(
    fleet: &Fleet,
    host: &HostName,
    since: Timestamp,
    until: Option<Timestamp>,
) -> Result<Vec<Instance>, Failed> {
    let records = fleet.agent(host)?.migrations(Which::All).await?;
    let (instances, _, silent) = fleet.instances().await?;
    if !silent.is_empty() {
        let stays = match until {
            None => format!(
                "so it stays cordoned:{}\nwithout --return it is opened, and nobody brought home",
                render::list(&silent)
            ),
            Some(_) => format!("so nobody is brought home:{}\nask again when they answer", render::list(&silent)),
        };
        let message = format!("guests that have left {host} may be on hosts that do not answer, {stays}");
        return Err(Failed::because(Reason::AgentUnreachable, message));
    }
    let shall_return = |guest: &Instance| {
        guest.host != *host && guest.state != InstanceState::Shutoff && has_left(&records, guest.id, since, until)
    };
    Ok(guests(instances).into_iter().filter(shall_return).collect())
}

/// Whether a guest left a host between these times and has not come back since, by the host's own records, and its own clock.
fn has_left(records: &[Record], guest: InstanceId, since: Timestamp, until: Option<Timestamp>) -> bool {
    let moved = |record: &&Record| {
        let has_moved = matches!(record.outcome, Some(Outcome::Completed | Outcome::CompletedWithWarnings));
        has_moved && record.order.instance == guest
    };
    let ends =
        |side| records.iter().filter(moved).filter(move |record| record.side == side).filter_map(|record| record.ended);
    let left = ends(Side::Source).filter(|ended| *ended >= since && until.is_none_or(|until| *ended <= until)).max();
    left.is_some_and(|left| ends(Side::Destination).all(|came| came < left))
}

#[cfg(test)]
mod tests {
    use vmferry_core::migration::{Endpoint, Limits, Order, Priority};

    use super::*;

    const GUEST: &str = "ed831ace-39ef-4960-8bae-a035d292c305";

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).expect("valid")
    }

    fn record(side: Side, outcome: Outcome, ended: i64) -> Record {
        let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
        Record {
            order: Order {
                id: "0190f5fe-7c00-7a00-8abc-012345678901".parse().expect("valid"),
                instance: GUEST.parse().expect("valid"),
                instance_name: "web".into(),
                source: endpoint("node-28"),
                destination: endpoint("node-31"),
                kind: Kind::Live,
                limits: Limits::default(),
                priority: Priority::default(),
            },
            side,
            requested_by: "vmferry://default/coordinator/ops".into(),
            driver: None,
            started: minute(ended - 1),
            ended: Some(minute(ended)),
            phases: vec![],
            outcome: Some(outcome),
            cause: None,
            statistics: None,
            pending: vec![],
            warnings: vec![],
            guest: None,
            story: vmferry_core::migration::Story::default(),
        }
    }

    #[test]
    fn who_left_while_it_was_closed_and_did_not_come_back_shall_return() {
        let left = |ended| record(Side::Source, Outcome::Completed, ended);
        let came = |ended| record(Side::Destination, Outcome::Completed, ended);
        let (guest, since, until) = (GUEST.parse().expect("valid"), minute(10), minute(20));
        let shall = |records: &[Record], until| has_left(records, guest, since, until);
        assert!(shall(&[left(15)], None) && shall(&[left(15)], Some(until)));
        assert!(!shall(&[left(5)], None), "before it was closed");
        assert!(!shall(&[left(25)], Some(until)), "after it was opened: somebody wanted it so");
        assert!(shall(&[left(25)], None), "it is closed still");
        assert!(!shall(&[left(15), came(22)], Some(until)), "it has come home");
        assert!(!shall(&[left(15), came(22), left(30)], Some(until)), "and has left again, for another reason");
        assert!(shall(&[came(3), left(15)], Some(until)), "it was not there from the first");
        assert!(!shall(&[record(Side::Source, Outcome::FailedRolledBack, 15)], None), "it has not left");
        assert!(!has_left(&[left(15)], "00000000-0000-0000-0000-000000000001".parse().expect("valid"), since, None));
    }
}
