//! From what a program wishes for to an order: as `vmferry migrate` does it with its arguments.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;
use vmferry_core::{
    agent::Pair,
    convergence::AUTO,
    host::Host,
    id::{HostName, MigrationId},
    instance::InstanceState,
    migration::{Kind, Limits, Order, Priority, Shutdown},
    reason::Reason,
    schedule::Candidate,
};
use vmferry_proto::{
    convert::{Invalid, duration},
    fleet::{self, wish::How},
    v1,
};

use crate::{
    client::RemoteAgent,
    exit::Failed,
    fleet::{Answer, Fleet, Found},
    journey::{
        Asked, Next, Policies, Search, Target, Trip, Unheard, asked_for, choose_policy, judge_limits, judge_target,
    },
};

/// A wish whose names are resolved, on its way to a host.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) search: Search,
    /// What needs a look, a sentence each.
    pub(super) warnings: Vec<String>,
    policies: Policies,
    asked: Asked,
}

/// A host that is tried.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) order: Order,
    pub(super) hosts: Pair<RemoteAgent, RemoteAgent>,
    /// Why this one, and of how many others. None: it was named, and no other is tried.
    pub(super) chosen: Option<(Candidate, usize)>,
}

impl Settled {
    /// The next host to try, in a migration of that id; `None`: there is none left.
    pub(super) async fn next(&mut self, id: MigrationId) -> Result<Option<Try>, Failed> {
        let Some(Next { endpoint, candidate, others }) = self.search.next().await? else { return Ok(None) };
        let trip = &self.search.trip;
        let order = Order { id, ..trip.order(&endpoint) };
        let hosts = self.policies.fleet().pair(&order)?;
        let chosen = choose_policy(&self.policies, &hosts, &self.asked, order, &trip.guest, &Unheard);
        let (order, _) = Box::pin(chosen).await?;
        Ok(Some(Try { order, hosts, chosen: candidate.map(|candidate| (candidate, others)) }))
    }
}

/// What shall be looked at where it could go.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) trip: Trip,
    pub(super) target: Target,
    /// What all hosts say of themselves.
    pub(super) hosts: Vec<Answer<Host>>,
    /// What needs a look, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// What is wished for, read and judged. Nobody has been asked yet.
#[derive(Debug)]
struct Wish {
    instance: String,
    target: Target,
    retries: Option<u32>,
    source: Option<HostName>,
    asked: Asked,
    cold: Option<Shutdown>,
    priority: Priority,
}

/// Finds the instance, and looks where it may go. `fleet` is asked for whoever wishes it.
pub(super) async fn settle(fleet: &Arc<Fleet>, wish: &fleet::Wish) -> Result<Settled, Failed> {
    let policies = Policies::of(fleet);
    let wish = read(wish.clone()).map_err(not_understood)?;
    let (asked, retries) = (wish.asked.clone(), wish.retries);
    let Looked { trip, target, hosts, warnings } = looked(&policies, wish).await?;
    let search = Search::new(fleet, trip, &target, retries, hosts);
    Ok(Settled { search, warnings, policies, asked })
}

/// Finds the instance, and asks all hosts what they have.
pub(super) async fn look(fleet: &Arc<Fleet>, wish: fleet::Wish) -> Result<Looked, Failed> {
    looked(&Policies::of(fleet), read(wish).map_err(not_understood)?).await
}

async fn looked(policies: &Policies, wish: Wish) -> Result<Looked, Failed> {
    let fleet = policies.fleet();
    let Wish { instance, target, source, asked, cold, priority, .. } = wish;
    judge_limits(&asked)?;
    judge_target(fleet, &target)?;
    let Found { guest, hosts, silent } = fleet.found(&instance, source.as_ref()).await?;
    // Of the destination the checks will tell.
    let others = silent.iter().filter(|error| !target.to.contains(&error.host));
    let warnings = others.map(|error| format!("could not ask whether there is another {instance}: {error}")).collect();
    let kind = match cold {
        Some(shutdown) => Kind::Cold { shutdown: (guest.state != InstanceState::Shutoff).then_some(shutdown) },
        None => Kind::Live,
    };
    let trip = Trip::new(policies, guest, &asked, kind).await?.with_priority(priority);
    Ok(Looked { trip, target, hosts, warnings })
}

