//! From what a program wishes for to an order: as `vmferry migrate` does it with its arguments.

use uuid::Uuid;
use vmferry_core::{
    agent::Pair,
    flow::Watch,
    id::{HostName, MigrationId},
    instance::InstanceState,
    migration::{Kind, Limits, Order, Path, Shutdown},
    reason::Reason,
};
use vmferry_proto::{
    convert::{Invalid, duration},
    fleet::{self, wish::How},
    v1,
};

use crate::{
    cli,
    client::RemoteAgent,
    command::{limits, strategy, trip::Trip},
    exit::Failed,
    fleet::Fleet,
};

/// An order that can be carried out.
pub(super) struct Settled {
    pub(super) order: Order,
    pub(super) hosts: Pair<RemoteAgent, RemoteAgent>,
    /// What needs a look, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// What is wished for, read and judged. Nobody has been asked yet.
struct Wish {
    instance: String,
    destination: HostName,
    source: Option<HostName>,
    limits: cli::Limits,
    cold: Option<Shutdown>,
}

/// Finds the instance and both hosts, and settles by which policy it moves. `id` is what the migration is called.
pub(super) async fn settle(
    fleet: &Fleet,
    agent: impl Fn(&RemoteAgent) -> RemoteAgent,
    id: MigrationId,
    wish: &fleet::Wish,
    watch: &impl Watch,
) -> Result<Settled, Failed> {
    let Wish { instance, destination, source, limits, cold } = read(wish.clone()).map_err(not_understood)?;
    limits::judge(&limits)?;
    let destination = fleet.agent(&destination)?.endpoint().clone();
    let (guest, _, silent) = fleet.instance(&instance, source.as_ref()).await?;
    let others = silent.iter().filter(|error| error.host != destination.host);
    let warnings = others.map(|error| format!("could not ask whether there is another {instance}: {error}")).collect();
    let kind = match cold {
        Some(shutdown) => Kind::Cold { shutdown: (guest.state != InstanceState::Shutoff).then_some(shutdown) },
        None => Kind::Live,
    };
    let trip = Trip::new(fleet, guest, &limits, kind).await?.with_priority(wish.priority().into());
    let order = Order { id, ..trip.order(&destination) };
    let Pair { source, destination } = fleet.pair(&order)?;
    let hosts = Pair { source: agent(&source), destination: agent(&destination) };
    let (order, _) = Box::pin(strategy::choose_policy(fleet, &hosts, &limits, order, &trip.guest, watch)).await?;
    Ok(Settled { order, hosts, warnings })
}

/// Whether a repeat of this wish may mean this order, which was made of one before.
pub(super) fn fits(wish: &fleet::Wish, order: &Order) -> bool {
    let is_instance = wish.instance == order.instance_name
        || order.instance_name.starts_with(&wish.instance)
        || order.instance.to_string().starts_with(&wish.instance.to_ascii_lowercase());
    !wish.instance.is_empty() && is_instance && wish.destination == order.destination.host.as_str()
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
    let host = |name: &str, field| name.parse::<HostName>().map_err(|_| Invalid { field });
    if wish.instance.is_empty() {
        return Err(Invalid { field: "wish.instance" });
    }
    let (live, cold) = match wish.how {
        None => (fleet::wish::Live::default(), None),
        Some(How::Live(live)) => (live, None),
        Some(How::Cold(shutdown)) => (fleet::wish::Live::default(), Some(shutdown.try_into()?)),
    };
    Ok(Wish {
        instance: wish.instance,
        destination: host(&wish.destination, "wish.destination")?,
        source: if wish.source.is_empty() { None } else { Some(host(&wish.source, "wish.source")?) },
        limits: limits(live)?,
        cold,
    })
}

fn limits(live: fleet::wish::Live) -> Result<cli::Limits, Invalid> {
    let time = |time: Option<prost_types::Duration>, field| time.map(|time| duration(Some(time), field)).transpose();
    let (max_downtime, deadline) =
        (time(live.max_downtime, "wish.live.max_downtime")?, time(live.deadline, "wish.live.deadline")?);
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
    Ok(cli::Limits {
        policy: Some(live.policy).filter(|name| !name.is_empty()),
        max_downtime,
        deadline,
        postcopy: live.postcopy,
        bandwidth: carried.bandwidth,
        streams: carried.streams,
        path: match carried.path {
            Path::Tunnel => cli::DataPath::Tunnel,
            Path::Direct => cli::DataPath::Direct,
        },
        handover: says_how.then(|| carried.handover.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> fleet::Wish {
        fleet::Wish { instance: "web".into(), destination: "node-31".into(), ..fleet::Wish::default() }
    }

    fn live(change: impl FnOnce(&mut fleet::wish::Live)) -> fleet::Wish {
        let mut live = fleet::wish::Live::default();
        change(&mut live);
        fleet::Wish { how: Some(How::Live(live)), ..wish() }
    }

    #[test]
    fn what_says_nothing_of_how_is_live_with_nothing_asked_for() {
        let read = read(wish()).expect("understood");
        assert!(read.cold.is_none() && read.source.is_none() && read.limits.policy.is_none());
        assert_eq!((read.limits.streams.get(), Path::from(read.limits.path)), (1, Path::Tunnel));
        assert_eq!(read.limits.handover, None, "strict where that can be had");
    }

    #[test]
    fn what_cannot_be_meant_names_its_field() {
        let cold = v1::Shutdown { deadline: None, fallback: 1 };
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        for (wish, field) in [
            (fleet::Wish { instance: String::new(), ..wish() }, "wish.instance"),
            (fleet::Wish { destination: "a b".into(), ..wish() }, "wish.destination"),
            (fleet::Wish { source: "../x".into(), ..wish() }, "wish.source"),
            (fleet::Wish { how: Some(How::Cold(cold)), ..wish() }, "order.cold.shutdown.deadline"),
            (live(|live| live.deadline = Some(negative)), "wish.live.deadline"),
        ] {
            assert_eq!(read(wish).err().expect("refused").field, field);
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
}