/// Whether a repeat of this wish may mean this order, which was made of one before.
pub(super) fn fits(wish: &fleet::Wish, order: &Order) -> bool {
    let Ok(Wish { instance, target, source, asked, cold, priority, .. }) = read(wish.clone()) else { return false };
    let is_instance = instance == order.instance_name
        || order.instance_name.starts_with(&instance)
        || order.instance.to_string().starts_with(&instance.to_ascii_lowercase());
    let Target { to, exclude, .. } = &target;
    let destination = &order.destination.host;
    let is_way = (to.is_empty() || to.contains(destination))
        && !exclude.contains(destination)
        && source.is_none_or(|source| source == order.source.host);
    let is_how = match (cold, order.kind) {
        (None, Kind::Live) => is_asked(&asked, &order.limits),
        // Of one that was off, nothing is left of how it was to be shut down.
        (Some(wished), Kind::Cold { shutdown }) => shutdown.is_none_or(|shutdown| shutdown == wished),
        _ => false,
    };
    is_instance && is_way && is_how && priority == order.priority
}

/// Whether these limits are what is asked for.
fn is_asked(asked: &Asked, limits: &Limits) -> bool {
    let Limits { policy, bandwidth, streams, path, handover } = limits;
    let is_named = asked.policy.as_deref().is_none_or(|name| name == AUTO || name == policy.name());
    let is_fitted = asked_for(policy.clone(), asked).is_ok_and(|fitted| fitted == *policy);
    let is_handed_over_so = asked.handover.is_none_or(|asked| asked == *handover);
    is_named
        && is_fitted
        && is_handed_over_so
        && (asked.bandwidth, asked.streams, asked.path) == (*bandwidth, *streams, *path)
}

/// Whether the wish leaves it open where to: then others may be tried than the first.
pub(super) fn is_open(wish: &fleet::Wish) -> bool {
    wish.destination.is_empty()
}

/// How long it may wait for its turn; `None`: for as long as it takes.
pub(super) fn patience(wish: &fleet::Wish) -> Option<Duration> {
    wish.patience.and_then(|patience| patience.try_into().ok())
}

/// The id that the caller has chosen.
pub(super) fn chosen_id(text: &str) -> Result<MigrationId, Failed> {
    match text.parse() {
        Ok(MigrationId(id)) if id != Uuid::nil() => Ok(MigrationId(id)),
        _ => Err(Failed::because(
            Reason::InvalidRequest,
            format!("`{}` is no migration_id: choose a UUID, and keep it for a repeat", text.escape_debug()),
        )),
    }
}

pub(super) fn not_understood(invalid: Invalid) -> Failed {
    Failed::because(Reason::InvalidRequest, format!("the request is not understood: {invalid}"))
}

fn read(wish: fleet::Wish) -> Result<Wish, Invalid> {
    if wish.instance.is_empty() {
        return Err(Invalid { field: "wish.instance" });
    }
    let priority = wish.priority().into();
    let (live, cold) = match wish.how {
        None => (fleet::wish::Live::default(), None),
        Some(How::Live(live)) => (live, None),
        Some(How::Cold(shutdown)) => (fleet::wish::Live::default(), Some(shutdown.try_into()?)),
    };
    let target = match (wish.destination.as_str(), wish.target) {
        ("", target) => self::target(target.unwrap_or_default(), "wish.target")?,
        (named, None) => Target::host(host(named, "wish.destination")?),
        (_, Some(_)) => return Err(Invalid { field: "wish.target" }),
    };
    duration_of(wish.patience, "wish.patience")?;
    Ok(Wish {
        instance: wish.instance,
        target,
        retries: wish.retries,
        source: if wish.source.is_empty() { None } else { Some(host(&wish.source, "wish.source")?) },
        asked: asked(live, ["wish.live.max_downtime", "wish.live.deadline"])?,
        cold,
        priority,
    })
}

fn host(name: &str, field: &'static str) -> Result<HostName, Invalid> {
    name.parse().map_err(|_| Invalid { field })
}

/// Which hosts come into question.
pub(super) fn target(target: fleet::Target, field: &'static str) -> Result<Target, Invalid> {
    let hosts = |names: Vec<String>| names.iter().map(|name| host(name, field)).collect::<Result<Vec<_>, _>>();
    Ok(Target {
        to: hosts(target.hosts)?,
        zone: Some(target.zone).filter(|zone| !zone.is_empty()),
        exclude: hosts(target.exclude)?,
    })
}

fn duration_of(time: Option<prost_types::Duration>, field: &'static str) -> Result<Option<Duration>, Invalid> {
    time.map(|time| duration(Some(time), field)).transpose()
}

/// What a move may cost. The names are those of the fields with times.
pub(super) fn asked(live: fleet::wish::Live, [downtime, deadline]: [&'static str; 2]) -> Result<Asked, Invalid> {
    // What there is in orders as well is judged as there.
    let carried: Limits = v1::Limits {
        policy: None,
        bandwidth_bytes_per_second: live.bandwidth_bytes_per_second,
        streams: live.streams,
        path: live.path,
        handover: live.handover,
    }
    .try_into()?;
    let says_how = live.handover != i32::from(v1::Handover::Unspecified);
    Ok(Asked {
        policy: Some(live.policy).filter(|name| !name.is_empty()),
        max_downtime: duration_of(live.max_downtime, downtime)?,
        deadline: duration_of(live.deadline, deadline)?,
        postcopy: live.postcopy,
        bandwidth: carried.bandwidth,
        streams: carried.streams,
        path: carried.path,
        handover: says_how.then_some(carried.handover),
    })
}

#[cfg(test)]
mod tests {
    use vmferry_core::{
        convergence::named,
        migration::{Endpoint, Fallback, Path},
    };

    use super::*;

    fn wish() -> fleet::Wish {
        fleet::Wish { instance: "web".into(), destination: "node-31".into(), ..fleet::Wish::default() }
    }

    fn live(change: impl FnOnce(&mut fleet::wish::Live)) -> fleet::Wish {
        let mut live = fleet::wish::Live::default();
        change(&mut live);
        fleet::Wish { how: Some(How::Live(live)), ..wish() }
    }

    fn among(hosts: &[&str], exclude: &[&str]) -> fleet::Wish {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let target = fleet::Target { hosts: names(hosts), zone: String::new(), exclude: names(exclude) };
        fleet::Wish { destination: String::new(), target: Some(target), ..wish() }
    }

    #[test]
    fn what_says_nothing_of_how_is_live_with_nothing_asked_for() {
        let read = read(wish()).expect("understood");
        assert!(read.cold.is_none() && read.source.is_none() && read.asked.policy.is_none());
        assert_eq!((read.asked.streams.get(), read.asked.path), (1, Path::Tunnel));
        assert_eq!(read.asked.handover, None, "strict where that can be had");
        assert_eq!(read.target.only().map(HostName::as_str), Some("node-31"));
    }

    #[test]
    fn what_cannot_be_meant_names_its_field() {
        let cold = v1::Shutdown { deadline: None, fallback: 1 };
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        for (wish, field) in [
            (fleet::Wish { instance: String::new(), ..wish() }, "wish.instance"),
            (fleet::Wish { destination: "a b".into(), ..wish() }, "wish.destination"),
            (fleet::Wish { source: "../x".into(), ..wish() }, "wish.source"),
            (fleet::Wish { target: Some(fleet::Target::default()), ..wish() }, "wish.target"),
            (among(&["a b"], &[]), "wish.target"),
            (among(&[], &[""]), "wish.target"),
            (fleet::Wish { patience: Some(negative), ..wish() }, "wish.patience"),
            (fleet::Wish { how: Some(How::Cold(cold)), ..wish() }, "order.cold.shutdown.deadline"),
            (live(|live| live.deadline = Some(negative)), "wish.live.deadline"),
        ] {
            assert_eq!(read(wish).expect_err("refused").field, field);
        }
        for wish in [live(|live| live.streams = 99), live(|live| live.path = 99), live(|live| live.handover = 99)] {
            assert!(read(wish).is_err());
        }
    }

    #[test]
    fn an_id_is_a_uuid() {
        assert!(chosen_id("0190f5fe-7c00-7a00-8abc-012345678901").is_ok());
        for text in ["", "web", "0190f5fe", "00000000-0000-0000-0000-000000000000"] {
            assert!(chosen_id(text).is_err(), "{text}");
        }
    }

    fn order() -> Order {
        let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
        Order {
            id: "0190f5fe-7c00-7a00-8abc-012345678901".parse().expect("valid"),
            instance: "ed831ace-39ef-4960-8bae-a035d292c305".parse().expect("valid"),
            instance_name: "web".into(),
            source: endpoint("node-28"),
            destination: endpoint("node-31"),
            kind: Kind::Live,
            limits: Limits::default(),
            priority: Priority::Normal,
        }
    }

    #[test]
    fn a_repeat_means_what_was_begun_only_if_it_asks_for_it() {
        let order = order();
        let second = prost_types::Duration { seconds: 1, nanos: 0 };
        for same in [
            wish(),
            fleet::Wish { instance: "ed831ace".into(), ..wish() },
            fleet::Wish { source: "node-28".into(), ..wish() },
            // Nobody is held to how long they wait.
            fleet::Wish { patience: Some(second), ..wish() },
            live(|live| live.policy = "auto".into()),
            live(|live| live.policy = "default".into()),
            among(&[], &[]),
            among(&["node-27", "node-31"], &["node-33"]),
        ] {
            assert!(fits(&same, &order), "{same:?}");
        }
        let cold =
            How::Cold(v1::Shutdown::from(Shutdown { deadline: Duration::from_secs(60), fallback: Fallback::PowerOff }));
        for other in [
            fleet::Wish { instance: "db".into(), ..wish() },
            fleet::Wish { destination: "node-27".into(), ..wish() },
            fleet::Wish { source: "node-27".into(), ..wish() },
            fleet::Wish { priority: v1::Priority::High.into(), ..wish() },
            fleet::Wish { how: Some(cold), ..wish() },
            among(&["node-27"], &[]),
            among(&[], &["node-31"]),
            live(|live| live.policy = "must-finish".into()),
            live(|live| live.max_downtime = Some(second)),
            live(|live| live.deadline = Some(second)),
            live(|live| live.postcopy = true),
            live(|live| live.bandwidth_bytes_per_second = Some(1 << 30)),
            live(|live| live.streams = 2),
            live(|live| live.path = v1::DataPath::Direct.into()),
        ] {
            assert!(!fits(&other, &order), "{other:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_found_again_in_the_policy() {
        let second = prost_types::Duration { seconds: 1, nanos: 0 };
        for policy in ["default", "must-finish"] {
            let wish = live(|live| {
                live.policy = policy.into();
                live.max_downtime = Some(second);
                live.deadline = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
                live.postcopy = true;
            });
            let asked = read(wish.clone()).expect("understood").asked;
            let policy = asked_for(named(policy).expect("it is always there"), &asked).expect("it makes sense");
            let order = Order { limits: Limits { policy, ..Limits::default() }, ..order() };
            assert!(fits(&wish, &order), "{order:?}");
        }
    }
}
